"""Scaling: there and back, and what it does without spread, without values and at the ends of the range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gatewright.data.scaling import Scaler, fit_scaler

METHODS = ("standard", "robust", "none")
series = arrays.arrays(
    np.float64,
    st.integers(1, 30),
    elements=st.one_of(st.just(np.nan), st.floats(-1e100, 1e100, allow_subnormal=False)),
)


@given(values=series, method=st.sampled_from(METHODS))
def test_undo_gives_back_what_apply_took(values, method):
    scaler = fit_scaler(values, method)
    assert np.isfinite([scaler.location, scaler.scale]).all()
    assert scaler.scale > 0
    back = scaler.undo(scaler.apply(values))
    missing = np.isnan(values)
    assert np.array_equal(np.isnan(back), missing)
    largest = np.abs(values[~missing]).max(initial=0)
    np.testing.assert_allclose(back[~missing], values[~missing], rtol=1e-12, atol=1e-12 * largest)


@given(
    values=arrays.arrays(np.float64, st.integers(2, 30), elements=st.integers(-1000, 1000)),
    factor=st.sampled_from([1e-300, 1e-6, 1.0, 1e6, 1e300]),
)
def test_standard_scaling_gives_mean_zero_and_deviation_one_at_any_size(values, factor):
    scaled = fit_scaler(values * factor).apply(values * factor)
    if np.ptp(values) == 0:
        assert (np.abs(scaled) <= 1e-12 * np.abs(values * factor)).all()
    else:
        assert scaled.mean() == pytest.approx(0, abs=1e-9)
        assert scaled.std() == pytest.approx(1, rel=1e-9)


def test_robust_scaling_hears_nothing_of_an_outlier():
    values = np.arange(101.0)
    with_outlier = np.append(values[:-1], 1e12)
    one, other = fit_scaler(values, "robust"), fit_scaler(with_outlier, "robust")
    assert one.location == other.location == 50
    assert one.scale == pytest.approx(25 * 1.4826)
    assert other.scale == pytest.approx(one.scale)
    assert fit_scaler(with_outlier).scale > 1e10


def test_robust_scaling_of_a_mostly_constant_series_uses_the_deviation():
    values = np.array([0.0] * 9 + [10.0])
    scaler = fit_scaler(values, "robust")
    assert (scaler.location, scaler.scale) == (0, pytest.approx(values.std()))


@pytest.mark.parametrize("method", ["standard", "robust"])
@pytest.mark.parametrize("value", [0.0, 5.0, -1e300, 1e-300])
def test_a_constant_series_is_centred_and_keeps_its_units(method, value):
    scaler = fit_scaler(np.array([value, np.nan, value]), method)
    assert (scaler.location, scaler.scale) == (pytest.approx(value), 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[], [np.nan], [np.nan, np.inf, -np.inf]], ids=str)
def test_nothing_observed_leaves_everything_as_it_is(method, values):
    assert fit_scaler(np.array(values), method) == Scaler(0.0, 1.0)


def test_missing_values_are_left_out():
    assert fit_scaler(np.array([1.0, np.nan, 3.0])) == Scaler(2.0, 1.0)
    assert fit_scaler(np.array([1.0, 3.0]), "none") == Scaler()
