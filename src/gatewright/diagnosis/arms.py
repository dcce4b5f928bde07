"""One arm of a trial: a copy of a model is trained, with or without a change, and its loss followed."""

from __future__ import annotations

import copy
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gatewright.diagnosis.change import Change
from gatewright.diagnosis.problem import Problem
from gatewright.errors import InputError
from gatewright.reports.diagnosis_contents import Remedy

_POINTS = 8
_TIMED_STEPS = 3
_APPLY, _TRAIN, _ORDER, _EVALUATE = range(4)

AS_IT_IS = Change(Remedy("baseline", "training as it is"))


class OutOfTimeError(Exception):
    """The deadline came in the middle of an arm."""


@dataclass(frozen=True)
class Arm:
    """A training that is compared with others of the same seed.

    Attributes:
        change: what is different in it.
        seed: which pair it belongs to, counted from 0.
    """

    change: Change
    seed: int

    @property
    def name(self) -> str:
        """Of its remedy."""
        return self.change.remedy.name


@dataclass(frozen=True)
class Outcome:
    """What became of an arm.

    Attributes:
        status: ``stopped`` is by the deadline.
        losses: held out, at the points of the plan; NaN from where training was not finite.
        note: why it failed.
    """

    status: Literal["finished", "failed", "stopped"]
    losses: tuple[float, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What is the same in all arms.

    Attributes:
        problem: what is trained.
        training: batches to train on.
        held_out: batches whose mean loss is followed.
        points: batches trained on when it is measured; the last one is the budget.
        notes: what the reader must know about it.
    """

    problem: Problem
    training: Sequence[Any]
    held_out: Sequence[Any]
    points: tuple[int, ...] = ()
    notes: tuple[str, ...] = field(default=())


def split(problem: Problem) -> Plan:
    """Set batches apart where none are held out: the last quarter.

    Args:
        problem: its batches are not touched.

    Returns:
        A plan without points.

    Raises:
        InputError: there is no batch.
    """
    batches = list(problem.batches)
    if not batches:
        raise InputError("trials need batches to train on, and there is none", "pass at least two batches")
    if len(problem.validation):
        return Plan(problem, batches, list(problem.validation))
    if len(batches) == 1:
        note = "There is one batch only: the trials were judged by the batch that they trained on."
        return Plan(problem, batches, batches, notes=(note,))
    held_out = max(len(batches) // 4, 1)
    return Plan(problem, batches[:-held_out], batches[-held_out:])


def evaluation_points(steps: int) -> tuple[int, ...]:
    """Before training and eight times in it, evenly: the mean of the last two is then late in training."""
    return tuple(sorted({round(steps * point / _POINTS) for point in range(_POINTS + 1)}))


def derived_seed(seed: int, pair: int, purpose: int) -> int:
    """A seed of its own for each pair and purpose."""
    state = np.random.SeedSequence([seed % 2**64, pair, purpose]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def _seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed would also leave a seed behind for devices that are not in use
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give the generators of Python, numpy and torch back as they were."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


class _Training:
    """A changed copy of the model, and its optimiser."""

    def __init__(self, plan: Plan, arm: Arm) -> None:
        problem, change = plan.problem, arm.change
        self.plan, self.loss = plan, problem.loss
        self._seed, self._pair = problem.seed, arm.seed
        _seed_all(derived_seed(problem.seed, arm.seed, _APPLY))
        self.model = change.apply(_copied(problem.model))
        # a change may have drawn: from here on the arms of a pair draw the same again
        _seed_all(derived_seed(problem.seed, arm.seed, _TRAIN))
        if not self.model.training:
            self.model.train()
        # a part that was put into evaluation mode by hand is kept there
        self._modes = [(module, module.training) for module in self.model.modules()]
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not self.parameters:
            raise InputError("the model has no weights that are trained", "set requires_grad of some")
        rate = problem.learning_rate if change.learning_rate is None else change.learning_rate
        clip = problem.gradient_clip if change.gradient_clip is None else change.gradient_clip
        decay = problem.weight_decay if change.weight_decay is None else change.weight_decay
        self._clip = math.inf if clip is None else clip
        self._skips = change.skip_non_finite
        self._checked = False
        adam = torch.optim.AdamW if decay > 0 else torch.optim.Adam
        self.optimizer = adam(self.parameters, lr=rate, weight_decay=decay)

    def step(self, batches: Sequence[Any]) -> bool:
        """One step on the mean of some batches; False where the arm cannot go on."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch in batches:
            loss = self._scalar(batch)
            (loss / len(batches)).backward()
            total += loss.item()
        if not self._checked and all(parameter.grad is None for parameter in self.parameters):
            raise InputError(
                "the loss does not depend on the weights of the model it is given",
                "run the model that is passed to the loss, not one from outside",
            )
        self._checked = True
        norm = nn.utils.clip_grad_norm_(self.parameters, self._clip).item()
        finite = math.isfinite(total) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
        return finite or self._skips

    def held_out_loss(self, batches: Sequence[Any], stop: Callable[[], bool]) -> float:
        """Mean loss in evaluation mode; draws the same each time, and nothing from training's generators."""
        self.model.eval()
        losses = []
        with random_state_kept(), torch.no_grad():
            _seed_all(derived_seed(self._seed, self._pair, _EVALUATE))
            for batch in batches:
                if stop():
                    raise OutOfTimeError
                losses.append(self._scalar(batch).item())
        for module, training in self._modes:
            module.training = training
        mean = sum(losses) / len(losses)
        return mean if math.isfinite(mean) else math.nan

    def _scalar(self, batch: Any) -> Tensor:
        loss = self.loss(self.model, batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"the loss must be a tensor with one number, it is {found}", "take its mean")
        return loss.reshape(())


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"the model cannot be copied: {error}", "make copy.deepcopy(model) work") from error


