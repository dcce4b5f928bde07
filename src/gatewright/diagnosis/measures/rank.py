"""How many directions the states use: erank = exp(H(σ/Σσ)), and units that are dead or doubled.

σ are the singular values of the centred states, H Shannon's entropy (Roy & Vetterli 2007). A unit is dead
when it does not vary, doubled when it is another one up to sign and scale (correlation above 0.999). A rank
far below the number of units is wasted width; one near it means that the width is used up.
Costs a singular value decomposition of some thousand states.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records

_MOST_STATES = 4096


def rank(records: Records) -> Measured:
    """Effective rank and doubled units of every layer.

    Args:
        records: of some batches.

    Returns:
        ``rank`` (effective rank), ``rank_share`` (of the units), ``doubled``, ``dead`` and ``units``.
    """
    result = Measured()
    ranks, shares, doubled, dead, units = {}, {}, {}, {}, {}
    for name, trace in records.chains.items():
        if not trace.steps:
            continue
        place = trace.call.cell.graph.state_index(trace.call.cell.graph.output)
        states = torch.cat([step[place].detach() for step in trace.states]).double()
        states = states[:: max(1, len(states) // _MOST_STATES)]
        if not bool(torch.isfinite(states).all()):
            continue
        ranks[name], doubled[name], dead[name] = _of_states(states)
        units[name] = states.shape[1]
        shares[name] = ranks[name] / states.shape[1]
    result.worst("rank", ranks, "effective rank of the states", largest=False)
    result.worst("rank_share", shares, "effective rank of the states over the number of units", largest=False)
    result.worst("doubled", doubled, "share of the units that are another one's double", largest=True)
    result.worst("dead", dead, "share of the units that never change", largest=True)
    result.worst("units", units, "units of the narrowest layer", largest=False)
    return result


def _of_states(states: Tensor) -> tuple[float, float, float]:
    """Effective rank, share of doubled and of dead units, of ``[N, H]``."""
    centred = states - states.mean(0)
    spread = centred.std(0)
    still = spread < 1e-6
    sizes = torch.linalg.svdvals(centred)
    p = sizes / sizes.sum().clamp(min=1e-300)
    erank = torch.exp(-(p * p.clamp(min=1e-300).log()).sum()).item() if bool(sizes.any()) else 0.0
    unit = centred / (spread.clamp(min=1e-12) * (len(centred) - 1) ** 0.5)
    correlation = (unit.T @ unit).abs()
    correlation.fill_diagonal_(0)
    correlation[still] = 0
    twins = (correlation.max(0).values > 0.999).double().mean().item() if len(spread) > 1 else 0.0
    return erank, twins, still.double().mean().item()
