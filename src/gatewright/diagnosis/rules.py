"""From numbers to causes: each finding is a row of conditions that must all hold.

The confidence of a finding is that of its weakest condition: 0.5 at the threshold, towards 0 and 1 with the
distance from it, in units of the condition's own scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gatewright.diagnosis.causes import CAUSES, GAIN, Rule
from gatewright.diagnosis.thresholds import THRESHOLDS
from gatewright.reports.diagnosis_contents import Evidence


def judged(
    rule: Rule, values: Mapping[str, float], thresholds: Mapping[str, float]
) -> tuple[float, list[Evidence]]:
    """The confidence in a cause, and the numbers behind it.

    Args:
        rule: of the cause.
        values: all numbers.
        thresholds: by ``finding:measure``.

    Returns:
        0 to 1, and one piece of evidence a condition that is known.
    """
    weakest, evidence = 1.0, []
    for group in rule.groups:
        best = None
        for condition in group:
            value, threshold = condition.value(values), thresholds[f"{rule.name}:{condition.measure}"]
            if math.isnan(value):
                continue
            confidence = condition.confidence(value, threshold)
            piece = Evidence(
                condition.measure, condition.text, value, threshold, condition.source,
                supports=confidence >= 0.5, above=condition.above,
            )  # fmt: skip
            evidence.append((confidence, piece))
            best = confidence if best is None else max(best, confidence)
        if best is None:
            if not all(condition.optional for condition in group):
                return 0.0, []
            continue
        weakest = min(weakest, best)
    evidence.sort(key=lambda pair: -pair[0])
    return weakest, [piece for _, piece in evidence]


def derived(values: Mapping[str, float]) -> dict[str, float]:
    """Numbers that follow from several measures.

    Args:
        values: of the measures.

    Returns:
        All of them, those that follow included.
    """
    found = dict(values)
    if "rate_fall" in values and "fall" in values:
        own = values["fall"] if math.isfinite(values["fall"]) else -1.0
        found["rate_behind"] = values["rate_fall"] - own
    if "loss_blind" in values:
        blind, fitted = values["loss_blind"], values.get("loss_fitted", math.nan)
        scale = max(abs(blind), 1e-12)
        found["worsened"] = (fitted - values.get("loss", math.nan)) / scale
        gaps = {"excess": ("loss_before", "gap"), "excess_after": ("loss_after", "gap_after")}
        for name, (loss, gap) in gaps.items():
            found[name] = values.get(loss, math.nan) * values.get(gap, math.nan) / scale
        found["fall_or_gap"] = (blind - fitted) / scale if math.isfinite(blind + fitted) else math.nan
    return found


@dataclass
class Judgements:
    """The confidence in every cause, with its evidence, those that others explain already lowered."""

    confidence: dict[str, float] = field(default_factory=dict)
    evidence: dict[str, list[Evidence]] = field(default_factory=dict)


UNKNOWN = "unknown"

_LIKELY, _GUESS = 0.5, 0.4
"""Confidence in what is reported, and in what is if there is nothing better."""

_EXPLAINED = 0.6
"""Factor on the confidence in a finding that another one accounts for."""


def judge(values: Mapping[str, float], thresholds: Mapping[str, float] | None = None) -> Judgements:
    """Weigh all causes.

    Args:
        values: of the measures.
        thresholds: those of the library if None.

    Returns:
        Confidence and evidence by name, ``healthy`` last.
    """
    numbers, result = derived(values), Judgements()
    known = THRESHOLDS if thresholds is None else thresholds
    for name, rule in CAUSES.items():
        result.confidence[name], result.evidence[name] = judged(rule, numbers, known)
    strong = dict(result.confidence)
    for name, rule in CAUSES.items():
        for other in rule.explains if strong[name] >= _LIKELY else ():
            # of two that explain each other the likelier one does
            mutual = name in CAUSES[other].explains and strong[other] > strong[name]
            if strong[other] >= _GUESS and not mutual:
                result.confidence[other] *= _EXPLAINED
                text = f"'{name}' would account for it"
                result.evidence[other].append(Evidence(name, text, strong[name], _LIKELY, supports=False))
    worst, learns = max(result.confidence.values()), GAIN.value(numbers)
    # what was not measured is not known to be healthy
    well = 0.0 if math.isnan(learns) else GAIN.confidence(learns, known["healthy:gain"])
    result.confidence["healthy"] = min(1 - worst, well)
    result.evidence["healthy"] = _health(numbers)
    return result


def likeliest(confidence: Mapping[str, float]) -> list[str]:
    """The findings to report, the likeliest first.

    Args:
        confidence: by name.

    Returns:
        All of at least 0.5; else the best guess, or ``unknown`` where that is worth nothing.
    """
    ordered = sorted(confidence, key=lambda name: -confidence[name])
    likely = [name for name in ordered if confidence[name] >= _LIKELY]
    guess = next(name for name in ordered if name != "healthy")
    return likely or [guess if confidence[guess] >= _GUESS else UNKNOWN]


def _health(values: Mapping[str, float]) -> list[Evidence]:
    """What speaks for a healthy model."""
    pieces = []
    for name, text in (
        ("gain", "held-out loss below that of a control that reads other rows' inputs, as a share"),
        ("unused_after", "share of the rest error that inputs explain"),
        ("horizon", "steps back at which the gradient is still 1 % of its largest"),
        ("rate_width", "usable learning rates, in powers of ten"),
    ):
        if name in values:
            pieces.append(Evidence(name, text, values[name]))
    return pieces