def _orders(batches: int, seed: int) -> Iterator[int]:
    """Numbers of batches, pass by pass in new orders, from a generator that nothing else draws from."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(batches, generator=generator).tolist()


def train_arm(plan: Plan, arm: Arm, stop: Callable[[], bool]) -> Outcome:
    """Train one arm; what goes wrong in it is its outcome.

    Args:
        plan: what is the same in all arms.
        arm: which one.
        stop: asked before every step.

    Returns:
        What became of it.
    """
    try:
        with random_state_kept(), torch.enable_grad():
            return Outcome("finished", tuple(_curve(plan, arm, stop)))
    except OutOfTimeError:
        return Outcome("stopped")
    except InputError as error:
        return Outcome("failed", note=error.message)
    except Exception as error:
        return Outcome("failed", note=f"{type(error).__name__}: {error}"[:2000])


def _curve(plan: Plan, arm: Arm, stop: Callable[[], bool]) -> list[float]:
    """Held-out losses at the points. A point between two steps is measured before the later one."""
    training = _Training(plan, arm)
    order = _orders(len(plan.training), derived_seed(plan.problem.seed, arm.seed, _ORDER))
    curve: list[float] = []
    done, total = 0, plan.points[-1]
    with arm.change.around(training.model):
        while True:
            group = min(arm.change.batches_per_step, total - done)
            while len(curve) < len(plan.points) and plan.points[len(curve)] < done + max(group, 1):
                curve.append(training.held_out_loss(plan.held_out, stop))
            if not group:
                return curve
            if stop():
                raise OutOfTimeError
            if not training.step([plan.training[next(order)] for _ in range(group)]):
                return curve + [math.nan] * (len(plan.points) - len(curve))
            done += group


def first_step(plan: Plan) -> float:
    """Train a copy for one step and evaluate one batch, which compiles what is to be compiled.

    Args:
        plan: its points are not needed.

    Returns:
        Seconds it took.

    Raises:
        InputError: the model cannot be trained.
    """
    began = time.monotonic()
    with random_state_kept(), torch.enable_grad():
        training = _Training(plan, Arm(AS_IT_IS, 0))
        training.step(plan.training[:1])
        training.held_out_loss(plan.held_out[:1], lambda: False)
    return time.monotonic() - began


def time_arm(plan: Plan) -> tuple[float, float]:
    """Seconds of one training step and of one evaluation on all that is held out.

    Args:
        plan: its points are not needed.

    Returns:
        Both.
    """
    with random_state_kept(), torch.enable_grad():
        training = _Training(plan, Arm(AS_IT_IS, 0))
        steps = []
        for number in range(_TIMED_STEPS + 1):
            batch = plan.training[number % len(plan.training)]
            began = time.monotonic()
            training.step([batch])
            steps.append(time.monotonic() - began)
        began = time.monotonic()
        training.held_out_loss(plan.held_out[:1], lambda: False)
        evaluation = (time.monotonic() - began) * len(plan.held_out)
    return statistics.median(steps[1:]), evaluation
