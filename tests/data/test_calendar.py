"""Calendar features on days that anyone can look up."""

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.data.calendar import calendar_features, calendar_names
from gatewright.data.frequency import Frequency

DAY = [f"{f}-day-{k}" for k in (1, 2, 3, 4) for f in ("sin", "cos")]
WEEK = [f"weekday-{day}" for day in range(7)]
YEAR = [f"{f}-year-{k}" for k in (1, 2) for f in ("sin", "cos")]


@pytest.mark.parametrize(
    ("frequency", "years", "names"),
    [
        ("1h", 1.9, DAY + WEEK),
        ("1h", 2, DAY + WEEK + YEAR),
        ("15min", 0, DAY + WEEK),
        ("7h", 0, WEEK),  # seven hours do not divide a day
        ("1d", 3, WEEK + YEAR),
        ("1bd", 0, WEEK),
        ("1w", 3, YEAR),
        ("1mo", 5, YEAR),
        ("1mo", 1, []),
        ("1", 100, []),
    ],
)
def test_what_a_grid_knows_of_the_calendar(frequency, years, names):
    assert calendar_names(Frequency.from_text(frequency), years) == tuple(names)


def features(time, *names):
    return calendar_features(np.array([time], dtype="datetime64[us]"), names)[0]


@pytest.mark.parametrize(
    ("date", "weekday"),
    [
        ("1970-01-01", 3),
        ("2000-02-29", 1),
        ("2024-01-01", 0),
        ("1969-07-20T20:17", 6),  # the first landing on the moon, a Sunday before the epoch
        ("1901-01-22T18:30", 1),
    ],
)
def test_weekdays_of_known_dates(date, weekday):
    assert features(date, *WEEK).tolist() == [float(day == weekday) for day in range(7)]


@pytest.mark.parametrize(
    ("clock", "sine", "cosine"), [("00:00", 0, 1), ("06:00", 1, 0), ("12:00", 0, -1), ("18:00", -1, 0)]
)
@pytest.mark.parametrize("day", ["2024-05-17", "1960-05-17"])
def test_time_of_day(day, clock, sine, cosine):
    np.testing.assert_allclose(
        features(f"{day}T{clock}", "sin-day-1", "cos-day-1"), [sine, cosine], atol=1e-6
    )


def test_time_of_year():
    np.testing.assert_allclose(features("2023-01-01", *YEAR), [0, 1, 0, 1], atol=1e-6)
    # the second of July at noon is the middle of a common year
    np.testing.assert_allclose(features("2023-07-02T12:00", "sin-year-1", "cos-year-1"), [0, -1], atol=5e-3)


@given(
    st.lists(st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2099, 12, 31)), min_size=1, max_size=5),
    st.integers(1, 4),
)
def test_features_equal_the_standard_library(times, k):
    found = calendar_features(
        np.array(times, dtype="datetime64[us]"), (f"sin-day-{k}", f"cos-year-{k}", *WEEK)
    )
    assert found.dtype == np.float32
    for row, time in zip(found, times, strict=True):
        midnight = dt.datetime(time.year, time.month, time.day)
        day = (time - midnight) / dt.timedelta(days=1)
        year = (time - dt.datetime(time.year, 1, 1)) / dt.timedelta(days=365.25)
        assert row[0] == pytest.approx(np.sin(2 * np.pi * k * day), abs=1e-6)
        assert row[1] == pytest.approx(np.cos(2 * np.pi * k * year), abs=1e-6)
        assert row[2:].tolist() == [float(time.weekday() == d) for d in range(7)]


def test_integer_times_have_no_features():
    assert calendar_features(np.arange(5), ()).shape == (5, 0)
