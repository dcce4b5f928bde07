"""Causes follow from numbers: thresholds, missing numbers, findings that explain others."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.diagnosis.causes import CAUSES
from gatewright.diagnosis.remedies import REMEDIES
from gatewright.diagnosis.rules import judge, likeliest
from gatewright.diagnosis.thresholds import THRESHOLDS

GOOD = {
    "bad_batches": 0, "bad_inputs": 0, "gain": 0.9, "unused_after": 0.02, "needed_lag": 10, "horizon": 30,
    "horizon_after": 30, "lyapunov": -0.2, "time_growth": -3, "loss_outlier": 1.2, "stopped": -1,
    "doubled": 0, "rank": 9, "rank_share_after": 0.4, "units": 32, "gate_slope": 0.2, "gate_high": 0.1,
    "state_change": 0.5,
    "tau": 2, "tau_spread": 0.4, "feedback": 0,
    "data_exponent": 0.5, "data_order": 0.9, "depth": 1, "affine": 0, "cut": 0,
    "frozen": 0, "unread_after": 0.01, "gap": 0, "gap_after": 0, "loss_blind": 1.0,
    "loss": 0.9, "loss_fitted": 0.1, "loss_before": 0.9, "loss_after": 0.1,
    "fall": 0.9, "rate_fall": 0.7, "rate_ratio": 0.5, "moved": 0.4, "snr": 3, "snr_after": 0.5,
}  # fmt: skip

BAD = {
    "non-finite": {"bad_batches": 1},
    "rank-collapse": {"doubled": 1.0, "gain": 0.05},
    "stuck-gates": {"gate_slope": 0.0005, "gate_high": 1.0, "gain": 0.05},
    "chaos": {"feedback": 1, "time_growth": 20},
    "exploding": {"time_growth": 15, "gain": 0.02},
    "learning-rate": {"fall": 0.01, "rate_fall": 0.8, "rate_ratio": 3.0, "gain": 0.0},
    "depth": {"depth": 10, "depth_ratio": -5, "gain": 0.0},
    "state-tracking": {"affine": 1, "gain": 0.01},
    "truncation": {"cut": 8, "needed_lag": 30, "unused_after": 0.9, "gain": 0.0},
    "readout": {"frozen": 1.0, "unread_after": 0.8, "gain": 0.01},
    "wrong-time-scale": {"tau": 90, "tau_spread": 0.001, "gain": 0.01},
    "vanishing": {"needed_lag": 100, "horizon": 8, "horizon_after": 9, "unused_after": 0.9, "gain": 0.0},
    "capacity": {"rank_share_after": 0.95, "unused_after": 0.8, "gain": 0.1, "units": 3},
    "overfitting": {"loss_after": 1.5, "gap_after": 0.95, "loss_fitted": 0.01, "gain": -0.5},
    "noise": {"snr": 0.001, "snr_after": 0.0, "gain": 0.0, "needed_lag": math.nan},
}


def test_what_does_not_learn_and_has_no_cause_is_no_healthy_model():
    odd = GOOD | {"gain": 0.05, "fall": 0.5, "rate_fall": 0.5}
    assert likeliest(judge(odd).confidence) == ["unknown"]


def test_good_numbers_are_healthy():
    assert likeliest(judge(GOOD).confidence) == ["healthy"]


@pytest.mark.parametrize("name", BAD)
def test_each_cause_is_found(name):
    judged = judge(GOOD | BAD[name])
    assert likeliest(judged.confidence)[0] == name
    assert any(piece.supports for piece in judged.evidence[name])
    assert all(piece.text for piece in judged.evidence[name])


def test_every_cause_has_thresholds_and_remedies_and_a_case():
    named = {f"{n}:{c.measure}" for n, rule in CAUSES.items() for group in rule.groups for c in group}
    assert named | {"healthy:gain"} == set(THRESHOLDS)
    assert {*CAUSES, "healthy", "unknown"} == set(REMEDIES)
    assert set(BAD) == set(CAUSES)
    for rule in CAUSES.values():
        assert set(rule.explains) <= set(CAUSES) - {rule.name}


@given(
    st.dictionaries(
        st.sampled_from(sorted(GOOD)),
        st.floats(allow_nan=True, allow_infinity=True, width=32),
    )
)
def test_any_numbers_give_an_answer(values):
    judged = judge(values)
    assert all(0 <= confidence <= 1 for confidence in judged.confidence.values())
    assert likeliest(judged.confidence)


def test_what_explains_another_lowers_it_and_says_so():
    numbers = GOOD | BAD["truncation"] | {"horizon": 5, "horizon_after": 5}
    judged = judge(numbers)
    assert likeliest(judged.confidence)[0] == "truncation"
    assert judged.confidence["vanishing"] < judged.confidence["truncation"]
    against = [piece for piece in judged.evidence["vanishing"] if not piece.supports]
    assert any("truncation" in piece.text for piece in against)


@pytest.mark.parametrize("name", BAD)
def test_moving_a_number_past_its_threshold_only_makes_it_likelier(name):
    before = judge(GOOD).confidence[name]
    after = judge(GOOD | BAD[name]).confidence[name]
    assert after >= 0.5 > before
