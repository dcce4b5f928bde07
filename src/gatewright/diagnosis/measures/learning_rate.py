"""Which learning rates would work: short runs from the same weights, on the same batches.

Each rate of Adam gets the same few steps (after the range test of Smith 2017, arXiv:1506.01186, but with
a run of its own for each rate). The usable window is where the loss falls nearly as far as it does at best.
Costs nine short runs.
"""

from __future__ import annotations

import math

import numpy as np
from torch import nn

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.practice import cloned, held_out, mean_loss, practise
from gatewright.diagnosis.problem import Problem

_RATES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_JUDGED = 4
_NEAR = 0.2


def learning_rate(start: nn.Module, problem: Problem, *, steps: int, seconds: float) -> Measured:
    """Sweep the learning rate.

    Args:
        start: a fast copy of the model, left as it is.
        problem: as given.
        steps: of each run, at most.
        seconds: for all runs.

    Returns:
        ``rate_ratio`` (log10 of the best rate over the one in use), ``rate_regret``, ``rate_width`` and the
        chart.
    """
    result = Measured()
    training, judging = held_out(problem)
    judging = judging[:_JUDGED]
    before = mean_loss(start, problem, judging)
    rates = sorted({*_RATES, problem.learning_rate})
    if not math.isfinite(before) or not any(p.requires_grad for p in start.parameters()):
        result.notes.append("no sweep of the learning rate: the loss is not finite, or nothing is trained")
        return result
    falls, count = [], steps
    for rate in rates:
        model = cloned(start)
        run = practise(
            model, problem, training, steps=count, seconds=seconds / len(rates), learning_rate=rate
        )
        count = min(count, max(2, len(run.losses))) if run.stopped < 0 else count
        after = float("nan") if run.stopped >= 0 else mean_loss(model, problem, judging)
        falls.append((before - after) / max(abs(before), 1e-12))
    table = np.array(falls)
    result.charts |= {
        "learning_rates": np.array(rates),
        "learning_rate_losses": 1 - table if before > 0 else -table,
        "learning_rate": problem.learning_rate,
    }
    if not np.isfinite(table).any():
        result.notes.append("no learning rate of the sweep kept the loss finite")
        return result
    best = int(np.nanargmax(table))
    own = table[rates.index(problem.learning_rate)]
    top = float(table[best])
    result.add("rate_best", rates[best], "learning rate at which the loss falls farthest in a short run")
    result.add(
        "rate_ratio",
        math.log10(rates[best] / problem.learning_rate),
        "log10 of the best rate over the one in use",
    )
    result.add("rate_fall", top, "fall of the loss at the best rate in a short run, as a share")
    regret = top - (own if math.isfinite(own) else -1.0)
    result.add(
        "rate_regret", regret, "how much farther the loss falls at the best rate than at the one in use"
    )
    usable = np.flatnonzero(table >= top - _NEAR * max(abs(top), 0.05))
    width = math.log10(rates[usable[-1]] / rates[usable[0]])
    result.add("rate_width", width, "width of the usable rates, in powers of ten")
    return result
