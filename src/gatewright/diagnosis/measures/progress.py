"""How training goes: some steps as the user would take them, and the same with inputs that say nothing.

The control reads the inputs of other rows, so that it learns what can be learned without input: scale, bias,
frequencies. gain = 1 − (loss behind the steps) / (loss of the control). A gain near 0 says that the model
learns nothing from its inputs. Costs the time of the steps, once and a half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.practice import Practice, cloned, held_out, mean_loss, mixed_inputs, practise
from gatewright.diagnosis.problem import Problem

_TAIL = 10


def progress(
    start: nn.Module, problem: Problem, *, steps: int, seconds: float, gentle: float
) -> tuple[Measured, Practice]:
    """Train a copy, and a control.

    Args:
        start: a fast copy of the model, left as it is.
        problem: as given.
        steps: at most.
        seconds: at most, for both.
        gentle: learning rate of the control, which is not to fail where the problem's is too high.

    Returns:
        ``gain``, ``fall``, ``gap``, ``moved``, ``norm_spikes``, ``rise`` …, and the copy behind the steps.
    """
    result = Measured()
    training, judging = held_out(problem)
    before = mean_loss(start, problem, judging)
    practice = practise(cloned(start), problem, training, steps=steps, seconds=0.65 * seconds)
    result.charts |= {"losses": np.array(practice.losses), "gradient_norms": np.array(practice.norms)}
    count = len(practice.losses)
    result.add("steps", count, "steps of training that were observed")
    result.add("loss_before", before, "held-out loss as the model was given")
    result.add("stopped", practice.stopped, "first step whose loss or gradient was not finite, −1 for none")
    after = float("nan") if practice.stopped >= 0 else mean_loss(practice.model, problem, judging)
    result.add("loss_after", after, "held-out loss behind the observed steps")
    if count:
        result.add(
            "fall", _share(before, after), "fall of the held-out loss over the observed steps, as a share"
        )
        fitted = mean_loss(practice.model, problem, training[:16])
        result.add("loss_fitted", fitted, "loss on the training batches behind the observed steps")
        given = mean_loss(start, problem, training[:16])
        result.add(
            "gap", _share(before, given), "training loss below the held-out loss, as the model was given"
        )
        result.add("gap_after", _share(after, fitted), "the same behind the observed steps")
        result.add(
            "moved", _moved(start, practice.model), "relative change of the weights in the observed steps"
        )
        _spikes(result, practice)
    if count >= 4:
        blind = _blind(start, problem, training, judging, max(4, count // 2), 0.35 * seconds, gentle)
        result.add("loss_blind", blind, "held-out loss of a control that reads other rows' inputs")
        result.add("gain", _share(blind, after), "held-out loss below that of the control, as a share")
    return result, practice


def _blind(
    start: nn.Module,
    problem: Problem,
    training: Sequence[Any],
    judging: Sequence[Any],
    steps: int,
    seconds: float,
    gentle: float,
) -> float:
    """The loss that can be reached without inputs: the best on the way of a control."""
    control, reached = cloned(start), []
    with mixed_inputs(control, problem.seed):
        for _ in range(2):
            practise(control, problem, training, steps=steps // 2, seconds=seconds / 2, learning_rate=gentle)
            reached.append(mean_loss(control, problem, judging))
    finite = [loss for loss in reached if math.isfinite(loss)]
    return min(finite, default=float("nan"))


@torch.no_grad()
def _moved(before: nn.Module, after: nn.Module) -> float:
    """How far the trained weights moved, relative to their size."""
    pairs = [(p, q) for p, q in zip(before.parameters(), after.parameters(), strict=True) if p.requires_grad]
    moved = math.sqrt(sum(float((q - p).double().square().sum()) for p, q in pairs))
    size = math.sqrt(sum(float(p.double().square().sum()) for p, _ in pairs))
    return moved / size if size > 0 else float("inf")


def _share(larger: float, smaller: float) -> float:
    """How far one loss is below another; losses below 0 are compared by their size."""
    if not math.isfinite(larger):
        return float("nan")
    if not math.isfinite(smaller):
        return -1.0
    scale = max(abs(larger), abs(smaller) if larger <= 0 else 0.0, 1e-12)
    return max(-10.0, (larger - smaller) / scale)


def _spikes(result: Measured, practice: Practice) -> None:
    """Outliers of the gradient's norm, and how much the loss wobbles at the end."""
    norms = np.array([norm for norm in practice.norms if math.isfinite(norm)])
    if len(norms) >= 5 and np.median(norms) > 0:
        result.add(
            "norm_spikes",
            norms.max() / np.median(norms),
            "largest gradient norm of a step over the median one",
        )
        result.add("norm_median", np.median(norms), "median norm of the gradient in the observed steps")
