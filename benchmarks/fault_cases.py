"""Healthy and broken training problems, by which the diagnosis of a recurrent model is calibrated.

    python -m benchmarks.fault_cases --check [--only name ...]

A case breaks what the tasks of ``fault_tasks`` learn well: the beginning of the weights, the readout, the
data, the loss or the settings. ``build`` gives the problem, the same for the same arguments. ``--check``
trains each problem as it is and the healthy one of the same task, and compares what they reach on the clean
held-out data of the task.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from benchmarks.fault_models import mean_loss, plain_loss, train
from benchmarks.fault_tasks import TASKS, data, number_of, trivial_loss

from benchmarks import fault_makers as makers
from gatewright.diagnosis.problem import Problem

Make = Callable[[str, str, int], Problem]
"""From cell, task and seed to the problem."""

LEARNT = "adding recall seasonal bikes characters memory_values"
"""Tasks on which settings are broken."""


@dataclass(frozen=True)
class FaultCase:
    """A way to break a problem, or to leave it healthy.

    Attributes:
        name: of the case.
        expected: the findings that are right; the first is the main one.
        make: the problem from cell, task and seed.
        tasks: on which the case does harm, or is healthy.
        cells: of which it can be built.
    """

    name: str
    expected: tuple[str, ...]
    make: Make
    tasks: tuple[str, ...]
    cells: tuple[str, ...] = ("gru", "lstm")


def _case(name: str, expected: str, tasks: str, make: Callable[..., Problem], **options: Any) -> FaultCase:
    """A case of both cells; findings and tasks are separated by blanks."""
    return FaultCase(name, tuple(expected.split()), partial(make, **options), tuple(tasks.split()))


_CASES = (
    _case("healthy-fresh", "healthy", " ".join(TASKS), makers.fresh),
    _case("healthy-trained", "healthy", " ".join(TASKS), makers.trained),
    _case("vanishing-bias", "vanishing", "recall adding", makers.vanishing_bias),
    _case("vanishing-gain", "vanishing", "recall adding", makers.vanishing_gain),
    _case("vanishing-default", "vanishing", "recall adding", makers.vanishing_default),
    _case("capacity", "capacity", "memory_values echo", makers.capacity),
    _case("readout-tiny", "readout", "seasonal bikes characters echo", makers.frozen, steps=200, rank=0),
    _case("readout-rank", "readout", "echo memory_values characters", makers.frozen, steps=200, rank=1),
    _case(
        "exploding-gain", "exploding chaos", "seasonal memory_values", makers.exploding, gain=8.0, plain=False
    ),
    _case(
        "exploding-plain",
        "exploding chaos",
        "seasonal recall memory_values",
        makers.exploding,
        gain=4.0,
        plain=True,
    ),
    _case("spikes", "exploding", "seasonal bikes memory_values adding", makers.spikes),
    _case("chaos", "chaos exploding", "logistic henon", makers.chaos),
    _case(
        "stuck-gates",
        "stuck-gates wrong-time-scale",
        "seasonal bikes memory_values permutations",
        makers.stuck,
    ),
    _case(
        "time-scale-long", "wrong-time-scale stuck-gates", "permutations parity", makers.one_scale, keep=5.0
    ),
    FaultCase(
        "time-scale-series",
        ("wrong-time-scale", "stuck-gates"),
        partial(makers.one_scale, keep=5.0),
        ("seasonal", "memory_values"),
        # an LSTM gets out of it within the steps of the task
        cells=("gru",),
    ),
    _case("time-scale-short", "wrong-time-scale vanishing", "echo recall", makers.one_scale, keep=-2.5),
    _case("noise", "noise", "seasonal bikes memory_values characters", makers.noise),
    _case("truncation", "truncation vanishing", "recall adding", makers.truncation),
    _case("rate-low", "learning-rate", LEARNT, makers.rate, value=1e-6),
    _case(
        "rate-high", "learning-rate exploding", LEARNT + " echo scales permutations", makers.rate, value=1.0
    ),
    _case("depth", "depth vanishing", "characters echo permutations", makers.depth),
    _case("state-tracking", "state-tracking", "parity permutations", makers.affine),
    _case("rank-collapse", "rank-collapse capacity", "memory_values echo characters", makers.constant),
    _case("overfitting", "overfitting", "bikes characters echo", makers.overfitting),
    _case("leak", "overfitting", "seasonal bikes", makers.leak),
    _case("non-finite-nan", "non-finite", "seasonal bikes adding", makers.non_finite, value=float("nan")),
    _case("non-finite-inf", "non-finite", "seasonal bikes adding", makers.non_finite, value=float("inf")),
    _case("overflow", "non-finite exploding", "seasonal bikes adding memory_values", makers.overflow),
)

CASES: dict[str, FaultCase] = {case.name: case for case in _CASES}
"""Every case by its name."""


def build(name: str, cell: str, task: str, seed: int = 0) -> Problem:
    """The problem of a case; the same arguments give the same one.

    Args:
        name: of ``CASES``.
        cell: gru or lstm.
        task: one of the case's.
        seed: of weights, data and order.

    Returns:
        The problem.

    Raises:
        ValueError: the case is not built of this cell or on this task.
    """
    case = CASES[name]
    if cell not in case.cells or task not in case.tasks:
        raise ValueError(f"{name} is built of {case.cells} on {case.tasks}, not of {cell} on {task}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number_of(name, cell, task, seed))
        return case.make(cell, task, seed)


@lru_cache
def _reached(cell: str, task: str, seed: int) -> float:
    """The held-out loss of the healthy problem."""
    problem = makers.healthy(cell, task, seed)
    train(problem, TASKS[task].steps)
    return mean_loss(problem.model, problem.validation)


def check(name: str, cell: str, task: str, seed: int) -> None:
    """Train a problem as it is; print what it reaches beside the healthy one and the trivial loss."""
    start = time.perf_counter()
    problem = build(name, cell, task, seed)
    made = time.perf_counter() - start
    clean = data(task, seed)[1]
    own_loss = problem.loss if name == "chaos" else plain_loss
    held_out = problem.validation if name == "leak" else clean
    before = mean_loss(problem.model, held_out, own_loss)
    train(problem, TASKS[task].steps)
    after = mean_loss(problem.model, held_out, own_loss)
    own = mean_loss(problem.model, problem.validation, problem.loss)
    fit = mean_loss(problem.model, problem.batches, problem.loss)
    good, trivial = _reached(cell, task, seed), trivial_loss(task, seed)
    share = (trivial - after) / (trivial - good)
    learns = CASES[name].expected[0] == "healthy"
    # not share > 0.6 holds for NaN too
    verdict = "ok" if (after < 0.75 * trivial if learns else not share > 0.6) else "CHECK"
    print(
        f"{name:18}{cell:5}{task:14}{before:10.4g}{after:10.4g}{own:10.4g}{fit:10.4g}"
        f"{good:9.4g}{trivial:9.4g}{share:8.2f}{made:7.1f}s  {verdict}",
        flush=True,
    )


def main() -> None:
    """Check the cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", required=True)
    parser.add_argument("--only", nargs="*", default=list(CASES), help="names of cases")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    titles = "".join(f"{title:>10}" for title in ("before", "after", "own", "fit"))
    print(f"{'case':18}{'cell':5}{'task':14}{titles}  healthy  trivial   share    made")
    for name in arguments.only:
        for task in CASES[name].tasks:
            for cell in CASES[name].cells:
                check(name, cell, task, arguments.seed)


if __name__ == "__main__":
    main()
