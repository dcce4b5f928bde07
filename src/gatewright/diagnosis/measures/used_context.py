"""How far back the model uses its inputs: the loss when those older than k are another row's.

The smallest k beyond which mixing up moves the loss by less than 5 % of what mixing up everything does
(after Khandelwal et al. 2018, arXiv:1805.04623). It is measured at the last step: a loss over all steps is
compared on sequences of which only the end is in doubt. Costs two evaluations a lag.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.practice import held_out, mean_loss, mixed_inputs
from gatewright.diagnosis.problem import Problem

_BATCHES = 2
_SHARE = 0.05


def used_context(model: nn.Module, problem: Problem, steps: int) -> Measured:
    """The used context of a model.

    Args:
        model: a fast copy, left as it is.
        problem: as given.
        steps: of a sequence.

    Returns:
        ``used_context`` and ``used_inputs`` (rise of the loss when all inputs are mixed up, as a share).
    """
    result = Measured()
    _, judging = held_out(problem)
    judging = judging[:_BATCHES]
    plain = mean_loss(model, problem, judging)
    lags = [0] + [2**n for n in range(20) if 2**n < steps]
    rises = []
    for lag in lags:
        with mixed_inputs(model, problem.seed, lag):
            rises.append(mean_loss(model, problem, judging) - plain)
    table = np.array(rises)
    if not np.isfinite(table).all() or not np.isfinite(plain):
        return result
    result.add(
        "used_inputs", table[0] / max(abs(plain), 1e-12), "rise of the loss when all inputs are mixed up"
    )
    if table[0] > 0.01 * abs(plain):
        moved = np.flatnonzero(table > _SHARE * table[0])
        beyond = lags[int(moved[-1]) + 1] if int(moved[-1]) + 1 < len(lags) else steps
        result.add("used_context", beyond, "steps back beyond which inputs do not move the loss")
    return result
