"""What the state remembers: R²(k) of a ridge regression from the state to the input k steps before.

Linear memory (Jaeger 2001), on rows that were not fitted to; of inputs with several features the leading
principal components, weighted by their variance. MC = Σ_k R²(k) is at most the number of units for white
inputs. High at the lag that a task needs, with a bad loss: the readout or its training is at fault. Low
there although the gradient reaches it: overwritten, or not learned. Costs a regression a lag.
"""

from __future__ import annotations

import numpy as np
import torch

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records
from gatewright.diagnosis.regression import explained, halves, predicted, principal, standardised

_COMPONENTS = 4
_MOST_ROWS = 4000


def memory(records: Records) -> Measured:
    """Memory curves of every layer.

    Args:
        records: of some batches; the states of the last one are used.

    Returns:
        ``memory_capacity`` of the uppermost layer and the chart.
    """
    result = Measured()
    traces = {name: t.sequence() for name, t in records.chains.items() if t.steps and not t.call.reverse}
    if records.low not in traces:
        result.notes.append("no memory curve: no layer runs forward")
        return result
    inputs = torch.cat([t.call.x.detach() for t in traces[records.low]]).double().cpu().numpy()
    steps, batch = inputs.shape[:2]
    lags = np.unique(
        np.concatenate([np.arange(min(8, steps)), np.geomspace(8, max(8, steps - 1), 24).astype(int)])
    )
    lags = lags[lags < steps]
    flat = principal(inputs.reshape(steps * batch, -1), _COMPONENTS).reshape(steps, batch, -1)
    if batch < 4 or not flat.any():
        result.notes.append("no memory curve: it takes four rows of inputs that vary")
        return result
    curves = {}
    for name, parts in traces.items():
        states = np.stack([torch.cat(s, -1).detach().double().cpu().numpy() for t in parts for s in t.states])
        if len(states) == steps and np.isfinite(states).all():
            curves[name] = np.array([_remembered(states, flat, int(lag)) for lag in lags])
    result.charts |= {"memory_lags": lags, "memory": curves}
    if curves:
        name = list(curves)[-1]
        capacity = float(np.interp(np.arange(lags[-1] + 1), lags, curves[name]).sum())
        result.add(
            "memory_capacity", capacity * flat.shape[-1], "sum of what the state remembers, in numbers", name
        )
    return result


def _remembered(states: np.ndarray, inputs: np.ndarray, lag: int) -> float:
    """R² of the inputs so many steps before each state, by their variance."""
    x, y = states[lag:], inputs[: len(inputs) - lag]
    rows = np.tile(np.arange(x.shape[1]), len(x))
    x, y = x.reshape(len(rows), -1), y.reshape(len(rows), -1)
    every = max(1, len(x) // _MOST_ROWS)
    # an odd stride would take always the same rows of the batch
    chosen = np.random.default_rng(lag).permutation(len(x))[: len(x) // every]
    x, y, rows = x[chosen], y[chosen], rows[chosen]
    half = halves(rows)
    if min(np.bincount(half, minlength=2)) < 8:
        return 0.0
    centred = y - y.mean(0)
    return explained(centred, predicted(standardised(x), centred, half))
