"""From a panel and settings to a trained, scored model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from gatewright.data.tables import Panel
from gatewright.diagnosis.gradient_memory import gradient_by_lag
from gatewright.tasks.forecast.baselines import choose_baselines
from gatewright.tasks.forecast.calibration import band_factors
from gatewright.tasks.forecast.dataset import (
    ForecastData,
    Split,
    check_lengths,
    check_observed,
    choose_features,
    split_series,
)
from gatewright.tasks.forecast.frames import forecast_frame
from gatewright.tasks.forecast.model import ForecastModel
from gatewright.tasks.forecast.network import ForecastNetwork, Shape, quantile_loss
from gatewright.tasks.forecast.objective import ForecastObjective
from gatewright.tasks.forecast.scores import Scores, score
from gatewright.tasks.forecast.settings import RunSettings, settings_text
from gatewright.training.loop import LoopOptions, Outcome, Watcher, train

_CALIBRATION_WINDOWS = 2048
_GRADIENT_WINDOWS = 32
_SMALL = 128


@dataclass(frozen=True)
class Fit:
    """A trained model and everything that was learned about it.

    Attributes:
        model: the best weights.
        panel: the data.
        splits: of each series.
        outcome: how training went.
        scores: on the held-out end.
        backtest: the forecasts that were scored, beside ``y``.
        forecast: beyond the end of the data.
        gradient_norms: layer -> ``[W]`` mean ‖∂L/∂h_t‖ by steps back.
    """

    model: ForecastModel
    panel: Panel
    splits: tuple[Split, ...]
    outcome: Outcome
    scores: Scores
    backtest: pl.DataFrame
    forecast: pl.DataFrame
    gradient_norms: dict[str, np.ndarray]


def fingerprint(settings: RunSettings, panel: Panel) -> str:
    """Identifies settings and data, wherever the table lies."""
    data = settings.data.model_copy(update={"table": None})
    digest = hashlib.sha256(settings_text(settings.model_copy(update={"data": data})).encode())
    for series in panel.series:
        digest.update(series.id.encode())
        digest.update(np.ascontiguousarray(series.times).tobytes())
        digest.update(np.ascontiguousarray(series.values).tobytes())
    return digest.hexdigest()


def resolve(settings: RunSettings, panel: Panel) -> tuple[RunSettings, tuple[Split, ...]]:
    """Settings with everything filled in that the data decide, and the split of each series.

    Args:
        settings: as given.
        panel: the series.

    Returns:
        The settings, and the splits.

    Raises:
        InputError: no series is long enough for the horizon, or a gap covers a whole part.
    """
    forecast = settings.forecast
    splits = tuple(
        split_series(len(s.values), forecast.horizon, forecast.validation_share, forecast.test_share)
        for s in panel.series
    )
    check_lengths(panel.series, splits, forecast.horizon)
    check_observed(panel.series, splits)
    features = choose_features(panel, splits, forecast.horizon, forecast.context)
    data = settings.data.model_copy(update={"frequency": panel.frequency.to_text()})
    forecast = forecast.model_copy(update={"context": features.context})
    threads = settings.training.threads or _threads(settings.model.hidden_sizes)
    training = settings.training.model_copy(update={"threads": threads})
    return settings.model_copy(update={"data": data, "forecast": forecast, "training": training}), splits


def _threads(hidden_sizes: Sequence[int]) -> int:
    """One thread for small products, where several wait for each other longer than they compute."""
    return 1 if max(hidden_sizes) <= _SMALL else torch.get_num_threads()


@contextmanager
def _thread_count(threads: int) -> Iterator[None]:
    """So many threads inside, as many as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_panel(
    settings: RunSettings,
    panel: Panel,
    *,
    watcher: Watcher | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Fit:
    """Train on a panel, score the held-out end, and forecast beyond it.

    Args:
        settings: of the run.
        panel: the series.
        watcher: follows training and may ask to stop.
        checkpoint: file of the state between two epochs.
        resume: go on from there.

    Returns:
        The model and its scores.

    Raises:
        InputError: the data do not allow the horizon, training diverged, or the checkpoint does not fit.
    """
    settings, splits = resolve(settings, panel)
    assert settings.training.threads is not None
    with _thread_count(settings.training.threads):
        return _fit(settings, splits, panel, watcher, checkpoint, resume)


def _fit(
    settings: RunSettings,
    splits: tuple[Split, ...],
    panel: Panel,
    watcher: Watcher | None,
    checkpoint: Path | None,
    resume: bool,
) -> Fit:
    """``fit_panel`` with resolved settings."""
    forecast, training = settings.forecast, settings.training
    features = choose_features(panel, splits, forecast.horizon, forecast.context)
    data = ForecastData(panel, splits, features, forecast.scaling)
    torch.manual_seed(training.seed)
    network = ForecastNetwork(
        Shape(
            settings.model.cell,
            settings.model.hidden_sizes,
            settings.model.dropout,
            features.inputs,
            len(features.calendar),
            features.anchors,
            forecast.horizon,
            forecast.quantiles,
        )
    )
    options = LoopOptions(
        training.max_epochs,
        training.steps_per_epoch,
        training.learning_rate,
        training.gradient_clip,
        training.patience,
    )
    outcome = train(
        ForecastObjective(network, data, settings),
        options,
        watcher=watcher,
        checkpoint=checkpoint,
        resume=resume,
        fingerprint=fingerprint(settings, panel),
    )
    scalers = {series.id: scaler for series, scaler in zip(panel.series, data.scalers, strict=True)}
    model = ForecastModel(
        settings, network, features, panel.frequency, scalers, (1.0,) * len(forecast.quantiles)
    )
    model = calibrated(model, data)
    scores, backtest = backtest_model(model, data)
    return Fit(
        model=model,
        panel=panel,
        splits=splits,
        outcome=outcome,
        scores=scores,
        backtest=backtest,
        forecast=forecast_beyond(model, data),
        gradient_norms=_gradient_norms(model, data),
    )


def calibrated(model: ForecastModel, data: ForecastData) -> ForecastModel:
    """The model with bands that cover their share of the validation part."""
    series, last, limit = data.origins("validation", at_most=_CALIBRATION_WINDOWS)
    quantiles = model.settings.forecast.quantiles
    scales = np.array([data.scalers[i].scale for i in series.tolist()])[:, None]
    locations = np.array([data.scalers[i].location for i in series.tolist()])[:, None]
    truth = data.windows(series, last, limit).target[0].double().numpy() * scales + locations
    factors = band_factors(model.quantiles(data, series, last), truth, quantiles)
    return replace(model, band_factors=factors)


def backtest_model(model: ForecastModel, data: ForecastData) -> tuple[Scores, pl.DataFrame]:
    """Forecast the test part from one origin a horizon, with the model and the baselines, and score."""
    panel, splits, horizon = data.panel, data.splits, model.features.horizon
    series, last, _ = data.origins("test", stride=horizon)
    quantiles = model.settings.forecast.quantiles
    forecasts = {model.name: model.quantiles(data, series, last)}
    baselines = choose_baselines(panel, splits, model.features.seasons)
    for baseline in baselines:
        parts = []
        for index, (one, split) in enumerate(zip(panel.series, splits, strict=True)):
            origins = last[series == index].numpy()
            if len(origins):
                parts.append(baseline.quantiles(one.values, split, origins, horizon, quantiles))
        forecasts[baseline.name] = np.concatenate(parts)
    frame = forecast_frame(panel, series.numpy(), last.numpy(), forecasts, quantiles, truth=True)
    scores = score(frame, list(forecasts), panel, splits, quantiles, baselines[-1].season)
    return scores, frame


def forecast_beyond(model: ForecastModel, data: ForecastData) -> pl.DataFrame:
    """The forecast after the last observed value of every series."""
    series, last, _ = data.origins("future")
    quantiles = {model.name: model.quantiles(data, series, last)}
    return forecast_frame(
        data.panel, series.numpy(), last.numpy(), quantiles, model.settings.forecast.quantiles
    )


def _gradient_norms(model: ForecastModel, data: ForecastData) -> dict[str, np.ndarray]:
    """How the loss of some validation windows depends on the states before it."""
    series, last, limit = data.origins("validation", at_most=_GRADIENT_WINDOWS)
    windows = data.windows(series, last, limit)
    network, count = model.network, len(series)

    def loss(states: Tensor) -> Tensor:
        forecast = network.decode(states.unsqueeze(0), windows.known, windows.anchors)
        return quantile_loss(forecast, windows.target, model.settings.forecast.quantiles) * count

    norms = gradient_by_lag(list(network.layers), windows.x, loss)  # type: ignore[arg-type]  # ModuleList holds them
    names: Sequence[str] = [
        f"layer {i + 1} ({model.name}, {h})" for i, h in enumerate(network.shape.hidden_sizes)
    ]
    return dict(zip(names, norms, strict=True))
