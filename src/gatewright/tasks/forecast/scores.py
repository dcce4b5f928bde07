"""Scores of forecasts on the held-out end of each series, beside the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from utilsforecast import losses

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
    seasonal naive forecast on the training part; sMAPE in percent; coverage of the widest band.

    Args:
        frame: forecasts of all models beside ``y``.
        models: their names.
        panel: the series.
        splits: of each series.
        quantiles: ascending.
        season: of the scale, in steps.

    Returns:
        The scores.
    """
    horizon = int(frame.group_by("unique_id", "cutoff").len()["len"].max())  # type: ignore[arg-type]  # never empty
    ahead = frame.with_columns(pl.int_range(pl.len()).over("unique_id", "cutoff").alias("step"))
    observed = ahead.filter(pl.col("y").is_finite())
    training = pl.concat(
        pl.DataFrame({"unique_id": one.id, "ds": one.times[:end], "y": one.values[:end]}).fill_nan(None)
        for one, end in ((s, split.training_end) for s, split in zip(panel.series, splits, strict=True))
    )
    level = max(round(abs(2 * q - 1) * 100) for q in quantiles)
    columns = {model: band_columns(model, quantiles) for model in models}
    names = list(models)
    q = np.array(quantiles)
    tables = {
        "mase": losses.mase(observed, names, season, training),
        "smape": losses.smape(observed, names),
        "scaled_quantile_loss": losses.scaled_mqloss(observed, columns, q, season, training),
        "coverage": losses.coverage(observed, names, level),
    }
    # utilsforecast leaves out the 200 of the M competitions' sMAPE
    tables["smape"] = tables["smape"].with_columns(pl.col(name) * 200 for name in names)
    return Scores(
        models={model: {name: _mean(table, model) for name, table in tables.items()} for model in names},
        error_by_horizon={model: _errors(observed, model, horizon) for model in names},
        season=season,
        coverage_level=level,
        windows=frame.select("unique_id", "cutoff").n_unique(),
    )


def _mean(table: pl.DataFrame, model: str) -> float:
    """Mean over windows, then over series, of what exists."""
    # sorted, because a sum depends on its order and polars groups in any
    finite = table.filter(pl.col(model).is_finite()).sort("unique_id", "cutoff")
    means = finite.group_by("unique_id", maintain_order=True).agg(pl.col(model).mean())[model]
    return float(np.mean(means.to_numpy())) if len(means) else float("nan")


def _errors(observed: pl.DataFrame, model: str, horizon: int) -> np.ndarray:
    error = observed.with_columns((pl.col("y") - pl.col(model)).abs().alias("error"))
    by_step = error.group_by("step", maintain_order=True).agg(pl.col("error").mean())
    errors = np.full(horizon, np.nan)
    errors[by_step["step"].to_numpy()] = by_step["error"].to_numpy()
    return errors
