"""What the report of a forecasting run says and shows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from gatewright.data.tables import Series
from gatewright.reports.contents import Kind, Report, ScoreRow, SeriesForecast, format_score, join_windows
from gatewright.tasks.forecast.fitting import Fit
from gatewright.tasks.forecast.scores import Scores

_SERIES_SHOWN = 3
_WINDOWS_SHOWN = 7
_HORIZONS_BEFORE = 5


def label(model: str) -> str:
    """How a model is called where a person reads it."""
    return model.replace("_", " ")


def score_rows(scores: Scores) -> list[ScoreRow]:
    """The score table, the trained model first."""
    return [ScoreRow(label(model), **values) for model, values in scores.models.items()]


def verdict(scores: Scores) -> tuple[str, bool]:
    """The result in plain words, and whether the model won."""
    model, *baselines = scores.models
    mase = {name: values["mase"] for name, values in scores.models.items()}
    best = min(baselines, key=lambda name: mase[name] if np.isfinite(mase[name]) else np.inf)
    on = f"over {scores.windows} forecasts of the held-out end"
    if not (np.isfinite(mase[model]) and np.isfinite(mase[best])):
        text = (
            "MASE does not exist here, since the seasonal naive forecast makes no error on the training part"
        )
        return f"{text}; compare the errors by horizon.", scores.winner == model
    theirs, ours = (format_score("mase", mase[name]) for name in (best, model))
    if mase[model] < mase[best]:
        share = 100 * (1 - mase[model] / mase[best])
        return f"{model} beats {label(best)} by {share:.0f} %: MASE {ours} against {theirs} {on}.", True
    text = f"{label(best)} wins: MASE {theirs} against {ours} for {model}, {on}."
    return (
        f"{text} The network adds nothing here; use the baseline, or give it more data or a longer context.",
        False,
    )


def report_of(fit: Fit, *, files: Mapping[str, str], command: str, versions: Mapping[str, str]) -> Report:
    """Everything the report page shows of a run.

    Args:
        fit: the run.
        files: file in the run folder -> what it holds.
        command: what to type to get the run again.
        versions: of the software.

    Returns:
        The content of the page.
    """
    settings, scores, progress = fit.model.settings, fit.scores, fit.outcome.progress
    text, good = verdict(scores)
    history = {
        name: np.array([record[name] for record in progress.history])
        for name in ("epoch", "train_loss", "validation_loss")
    }
    shown = fit.panel.series[:_SERIES_SHOWN]
    scored = set(fit.backtest["unique_id"])
    season = f"season of {scores.season} steps" if scores.season > 1 else "last value"
    return Report(
        title=f"Forecast of {settings.data.target}, {settings.forecast.horizon} steps ahead",
        verdict=text,
        good=good,
        scores=score_rows(scores),
        coverage_level=scores.coverage_level,
        score_note=f"{scores.windows} forecasts of the held-out end, one every "
        f"{settings.forecast.horizon} steps; errors relative to the {season}.",
        target=settings.data.target,
        held_out=[_held_out(fit, series) for series in shown if series.id in scored],
        future=[_future(fit, series) for series in shown],
        error_by_horizon={label(name): errors for name, errors in scores.error_by_horizon.items()},
        history=history if progress.history else {},
        best_epoch=progress.best_epoch or None,
        gradient_norms=fit.gradient_norms,
        season_lengths=fit.model.features.seasons,
        facts=_facts(fit, versions),
        notes=list(fit.panel.notes),
        files=files,
        command=command,
    )


def _facts(fit: Fit, versions: Mapping[str, str]) -> dict[str, str]:
    settings, progress, features = fit.model.settings, fit.outcome.progress, fit.model.features
    steps = sum(len(series.values) for series in fit.panel.series)
    observed = sum(int(np.isfinite(series.values).sum()) for series in fit.panel.series)
    parameters = sum(p.numel() for p in fit.model.network.parameters())
    model, training = settings.model, settings.training
    sizes = " → ".join(str(size) for size in model.hidden_sizes)
    longest = max(zip(fit.panel.series, fit.splits, strict=True), key=lambda pair: pair[1].end)
    held_out = "nothing"
    if longest[1].scored:
        held_out = f"validation from {_time(longest[0].times[longest[1].training_end])}"
        held_out += f", test from {_time(longest[0].times[longest[1].validation_end])}"
    return {
        "series": f"{len(fit.panel.series)}, {steps:,} steps of {fit.panel.frequency.label}",
        "observed": f"{observed:,} values, {steps - observed:,} missing",
        "held out": held_out,
        "network": f"{model.cell} {sizes}, {parameters:,} parameters",
        "context": f"{features.context} steps",
        "seasons": ", ".join(str(season) for season in features.seasons) or "none",
        "training": f"{fit.outcome.status} after {progress.epoch} epochs, best {progress.best_epoch}, "
        f"{progress.seconds:.0f} s",
        "optimiser": f"Adam, learning rate {training.learning_rate:g}, batch {training.batch_size}, "
        f"gradient clipped at {training.gradient_clip:g}",
        "seed": str(training.seed),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
    }


def _time(time: np.generic) -> str:
    return str(time).replace("T", " ").removesuffix(".000000")


def _bands(fit: Fit, frames: list[pl.DataFrame]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Level -> edges, windows set apart."""
    name = fit.model.name
    return {
        level: (
            join_windows([frame[f"{name}-lo-{level}"].to_numpy() for frame in frames]),
            join_windows([frame[f"{name}-hi-{level}"].to_numpy() for frame in frames]),
        )
        for level in fit.model.settings.forecast.levels
    }


def _series_forecast(
    fit: Fit, series: Series, frames: list[pl.DataFrame], begin: int, kind: Kind
) -> SeriesForecast:
    return SeriesForecast(
        id=series.id or fit.model.settings.data.target,
        times=series.times[begin:],
        truth=series.values[begin:],
        forecast_times=join_windows([frame["ds"].to_numpy() for frame in frames]),
        median=join_windows([frame[fit.model.name].to_numpy() for frame in frames]),
        bands=_bands(fit, frames),
        kind=kind,
    )


def _held_out(fit: Fit, series: Series) -> SeriesForecast:
    mine = fit.backtest.filter(pl.col("unique_id") == series.id)
    shown = mine.partition_by("cutoff", maintain_order=True)[-_WINDOWS_SHOWN:]
    horizon = fit.model.features.horizon
    begin = max(0, len(series.values) - horizon * (len(shown) + 1) - horizon)
    return _series_forecast(fit, series, shown, begin, "held out")


def _future(fit: Fit, series: Series) -> SeriesForecast:
    frame = fit.forecast.filter(pl.col("unique_id") == series.id)
    begin = max(0, len(series.values) - _HORIZONS_BEFORE * fit.model.features.horizon)
    return _series_forecast(fit, series, [frame], begin, "beyond the end of the data")
