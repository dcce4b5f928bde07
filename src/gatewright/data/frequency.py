"""Regular time grids: what a frequency is, how it is written, and how it is inferred from times with gaps."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from gatewright.data.wording import MICROSECONDS, duration_text, listed, plural, point_text
from gatewright.errors import InputError

OFF_GRID = int(np.iinfo(np.int64).min)
"""What `Frequency.position` says of a time that is not on the grid."""

Unit = Literal["count", "microseconds", "months", "business-days"]

_DAY = MICROSECONDS["day"]
_SUFFIXES: dict[str, tuple[Unit, int]] = {
    "y": ("months", 12),
    "q": ("months", 3),
    "mo": ("months", 1),
    "bd": ("business-days", 1),
    "w": ("microseconds", MICROSECONDS["week"]),
    "d": ("microseconds", _DAY),
    "h": ("microseconds", MICROSECONDS["hour"]),
    "min": ("microseconds", MICROSECONDS["minute"]),
    "s": ("microseconds", MICROSECONDS["second"]),
    "ms": ("microseconds", 1_000),
    "us": ("microseconds", 1),
    "": ("count", 1),
}
_FORMS = "15min, 1h, 1d, 1w, 1mo, 1q, 1y, 1bd (business days), 30s, 1 (counting), or 1mo-end, 1q-end, 1y-end"
_LARGEST_STEP = 2**53


@dataclass(frozen=True)
class Frequency:
    """A regular time grid: a fixed step, a number of months, business days, or plain counting.

    Attributes:
        unit: what `step` counts; `count` goes with integer times, all others with datetimes.
        step: the distance between neighbours on the grid, at least 1.
        month_end: the grid is the last day of each month; only with `months`.
    """

    unit: Unit
    step: int
    month_end: bool = False

    def __post_init__(self) -> None:
        known = {unit for unit, _ in _SUFFIXES.values()}
        if self.unit not in known or not 1 <= self.step <= _LARGEST_STEP:
            raise InputError(f"no frequency has unit {self.unit!r} and step {self.step}")
        if self.month_end and self.unit != "months":
            raise InputError(f"month ends need a frequency in months, not in {self.unit}")

    @property
    def label(self) -> str:
        """The step in words: `1 hour`, `15 minutes`, `1 quarter`, `1 business day`, `1 step`."""
        if self.unit == "count":
            return plural(self.step, "step")
        if self.unit == "business-days":
            return plural(self.step, "business day")
        if self.unit == "months":
            if self.step == 3:
                return "1 quarter"
            return plural(self.step // 12, "year") if self.step % 12 == 0 else plural(self.step, "month")
        noun, size = next((n, s) for n, s in MICROSECONDS.items() if self.step % s == 0)
        return plural(self.step // size, noun)

    @property
    def seasons(self) -> tuple[int, ...]:
        """Natural season lengths in steps, shortest first; empty where none is known."""
        if self.unit == "business-days":
            return (5,) if self.step == 1 else ()
        if self.unit == "months":
            cycles: tuple[int, ...] = (12,)
        elif self.unit == "microseconds" and self.step == MICROSECONDS["week"]:
            return (52,)
        elif self.unit == "microseconds" and self.step >= MICROSECONDS["second"]:
            cycles = (_DAY, MICROSECONDS["week"])
        else:
            return ()
        return tuple(c // self.step for c in cycles if c % self.step == 0 and c > self.step)

    def to_text(self) -> str:
        """Write the frequency for a configuration file: `1h`, `15min`, `1mo`, `1mo-end`, `1bd`, `1`."""
        for suffix, (unit, size) in _SUFFIXES.items():
            if unit == self.unit and self.step % size == 0 and (suffix != "q" or self.step == 3):
                return f"{self.step // size}{suffix}" + ("-end" if self.month_end else "")
        raise AssertionError("every unit has a suffix of size 1")

    @staticmethod
    def from_text(text: str) -> Frequency:
        """Read what `to_text` writes; a missing number means 1.

        Args:
            text: e.g. `15min`; spaces and case do not matter.

        Returns:
            The frequency.

        Raises:
            InputError: the text is none of the accepted forms.
        """
        match = re.fullmatch(r"([0-9]{0,18}) *([a-z]*)(-end)?", text.strip().lower())
        if match is None or match[2] not in _SUFFIXES or not (match[1] or match[2]):
            raise InputError(f"no frequency is written {text!r}", f"write one of {_FORMS}")
        unit, size = _SUFFIXES[match[2]]
        step = int(match[1] or 1) * size
        if not 1 <= step <= _LARGEST_STEP or (match[3] and unit != "months"):
            raise InputError(f"no frequency is written {text!r}", f"write one of {_FORMS}")
        return Frequency(unit, step, month_end=bool(match[3]))

    def at(self, origin: np.datetime64 | int, index: np.ndarray) -> np.ndarray:
        """Return the grid times `index` steps after `origin` (before it where negative).

        Days 29 to 31 become the last day of shorter months; business days that start on a weekend
        count from the Friday before.
        """
        steps = np.asarray(index, dtype=np.int64) * self.step
        if self.unit == "count":
            return np.int64(origin) + steps
        start = _instant(origin)
        if self.unit == "microseconds":
            return start + steps.astype("timedelta64[us]")
        day = start.astype("datetime64[D]")
        time_of_day = start - day
        if self.unit == "business-days":
            return np.busday_offset(day, steps, roll="backward") + time_of_day
        months = start.astype("datetime64[M]") + steps
        first = months.astype("datetime64[D]")
        last = (months + 1).astype("datetime64[D]") - 1
        wanted = last if self.month_end else first + (day - start.astype("datetime64[M]"))
        return np.minimum(wanted, last) + time_of_day

    def after(self, last: np.datetime64 | int, n: int) -> np.ndarray:
        """Return the `n` grid times that follow `last`, `datetime64[us]` or `int64`."""
        return self.at(last, np.arange(1, n + 1))

    def position(self, times: np.ndarray, origin: np.datetime64 | int) -> np.ndarray:
        """Return the grid index of each time relative to `origin`, `OFF_GRID` where it is on no index."""
        if self.unit == "count":
            steps = np.asarray(times, dtype=np.int64) - np.int64(origin)
        else:
            times = _as_times(times)
            steps = self._steps(times, _instant(origin))
        index = steps // self.step
        if self.unit in ("count", "microseconds"):
            return np.where(steps % self.step == 0, index, OFF_GRID)
        return np.where(self.at(origin, index) == times, index, OFF_GRID)

    def _steps(self, times: np.ndarray, origin: np.datetime64) -> np.ndarray:
        """Count single units from `origin` to each datetime, right wherever the time is on the grid."""
        if self.unit == "microseconds":
            return (times - origin).astype(np.int64)
        if self.unit == "months":
            return (times.astype("datetime64[M]") - origin.astype("datetime64[M]")).astype(np.int64)
        return np.busday_count(origin.astype("datetime64[D]"), times.astype("datetime64[D]")).astype(np.int64)


def infer_frequency(times_by_series: Sequence[np.ndarray], ids: Sequence[str] | None = None) -> Frequency:
    """Find the one grid on which the times of all series lie, gaps allowed.

    The step is the most common difference, and every difference must be a whole multiple of it.
    Datetimes that share the day of the month (or are all month ends) and the time of day make a grid
    of months; two weeks and more of days without a weekend make one of business days.

    Args:
        times_by_series: one array a series, strictly increasing, `datetime64` or integers.
        ids: names for messages, one a series.

    Returns:
        The frequency of all series.

    Raises:
        InputError: no series has two times, or some times are off the grid.
    """
    arrays = [_as_times(times) for times in times_by_series]
    if arrays and arrays[0].dtype.kind == "i":
        steps = [np.diff(times) for times in arrays if len(times) > 1]
        frequency = Frequency("count", _most_common(np.concatenate(steps)) if steps else 1)
        check_on_grid(frequency, arrays, ids)
        return frequency
    if not any(len(times) > 1 for times in arrays):
        raise InputError(
            "the frequency cannot be inferred: no series has two different times",
            "say how far apart times are, e.g. --frequency 1d",
        )
    found = _months(arrays) or _business_days(arrays)
    if found is None:
        step = _most_common(np.concatenate([np.diff(times).astype(np.int64) for times in arrays]))
        found = Frequency("microseconds", step)
        days, rest = divmod(step, _DAY)
        near = next((m for m, spans in _MONTH_SPANS.items() if rest == 0 and days in spans), None)
        if near is not None and _off_grid(found, arrays):
            found = Frequency("months", near)
    check_on_grid(found, arrays, ids)
    return found


_MONTH_SPANS = {1: range(28, 32), 3: range(89, 93), 12: range(365, 367)}


def with_month_ends(frequency: Frequency, times_by_series: Sequence[np.ndarray]) -> Frequency:
    """Turn a frequency in months into its month-end form where every time is the last day of a month."""
    if frequency.unit != "months" or not all(_is_month_end(_as_times(t)).all() for t in times_by_series):
        return frequency
    return replace(frequency, month_end=True)


def check_on_grid(
    frequency: Frequency, times_by_series: Sequence[np.ndarray], ids: Sequence[str] | None = None
) -> None:
    """Raise an InputError that lists the first times off the grid, if there are any."""
    off = _off_grid(frequency, times_by_series)
    if not off:
        return
    examples = []
    for series, row in off[:4]:
        times = times_by_series[series]
        name = None if ids is None else ids[series]
        if row == 0:
            examples.append(f"{point_text(name, times[0])}, the first time,")
        else:
            gap = int((times[row] - times[row - 1]).astype(np.int64))
            span = duration_text(gap) if times.dtype.kind == "M" else str(gap)
            examples.append(f"{point_text(name, times[row])} {span} after the time before it")
    be = "time is" if len(off) == 1 else "times are"
    raise InputError(
        f"irregular frequency: expected steps of {frequency.label}, but {len(off):,} {be} off that grid: "
        + listed(examples, len(off)),
        _remedy(frequency, [times_by_series[series] for series, _ in off]),
    )


def _remedy(frequency: Frequency, times_by_series: Sequence[np.ndarray]) -> str:
    """Say what to do about times off a grid."""
    if frequency.unit == "months" and not frequency.month_end:
        last = (
            max(
                int(_since_month_start(times).max().astype("timedelta64[D]").astype(int))
                for times in times_by_series
            )
            + 1
        )
        if last > 28:
            return f"not every month has a day {last}: write the first day of each month, or the last day"
    return "round or resample the times to a regular grid, or pass the right step, e.g. --frequency 1h"


def _off_grid(frequency: Frequency, times_by_series: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Return (series, row) of every time off the grid that most times of its series share."""
    off: list[tuple[int, int]] = []
    for number, times in enumerate(times_by_series):
        # Were the first time alone the stray one, every other would be blamed: try three origins.
        masks = [_is_off(frequency, times, origin) for origin in times[:3]]
        if masks:
            best = min(masks, key=np.count_nonzero)
            off.extend((number, int(row)) for row in np.flatnonzero(best))
    return off


