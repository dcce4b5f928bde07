from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from diagnosis_examples import HOSTILE, NAN, full_report, reports
from hypothesis import given

from gatewright.reports.diagnosis_contents import DiagnosisReport, Evidence, Finding, Remedy, Trial
from gatewright.reports.diagnosis_text import diagnosis_text


@given(reports)
def test_any_report_is_told_in_lines_that_fit(report: DiagnosisReport) -> None:
    text = diagnosis_text(report)
    lines = text.split("\n")
    assert lines[0].startswith("Verdict:")
    assert max(len(line) for line in lines) <= 100
    assert all(line == line.rstrip() and (line == "" or line.isprintable()) for line in lines)
    text.encode("utf-8")
    assert diagnosis_text(report) == text


def test_a_usual_report_is_short_and_says_what_matters() -> None:
    text = diagnosis_text(full_report())
    assert text.splitlines() == [
        "Verdict: The gradient does not reach back 50 steps.",
        "",
        "1. vanishing in rnn (layer 1), confidence 92 %: The gradient fades too early.",
        "   + At lag 50 little of the gradient is left (2.40e−4, threshold > 0.1)",
        "   + The gradient falls to a hundredth within 28 steps (28, threshold > 50)",
        "   → Start the forget bias at 4.",
        "       LSTM(8, 64, forget_bias=4)",
        "2. learning rate in the whole model, confidence 50 %: It is too low.",
        "   + Best over used (10, threshold > 3)",
        "",
        "remedy            judgement    loss  as it is   change     95 % interval",
        "forget bias       helped     0.0500     0.680  −92.0 %  −96.0 to −88.0 %",
        "skip connections  worse       0.800     0.680  +18.0 %   +5.0 to +30.0 %",
        "no clipping       failed          –         –        –",
        "",
        "Note: Saturation could not be measured.",
    ]


def test_what_speaks_against_comes_last_and_is_marked() -> None:
    against = Evidence("a", "Far beyond.", 1e9, 1.0, supports=False)
    close = Evidence("b", "Just beyond.", 2.0, 1.0)
    told = diagnosis_text(
        DiagnosisReport("t", "v", False, [Finding("f", "", "c", [against, close], 0.5)])
    ).splitlines()
    assert told[3:] == ["   + Just beyond (2, threshold > 1)", "   − Far beyond (1.00e9, threshold > 1)"]


def test_long_parts_are_cut_and_say_so() -> None:
    report = full_report()
    code = "\n".join(f"line_{index}" for index in range(9))
    long = replace(
        report,
        findings=[Finding("f", "", "c", [], 0.5, [Remedy("r", "Do it.", code)])] * 9,
        trials=[Trial("r" * 90, "", "helped")] * 20,
        notes=["n"] * 30,
    )
    text = diagnosis_text(long)
    assert len(text.splitlines()) < 45
    assert text.count("… and") == 3
    assert "line_3" in text
    assert "line_4" not in text


def test_control_characters_do_not_reach_the_terminal() -> None:
    finding = Finding(HOSTILE, HOSTILE, HOSTILE, [], NAN, [Remedy(HOSTILE, HOSTILE, HOSTILE)])
    text = diagnosis_text(DiagnosisReport(HOSTILE, HOSTILE, False, [finding], notes=[HOSTILE]))
    assert "\x1b" not in text
    assert "\ud800" not in text
    assert "<script>" in text


def test_text_and_json_need_nothing_of_the_app_extra() -> None:
    script = (
        "import sys; sys.modules.update(dict.fromkeys(['matplotlib', 'jinja2', 'rich', 'markupsafe']));"
        "import gatewright.reports.diagnosis_text, gatewright.reports.diagnosis_json"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
