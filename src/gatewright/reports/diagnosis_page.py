"""The page of a diagnosis: what is wrong, how that is known, what to do, and what came of trying it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from gatewright.reports import diagnosis_figures as drawn
from gatewright.reports import diagnosis_trial_figures as tried
from gatewright.reports.diagnosis_contents import (
    Charts,
    DiagnosisReport,
    Evidence,
    Finding,
    Judgement,
    Remedy,
    Trial,
)
from gatewright.reports.diagnosis_words import (
    MISSING,
    bounded_share,
    format_change,
    format_confidence,
    format_interval,
    format_number,
    format_threshold,
    place,
)
from gatewright.reports.figures import draw_gradient_by_lag, gradient_legend
from gatewright.reports.lines import LegendEntry, line_legend
from gatewright.reports.template import Panel, render

_GRADIENT_CAPTION = (
    "How strongly the loss still depends on the state so many steps earlier, relative to the last step. "
    "A line that falls fast means that the net cannot learn from further back than that."
)
_CONSTANTS_CAPTION = (
    "How many units forget over so many steps, by their gate. The last bar holds those that forget over more "
    "than a million steps, or never."
)
_LYAPUNOV_CAPTION = (
    "Rates per step at which small differences of the state grow (above zero) or fade (below). "
    "Far below zero the state forgets; above it, gradients explode."
)
_MEMORY_CAPTION = (
    "R² with which a linear map reads the input of so many steps ago from the state: "
    "1 is all of it, 0 nothing."
)
_UNUSED_CAPTION = (
    "Percentage of the rest error that the input so many steps back explains. "
    "High stems are information in the data that the model leaves unused."
)
_RATES_CAPTION = (
    "Loss behind a few training steps at each learning rate, divided by the loss before. Lowest is best."
)
_LOSS_CAPTION = "Loss of each training step that was observed."
_NORM_CAPTION = "Norm of the whole gradient at each observed step, before clipping."
_CURVES_CAPTION = (
    "Mean over the seeds; the band runs from the lowest to the highest. "
    "A line ends where a run is not finite."
)
_FOREST_CAPTION = (
    "Change of the held-out loss against training as it is, with its 95 % interval. Left of zero is better. "
    "An arrow at the edge: it goes on beyond."
)


@dataclass(frozen=True)
class _EvidenceRow:
    """An evidence as the page writes it."""

    measure: str
    text: str
    value: str
    threshold: str
    source: str
    supports: bool


@dataclass(frozen=True)
class _FindingCard:
    """A finding as the page writes it."""

    name: str
    place: str
    cause: str
    confidence: str
    gauge: int
    evidence: Sequence[_EvidenceRow]
    first: Sequence[Remedy]
    others: Sequence[Remedy]


@dataclass(frozen=True)
class _TrialRow:
    """A trial as the page writes it."""

    remedy: str
    text: str
    judgement: Judgement
    loss: str
    baseline: str
    change: str
    interval: str
    note: str


def render_diagnosis(report: DiagnosisReport) -> str:
    """Set a diagnosis as a complete HTML page.

    The same report gives the same text. Whatever the user wrote is escaped; there is no script and no
    reference to anything outside the page.

    Args:
        report: what to show; empty parts are left out.

    Returns:
        The page, to be written as UTF-8.
    """
    return render(
        "diagnosis.html.jinja",
        report=report,
        findings=[_finding_card(finding) for finding in report.findings],
        trials=[_trial_row(trial) for trial in report.trials],
        trial_panels=_trial_panels(report),
        needed=_needed_words(report.charts),
        panels=[panel for panel in _panels(report.charts) if panel.drawings[0]],
        measures=[
            (name, format_number(value), report.measure_texts.get(name, ""))
            for name, value in report.measures.items()
        ],
    )


def _finding_card(finding: Finding) -> _FindingCard:
    share = bounded_share(finding.confidence)
    return _FindingCard(
        finding.name,
        place(finding),
        finding.cause,
        format_confidence(finding.confidence),
        0 if math.isnan(share) else round(100 * share),
        [_evidence_row(one) for one in finding.evidence],
        finding.remedies[:1],
        finding.remedies[1:],
    )


def _evidence_row(evidence: Evidence) -> _EvidenceRow:
    return _EvidenceRow(
        evidence.measure,
        evidence.text,
        format_number(evidence.value),
        _bound(evidence),
        evidence.source,
        evidence.supports,
    )


def _trial_row(trial: Trial) -> _TrialRow:
    return _TrialRow(
        trial.remedy,
        trial.text,
        trial.judgement,
        format_number(trial.loss),
        format_number(trial.baseline),
        format_change(trial.change),
        format_interval(trial),
        trial.note,
    )


def _trial_panels(report: DiagnosisReport) -> list[Panel]:
    """The figures of the trials."""
    trials, charts = report.trials, report.charts
    curves = tried.draw_trial_curves(trials, charts.baseline_curves, charts.baseline_steps, "trial-curves")
    panels = [
        _panel(
            "What came of each",
            tried.draw_forest(trials, "forest"),
            _FOREST_CAPTION,
            tried.forest_legend(trials),
        ),
        _panel(
            "Learning with the best, and as it is",
            curves,
            _CURVES_CAPTION,
            tried.trial_curves_legend(trials, charts.baseline_curves),
        ),
    ]
    return [panel for panel in panels if panel.drawings[0]]


def _panels(charts: Charts) -> list[Panel]:
    """The figures of the measures; those without a drawing are left out later."""
    return [*_reach_panels(charts), *_use_panels(charts), *_training_panels(charts)]


def _reach_panels(charts: Charts) -> list[Panel]:
    """Gradient, gates and dynamics: how far back the net can learn."""
    gradient, constants, needed = charts.gradient_by_lag, charts.time_constants, charts.needed_lag
    longest = max((np.size(values) for values in gradient.values()), default=0)
    marks = (needed,) if needed > 0 else ()
    legend = gradient_legend(gradient, marks, "needed")
    if any((np.asarray(values) == 0).any() for values in gradient.values()):
        legend.append(LegendEntry("exactly zero from here", "ink", "foot"))
    spectrum = drawn.lyapunov_legend(charts.lyapunov)
    if any(np.isneginf(values).any() for values in charts.lyapunov.values()):
        spectrum.append(LegendEntry("minus infinity from here", "ink", "foot"))
    needed_entries = [drawn.needed_entry(needed)] if marks else []
    return [
        _panel(
            "How far the gradient reaches",
            draw_gradient_by_lag(gradient, marks, "gradient-by-lag"),
            _GRADIENT_CAPTION + _beyond(needed, on_axis=needed < longest),
            legend,
        ),
        _panel(
            "How long the gates keep",
            drawn.draw_time_constants(constants, needed, "time-constants"),
            _CONSTANTS_CAPTION,
            [*line_legend(constants), *needed_entries],
        ),
        _panel(
            "How differences grow",
            drawn.draw_lyapunov(charts.lyapunov, "lyapunov"),
            _LYAPUNOV_CAPTION,
            spectrum,
        ),
    ]


def _use_panels(charts: Charts) -> list[Panel]:
    """Memory and rest error: what of the inputs is kept, and what is left unused."""
    needed = charts.needed_lag
    memory_on_axis = drawn.needed_on_axis(charts.memory_lags, needed)
    unused_on_axis = drawn.needed_on_axis(charts.unused_lags, needed)
    return [
        _panel(
            "What the state remembers",
            drawn.draw_memory(charts.memory_lags, charts.memory, needed, "memory"),
            _MEMORY_CAPTION + _beyond(needed, on_axis=memory_on_axis),
            drawn.needed_legend(list(charts.memory), charts.memory_lags, needed),
        ),
        _panel(
            "What is left unused",
            drawn.draw_unused(charts.unused_lags, charts.unused, needed, "unused"),
            _UNUSED_CAPTION + _beyond(needed, on_axis=unused_on_axis),
            drawn.needed_legend(["rest error explained"], charts.unused_lags, needed),
        ),
    ]


def _training_panels(charts: Charts) -> list[Panel]:
    """The sweep of the learning rate, and the steps that were observed."""
    rates, after = charts.learning_rates, charts.learning_rate_losses
    return [
        _panel(
            "Learning rates",
            drawn.draw_learning_rates(rates, after, charts.learning_rate, "learning-rates"),
            _RATES_CAPTION,
            drawn.learning_rate_legend(after, charts.learning_rate),
        ),
        _panel(
            "Training loss",
            drawn.draw_observed(charts.losses, "Training loss", "losses"),
            _LOSS_CAPTION,
            drawn.observed_legend(charts.losses, "training loss"),
        ),
        _panel(
            "Gradient norm",
            drawn.draw_observed(charts.gradient_norms, "Gradient norm", "gradient-norms"),
            _NORM_CAPTION,
            drawn.observed_legend(charts.gradient_norms, "gradient norm"),
        ),
    ]


def _panel(title: str, svg: str, caption: str, legend: Sequence[LegendEntry]) -> Panel:
    return Panel(title, [Markup(svg)], caption, legend)


def _needed_words(charts: Charts) -> str:
    """Say how far back the task reaches, and how that is known."""
    if charts.needed_lag <= 0:
        return ""
    source = f" ({charts.needed_source})" if charts.needed_source else ""
    return f"The task needs {charts.needed_lag} steps{source}."


def _beyond(needed_lag: int, *, on_axis: bool) -> str:
    """Say that the needed lag is missing from a figure."""
    return "" if on_axis or needed_lag <= 0 else f" Not on the axis: the {needed_lag} steps that are needed."


def _bound(evidence: Evidence) -> str:
    """The threshold, and the side on which a number speaks for the finding."""
    threshold = format_threshold(evidence.threshold)
    return threshold if threshold == MISSING else f"{'>' if evidence.above else '<'} {threshold}"
