"""Remedies are tried beside training as it is, with paired seeds and equal budgets, before any is advised."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gatewright.diagnosis.arm_files import ArmFiles
from gatewright.diagnosis.arms import (
    AS_IT_IS,
    Arm,
    Outcome,
    Plan,
    evaluation_points,
    first_step,
    random_state_kept,
    split,
    time_arm,
    train_arm,
)
from gatewright.diagnosis.change import Change
from gatewright.diagnosis.judgement import FEWEST_PAIRS, compare, final_losses, loss_scale
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.processes import ChildDiedError, Pool, can_fork
from gatewright.errors import InputError
from gatewright.reports.diagnosis_contents import Trial

FEWEST_STEPS, MOST_STEPS = 20, 2000
_USED = 0.85
"""Share of the time left that is planned for."""

_NO_TIME = "The time ran out before it was run."


@dataclass(frozen=True)
class Baseline:
    """Training as it is.

    Attributes:
        curves: held-out losses ``[seeds, points]``; NaN from where training was not finite.
        steps: ``[points]`` batches trained on at each point: 0 is before training.
        notes: what could not be done as it should be, one sentence each.
    """

    curves: np.ndarray
    steps: np.ndarray
    notes: tuple[str, ...] = ()


def run_trials(
    problem: Problem,
    changes: Sequence[Change],
    *,
    minutes: float,
    seeds: int = 3,
    steps: int | None = None,
    workers: int | None = None,
    folder: Path | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[list[Trial], Baseline]:
    """Train copies of a model with and without each remedy, and compare held-out losses in pairs.

    An arm is a remedy, or none, and a seed. All arms of a seed see the same batches in the same order and
    train on equally many. Held out are ``problem.validation``, else the last quarter of the batches. The
    model, the generators of random numbers and the number of threads are afterwards as they were.

    With more than one worker each arm is trained in a forked process on one thread, where that is possible;
    else one after another in this process, on its threads. With one thread the results are the same.

    Args:
        problem: what is trained.
        changes: the remedies; their names differ.
        minutes: after which no arm goes on. Seed by seed all remedies are run, so that what is left out when
            the time is short are whole seeds.
        seeds: pairs of each remedy.
        steps: of each arm; None fills the minutes, within 20 to 2000.
        workers: arms at a time; None takes the cores that this process may use.
        folder: keeps finished arms: the same call again goes on where it was broken off. None keeps nothing.
        progress: is told what was finished, and the share of all arms that is.

    Returns:
        A trial for each change, in their order, and training as it is.

    Raises:
        InputError: an argument is out of range, or the model cannot be trained as it is.
    """
    _check(changes, minutes, seeds, steps, workers)
    deadline = time.monotonic() + 60.0 * minutes
    plan = split(problem)
    arms = [Arm(change, seed) for seed in range(seeds) for change in (AS_IT_IS, *changes)]
    workers = min(workers or _cores(), len(arms))
    files = None if folder is None else ArmFiles(folder, plan, minutes)
    with random_state_kept():
        first = first_step(plan)
        timed, forks = _timed(plan, first, workers, deadline)
        if steps is None and files is not None:
            steps = files.steps(arms)
        if steps is None:
            rounds = math.ceil(len(arms) / (workers if forks else 1))
            steps = _affordable(timed, (deadline - time.monotonic()) * _USED, rounds)
        plan = dataclasses.replace(plan, points=evaluation_points(steps))
        run = _Run(plan, files, progress, len(arms), seeds)
        run.read(arms)
        with closing(_outcomes(plan, run, arms, workers if forks else 1, deadline)) as outcomes:
            for arm, outcome in outcomes:
                run.record(arm, outcome)
    return run.results(changes)


def _check(
    changes: Sequence[Change], minutes: float, seeds: int, steps: int | None, workers: int | None
) -> None:
    if not (minutes > 0 and math.isfinite(minutes)):
        raise InputError(f"minutes must be a number above 0, it is {minutes}")
    if seeds < FEWEST_PAIRS:
        raise InputError(f"seeds must be at least {FEWEST_PAIRS}, it is {seeds}: one pair shows no chance")
    if steps is not None and steps < 1:
        raise InputError(f"steps must be at least 1, it is {steps}")
    if workers is not None and workers < 1:
        raise InputError(f"workers must be at least 1, it is {workers}")
    names = [AS_IT_IS.remedy.name, *(change.remedy.name for change in changes)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two remedies are called {twice!r}", "give each a name of its own")
    for change in changes:
        if change.batches_per_step < 1:
            name, count = change.remedy.name, change.batches_per_step
            raise InputError(f"batches_per_step of {name!r} must be at least 1, it is {count}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _timed(plan: Plan, first: float, workers: int, deadline: float) -> tuple[tuple[float, float], bool]:
    """Seconds of a step and of an evaluation, and whether arms may be trained in forked processes.

    The first children are a test as well: where a library that the model uses does not bear a fork, they fail
    or hang, and the arms are trained in this process.

    Args:
        plan: what is trained.
        first: seconds that the first step took, with what is done once.
        workers: arms at a time.
        deadline: of ``time.monotonic()``.

    Returns:
        The seconds, and whether to fork.
    """
    if workers > 1 and can_fork():
        # far more than a child needs on its one thread
        limit = min(10.0 + 10.0 * _cores() * first, 0.5 * (deadline - time.monotonic()))
        pool = Pool[int](lambda _: time_arm(plan), workers, time.monotonic() + limit)
        # as many as will run: they slow each other down
        answers = [answer for _, answer in pool.run(list(range(workers)), lambda _: True)]
        timed = [answer for answer in answers if not isinstance(answer, ChildDiedError)]
        if len(timed) == workers:
            return (max(step for step, _ in timed), max(evaluation for _, evaluation in timed)), True
    if time.monotonic() >= deadline:
        return (first, first), False
    return time_arm(plan), False


def _affordable(timed: tuple[float, float], seconds: float, arms: int) -> int:
    """Steps that so many arms, one after another, can make."""
    step, evaluation = timed
    evaluations = len(evaluation_points(FEWEST_STEPS)) * evaluation
    steps = (seconds / arms - evaluations) / max(step, 1e-9)
    return int(min(max(steps, FEWEST_STEPS), MOST_STEPS))


class _Run:
    """What is known of the arms so far."""

    def __init__(
        self,
        plan: Plan,
        files: ArmFiles | None,
        progress: Callable[[str, float], None] | None,
        arms: int,
        seeds: int,
    ) -> None:
        self._plan, self._files, self._progress = plan, files, progress
        self._arms, self._seeds = arms, seeds
        self._outcomes: dict[tuple[str, int], Outcome] = {}
        self._failures: dict[str, str] = {}

    def wanted(self, arm: Arm) -> bool:
        """Whether an arm is still to be run: what failed once would fail again, and all need a baseline."""
        if (arm.name, arm.seed) in self._outcomes:
            return False
        return arm.name not in self._failures and AS_IT_IS.remedy.name not in self._failures

    def read(self, arms: list[Arm]) -> None:
        """Take over what an earlier call finished."""
        for arm in arms:
            outcome = self._files and self._files.read(arm, self._plan.points)
            if outcome:
                self._outcomes[arm.name, arm.seed] = outcome
                self._tell(arm, outcome)

    def record(self, arm: Arm, outcome: Outcome) -> None:
        """Keep what became of an arm."""
        if outcome.status == "stopped":
            return
        self._outcomes[arm.name, arm.seed] = outcome
        if outcome.status == "failed":
            self._failures.setdefault(arm.name, outcome.note)
        elif self._files is not None:
            self._files.write(arm, outcome, self._plan.points[-1])
        self._tell(arm, outcome)

    def _tell(self, arm: Arm, outcome: Outcome) -> None:
        if self._progress is None:
            return
        said = f"failed: {outcome.note}"
        if outcome.status == "finished":
            loss = float(final_losses(np.array([outcome.losses]))[0])
            said = f"held-out loss {loss:.4g}" if math.isfinite(loss) else "diverged"
        text = f"{arm.name}, seed {arm.seed + 1} of {self._seeds}: {said}"
        self._progress(text, len(self._outcomes) / self._arms)

    def _curves(self, name: str) -> dict[int, tuple[float, ...]]:
        """Held-out losses of finished arms, by seed."""
        curves = {seed: self._outcomes.get((name, seed)) for seed in range(self._seeds)}
        return {seed: found.losses for seed, found in curves.items() if found and found.status == "finished"}

    def results(self, changes: Sequence[Change]) -> tuple[list[Trial], Baseline]:
        """The trials, and the baseline."""
        points = np.array(self._plan.points)
        as_it_is = self._curves(AS_IT_IS.remedy.name)
        notes = list(self._plan.notes)
        failure = self._failures.get(AS_IT_IS.remedy.name)
        if failure:
            notes.append(f"Training as it is failed: {failure}")
        elif len(as_it_is) < self._seeds:
            notes.append(f"The time was enough for {len(as_it_is)} of {self._seeds} seeds.")
        baseline = Baseline(_stacked(as_it_is, points), points, tuple(notes))
        found = [_stacked(self._curves(change.remedy.name), points) for change in changes]
        scale = loss_scale(baseline.curves, found)
        return [self._trial(change, as_it_is, points, scale) for change in changes], baseline

    def _trial(
        self, change: Change, as_it_is: dict[int, tuple[float, ...]], points: np.ndarray, scale: float | None
    ) -> Trial:
        remedy = change.remedy
        curves = self._curves(remedy.name)
        pairs = [seed for seed in curves if seed in as_it_is]
        kept = _stacked({seed: curves[seed] for seed in pairs}, points)
        trial = Trial(remedy.name, remedy.text, "not run", curves=kept, steps=points, note=_NO_TIME)
        if AS_IT_IS.remedy.name in self._failures:
            note = f"Training as it is failed: {self._failures[AS_IT_IS.remedy.name]}"
            return dataclasses.replace(trial, note=note)
        if remedy.name in self._failures:
            return dataclasses.replace(trial, judgement="failed", note=self._failures[remedy.name])
        if not pairs:
            return trial
        beside = _stacked({seed: as_it_is[seed] for seed in pairs}, points)
        result = compare(final_losses(kept), final_losses(beside), scale)
        few = f"The time was enough for {len(pairs)} of {self._seeds} seeds"
        if len(pairs) < FEWEST_PAIRS:
            note = f"{few}; it takes {FEWEST_PAIRS} to judge."
            return dataclasses.replace(trial, loss=result.loss, baseline=result.baseline, note=note)
        notes = [result.note] if result.note else []
        if len(pairs) < self._seeds:
            notes.append(f"{few}.")
        values = dataclasses.asdict(result) | {"note": " ".join(notes)}
        return dataclasses.replace(trial, **values)


def _stacked(curves: dict[int, tuple[float, ...]], points: np.ndarray) -> np.ndarray:
    return np.array(list(curves.values()), dtype=float).reshape(len(curves), len(points))


def _outcomes(
    plan: Plan, run: _Run, arms: list[Arm], workers: int, deadline: float
) -> Generator[tuple[Arm, Outcome], None, None]:
    """Train the arms that are wanted, in order, until the deadline.

    Args:
        plan: what is the same in all.
        run: knows which are wanted.
        arms: in the order in which they are begun.
        workers: processes; with one, this process does it.
        deadline: of ``time.monotonic()``.

    Yields:
        An arm and what became of it.
    """
    if workers == 1:
        for arm in arms:
            if time.monotonic() < deadline and run.wanted(arm):
                yield arm, train_arm(plan, arm, lambda: time.monotonic() >= deadline)
        return
    parent = os.getpid()

    def work(arm: Arm) -> dict[str, object]:
        # a parent that was killed can end no child
        def stop() -> bool:
            return time.monotonic() >= deadline or os.getppid() != parent

        return dataclasses.asdict(train_arm(plan, arm, stop))

    with closing(Pool(work, workers, deadline).run(arms, run.wanted)) as answers:
        for arm, answer in answers:
            if isinstance(answer, ChildDiedError):
                yield arm, Outcome("failed", note=str(answer))
                continue
            losses = tuple(math.nan if loss is None else float(loss) for loss in answer["losses"])
            yield arm, Outcome(answer["status"], losses, answer["note"])
