"""Time grids: arithmetic, text, and inference from times with gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewright.data.frequency import OFF_GRID, Frequency, infer_frequency, with_month_ends
from gatewright.errors import InputError

HOUR, DAY = 3_600_000_000, 86_400_000_000


def moments(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[us]")


def frequencies() -> st.SearchStrategy[Frequency]:
    return st.one_of(
        st.builds(Frequency, st.just("count"), st.integers(1, 500)),
        st.builds(Frequency, st.just("microseconds"), st.integers(1, 40 * DAY)),
        st.builds(Frequency, st.just("months"), st.integers(1, 30), st.booleans()),
        st.builds(Frequency, st.just("business-days"), st.integers(1, 12)),
    )


def origins(frequency: Frequency) -> st.SearchStrategy[np.datetime64 | int]:
    if frequency.unit == "count":
        return st.integers(-(10**6), 10**6)
    start = np.datetime64("1970-01-01", "us")
    datetimes = st.integers(0, 80 * 365 * DAY).map(lambda us: start + np.timedelta64(us, "us"))
    if frequency.unit == "months":
        # From the 29th on a day is not in every month: `after` moves it, and inference refuses it.
        return datetimes.filter(lambda time: time.item().day <= 28)
    return datetimes


@pytest.mark.parametrize(
    ("text", "label", "seasons"),
    [
        ("1h", "1 hour", (24, 168)),
        ("30min", "30 minutes", (48, 336)),
        ("15min", "15 minutes", (96, 672)),
        ("5min", "5 minutes", (288, 2016)),
        ("1d", "1 day", (7,)),
        ("1w", "1 week", (52,)),
        ("1mo", "1 month", (12,)),
        ("1mo-end", "1 month", (12,)),
        ("1q", "1 quarter", (4,)),
        ("1y", "1 year", ()),
        ("1bd", "1 business day", (5,)),
        ("1", "1 step", ()),
        ("5", "5 steps", ()),
        ("6mo", "6 months", (2,)),
        ("2y", "2 years", ()),
        ("7h", "7 hours", (24,)),
        ("250ms", "250 milliseconds", ()),
        ("1us", "1 microsecond", ()),
    ],
)
def test_text_label_and_seasons(text: str, label: str, seasons: tuple[int, ...]):
    frequency = Frequency.from_text(text)
    assert frequency.to_text() == text
    assert frequency.label == label
    assert frequency.seasons == seasons


@given(frequencies())
def test_text_round_trip(frequency: Frequency):
    assert Frequency.from_text(frequency.to_text()) == frequency


@pytest.mark.parametrize(
    "text", ["", "h1", "0h", "1 fortnight", "-1h", "1.5h", "1bd-end", "1h-end", "9" * 18 + "y"]
)
def test_text_that_is_no_frequency(text: str):
    with pytest.raises(InputError, match="no frequency is written") as caught:
        Frequency.from_text(text)
    assert "15min" in caught.value.hint


def test_text_is_forgiving_about_case_and_number():
    assert Frequency.from_text(" H ") == Frequency.from_text("1 h") == Frequency("microseconds", HOUR)


@pytest.mark.parametrize(
    ("unit", "step", "ends"), [("count", 0, False), ("weeks", 1, False), ("count", 1, True)]
)
def test_impossible_frequency(unit: str, step: int, ends: bool):
    with pytest.raises(InputError):
        Frequency(unit, step, ends)  # pyright: ignore[reportArgumentType]


def test_after_on_calendars():
    assert list(Frequency("months", 1, month_end=True).after(np.datetime64("2012-01-31"), 3)) == list(
        moments("2012-02-29", "2012-03-31", "2012-04-30")
    )
    assert list(Frequency("months", 1).after(np.datetime64("2011-11-15T06:00"), 2)) == list(
        moments("2011-12-15T06:00", "2012-01-15T06:00")
    )
    assert list(Frequency("business-days", 1).after(np.datetime64("2011-01-06T09:00"), 3)) == list(
        moments("2011-01-07T09:00", "2011-01-10T09:00", "2011-01-11T09:00")
    )
    assert list(Frequency("count", 5).after(2010, 2)) == [2015, 2020]


@given(st.data(), frequencies(), st.integers(0, 40))
def test_position_undoes_after(data: st.DataObject, frequency: Frequency, n: int):
    first = frequency.at(data.draw(origins(frequency)), np.array([1]))[0]
    grid = frequency.after(first, n)
    assert grid.dtype == (np.int64 if frequency.unit == "count" else "datetime64[us]")
    assert np.all(np.diff(grid).astype(np.int64) > 0)
    assert frequency.position(grid, first).tolist() == list(range(1, n + 1))
    back = frequency.at(first, -np.arange(n))
    assert frequency.position(back, first).tolist() == [-k for k in range(n)]


@given(
    st.data(), frequencies().filter(lambda f: f.unit != "count" and (f.unit, f.step) != ("microseconds", 1))
)
def test_position_rejects_times_between(data: st.DataObject, frequency: Frequency):
    first = frequency.at(data.draw(origins(frequency)), np.array([1]))[0]
    grid = frequency.after(first, 5)
    assert np.all(frequency.position(grid + np.timedelta64(1, "us"), first) == OFF_GRID)


@st.composite
def gappy(draw: st.DrawFn, frequency: Frequency, length: int = 40) -> np.ndarray:
    """Times on a grid of which single steps are missing, never two steps in a row."""
    origin = frequency.at(draw(origins(frequency)), np.array([1]))[0]
    keep = np.ones(length, dtype=bool)
    gaps = draw(st.lists(st.integers(1, length // 4 - 1), max_size=5, unique=True))
    keep[[4 * gap for gap in gaps]] = False
    return frequency.at(origin, np.arange(length))[keep]


@given(st.data(), frequencies())
def test_inference_recovers_the_grid(data: st.DataObject, frequency: Frequency):
    if frequency.unit == "business-days":
        frequency = Frequency("business-days", 1)
    series = [data.draw(gappy(frequency)) for _ in range(data.draw(st.integers(1, 3)))]
    found = infer_frequency(series)
    again = [found.at(times[0], found.position(times, times[0])) for times in series]
    assert all(np.array_equal(a, b) for a, b in zip(again, series, strict=True))
    if frequency.unit == "months":
        # Every second 28 February is a month end as well as a 28th.
        assert found == frequency or (found.month_end and found.step == frequency.step)
    else:
        assert found.after(series[0][-1], 3).tolist() == frequency.after(series[0][-1], 3).tolist()


def test_infers_through_long_gaps():
    hours = np.datetime64("2011-01-01", "us") + np.timedelta64(HOUR, "us") * np.r_[0:50, 200:260, 9000:9001]
    assert infer_frequency([hours]).to_text() == "1h"


@pytest.mark.parametrize(
    ("times", "text"),
    [
        (("2011-01-01", "2011-02-01", "2011-04-01", "2011-05-01"), "1mo"),
        (("2011-01-31", "2011-02-28", "2011-04-30"), "1mo-end"),
        (("2011-03-31", "2011-06-30", "2011-09-30", "2012-03-31"), "1q-end"),
        (("2010-07-01", "2011-07-01", "2012-07-01"), "1y"),
        (("2011-01-03", "2011-01-10", "2011-01-24", "2011-01-31"), "1w"),
        (("2011-01-01", "2011-01-31", "2011-03-02", "2011-04-01"), "30d"),
    ],
)
def test_infers_calendars(times: tuple[str, ...], text: str):
    assert infer_frequency([moments(*times)]).to_text() == text


def test_business_days_need_two_weeks_without_a_weekend():
    days = np.busday_offset(np.datetime64("2011-01-03"), np.arange(15))
    assert infer_frequency([days]).to_text() == "1bd"
    assert infer_frequency([np.delete(days, [3, 8])]).to_text() == "1bd"
    assert infer_frequency([days[:8]]).to_text() == "1d"
    assert infer_frequency([np.append(days, np.datetime64("2011-01-22"))]).to_text() == "1d"


def test_one_common_frequency_and_each_series_its_own_phase():
    on_the_hour = moments("2011-01-01T00:00", "2011-01-01T01:00", "2011-01-01T02:00")
    half_past = on_the_hour[:2] + np.timedelta64(30, "m")
    assert infer_frequency([on_the_hour, half_past, on_the_hour[:1]]).to_text() == "1h"
    with pytest.raises(InputError, match="irregular frequency"):
        infer_frequency([on_the_hour, moments("2011-01-01T00:00", "2011-01-01T00:20")])


def test_irregular_times_are_listed_with_their_series_and_difference():
    times = np.datetime64("2011-01-01", "us") + np.timedelta64(HOUR, "us") * np.arange(10)
    stray = times.copy()
    stray[4] += np.timedelta64(20, "m")
    with pytest.raises(InputError) as caught:
        infer_frequency([times, stray], ["a", "b"])
    message = caught.value.message
    assert "irregular frequency: expected steps of 1 hour" in message
    assert "1 time is off" in message
    assert "(b, 2011-01-01 04:20:00) 1 hour 20 minutes after the time before it" in message
    assert "--frequency" in caught.value.hint


def test_a_stray_first_time_is_the_one_blamed():
    times = np.datetime64("2011-01-01", "us") + np.timedelta64(HOUR, "us") * np.arange(10)
    times[0] += np.timedelta64(5, "m")
    with pytest.raises(InputError, match=r"1 time is off that grid: 2011-01-01 00:05:00, the first time"):
        infer_frequency([times])


def test_a_stray_month_is_named_against_months():
    with pytest.raises(
        InputError, match=r"expected steps of 1 month, but 1 time is .* 2011-04-02 32 days after"
    ):
        infer_frequency(
            [moments("2011-01-01", "2011-02-01", "2011-03-01", "2011-04-02", "2011-05-01", "2011-06-01")]
        )


def test_month_days_that_do_not_exist_everywhere_are_irregular():
    with pytest.raises(InputError, match="expected steps of 1 month") as caught:
        infer_frequency([moments("2011-01-30", "2011-02-28", "2011-03-30", "2011-04-30")])
    assert "not every month has a day 30" in caught.value.hint
    assert "last day" in caught.value.hint


def test_single_times():
    assert infer_frequency([np.array([3])]) == Frequency("count", 1)
    with pytest.raises(InputError, match="cannot be inferred") as caught:
        infer_frequency([moments("2011-01-01")])
    assert "--frequency" in caught.value.hint


def test_month_ends_are_recognised_in_a_given_frequency():
    monthly = Frequency("months", 1)
    assert with_month_ends(monthly, [moments("2011-02-28", "2011-03-31")]).month_end
    assert not with_month_ends(monthly, [moments("2011-02-28", "2011-03-28")]).month_end
    assert with_month_ends(Frequency("count", 1), [np.array([1])]) == Frequency("count", 1)
