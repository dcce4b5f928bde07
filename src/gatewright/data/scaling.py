"""Scaling of a series to the size a network learns well at, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Method = Literal["standard", "robust", "none"]

_MAD_TO_STANDARD_DEVIATION = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Scaler:
    """scaled = (value − location) / scale, in units of the target; what no float64 holds becomes infinite."""

    location: float = 0.0
    scale: float = 1.0

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values in units of the target, scaled; NaN stays NaN."""
        with np.errstate(over="ignore"):
            return (values - self.location) / self.scale

    def undo(self, scaled: np.ndarray) -> np.ndarray:
        """Scaled values in units of the target."""
        with np.errstate(over="ignore"):
            return scaled * self.scale + self.location


def fit_scaler(values: np.ndarray, method: Method = "standard") -> Scaler:
    """Location and scale of a series: mean and standard deviation, or median and median deviation.

    A series without spread is centred and keeps its units. Missing values are left out.

    Args:
        values: ``[T]`` in units of the target, NaN where missing; only what training may see.
        method: ``"standard"``, ``"robust"`` or ``"none"``.

    Returns:
        The scaler.
    """
    observed = values[np.isfinite(values)]
    if method == "none" or observed.size == 0:
        return Scaler()
    # of 1e308-like values neither the sum nor the square fits: compute in units of the largest
    unit = float(np.abs(observed).max()) or 1.0
    observed = observed / unit
    if method == "robust":
        location = float(np.median(observed))
        scale = float(np.median(np.abs(observed - location))) * _MAD_TO_STANDARD_DEVIATION
        scale = scale or float(observed.std())
    else:
        location, scale = float(observed.mean()), float(observed.std())
    if not scale > 1e-12:
        return Scaler(location * unit, 1.0)
    return Scaler(location * unit, scale * unit)
