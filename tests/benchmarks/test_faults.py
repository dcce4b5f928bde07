"""The faults are the same every time, name findings that there are, and are counted rightly."""

import math

import pytest
import torch
from benchmarks.fault_cases import CASES, build
from benchmarks.faults import jobs, scores, trial_table

from gatewright.diagnosis.causes import CAUSES


def test_every_case_expects_findings_and_every_cause_has_a_case():
    expected = {name for case in CASES.values() for name in case.expected}
    assert expected == {*CAUSES, "healthy"}
    assert {case.expected[0] for case in CASES.values()} == expected
    todo = list(jobs(2, []))
    assert len(set(todo)) == len(todo)


@pytest.mark.parametrize("name", ["healthy-fresh", "vanishing-bias", "noise", "rank-collapse", "truncation"])
def test_a_case_is_the_same_every_time(name):
    case = CASES[name]
    for cell in case.cells:
        first, second = (build(name, cell, case.tasks[0], 3) for _ in range(2))
        for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
            assert torch.equal(a, b)
        for batch, other in zip(first.batches, second.batches, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, other, strict=True))
        loss = first.loss(first.model, first.batches[0])
        assert math.isfinite(loss.item())


def test_precision_and_recall():
    found = [("a", "a"), ("a", "b"), ("b", "b"), ("b", "b"), ("c", "a")]
    assert scores(found) == {"a": (0.5, 0.5, 2), "b": (2 / 3, 1.0, 2), "c": (0.0, 0.0, 1)}


def test_how_often_a_prescription_helped():
    rows = [
        {"case": "noise", "remedy": "larger-batches", "judgement": "helped", "change": -0.5},
        {"case": "noise", "remedy": "larger-batches", "judgement": "harmless", "change": 0.1},
        {"case": "leak", "remedy": "", "judgement": "not run"},
    ]
    table = trial_table(rows)
    assert "| noise | 2 | larger-batches 2 | 1 | +10 % |" in table
    assert "| overfitting | 1 | nothing 1 | 0 | – |" in table
    assert "| all | 3 | | 1 (33 %) | |" in table
