"""All measures of a problem, one after the other, within a budget of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from gatewright.diagnosis.measures.algebra import algebra
from gatewright.diagnosis.measures.chaos import chaos
from gatewright.diagnosis.measures.gradient_by_lag import gradient_by_lag
from gatewright.diagnosis.measures.learning_rate import learning_rate
from gatewright.diagnosis.measures.lyapunov import lyapunov
from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.measures.memory import memory
from gatewright.diagnosis.measures.noise import noise
from gatewright.diagnosis.measures.non_finite import finite, non_finite
from gatewright.diagnosis.measures.progress import progress
from gatewright.diagnosis.measures.rank import rank
from gatewright.diagnosis.measures.step_gradients import step_gradients
from gatewright.diagnosis.measures.time_constants import time_constants
from gatewright.diagnosis.measures.truncation import truncation
from gatewright.diagnosis.measures.unused import unused
from gatewright.diagnosis.measures.used_context import used_context
from gatewright.diagnosis.practice import fast_copy
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.records import Records, record
from gatewright.diagnosis.twin import Twin, check
from gatewright.errors import InputError

Say = Callable[[str], None]

_STEPS = 200
_SWEEP_STEPS = 24


def measure(problem: Problem, *, seconds: float, needed_lag: int | None, say: Say) -> Measured:
    """Measure everything.

    Args:
        problem: whose model is left as it is.
        seconds: about how long it may take.
        needed_lag: steps over which the task must remember, if the user knows.
        say: is told what is being measured.

    Returns:
        All numbers and curves.
    """
    result = Measured()
    twin, fast = Twin(problem.model), fast_copy(problem.model)
    result.notes += twin.notes
    say("comparing the equations with the model")
    result.add(
        "twin_error",
        check(twin, problem.model, problem.loss, problem.batches[0]),
        "relative difference of the loss that the equations give",
    )
    result.join(non_finite(fast, twin, problem))
    usable = problem
    if result.values["bad_batches"] or result.values["bad_inputs"]:
        usable = replace(problem, batches=_good(problem))
    if not usable.batches:
        result.notes.append("no batch has a finite loss: nothing else was measured")
        return result
    say("gradients through time")
    records = record(twin, usable, seconds=0.15 * seconds)
    steps = sum(trace.steps for trace in records.chains[records.top].sequence())
    if steps < 2:
        raise InputError(
            f"expected sequences of several steps, received {steps}",
            "give longer sequences; of one step there is nothing to remember",
        )
    _of_records(result, records, twin)
    result.join(truncation(records, twin, usable))
    result.join(unused(records))
    say("learning rates")
    result.join(learning_rate(fast, usable, steps=_SWEEP_STEPS, seconds=0.2 * seconds))
    say("training for some steps")
    gentle = min(problem.learning_rate, result.values.get("rate_best", problem.learning_rate))
    found, practice = progress(fast, problem, steps=_STEPS, seconds=0.4 * seconds, gentle=gentle)
    result.join(found)
    if practice.stopped < 0 and practice.losses:
        say("what the model still does not use")
        after = Twin(practice.model)
        later = record(after, usable, seconds=0.1 * seconds, origins=1)
        kept = result.charts.get("unused"), result.charts.get("unused_lags")
        result.join(unused(later, "_after"))
        if kept[0] is not None:
            result.charts |= {"unused": kept[0], "unused_lags": kept[1]}
        _after(result, later, after)
        result.join(used_context(practice.model, usable, records.batches[0].inputs.shape[0]))
    _needed(result, needed_lag)
    return result


def _good(problem: Problem) -> list[object]:
    """The batches that are finite, and whose loss is."""
    fast = fast_copy(problem.model)
    with torch.no_grad():
        return [b for b in problem.batches if finite(b) and bool(torch.isfinite(problem.loss(fast, b)).all())]


def _of_records(result: Measured, records: Records, twin: Twin) -> None:
    """What is measured on the model as it was given."""
    result.add("sequence", records.batches[-1].inputs.shape[0], "steps of a sequence")
    result.add(
        "loss", sum(b.loss for b in records.batches) / len(records.batches), "loss on training batches"
    )
    result.join(gradient_by_lag(records))
    result.join(step_gradients(records, twin))
    result.join(lyapunov(records))
    result.join(time_constants(records))
    result.join(rank(records))
    result.join(noise(records, twin))
    result.join(memory(records))
    result.join(algebra(records))
    result.join(chaos(records))


def _after(result: Measured, records: Records, twin: Twin) -> None:
    """What is measured again behind the observed steps."""
    again = Measured()
    for found in (gradient_by_lag(records), rank(records), noise(records, twin)):
        again.join(found)
    for name in ("horizon", "rank_share", "snr"):
        if name in again.values:
            text = f"{again.texts[name]}, behind the observed steps"
            result.add(f"{name}_after", again.values[name], text, again.layers.get(name, ""))


def _needed(result: Measured, given: int | None) -> None:
    """The lag that the task needs: what the user says, or what was found in the data."""
    lags = [result.values.get(f"unused_lag{when}", 0) for when in ("", "_after")]
    needed, source = (
        (given, "as you say") if given else (int(max(lags)), "inputs so far back explain the rest error")
    )
    steps = result.values.get("sequence", 0)
    if given and given >= steps:
        result.notes.append(
            f"the needed lag of {given} steps is beyond the sequences, which have {steps:.0f}"
        )
    if needed:
        result.add("needed_lag", needed, "steps over which the task must remember")
        reach = max(needed, *(int(result.values.get(f"unused_reach{when}", 0)) for when in ("", "_after")))
        result.add("needed_reach", given or reach, "longest lag that may be needed")
        result.charts |= {"needed_lag": needed, "needed_source": source}
