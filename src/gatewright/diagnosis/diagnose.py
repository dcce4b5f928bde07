"""Why a recurrent model does not learn: measured, named, and with a remedy that can be tried at once."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gatewright.diagnosis.arms import random_state_kept
from gatewright.diagnosis.causes import CAUSES
from gatewright.diagnosis.change import Change
from gatewright.diagnosis.judgement import FEWEST_PAIRS
from gatewright.diagnosis.measure import measure
from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.practice import fast_copy
from gatewright.diagnosis.problem import Loss, Problem
from gatewright.diagnosis.rebuilt import layers_of
from gatewright.diagnosis.remedies import changes_for
from gatewright.diagnosis.rules import judge, likeliest
from gatewright.diagnosis.trials import Baseline, run_trials
from gatewright.errors import InputError
from gatewright.files import write_text
from gatewright.reports.diagnosis_contents import Charts, DiagnosisReport, Finding, Trial
from gatewright.reports.diagnosis_json import report_json
from gatewright.reports.diagnosis_text import diagnosis_text

Progress = Callable[[str, float], None]

MOST_BATCHES = 64
_LARGEST = 1e30
_TRIED_FINDINGS = 2
_TRIED = 5
_SMALL = 128
"""Units up to which one thread is faster than several."""


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was found; ``print`` it, or ``save`` it as a page.

    Attributes:
        report: everything that was measured, found and tried.
    """

    report: DiagnosisReport

    @property
    def findings(self) -> Sequence[Finding]:
        """The causes, the likeliest first."""
        return self.report.findings

    @property
    def trials(self) -> Sequence[Trial]:
        """What was tried."""
        return self.report.trials

    @property
    def measures(self) -> Mapping[str, float]:
        """Every number by name."""
        return self.report.measures

    @property
    def verdict(self) -> str:
        """The result in one or two sentences."""
        return self.report.verdict

    def __str__(self) -> str:
        return diagnosis_text(self.report)

    def to_json(self) -> str:
        """One JSON document for machines."""
        return report_json(self.report)

    def save(self, path: Path | str) -> None:
        """Write a page, or JSON where the name ends so.

        Args:
            path: ends with ``.html`` or ``.json``.

        Raises:
            InputError: another ending, the page's libraries are missing, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix == ".json":
            write_text(path, self.to_json() + "\n")
            return
        if path.suffix not in (".html", ".htm"):
            raise InputError(f"expected a name that ends with .html or .json, received {path.name!r}", "")
        try:
            from gatewright.reports.diagnosis_page import render_diagnosis
        except ModuleNotFoundError as error:
            hint = "install it with: pip install 'gatewright[app]'"
            raise InputError(f"the page needs {error.name}, which is not installed", hint) from error
        write_text(path, render_diagnosis(self.report))


def diagnose(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    validation: Iterable[Any] | None = None,
    learning_rate: float = 1e-3,
    gradient_clip: float | None = None,
    weight_decay: float = 0.0,
    needed_lag: int | None = None,
    trials: bool = False,
    minutes: float = 5.0,
    seconds: float = 40.0,
    seeds: int = 3,
    seed: int = 0,
    workers: int | None = None,
    folder: Path | str | None = None,
    progress: Progress | None = None,
    title: str = "",
    command: str = "",
) -> Diagnosis:
    """Measure a recurrent model, name what keeps it from learning, and say what to do.

    The model is looked at as it is given: freshly made, or after training that went wrong. Its recurrent
    layers are replaced, in a copy, by their equations, so that gradients can be followed from step to step;
    other copies are trained for a short while. The model, its gradients, its mode and the generators of
    random numbers are left as they were.

    Args:
        model: holds ``torch.nn.GRU``, ``LSTM``, ``RNN``, their cells, or layers of this library.
        batches: what it is trained on; at most 64 are taken.
        loss: from the model and a batch to the scalar that is minimised.
        validation: held-out batches; without them the last quarter of the batches is held out.
        learning_rate: of Adam, as you train.
        gradient_clip: largest norm of the gradient, as you train; None for no clipping.
        weight_decay: of AdamW, as you train.
        needed_lag: steps over which the task must remember, if you know.
        trials: try the remedies, on copies, with paired seeds and equal budgets.
        minutes: for the trials.
        seconds: about how long measuring may take.
        seeds: pairs of each trial.
        seed: of everything that is drawn.
        workers: processes for the trials; None for as many as there are cores.
        folder: keeps finished trials, so that the same call goes on where it was broken off.
        progress: is told what is done, and which share of it.
        title: of the report.
        command: to get the report again.

    Returns:
        Findings, the likeliest first, with their evidence and remedies, and the trials.

    Raises:
        InputError: something that cannot be measured; the message says what is missing.
    """
    began = time.perf_counter()
    say = progress or (lambda text, share: None)
    numbers = {"learning_rate": learning_rate, "minutes": minutes, "seconds": seconds}
    _check(model, loss, numbers | ({} if gradient_clip is None else {"gradient_clip": gradient_clip}))
    if not isinstance(weight_decay, Real) or not 0 <= float(weight_decay) < _LARGEST:
        raise InputError(
            f"expected weight_decay as a number of at least 0, received {weight_decay!r}", "0 is none"
        )
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise InputError(f"expected seed as a whole number from 0 to 2^32, received {seed!r}", "0 is usual")
    if progress is not None and not callable(progress):
        raise InputError(
            f"expected progress as a function of text and share, received {progress!r}", "leave it out"
        )
    counts = {"needed_lag": needed_lag, "seeds": seeds, "workers": workers}
    _check_counts({name: count for name, count in counts.items() if count is not None})
    with random_state_kept(), _threads(model), _recording():
        problem = Problem(
            model,
            _taken(batches, "batches"),
            loss,
            [] if validation is None else _taken(validation, "validation"),
            float(learning_rate),
            None if gradient_clip is None else float(gradient_clip),
            float(weight_decay),
            seed,
        )
        if not problem.batches:
            raise InputError(
                "expected some batches, received none", "give a list, or an iterable that is not used up"
            )
        torch.manual_seed(seed)
        found = measure(problem, seconds=seconds, needed_lag=needed_lag, say=lambda text: say(text, 0.0))
        findings, changes = _findings(problem, found)
        tried, baseline = _tried(problem, findings, changes, trials, minutes, seeds, workers, folder, say)
    findings = _in_order(findings, tried)
    charts = Charts(**{k: v for k, v in found.charts.items() if k in _CHARTS})
    if baseline is not None:
        charts = dataclasses.replace(charts, baseline_curves=baseline.curves, baseline_steps=baseline.steps)
        found.notes += baseline.notes
    return Diagnosis(
        DiagnosisReport(
            title=title or f"Diagnosis of {type(model).__name__}",
            verdict=_verdict(findings, tried),
            good=findings[0].name == "healthy",
            findings=findings,
            measures=found.values,
            measure_texts=found.texts,
            trials=tried,
            charts=charts,
            facts=_facts(problem, time.perf_counter() - began),
            notes=list(dict.fromkeys(found.notes)),
            command=command,
        )
    )


_CHARTS = {row.name for row in dataclasses.fields(Charts)}


def _check(model: Any, loss: Any, numbers: Mapping[str, Any]) -> None:
    """Refuse what cannot be measured, before any work is done."""
    if not isinstance(model, nn.Module):
        hint = "give the model itself"
        raise InputError(f"expected a torch.nn.Module, received a {type(model).__name__}", hint)
    if not callable(loss):
        hint = "write lambda model, batch: ..."
        raise InputError(f"expected loss as a function of model and batch, received {loss!r}", hint)
    for name, value in numbers.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if not number or not 0 < float(value) < _LARGEST:
            hint = "leave it out to take the usual one"
            raise InputError(f"expected {name} as a number above 0, received {value!r}", hint)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in (torch.float32, torch.float64):
            dtype = str(parameter.dtype).removeprefix("torch.")
            message = f"expected weights in float32 or float64, {name} is in {dtype}"
            raise InputError(message, "give copy.deepcopy(model).float(), and batches to match")
        if not bool(torch.isfinite(parameter).all()):
            hint = "go back to the weights before training went wrong, and diagnose from there"
            raise InputError(f"expected finite weights, {name} holds a number that is not", hint)


def _taken(batches: Iterable[Any], name: str) -> list[Any]:
    """The batches as a list, no more than are measured."""
    if isinstance(batches, torch.Tensor | Mapping | str) or not isinstance(batches, Iterable):
        hint = "give a list of batches, or a DataLoader; a single batch goes into a list"
        raise InputError(f"expected {name} as a list of batches, received a {type(batches).__name__}", hint)
    return list(islice(batches, MOST_BATCHES))


@contextmanager
def _recording() -> Iterator[None]:
    """Inside gradients are recorded, whatever the caller's mode is, and anomalies are not looked for."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autograd.set_detect_anomaly(False):
        yield


