"""The forecasts every model must beat: the last value, and the value one season ago."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gatewright.data.scaling import fit_scaler
from gatewright.data.tables import Panel
from gatewright.tasks.forecast.dataset import Split, last_observed

_ORIGINS_AT_MOST = 2000


@dataclass(frozen=True)
class Baseline:
    """A seasonal naive forecast: y_{t+k} is the value one season before it; a season of 1 is the naive one.

    Where that value is missing the last observed one before it in the same place of the season serves, and
    failing that the last observed one.
    """

    name: str
    season: int

    def forecast(self, values: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
        """Point forecasts of the steps after each origin.

        Args:
            values: ``[T]``, NaN where missing.
            origins: ``[P]`` last known steps.
            horizon: ``N``.

        Returns:
            ``[P, N]``; NaN only where nothing was observed yet.
        """
        ahead = np.arange(1, horizon + 1)
        place = origins[:, None] + ahead - self.season * -(-ahead // self.season)
        seasonal = last_observed(values, self.season)
        found = np.where(place >= 0, seasonal[np.maximum(place, 0)], np.nan)
        return np.where(np.isnan(found), last_observed(values)[origins][:, None], found)

    def quantiles(
        self, values: np.ndarray, split: Split, origins: np.ndarray, horizon: int, levels: Sequence[float]
    ) -> np.ndarray:
        """Forecasts with bands from the errors that the baseline makes on the training part.

        A band always holds the point forecast, also where the baseline errs to one side only.

        Args:
            values: ``[T]``, NaN where missing.
            split: tells which part is for training.
            origins: ``[P]`` last known steps.
            horizon: ``N``.
            levels: ``Q`` quantiles; the one at 0.5 is the point forecast itself.

        Returns:
            ``[P, N, Q]``.
        """
        known = values[: split.training_end]
        every = max(1, len(known) // _ORIGINS_AT_MOST)
        past = np.arange(0, max(len(known) - horizon, 0), every)
        errors = np.zeros((1, horizon))
        if len(past):
            truth = known[past[:, None] + np.arange(1, horizon + 1)]
            errors = truth - self.forecast(known, past, horizon)
        bands = np.zeros((horizon, len(levels)))
        below, above = np.array(levels) < 0.5, np.array(levels) > 0.5
        for step in range(horizon):
            seen = errors[:, step][np.isfinite(errors[:, step])]
            if len(seen):
                edges = np.quantile(seen, levels)
                bands[step] = np.where(below, np.minimum(edges, 0), np.where(above, np.maximum(edges, 0), 0))
        points = self.forecast(values, origins, horizon)
        return np.sort(points[:, :, None] + bands, axis=-1)


def choose_baselines(panel: Panel, splits: Sequence[Split], seasons: Sequence[int]) -> tuple[Baseline, ...]:
    """Naive, and seasonal naive with the season that errs least on the training part.

    Args:
        panel: the series.
        splits: of each series.
        seasons: season lengths to choose from; without any there is no seasonal naive.

    Returns:
        One or two baselines.
    """
    naive = Baseline("naive", 1)
    if not seasons:
        return (naive,)

    def error(season: int) -> float:
        errors = []
        for series, split in zip(panel.series, splits, strict=True):
            known = series.values[: split.training_end]
            # scaled, so that each series counts the same
            known = fit_scaler(known).apply(known)
            difference = np.abs(known[season:] - known[:-season])
            if np.isfinite(difference).any():
                errors.append(np.nanmean(difference))
        return float(np.mean(errors)) if errors else np.inf

    return naive, Baseline("seasonal_naive", min(seasons, key=error))
