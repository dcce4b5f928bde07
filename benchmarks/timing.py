"""Interleaved timing: in every round each rival runs once, in an order drawn anew.

A machine that others use is now fast and now slow. Rivals of one round meet much the same machine, so ratios
are taken within a round and only then is their median taken. That is not enough where others take a whole
processor: threads that wait for each other then lose far more than threads that do not. So each measurement
goes with the share of a processor that other processes had meanwhile, and the disturbed ones do not count as
long as enough others are left.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from benchmarks import machine

BLOCK_SECONDS = 0.02
"""A call shorter than this is repeated until a measurement takes about so long."""

PAUSE_SECONDS = 0.015
"""Before each measurement: threads of the rival before go on spinning for some milliseconds, OpenMP's up to
ten, and would take a processor from the next one."""

SETTLING_SECONDS = 0.1
"""A call shorter than this then runs once untimed, as the caches are still those of the rival before."""

DISTURBED = 0.25
"""A measurement does not count when others had more of a processor than this."""

LEVEL = 0.9
"""Of the intervals."""


@dataclass(frozen=True)
class Plan:
    """How long to measure.

    Attributes:
        rounds: at most so many.
        seconds: after so long no further round begins.
        least: but so many undisturbed rounds there are, as far as ``patience`` lasts.
        patience: how many times ``seconds`` to wait for them.
        seed: of the orders.
    """

    rounds: int = 25
    seconds: float = 12.0
    least: int = 5
    patience: float = 3.0
    seed: int = 0


@dataclass(frozen=True)
class Measurement:
    """A rival in a round.

    Attributes:
        seconds: that a call took.
        others: the share of a processor that other processes had meanwhile.
    """

    seconds: float
    others: float

    @property
    def quiet(self) -> bool:
        """Whether others left the machine alone."""
        return self.others <= DISTURBED


Rounds = Mapping[str, Sequence[Measurement]]
"""Of each rival, one measurement a round."""


def warmed_up(run: Callable[[], Any], seconds: float = 0.2) -> float:
    """Run a few times and give the shortest time, in seconds."""
    run()
    start, took = time.perf_counter(), []
    while len(took) < 2 or (time.perf_counter() - start < seconds and len(took) < 50):
        took.append(_timed(run, 1))
        if took[-1] > seconds:
            break
    return min(took)


def measure_rounds(runs: Mapping[str, Callable[[], Any]], plan: Plan) -> dict[str, list[Measurement]]:
    """Measure rivals in turn.

    Args:
        runs: each computes its case once.
        plan: how long.

    Returns:
        A measurement of each rival in each round.
    """
    calls = {name: warmed_up(run) for name, run in runs.items()}
    gc.collect()
    gc.freeze()  # a collection then does not walk through everything that the rivals have loaded
    try:
        rounds: dict[str, list[Measurement]] = {name: [] for name in runs}
        start = time.perf_counter()
        for order in _orders(list(runs), plan):
            if _enough(rounds, plan, time.perf_counter() - start):
                break
            for name in order:
                time.sleep(PAUSE_SECONDS)
                rounds[name].append(_measured(runs[name], calls[name]))
        return rounds
    finally:
        gc.unfreeze()


def _orders(names: list[str], plan: Plan) -> Iterator[list[str]]:
    """An order a round, as many as patience may need."""
    generator = random.Random(plan.seed)
    for _ in range(int(plan.rounds * plan.patience) if names else 0):
        yield generator.sample(names, len(names))


def _enough(rounds: Rounds, plan: Plan, seconds: float) -> bool:
    """Whether the plan is fulfilled, or its patience at an end."""
    done = min(map(len, rounds.values()))
    quiet = min(sum(m.quiet for m in measured) for measured in rounds.values())
    if done < plan.least:
        return False
    if quiet >= plan.least:
        return seconds > plan.seconds or quiet >= plan.rounds
    return seconds > plan.seconds * plan.patience


def _measured(run: Callable[[], Any], call: float) -> Measurement:
    """One measurement of a rival whose call takes about so long."""
    if call < SETTLING_SECONDS:
        run()
    count = min(1000, max(1, round(BLOCK_SECONDS / call)))
    before, start = machine.time_of_others(), time.perf_counter()
    seconds = _timed(run, count)
    window = time.perf_counter() - start
    others = (machine.time_of_others() - before) / window
    return Measurement(seconds / count, max(0.0, others))


def _timed(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in repeat(None, calls):
        run()
    return time.perf_counter() - start


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times as long the first takes: the median of the rounds' ratios and its 90% interval.

    Args:
        slow: one time a round.
        fast: of the same rounds.

    Returns:
        ``median``, ``low`` and ``high``, from 2000 resamplings of the rounds.
    """
    ratios = np.asarray(slow) / np.asarray(fast)
    drawn = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(np.median(ratios[drawn], axis=1), (tail, 100 - tail))
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


def summarize(rounds: Rounds, work: int, ours: str, least: int) -> dict[str, Any]:
    """Medians, rates and ratios of a case, from undisturbed measurements as far as there are enough.

    Args:
        rounds: of each rival.
        work: floating-point operations of the case.
        ours: the rival that ratios are taken to, as far as it is there.
        least: how many undisturbed measurements are enough.

    Returns:
        ``peers`` with an entry each, ``ratios`` of each rival's time to ours, and ``disturbed``: those whose
        figures rest on disturbed measurements too.
    """
    peers, ratios, disturbed = {}, {}, []
    for name, measured in rounds.items():
        pairs = list(zip(measured, rounds.get(ours, measured), strict=True))
        quiet = [pair for pair in pairs if all(m.quiet for m in pair)]
        if len(quiet) < least:
            disturbed.append(name)
            quiet = pairs
        median = statistics.median(own.seconds for own, _ in quiet)
        peers[name] = {
            "median_ms": 1e3 * median,
            "gflops": work / median / 1e9,
            "times_ms": [float(f"{1e3 * m.seconds:.6g}") for m in measured],
            "others": [round(m.others, 2) for m in measured],
        }
        if name != ours and ours in rounds:
            ratio = paired_ratio([m.seconds for m, _ in quiet], [m.seconds for _, m in quiet])
            ratios[name] = ratio | {"rounds": len(quiet)}
    return {"peers": peers, "ratios": ratios, "disturbed": disturbed}