def _check_counts(counts: Mapping[str, Any]) -> None:
    for name, count in counts.items():
        least = FEWEST_PAIRS if name == "seeds" else 1
        if isinstance(count, bool) or not isinstance(count, Integral) or not least <= int(count) < 2**63:
            hint = "leave it out if you do not know it"
            raise InputError(
                f"expected {name} as a whole number of at least {least}, received {count!r}", hint
            )


@contextmanager
def _threads(model: nn.Module) -> Iterator[None]:
    """One thread for small layers, where several wait for each other longer than they compute."""
    sizes = [getattr(module, "hidden_size", 0) for module in model.modules()]
    before = torch.get_num_threads()
    if max((size for size in sizes if isinstance(size, int)), default=0) <= _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _findings(problem: Problem, found: Measured) -> tuple[list[Finding], dict[str, list[Change]]]:
    """The causes that are likely, the likeliest first, and what a trial of each would change."""
    judged = judge(found.values)
    findings, changes = [], {}
    fast = dataclasses.replace(problem, model=fast_copy(problem.model))
    for name in likeliest(judged.confidence):
        changes[name] = changes_for(name, fast, found.values)
        if name not in CAUSES:
            layer, cause = "", _HEALTHY if name == "healthy" else _UNKNOWN
        else:
            layer = next((found.layers[m] for m in CAUSES[name].layer if m in found.layers), "")
            cause = CAUSES[name].cause
        remedies = [change.remedy for change in changes[name]]
        # of what is unknown the evidence is that of a healthy model, which it is not
        known = name if name in judged.evidence else "healthy"
        confidence = judged.confidence.get(name, 1 - max(judged.confidence.values()))
        findings.append(Finding(name, layer, cause, judged.evidence[known], confidence, remedies))
    return findings, changes


