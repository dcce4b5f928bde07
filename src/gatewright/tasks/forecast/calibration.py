"""Bands that hold what they promise: widened or narrowed by what the validation part shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_LEAST, _MOST = 0.1, 10.0


def band_factors(forecast: np.ndarray, truth: np.ndarray, quantiles: Sequence[float]) -> tuple[float, ...]:
    """For each quantile the factor on its distance from the median that makes it true on held-out data.

    f_q is the q-quantile of (y − median) / (ŷ_q − median), and 1 − q where ŷ_q lies below the median:
    conformal calibration (Romano et al. 2019, arXiv:1905.03222) with a factor instead of an offset, so that
    quiet times of a series keep narrow bands.

    Args:
        forecast: ``[P, N, Q]``, ascending in ``Q``.
        truth: ``[P, N]``, NaN where missing.
        quantiles: ascending, 0.5 among them.

    Returns:
        ``Q`` factors between 0.1 and 10; 1 for the median, and where nothing was observed.
    """
    median = forecast[..., list(quantiles).index(0.5)]
    factors = []
    for place, quantile in enumerate(quantiles):
        width = forecast[..., place] - median
        usable = np.isfinite(truth) & (np.abs(width) > 0)
        if quantile == 0.5 or not usable.any():
            factors.append(1.0)
            continue
        ratio = (truth - median)[usable] / width[usable]
        factor = float(np.quantile(ratio, max(quantile, 1 - quantile)))
        factors.append(float(np.clip(factor, _LEAST, _MOST)))
    return tuple(factors)


def with_factors(forecast: np.ndarray, quantiles: Sequence[float], factors: Sequence[float]) -> np.ndarray:
    """Forecasts ``[..., Q]``, each quantile's distance from the median times its factor, ascending again."""
    median = forecast[..., [list(quantiles).index(0.5)]]
    return np.sort(median + (forecast - median) * np.array(factors), axis=-1)
