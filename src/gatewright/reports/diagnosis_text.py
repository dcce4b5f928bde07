"""A diagnosis in few lines, for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from gatewright.reports.diagnosis_contents import DiagnosisReport, Evidence, Finding, Remedy, Trial
from gatewright.reports.diagnosis_words import (
    MISSING,
    format_change,
    format_confidence,
    format_interval,
    format_number,
    format_threshold,
    place,
    strongest,
)

WIDTH = 100
_MOST_WHOLE = 2  # findings told with evidence and remedy
_MOST_SHORT = 3  # further ones told in a line
_MOST_TRIALS = 8
_MOST_NOTES = 4
_MOST_CODE = 4
_LONGEST_NAME = 34
_HEADINGS = ("remedy", "judgement", "loss", "as it is", "change", "95 % interval")


def diagnosis_text(report: DiagnosisReport) -> str:
    """Tell a diagnosis in few lines: the verdict first, then the likeliest findings, trials and notes.

    Args:
        report: what to tell; long parts are cut and say so.

    Returns:
        Lines of at most 100 characters, without control characters and without a line break at the end.
    """
    lines = _wrap("Verdict: ", report.verdict)
    lines += _findings(report.findings)
    lines += _trials(report.trials)
    lines += _notes(report.notes)
    return "\n".join(lines)


def _findings(findings: Sequence[Finding]) -> list[str]:
    """The first findings in full, the next in a line, the rest as a number."""
    lines: list[str] = [""] if findings else []
    for number, finding in enumerate(findings[: _MOST_WHOLE + _MOST_SHORT], 1):
        confidence = format_confidence(finding.confidence)
        head = f"{number}. {finding.name} in {place(finding)}, confidence {confidence}"
        if number > _MOST_WHOLE:
            do = f"; {finding.remedy.name}" if finding.remedy else ""
            lines.append(_cut(_clean(head + do), WIDTH))
            continue
        lines += _wrap("", f"{head}: {finding.cause}", indent=3)
        for evidence in strongest(finding.evidence, 2):
            lines += _evidence(evidence)
        if finding.remedy:
            lines += _remedy(finding.remedy)
    left = len(findings) - _MOST_WHOLE - _MOST_SHORT
    return lines + ([f"… and {left} more"] if left > 0 else [])


def _evidence(evidence: Evidence) -> list[str]:
    """One evidence: a plus or a minus for what it speaks for, and its numbers."""
    numbers = format_number(evidence.value)
    if (threshold := format_threshold(evidence.threshold)) != MISSING:
        numbers += f", threshold {'>' if evidence.above else '<'} {threshold}"
    told = evidence.text if numbers == MISSING else f"{evidence.text.rstrip('. ')} ({numbers})"
    return _wrap("   + " if evidence.supports else "   − ", told)


def _remedy(remedy: Remedy) -> list[str]:
    lines = _wrap("   → ", remedy.text)
    code = [_clean(line, keep_indent=True) for line in remedy.code.splitlines() if line.strip()]
    lines += [_cut("       " + line, WIDTH) for line in code[:_MOST_CODE]]
    return lines + (["       …"] if len(code) > _MOST_CODE else [])


def _trials(trials: Sequence[Trial]) -> list[str]:
    """A table of the trials in the order in which they were run."""
    if not trials:
        return []
    rows = [_HEADINGS, *(_cells(trial) for trial in trials[:_MOST_TRIALS])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [""]
    for row in rows:
        cells = [
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(_cut("  ".join(cells).rstrip(), WIDTH))
    left = len(trials) - _MOST_TRIALS
    return lines + ([f"… and {left} more"] if left > 0 else [])


def _cells(trial: Trial) -> tuple[str, ...]:
    return (
        _cut(_clean(trial.remedy), _LONGEST_NAME),
        trial.judgement,
        format_number(trial.loss),
        format_number(trial.baseline),
        format_change(trial.change),
        format_interval(trial),
    )


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    lines = [""]
    for note in notes[:_MOST_NOTES]:
        lines += _wrap("Note: ", note)
    left = len(notes) - _MOST_NOTES
    return lines + ([f"… and {left} more"] if left > 0 else [])


def _wrap(label: str, text: str, indent: int | None = None) -> list[str]:
    """Break a sentence into lines that stand under its label's end."""
    hanging = " " * (len(label) if indent is None else indent)
    words = textwrap.wrap(_clean(text), WIDTH, initial_indent=label, subsequent_indent=hanging)
    return words or [label.rstrip()]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _clean(text: str, *, keep_indent: bool = False) -> str:
    """Put text on one line; what a terminal would obey or could not show becomes a question mark."""
    indent = len(text) - len(text.lstrip(" ")) if keep_indent else 0
    line = " " * indent + " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in line)
