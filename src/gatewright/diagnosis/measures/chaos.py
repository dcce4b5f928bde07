"""Whether the sequences themselves part: their divergence, and whether the model reads its own outputs.

Neighbouring stretches of the input are followed for some steps (after Rosenstein et al. 1993): the mean
logarithm of their distance grows by the data's own largest Lyapunov exponent a step, if one step ahead is
predictable at all. Gradients through free-running predictions of chaotic data must explode at that rate,
however the network is made (Mikhaeil et al. 2022, arXiv:2110.07238). Costs distances of some thousand
points.
"""

from __future__ import annotations

import numpy as np
import torch

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records
from gatewright.diagnosis.regression import principal

_EMBEDDING = 3
_POINTS = 1500
_FOLLOWED = 4


def chaos(records: Records) -> Measured:
    """The exponent of the data, and whether outputs are fed back.

    Args:
        records: of some batches.

    Returns:
        ``feedback`` (1 or 0), ``data_exponent`` and ``data_order`` (share of a step that neighbours predict).
    """
    result = Measured()
    result.add("feedback", _feedback(records), "1 where the model reads what it gave the step before")
    x = records.batches[-1].inputs.double().cpu().numpy()
    steps, batch = x.shape[:2]
    series = principal(x.reshape(steps * batch, -1), 2).reshape(steps, batch, -1)
    length = steps - _EMBEDDING + 1 - _FOLLOWED
    if length < 4 or batch * length < 100 or not np.isfinite(series).all() or not series.any():
        return result
    series = series / series.std()
    windows = np.stack([series[i : i + length] for i in range(_EMBEDDING)], -1)
    points = windows.transpose(1, 0, 2, 3).reshape(batch * length, -1)
    rows = np.repeat(np.arange(batch), length)
    times = np.tile(np.arange(length), batch)
    chosen = np.random.default_rng(0).permutation(len(points))[:_POINTS]
    p, r, t = points[chosen], rows[chosen], times[chosen]
    distance = ((p[:, None] - p[None]) ** 2).sum(-1)
    near = (r[:, None] == r[None]) & (np.abs(t[:, None] - t[None]) <= _EMBEDDING)
    distance[near] = np.inf
    other = distance.argmin(1)
    close = np.argsort(distance[np.arange(len(p)), other])[: max(20, len(p) // 5)]
    close = close[np.isfinite(distance[close, other[close]])]
    if len(close) < 20:
        return result
    gaps = []
    for ahead in range(_FOLLOWED + 1):
        last = _EMBEDDING - 1 + ahead
        a = series[t[close] + last, r[close]]
        b = series[t[other[close]] + last, r[other[close]]]
        gaps.append(np.linalg.norm(a - b, axis=-1))
    logs = np.array([np.log(np.maximum(gap, 1e-9)).mean() for gap in gaps])
    result.add(
        "data_exponent",
        np.polyfit(np.arange(_FOLLOWED), logs[1:], 1)[0],
        "divergence of neighbouring stretches of input per step, natural logarithm",
    )
    spread = 2 * series.reshape(-1, series.shape[-1]).var(0).sum()
    result.add(
        "data_order",
        1 - (gaps[1] ** 2).mean() / spread,
        "share of the next input that neighbouring stretches agree on",
    )
    return result


def _feedback(records: Records) -> float:
    """Whether the input of a later call of the lowest layer hangs on a state of the uppermost."""
    traces = records.chains[records.low].sequence()
    tops = records.chains[records.top].sequence()
    if len(traces) < 2 or not traces[-1].call.x.requires_grad:
        return 0.0
    states = [state for state in tops[0].states[-1] if state.requires_grad]
    if not states:
        return 0.0
    found = torch.autograd.grad(traces[-1].call.x.sum(), states, retain_graph=True, allow_unused=True)
    return float(any(g is not None and bool(g.any()) for g in found))
