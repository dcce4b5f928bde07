"""What a diagnosis says and shows: plain numbers and strings, measured elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Judgement = Literal["helped", "harmless", "worse", "failed", "not run"]


@dataclass(frozen=True)
class Evidence:
    """One number behind a finding.

    Attributes:
        measure: its name, as in ``Diagnosis.measures``.
        text: what it says, one sentence.
        value: the number; NaN where it is a plain fact.
        threshold: what it was held against; NaN where there is none.
        source: of the threshold.
        supports: False where it speaks against the finding.
        above: whether it is above the threshold that it would speak for it, or below.
    """

    measure: str
    text: str
    value: float = float("nan")
    threshold: float = float("nan")
    source: str = ""
    supports: bool = True
    above: bool = True


@dataclass(frozen=True)
class Remedy:
    """Something to change.

    Attributes:
        name: by which a trial knows it.
        text: what to do, one sentence.
        code: as it is written in Python.
        verify: what must change when it works.
        source: of the idea.
    """

    name: str
    text: str
    code: str = ""
    verify: str = ""
    source: str = ""


@dataclass(frozen=True)
class Finding:
    """A cause, with what speaks for it and what to do.

    Attributes:
        name: such as ``vanishing``.
        layer: where, as the model names it; empty for the whole model.
        cause: what goes wrong, one sentence.
        evidence: the numbers; those that speak against it are among them.
        confidence: 0 to 1: how far the numbers are from their thresholds.
        remedies: the first is the prescription; empty where there is nothing to mend.
    """

    name: str
    layer: str
    cause: str
    evidence: Sequence[Evidence]
    confidence: float
    remedies: Sequence[Remedy] = ()

    @property
    def remedy(self) -> Remedy | None:
        """The prescription: what to do first."""
        return self.remedies[0] if self.remedies else None


@dataclass(frozen=True)
class Trial:
    """A remedy that was tried beside training as it is: paired seeds, equal budgets.

    Attributes:
        remedy: its name.
        text: what was changed.
        judgement: what came of it.
        loss: mean held-out loss behind the trial, over the seeds; NaN where it was not finite.
        baseline: the same without the remedy.
        change: mean of loss − baseline over the pairs, as a share of the baseline; below 0 is better.
        low: lower end of the 95 % interval of ``change``.
        high: upper end.
        curves: held-out losses ``[seeds, points]`` of the remedy.
        steps: batches trained on at each point.
        note: why it failed or was not run.
    """

    remedy: str
    text: str
    judgement: Judgement
    loss: float = float("nan")
    baseline: float = float("nan")
    change: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    curves: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    steps: np.ndarray = field(default_factory=lambda: np.empty(0))
    note: str = ""


@dataclass(frozen=True)
class Charts:
    """The curves of the figures; what is empty is not drawn.

    Attributes:
        gradient_by_lag: layer → ``[K]`` mean gradient norm by steps back, relative to lag 0.
        time_constants: layer → ``[H]`` steps over which each unit's keep gate forgets; infinity is possible.
        lyapunov: layer → ``[m]`` leading exponents per step, descending.
        memory_lags: ``[M]`` lags at which memory was measured.
        memory: layer → ``[M]`` R² of past inputs in the state.
        unused_lags: ``[N]`` lags at which the rest error was compared with the inputs.
        unused: ``[N]`` share of the rest error that inputs so far back explain.
        needed_lag: steps over which the task must remember; 0 where unknown.
        needed_source: where that number comes from, a few words.
        learning_rates: ``[R]`` tried in the sweep.
        learning_rate_losses: ``[R]`` loss behind each, relative to the loss before; NaN where it diverged.
        learning_rate: the one in use; NaN where unknown.
        losses: training losses of the observed steps.
        gradient_norms: of the observed steps, before clipping.
        baseline_curves: held-out losses ``[seeds, points]`` of training as it is, in the trials.
        baseline_steps: batches trained on at each point.
    """

    gradient_by_lag: Mapping[str, np.ndarray] = field(default_factory=dict)
    time_constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    lyapunov: Mapping[str, np.ndarray] = field(default_factory=dict)
    memory_lags: np.ndarray = field(default_factory=lambda: np.empty(0))
    memory: Mapping[str, np.ndarray] = field(default_factory=dict)
    unused_lags: np.ndarray = field(default_factory=lambda: np.empty(0))
    unused: np.ndarray = field(default_factory=lambda: np.empty(0))
    needed_lag: int = 0
    needed_source: str = ""
    learning_rates: np.ndarray = field(default_factory=lambda: np.empty(0))
    learning_rate_losses: np.ndarray = field(default_factory=lambda: np.empty(0))
    learning_rate: float = float("nan")
    losses: np.ndarray = field(default_factory=lambda: np.empty(0))
    gradient_norms: np.ndarray = field(default_factory=lambda: np.empty(0))
    baseline_curves: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    baseline_steps: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class DiagnosisReport:
    """Everything that a diagnosis says and shows.

    Attributes:
        title: the page's heading.
        verdict: one or two plain sentences.
        good: whether the verdict is good news.
        findings: the likeliest first; never empty.
        measures: name → number, in the order in which they are read.
        measure_texts: name → what the number is, one sentence.
        trials: in the order in which they were run.
        charts: the curves of the figures.
        facts: name → value: model, batches, loss, seed, versions, time.
        notes: what could not be measured and why, one sentence each.
        command: what to type or write to get it again; may be empty.
    """

    title: str
    verdict: str
    good: bool
    findings: Sequence[Finding]
    measures: Mapping[str, float] = field(default_factory=dict)
    measure_texts: Mapping[str, str] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    charts: Charts = field(default_factory=Charts)
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    command: str = ""
