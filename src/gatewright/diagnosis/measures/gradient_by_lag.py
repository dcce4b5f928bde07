"""How far back one step of the loss is heard: φ(k) = E‖∂ℓ_s/∂h_{s−k}‖, over rows and steps s.

The norm of the gradient that one step s sends back, k steps before it, through time and through the layers
(Pascanu et al. 2013, arXiv:1211.5063). The horizon is the last lag at which φ is still 1 % of its largest
value. Costs a backward pass a step s. Training hears next to nothing from beyond the horizon; whether that
matters depends on the lag that the task needs.
"""

from __future__ import annotations

import numpy as np

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records

_HEARD = 0.01


def horizon_of(curve: np.ndarray) -> int:
    """The last lag at which a curve is at least 1 % of its largest value; −1 where it is nowhere."""
    finite = np.where(np.isfinite(curve), curve, 0.0)
    heard = np.flatnonzero(finite >= _HEARD * finite.max(initial=0.0)) if finite.any() else np.empty(0, int)
    return int(heard[-1]) if len(heard) else -1


def mean_curve(curves: list[np.ndarray]) -> np.ndarray:
    """The mean of curves of different lengths, each lag over those that reach it."""
    table = np.full((len(curves), max((len(curve) for curve in curves), default=0)), np.nan)
    for row, curve in zip(table, curves, strict=True):
        row[: len(curve)] = curve
    counts = np.isfinite(table).sum(0)
    return np.where(counts > 0, np.where(np.isfinite(table), table, 0).sum(0) / np.maximum(counts, 1), np.nan)


def gradient_by_lag(records: Records) -> Measured:
    """φ of every layer, the horizon of the lowest one, and how φ grows per step.

    Args:
        records: of some batches.

    Returns:
        ``horizon``, ``lags``, ``lag_growth`` and the chart.
    """
    result = Measured()
    curves = {
        name: mean_curve([batch.by_lag[name] for batch in records.batches if name in batch.by_lag])
        for name in records.chains
    }
    curves = {name: curve for name, curve in curves.items() if len(curve) and np.isfinite(curve).any()}
    if not curves:
        result.notes.append("no gradient by lag: nothing of the loss reaches the recurrent layers")
        return result
    result.charts["gradient_by_lag"] = {
        name: curve / curve[0] if curve[0] > 0 else curve for name, curve in curves.items()
    }
    lowest = next(iter(curves))
    curve = curves[lowest]
    text = "last lag at which the gradient is still 1 % of its largest"
    result.add("horizon", horizon_of(curve), text, lowest)
    result.add("lags", len(curve) - 1, "lags that the batches reach", lowest)
    growth = {name: _growth(one) for name, one in curves.items()}
    result.worst(
        "lag_growth", growth, "growth of the gradient per step back, natural logarithm", largest=True
    )
    return result


def _growth(curve: np.ndarray) -> float:
    """Slope of ln φ over the lags that are not rounding, by least squares."""
    usable = np.isfinite(curve) & (curve > 1e-30)
    lags = np.flatnonzero(usable)
    lags = lags[lags >= 1] if (lags >= 1).sum() >= 3 else lags
    if len(lags) < 3:
        return float("nan")
    return float(np.polyfit(lags, np.log(curve[lags]), 1)[0])
