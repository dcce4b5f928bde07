"""Scores of forecasts on the held-out end of each series, beside the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from gatewright.data.tables import Panel
from gatewright.tasks.forecast.dataset import Split
from gatewright.tasks.forecast.frames import band_columns

SCORES = ("mase", "smape", "scaled_quantile_loss", "coverage")


@dataclass(frozen=True)
class Scores:
    """What the held-out end says.

    Attributes:
        models: model -> score -> mean over series; NaN where a score does not exist (a constant series has
            no MASE).
        error_by_horizon: model -> ``[N]`` mean absolute error in units of the target.
        season: in steps, of the MASE's scale.
        coverage_level: in percent, of the band whose coverage is scored.
        windows: forecasts that were scored.
    """

    models: dict[str, dict[str, float]]
    error_by_horizon: dict[str, np.ndarray]
    season: int
    coverage_level: int
    windows: int

    @property
    def winner(self) -> str:
        """The model with the lowest MASE, or where that does not exist the lowest mean absolute error."""

        def error(model: str) -> float:
            mase = self.models[model]["mase"]
            return mase if np.isfinite(mase) else float(np.nanmean(self.error_by_horizon[model]))

        return min(self.models, key=error)


def score(
    frame: pl.DataFrame,
    models: Sequence[str],
    panel: Panel,
    splits: Sequence[Split],
    quantiles: Sequence[float],
    season: int,
) -> Scores:
    """Score forecasts with truth, as ``forecast_frame`` makes them; each series counts the same.

    MASE (Hyndman & Koehler 2006) and the scaled quantile loss are relative to the mean absolute error of the
    seasonal naive forecast on the training part; sMAPE in percent, 0 to 200; coverage of the widest band.

    Args:
        frame: forecasts of all models beside ``y``, in the order of the origins.
        models: their names.
        panel: the series.
        splits: of each series.
        quantiles: ascending.
        season: of the scale, in steps.

    Returns:
        The scores.
    """
    # in numpy, whose sums have a fixed order: the last bits of polars' group means vary from run to run
    windows = frame.select("unique_id", "cutoff").n_unique()
    shape = (windows, len(frame) // windows)
    owner = frame["unique_id"].to_numpy()[:: shape[1]]
    truth = frame["y"].to_numpy().reshape(shape)
    found, by_horizon = {}, {}
    # of values near the end of the range neither differences nor sums may fit: such scores do not exist
    with np.errstate(over="ignore", invalid="ignore"):
        scales = {
            one.id: _seasonal_error(one.values[: split.training_end], season)
            for one, split in zip(panel.series, splits, strict=True)
        }
        scale = np.array([scales[name] or np.nan for name in owner])
        for model in models:
            columns = [frame[name].to_numpy().reshape(shape) for name in band_columns(model, quantiles)]
            errors, losses = _losses(np.stack(columns, axis=-1), truth, quantiles)
            losses["mase"] /= scale
            losses["scaled_quantile_loss"] /= scale
            found[model] = {name: _mean_over_series(losses[name], owner) for name in SCORES}
            by_horizon[model] = np.array([_mean(step) for step in errors.T])
    return Scores(
        models=found,
        error_by_horizon=by_horizon,
        season=season,
        coverage_level=max(round(abs(2 * q - 1) * 100) for q in quantiles),
        windows=windows,
    )


def _seasonal_error(values: np.ndarray, season: int) -> float:
    """Mean absolute error of the seasonal naive forecast one season ahead."""
    return _mean(np.abs(values[season:] - values[:-season]))


def _losses(
    forecast: np.ndarray, truth: np.ndarray, quantiles: Sequence[float]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Absolute errors ``[P, N]``, and each score of every window ``[P]``, not scaled yet.

    ``forecast`` is ``[P, N, Q]`` and ``truth`` ``[P, N]``, NaN where missing.
    """
    q, median = np.array(quantiles), forecast[..., list(quantiles).index(0.5)]
    error = truth[..., None] - forecast
    absolute, size = np.abs(truth - median), np.abs(truth) + np.abs(median)
    inside = (truth >= forecast[..., 0]) & (truth <= forecast[..., -1])
    steps = {
        "mase": absolute,
        # nothing is wrong where truth and forecast are both zero
        "smape": 200 * absolute / np.where(size == 0, 1.0, size),
        "scaled_quantile_loss": np.maximum(q * error, (q - 1) * error).mean(-1),
        "coverage": np.where(np.isfinite(truth), inside, np.nan),
    }
    return absolute, {name: np.array([_mean(window) for window in values]) for name, values in steps.items()}


def _mean(values: np.ndarray) -> float:
    """Mean of what is finite, NaN where nothing is."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def _mean_over_series(values: np.ndarray, owner: np.ndarray) -> float:
    """Mean over the windows of each series, then over series, of what is finite."""
    return _mean(np.array([_mean(values[owner == name]) for name in dict.fromkeys(owner)]))
