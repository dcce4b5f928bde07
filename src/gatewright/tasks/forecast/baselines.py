"""The forecasts every model must beat: the last value, and the value one season ago."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gatewright.data.tables import Panel
from gatewright.tasks.forecast.dataset import Split

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
        seasonal = _carried(values, self.season)
        found = np.where(place >= 0, seasonal[np.maximum(place, 0)], np.nan)
        return np.where(np.isnan(found), _carried(values, 1)[origins][:, None], found)

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


def _carried(values: np.ndarray, season: int) -> np.ndarray:
    """Each value, or the last observed one a whole number of seasons before it; NaN where there is none."""
    rows = -(-len(values) // season)
    table = np.full(rows * season, np.nan)
    table[: len(values)] = values
    table = table.reshape(rows, season)
    place = np.where(np.isfinite(table), np.arange(rows)[:, None], 0)
    carried = np.take_along_axis(table, np.maximum.accumulate(place, axis=0), axis=0)
    return carried.reshape(-1)[: len(values)]


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
            difference = np.abs(known[season:] - known[:-season])
            spread = np.nanstd(known) or 1.0
            errors.append(np.nanmean(difference) / spread if np.isfinite(difference).any() else np.nan)
        finite = [e for e in errors if np.isfinite(e)]
        return float(np.mean(finite)) if finite else np.inf

    return naive, Baseline("seasonal_naive", min(seasons, key=error))
