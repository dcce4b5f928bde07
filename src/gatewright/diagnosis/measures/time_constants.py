"""Over how many steps each unit forgets, and whether its gates can still move.

τ_i = −1/E_t[ln z_i] with z the gate that keeps the state (for the mean of the logarithm, not the logarithm
of the mean, it is the rate at which a value is forgotten). Saturation P(z < 0.1), P(z > 0.9) (Karpathy et
al. 2015, arXiv:1506.02078) and the mean slope E[z(1 − z)]. High gates alone say nothing bad: long memory
needs them (Gu et al. 2020, arXiv:1910.09890, Ohno et al. 2022, arXiv:2210.01348). No cost beyond a step.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records
from gatewright.diagnosis.tokens import Tokens


def time_constants(records: Records) -> Measured:
    """Time constants and saturation of the gates of every layer.

    Args:
        records: of some batches.

    Returns:
        ``tau``, ``tau_spread``, ``gate_slope``, ``gate_high``, ``open_slope``, ``state_change``
        and the chart; without gates only the last but one.
    """
    result = Measured()
    taus: dict[str, np.ndarray] = {}
    rows: dict[str, dict[str, float]] = {name: {} for name in _TEXTS}
    for name, trace in records.chains.items():
        if not trace.steps:
            continue
        rows["state_change"][name] = _change(trace.states)
        gates = Tokens(trace).gates()
        keep, others = _keep(gates, trace.module.cell.keep)
        slopes = {gate: (value * (1 - value)).mean().item() for gate, value in others.items()}
        if slopes:
            rows["open_slope"][name] = min(slopes.values())
        if keep is None:
            continue
        with np.errstate(divide="ignore"):
            taus[name] = (
                -1 / keep.double().clamp(min=1e-30).log().mean((0, 1)).clamp(max=-1e-12).cpu().numpy()
            )
        rows["tau"][name] = float(np.median(taus[name]))
        logs = np.log(taus[name])
        rows["tau_spread"][name] = float(np.subtract(*np.percentile(logs, [90, 10])))
        rows["gate_slope"][name] = (keep * (1 - keep)).mean().item()
        rows["gate_high"][name] = (keep > 0.9).double().mean().item()
    if taus:
        result.charts["time_constants"] = taus
    for name, (text, largest) in _TEXTS.items():
        result.worst(name, rows[name], text, largest=largest)
    if not taus:
        result.notes.append(
            "no time constants: no gate is known to keep the state; say so with @gw.cell(keep=...)"
        )
    return result


_TEXTS = {
    "tau": ("median steps over which a unit forgets", True),
    "tau_spread": ("spread of the time constants, ln of the 90th over the 10th percentile", False),
    "gate_slope": ("mean slope z(1 − z) of the gates that keep", False),
    "gate_high": ("share of the gates that keep above 0.9", True),
    "open_slope": ("mean slope of the other gate that moves least", False),
    "state_change": ("change of the state in a step over its spread", False),
}


def _keep(gates: dict[str, Tensor], signs: Mapping[str, int]) -> tuple[Tensor | None, dict[str, Tensor]]:
    """The gate that keeps the state, and the others."""
    others = {name: value for name, value in gates.items() if name not in signs}
    for wanted in (1, -1):
        for name, sign in signs.items():
            if sign == wanted and name in gates:
                rest = {n: gates[n] for n in signs if n != name and n in gates}
                return (gates[name] if wanted == 1 else 1 - gates[name]), {**others, **rest}
    return None, others


def _change(states: list[tuple[Tensor, ...]]) -> float:
    """Root mean square change of all states in a step, over their spread across rows and steps."""
    joined = torch.stack([torch.cat(step, -1).detach() for step in states]).double()
    if len(joined) < 2:
        return float("nan")
    spread = joined.flatten(0, 1).std(0).square().mean().sqrt()
    change = (joined[1:] - joined[:-1]).square().mean().sqrt()
    return (change / spread.clamp(min=1e-12)).item()