def _is_off(frequency: Frequency, times: np.ndarray, origin: np.datetime64) -> np.ndarray:
    mask = frequency.position(times, origin) == OFF_GRID
    if frequency.unit == "months" and not frequency.month_end:
        # 30 January, 28 February: nothing would say on which day the grid goes on.
        mask |= _since_month_start(times) != _since_month_start(np.array([origin]))
    return mask


def _as_times(times: np.ndarray) -> np.ndarray:
    times = np.asarray(times)
    return times.astype("datetime64[us]" if times.dtype.kind == "M" else np.int64)


def _instant(time: np.datetime64 | int) -> np.datetime64:
    return np.array([time]).astype("datetime64[us]")[0]


def _most_common(differences: np.ndarray) -> int:
    sizes, counts = np.unique(differences.astype(np.int64), return_counts=True)
    return int(sizes[np.argmax(counts)])


def _since_month_start(times: np.ndarray) -> np.ndarray:
    return times - times.astype("datetime64[M]")


def _is_month_end(times: np.ndarray) -> np.ndarray:
    return (times.astype("datetime64[D]") + 1).astype("datetime64[M]") != times.astype("datetime64[M]")


def _one_time_of_day(times: np.ndarray) -> bool:
    clock = times - times.astype("datetime64[D]")
    return bool(np.all(clock == clock[:1]))


