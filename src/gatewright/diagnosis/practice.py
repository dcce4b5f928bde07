"""Some steps of training on a copy, to see how it goes; and inputs that say nothing, to compare with."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.twin import check_loss, converted
from gatewright.layers.recurrent import Recurrent


@dataclass
class Practice:
    """How some steps of training went.

    Attributes:
        model: as it is behind them.
        losses: of each step.
        norms: of the whole gradient in each step, before clipping.
        stopped: the first step whose loss or gradient was not finite, counted from 0; −1 for none.
    """

    model: nn.Module
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    stopped: int = -1


def fast_copy(model: nn.Module) -> nn.Module:
    """A copy whose recurrent layers run on the kernels."""
    return converted(model)[0]


def practise(
    model: nn.Module,
    problem: Problem,
    batches: Sequence[Any],
    *,
    steps: int,
    seconds: float = math.inf,
    learning_rate: float | None = None,
) -> Practice:
    """Train a model in place with Adam, as the problem says.

    Args:
        model: a copy.
        problem: with loss, learning rate and clipping.
        batches: to train on, in a new random order each pass.
        steps: at most.
        seconds: at most.
        learning_rate: in place of the problem's.

    Returns:
        How it went.
    """
    result, began = Practice(model), time.perf_counter()
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        return result
    rate = problem.learning_rate if learning_rate is None else learning_rate
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=problem.weight_decay)
    clip = math.inf if problem.gradient_clip is None else problem.gradient_clip
    order: list[int] = []
    generator = torch.Generator().manual_seed(problem.seed)
    for step in range(steps):
        if time.perf_counter() - began > seconds:
            break
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        with torch.enable_grad():
            optimizer.zero_grad(set_to_none=True)
            loss = problem.loss(model, batches[order.pop()])
            check_loss(loss)
            if not loss.requires_grad:
                return result
            loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, clip).item()
        result.losses.append(loss.item())
        result.norms.append(norm)
        if not (math.isfinite(norm) and math.isfinite(loss.item())):
            result.stopped = step
            break
        optimizer.step()
    return result


def mean_loss(model: nn.Module, problem: Problem, batches: Sequence[Any]) -> float:
    """The mean loss over batches in evaluation mode; NaN where it is not finite.

    Args:
        model: a copy.
        problem: with the loss.
        batches: to evaluate on.

    Returns:
        The mean.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            losses = [float(problem.loss(model, batch)) for batch in batches]
    finally:
        model.train(training)
    total = sum(losses) / max(1, len(losses))
    return total if math.isfinite(total) else float("nan")


def held_out(problem: Problem) -> tuple[list[Any], list[Any]]:
    """Batches to train on and batches to judge by: the validation batches, or the last quarter.

    Args:
        problem: with its batches.

    Returns:
        Two lists; the same batch in both where there is only one.
    """
    batches = list(problem.batches)
    if problem.validation:
        return batches, list(problem.validation)
    if len(batches) == 1:
        return batches, batches
    count = max(1, len(batches) // 4)
    return batches[:-count], batches[-count:]


@contextmanager
def mixed_inputs(model: nn.Module, seed: int = 0, keep_last: int = 0) -> Iterator[None]:
    """Inside, the lowest recurrent layer reads another row's inputs, which are as likely and say nothing.

    Args:
        model: a copy; which layer is the lowest shows itself in the first call.
        seed: of the order of rows.
        keep_last: so many steps before the end of a sequence are left as they are.

    Yields:
        Nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    lowest: list[nn.Module] = []

    def mix(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        lowest.append(module)
        if module is not lowest[0] or not given or not isinstance(given[0], Tensor) or given[0].dim() != 3:
            return None
        x = given[0]
        rows, time_axis = (0, 1) if module.batch_first else (1, 0)
        order = torch.randperm(x.shape[rows], generator=generator).to(x.device)
        mixed = x.index_select(rows, order)
        if keep_last:
            cut = max(0, x.shape[time_axis] - keep_last)
            new = x.narrow(time_axis, cut, x.shape[time_axis] - cut)
            mixed = torch.cat([mixed.narrow(time_axis, 0, cut), new], time_axis)
        return (mixed, *given[1:])

    hooks = [
        module.register_forward_pre_hook(mix) for module in model.modules() if isinstance(module, Recurrent)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def cloned(model: nn.Module) -> nn.Module:
    """A copy of a copy."""
    return copy.deepcopy(model)
