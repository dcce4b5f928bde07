from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from diagnosis_examples import HOSTILE, few, full_report, reports
from hypothesis import given
from test_report_page import Page

from gatewright.reports.diagnosis_contents import Charts, DiagnosisReport, Evidence, Finding, Remedy, Trial
from gatewright.reports.diagnosis_page import render_diagnosis
from gatewright.reports.svg import COLOURS

FIGURES = [
    "forest",
    "trial-curves",
    "gradient-by-lag",
    "time-constants",
    "lyapunov",
    "memory",
    "unused",
    "learning-rates",
    "losses",
    "gradient-norms",
]


@pytest.fixture(scope="module")
def text() -> str:
    return render_diagnosis(full_report())


def words_of(text: str) -> str:
    return " ".join(" ".join(Page(text).words).split())


def test_every_part_is_on_the_page_in_order(text: str) -> None:
    report, words = full_report(), words_of(text)
    first = report.findings[0]
    assert first.remedy
    expected = [
        report.verdict,
        "confidence 92 %",
        first.cause,
        first.evidence[1].text,
        "threshold: convention",
        "2.40e−4",
        "0.1",
        "speaks against it",
        first.remedy.text,
        first.remedy.code,
        first.remedy.verify,
        "skip connections",
        "the whole model",
        "Trials",
        "−92.0 %",
        "−96.0 to −88.0 %",
        "The loss was not finite.",
        "What was measured",
        report.charts.needed_source,
        "All measures",
        report.measure_texts["reach"],
        "LSTM, 2 layers",
        report.notes[0],
        report.command,
    ]
    at = 0
    for one in expected:
        assert one in words[at:], one
        at = words.index(one, at) + len(one)


def test_every_figure_has_a_role_and_a_title_it_refers_to(text: str) -> None:
    heads = re.findall(
        r'<svg viewBox="0 0 \d+ \d+" role="img" aria-labelledby="([^"]+)" class="figure">', text
    )
    assert heads == [f"{name}-title" for name in FIGURES]
    for head in heads:
        assert re.search(f'<title id="{head}">[^<]+</title>', text)


def test_ids_are_unique_and_references_resolve(text: str) -> None:
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    used = re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'href="#([^"]+)"', text)
    assert used
    assert set(used) <= set(page.ids)


def check_closed(text: str) -> Page:
    """The page asks for nothing from outside and runs nothing."""
    page = Page(text)
    assert page.tags["script"] == 0
    assert "<script" not in text
    assert "@import" not in text
    links = [value for name, value in page.values if name in ("src", "href") and not value.startswith("#")]
    assert links == ["data:,"]
    assert not [name for name, _ in page.values if name.startswith("on")]
    return page


def test_nothing_comes_from_outside(text: str) -> None:
    check_closed(text)
    assert "://" not in text


def test_same_report_gives_the_same_text(text: str) -> None:
    assert render_diagnosis(full_report()) == text


@few
@given(reports)
def test_any_report_is_a_whole_and_closed_page(report: DiagnosisReport) -> None:
    text = render_diagnosis(report)
    page = check_closed(text)
    text.encode("utf-8")
    assert len(page.ids) == len(set(page.ids))
    assert page.tags["html"] == page.tags["body"] == page.tags["h1"] == 1


def test_user_words_are_escaped_everywhere() -> None:
    remedy = Remedy(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    evidence = [Evidence(HOSTILE, HOSTILE, 1.0, 2.0, HOSTILE, supports=side) for side in (True, False)]
    line = {HOSTILE: np.ones(3)}
    charts = Charts(line, line, line, np.arange(3), line, np.arange(3), np.ones(3), 2, HOSTILE)
    report = DiagnosisReport(
        HOSTILE,
        HOSTILE,
        False,
        [Finding(HOSTILE, HOSTILE, HOSTILE, evidence, 0.5, [remedy, remedy])],
        {HOSTILE: 1.0},
        {HOSTILE: HOSTILE},
        [Trial(HOSTILE, HOSTILE, "helped", 1, 1, -0.1, -0.2, 0, np.ones((2, 3)), np.arange(3), HOSTILE)],
        charts,
        {HOSTILE: HOSTILE},
        [HOSTILE],
        HOSTILE,
    )
    text = render_diagnosis(report)
    page = check_closed(text)
    assert "{{ 7 * 7 }}" in text
    assert any("<script>alert('x')</script>\"&{{ 7 * 7 }}{% raw %}? $x^2$" in word for word in page.words)


def test_a_page_of_only_good_news() -> None:
    text = render_diagnosis(
        DiagnosisReport("Fine", "It learns.", True, [Finding("healthy", "", "Nothing is wrong.", [], 1.0)])
    )
    page = Page(text)
    assert 'class="verdict good"' in text
    assert page.tags["figure"] == page.tags["table"] == 0
    assert "Trials" not in words_of(text)


def test_a_needed_lag_beyond_the_measured_ones_is_said() -> None:
    report = full_report()
    far = replace(report, charts=replace(report.charts, needed_lag=5000))
    words = words_of(render_diagnosis(far))
    assert words.count("Not on the axis: the 5000 steps that are needed.") == 3
    assert "Not on the axis" not in words_of(render_diagnosis(report))


def test_long_arrays_keep_the_page_small() -> None:
    rng = np.random.default_rng(0)
    long = rng.random(50_000)
    report = full_report()
    charts = replace(
        report.charts,
        losses=long,
        gradient_norms=long,
        gradient_by_lag={"a": long},
        unused_lags=np.arange(3000),
        unused=long[:3000],
    )
    assert len(render_diagnosis(replace(report, charts=charts)).encode()) < 1_000_000


@pytest.mark.parametrize("role", COLOURS)
def test_every_colour_has_a_light_and_a_dark_value(text: str, role: str) -> None:
    light, dark = text.split("prefers-color-scheme: dark", 1)
    assert re.search(rf"--{role}: {COLOURS[role]};", light)
    assert re.search(rf"--{role}: #[0-9a-f]{{6}};", dark)