def _months(arrays: Sequence[np.ndarray]) -> Frequency | None:
    """Return the grid of months when every series keeps to one day of the month, or to month ends."""
    ends = all(_is_month_end(times).all() and _one_time_of_day(times) for times in arrays)
    if not ends:
        since = [_since_month_start(times) for times in arrays]
        if not all(np.all(each == each[:1]) for each in since):
            return None
    steps = [np.diff(times.astype("datetime64[M]")).astype(np.int64) for times in arrays]
    return Frequency("months", _most_common(np.concatenate(steps)), month_end=ends)


def _business_days(arrays: Sequence[np.ndarray]) -> Frequency | None:
    """Return business days when a span of two weeks or more has most weekdays and no weekend."""
    if not all(_one_time_of_day(times) for times in arrays):
        return None
    days = [times.astype("datetime64[D]") for times in arrays if len(times)]
    if not all(np.is_busday(each).all() for each in days):
        return None
    if max(int((each[-1] - each[0]).astype(np.int64)) for each in days) < 14:
        return None
    if _most_common(np.concatenate([np.diff(each) for each in days])) != 1:
        return None
    expected = sum(int(np.busday_count(each[0], each[-1])) + 1 for each in days)
    return Frequency("business-days", 1) if 2 * sum(map(len, days)) >= expected else None