_HEALTHY = "No sign of what usually goes wrong: gradients reach what is needed, and steps of training help."


_UNKNOWN = (
    "No usual cause was found, and yet a control that reads other rows' inputs does nearly as well: what the "
    "recurrent layers could add is not in their inputs, is there already, or takes far longer to learn."
)


def _tried(
    problem: Problem,
    findings: Sequence[Finding],
    changes: Mapping[str, list[Change]],
    wanted: bool,
    minutes: float,
    seeds: int,
    workers: int | None,
    folder: Path | str | None,
    say: Progress,
) -> tuple[list[Trial], Baseline | None]:
    """Try the remedies of the likeliest findings."""
    chosen: dict[str, Change] = {}
    for finding in findings[:_TRIED_FINDINGS]:
        for change in changes[finding.name]:
            chosen.setdefault(change.remedy.name, change)
    if not wanted or not chosen:
        if wanted:
            say("nothing is prescribed, so nothing is tried", 1.0)
        return [], None
    return run_trials(
        dataclasses.replace(problem, model=fast_copy(problem.model)),
        list(chosen.values())[:_TRIED],
        minutes=minutes,
        seeds=seeds,
        workers=workers,
        folder=None if folder is None else Path(folder),
        progress=say,
    )


def _gain(trial: Trial) -> float:
    """How far a trial lowered the loss; where training as it is was not finite, farther than any other."""
    return trial.change if math.isfinite(trial.change) else -math.inf


def _in_order(findings: Sequence[Finding], tried: Sequence[Trial]) -> list[Finding]:
    """The findings with the remedies that helped first, the best of them leading."""
    helped = {trial.remedy: _gain(trial) for trial in tried if trial.judgement == "helped"}
    worse = {trial.remedy for trial in tried if trial.judgement in ("worse", "failed")}

    def place(name: str) -> tuple[int, float]:
        return (0, helped[name]) if name in helped else (2 if name in worse else 1, 0.0)

    return [
        dataclasses.replace(f, remedies=sorted(f.remedies, key=lambda remedy: place(remedy.name)))
        for f in findings
    ]


def _verdict(findings: Sequence[Finding], tried: Sequence[Trial]) -> str:
    """The result in words."""
    first = findings[0]
    text = first.cause
    if first.name in CAUSES:
        text = f"{first.name}: {text}"
        if first.confidence < 0.5:
            text = f"Nothing is likely; the best guess is {text}"
    helped = sorted((t for t in tried if t.judgement == "helped"), key=_gain)
    if helped:
        best = helped[0]
        of = next(f.name for f in findings if best.remedy in [remedy.name for remedy in f.remedies])
        meant = "" if of == first.name else f", meant for {of}"
        before = f"{best.baseline:.3g}" if math.isfinite(best.baseline) else "one that is not finite"
        text += f" Tried: '{best.remedy}'{meant} helped, held-out loss {best.loss:.3g} in place of {before}."
    elif any(trial.judgement in ("harmless", "worse") for trial in tried):
        text += " None of the remedies that were tried helped."
    elif first.remedy is not None:
        text += f" Not tried yet: {first.remedy.text}."
    return text


def _facts(problem: Problem, seconds: float) -> dict[str, str]:
    model = problem.model
    layers = [f"{type(m).__name__}({m.extra_repr()})" for m in layers_of(fast_copy(model))]
    clip = (
        "no clipping" if problem.gradient_clip is None else f"gradient clipped at {problem.gradient_clip:g}"
    )
    return {
        "model": f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,} parameters",
        "recurrent layers": "; ".join(layers),
        "batches": f"{len(problem.batches)}, held out {len(problem.validation) or 'a quarter of them'}",
        "training": f"Adam, learning rate {problem.learning_rate:g}, {clip}",
        "weight decay": f"{problem.weight_decay:g}",
        "mode": "training" if model.training else "evaluation: dropout is off",
        "seed": str(problem.seed),
        "time": f"{seconds:.0f} s",
        "versions": f"torch {torch.__version__}, Python {platform.python_version()}",
    }
