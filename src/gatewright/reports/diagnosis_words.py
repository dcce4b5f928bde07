"""How a diagnosis writes its numbers and names, on the page and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gatewright.reports.diagnosis_contents import Evidence, Finding, Trial

MISSING = "–"
_PLAIN = (1e-3, 1e6)  # numbers between these are written without a power of ten
_MOST_COUNTED = 1e9  # whole numbers up to here are counts and keep all their digits


def format_number(value: float) -> str:
    """Write a number with three significant digits; counts keep all of theirs.

    Args:
        value: any number; NaN is written as an en dash.

    Returns:
        The text, with a true minus sign.
    """
    value = float(value)
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < _MOST_COUNTED:
        return _minus(str(int(value)))
    digits, exponent = f"{value:.2e}".split("e")  # rounded first: 999.9 has the exponent of 1000
    rounded, power = float(f"{digits}e{exponent}"), int(exponent)
    if _PLAIN[0] <= abs(rounded) < _PLAIN[1]:
        return _minus(f"{rounded:.{max(0, 2 - power)}f}")
    return _minus(f"{digits}e{power}")


def format_threshold(value: float) -> str:
    """Write a number that somebody chose, such as 0.001: as `format_number`, without zeros at the end."""
    text, times, power = format_number(value).partition("e")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + times + power


def format_change(share: float) -> str:
    """Write a change in percent with its sign, an en dash for NaN."""
    if not math.isfinite(share):
        return format_number(share)
    percent = 100 * share
    if abs(percent) >= 1000:
        return ("+" if percent > 0 else "") + format_number(float(f"{percent:.2e}")) + " %"
    text = f"{percent:+.1f}" if abs(percent) < 99.95 else f"{percent:+.0f}"
    return (_minus(text) if float(text) else text.lstrip("+-")) + " %"


def format_interval(trial: Trial) -> str:
    """Write the interval of a trial's change; empty where there is none."""
    if math.isnan(trial.low) and math.isnan(trial.high):
        return ""
    low = format_change(trial.low).removesuffix(" %")
    return f"{low} to {format_change(trial.high)}"


def format_confidence(confidence: float) -> str:
    """Write a confidence between 0 and 1 in percent, an en dash for NaN."""
    share = bounded_share(confidence)
    return MISSING if math.isnan(share) else f"{100 * share:.0f} %"


def bounded_share(share: float) -> float:
    """Keep a share between 0 and 1; NaN stays."""
    return share if math.isnan(share) else min(1.0, max(0.0, share))


def place(finding: Finding) -> str:
    """Name where a finding was made."""
    return finding.layer or "the whole model"


def strongest(evidence: Sequence[Evidence], count: int) -> list[Evidence]:
    """Choose the evidence that lies furthest from its thresholds; what supports the finding goes first.

    Args:
        evidence: of one finding.
        count: how many to choose at most.

    Returns:
        The chosen, the strongest first; in the order given where equally strong.
    """
    ranked = sorted(evidence, key=lambda one: (not one.supports, -_strength(one)))
    return ranked[:count]


def best_trials(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Choose the trials with the largest gain among those that were run to the end.

    Args:
        trials: in any order.
        count: how many to choose at most.

    Returns:
        The best first: those that helped, then the others.
    """
    finished = [trial for trial in trials if trial.judgement in ("helped", "harmless", "worse")]
    change = [math.inf if math.isnan(trial.change) else trial.change for trial in finished]
    ranked = sorted(range(len(finished)), key=lambda i: (finished[i].judgement != "helped", change[i]))
    return [finished[index] for index in ranked[:count]]


def _strength(evidence: Evidence) -> float:
    """Distance to the threshold in powers of ten, or relative to it where either is not above zero."""
    value, threshold = float(evidence.value), float(evidence.threshold)
    if math.isnan(value) or not math.isfinite(threshold) or threshold == 0:
        return 0.0  # a threshold of zero gives no scale to measure by
    if value > 0 and threshold > 0:
        return abs(math.log10(value) - math.log10(threshold))
    return abs(value / threshold - 1)


def _minus(text: str) -> str:
    return text.replace("-", "−")
