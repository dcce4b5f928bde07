from __future__ import annotations

import math

import pytest
from diagnosis_examples import NAN, numbers
from hypothesis import given

from gatewright.reports.diagnosis_contents import Evidence, Judgement, Trial
from gatewright.reports.diagnosis_words import (
    best_trials,
    format_change,
    format_confidence,
    format_interval,
    format_number,
    format_threshold,
    strongest,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (NAN, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (0, "0"),
        (-0.0, "0"),
        (28, "28"),
        (198410, "198410"),
        (0.73149, "0.731"),
        (-0.12, "−0.120"),
        (12.345, "12.3"),
        (999.96, "1000"),
        (1234.5, "1230"),
        (0.00123, "0.00123"),
        (0.0009996, "0.00100"),
        (5.8e-8, "5.80e−8"),
        (1.5e20, "1.50e20"),
        (5e-324, "4.94e−324"),
    ],
)
def test_numbers_are_written(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.001, "0.001"), (1e-6, "1e−6"), (100, "100"), (0.5, "0.5"), (NAN, "–"), (2.5, "2.5")],
)
def test_thresholds_are_written_short(value: float, text: str) -> None:
    assert format_threshold(value) == text


@given(numbers)
def test_a_number_reads_as_what_it_is(value: float) -> None:
    text = format_number(value).replace("−", "-").replace("∞", "inf").replace("–", "nan")
    read = float(text)
    assert len(text) <= 11
    if math.isfinite(value) and math.isinf(read):
        return  # rounding went beyond the largest number
    assert math.isclose(read, value, rel_tol=0.006) or (math.isnan(read) and math.isnan(value))


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (-0.925, "−92.5 %"),
        (0.188, "+18.8 %"),
        (0.0, "0.0 %"),
        (-0.0001, "0.0 %"),
        (5.0, "+500 %"),
        (123.456, "+12300 %"),
        (NAN, "–"),
        (-math.inf, "−∞"),
    ],
)
def test_changes_are_written(share: float, text: str) -> None:
    assert format_change(share) == text


def test_intervals_and_confidences_are_written() -> None:
    assert format_interval(Trial("r", "", "failed")) == ""
    assert format_interval(Trial("r", "", "helped", low=-0.2, high=0.1)) == "−20.0 to +10.0 %"
    assert [format_confidence(one) for one in (0.5, 7.0, -1.0, NAN)] == ["50 %", "100 %", "0 %", "–"]


def test_the_strongest_evidence_lies_furthest_from_its_threshold() -> None:
    fact = Evidence("fact", "")
    near, far = Evidence("near", "", 2, 1), Evidence("far", "", 1e-9, 1e-3)
    zero, below = Evidence("zero", "", -5, 0), Evidence("below", "", -3, 1)
    against = Evidence("against", "", 1e30, 1, supports=False)
    ranked = strongest([against, fact, near, zero, below, far], 6)
    assert [one.measure for one in ranked] == ["far", "below", "near", "fact", "zero", "against"]
    assert strongest([], 2) == []


def test_the_best_trials_were_run_to_the_end() -> None:
    judged: list[tuple[Judgement, float]] = [
        ("harmless", -0.9),
        ("worse", 1.0),
        ("failed", -1.0),
        ("not run", -1.0),
        ("helped", NAN),
    ]
    trials = [Trial(judgement, "", judgement, change=change) for judgement, change in judged]
    assert [trial.remedy for trial in best_trials(trials, 9)] == ["helped", "harmless", "worse"]
