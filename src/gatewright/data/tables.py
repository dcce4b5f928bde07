"""From a long table to a panel: checked series on one regular time grid, gaps and missing values masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

import narwhals as nw
import numpy as np
from narwhals.typing import IntoDataFrame

from gatewright.data.columns import find_column, numbers, series_ids
from gatewright.data.files import read_table
from gatewright.data.frequency import Frequency, check_on_grid, infer_frequency, with_month_ends
from gatewright.data.timestamps import Times, looks_like_times, read_times
from gatewright.data.wording import listed, plural, point_text, time_text
from gatewright.errors import InputError

__all__ = ["Panel", "Series", "make_panel", "read_table"]

_EXAMPLES = 4
_LARGEST_SPARSE_GRID = 1_000_000
_SPARSE = 50


@dataclass(frozen=True, eq=False)
class Series:
    """One series on its regular grid.

    Attributes:
        id: its name; empty in a table without ids.
        times: `[T]`, `datetime64[us]` or `int64`, every grid time from the first value to the last.
        values: `[T]`, `float64`, NaN where missing; the first and the last are observed.
    """

    id: str
    times: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class Panel:
    """The series of a table, in order of first appearance, and how they were read.

    Attributes:
        series: at least one.
        frequency: the grid all series share; each has its own first time.
        target: name of the column the values come from.
        time: name of the time column; None where rows were taken in file order, numbered from 1.
        id: name of the id column; None for a single series.
        notes: sentences for a person on what was inferred, masked and trimmed.
        row_step: usual distance between neighbouring rows, with a value or without, in steps of the grid.
    """

    series: tuple[Series, ...]
    frequency: Frequency
    target: str
    time: str | None
    id: str | None
    notes: tuple[str, ...]
    row_step: float = 1.0


@dataclass(frozen=True, eq=False)
class _Group:
    """The rows of one series, in order of time."""

    id: str | None
    rows: np.ndarray
    times: np.ndarray
    values: np.ndarray


def make_panel(
    frame: IntoDataFrame,
    *,
    target: str,
    time: str | None = None,
    id: str | None = None,  # noqa: A002 - the command line's own word
    frequency: Frequency | None = None,
    sort: bool = False,
) -> Panel:
    """Check a long table and put each series on its regular grid.

    Nothing is invented: a grid time without a row and a row without a value are NaN. Rows without a
    value before the first or after the last observed one are dropped.

    Args:
        frame: a pandas or polars DataFrame, or another that narwhals reads eagerly.
        target: the column to forecast.
        time: the time column; without it rows count in file order.
        id: the column that tells several series apart.
        frequency: the grid; inferred from the times when None.
        sort: sort the rows by time rather than refuse unsorted ones.

    Returns:
        The series with their frequency and notes.

    Raises:
        InputError: a column, value, time or grid is not as it must be; raised before any work.
    """
    table = _opened(frame, target, time, id)
    values = numbers(table[target])
    ids = None if id is None else series_ids(table[id])
    read = _row_numbers(ids, len(values)) if time is None else read_times(table[time])
    _check_kind(frequency, read.values, time)
    _check_observed(values, ids, target)
    notes = list(read.notes) if time is not None else _file_order_notes(table, target, id)

    groups, moved = _grouped(ids, read.values, values)
    _check_distinct(groups, table, target, id, read, time)
    if len(moved):
        if not sort:
            raise _unsorted(time, int(moved[0]), read.values)
        notes.append("Rows were sorted by time.")

    names = None if id is None else [str(group.id) for group in groups]
    times = [group.times for group in groups]
    if frequency is None:
        frequency = infer_frequency(times, names)
        if time is not None:
            notes.insert(0, f"Frequency: {frequency.label}, inferred from the times.")
    else:
        frequency = with_month_ends(frequency, times)
        check_on_grid(frequency, times, names)
    _check_grid_size(groups, frequency)
    series = tuple(_on_grid(group, frequency) for group in groups)
    notes += _missing_notes(groups, series, frequency) + _trim_notes(groups) + _constant_notes(series)
    return Panel(series, frequency, target, time, id, tuple(notes), _row_step(groups, frequency))


def _opened(frame: IntoDataFrame, target: str, time: str | None, id_: str | None) -> nw.DataFrame:
    """Wrap the frame and check that its columns can play their roles."""
    try:
        table = nw.from_native(frame, eager_only=True)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected a pandas or polars DataFrame with distinct column names, "
            f"received {type(frame).__name__}: {str(error).splitlines()[0]}",
            "collect a lazy frame and rename repeated columns first",
        ) from None
    roles = {"--target": target, "--time": time, "--id": id_}
    given = {role: name for role, name in roles.items() if name is not None}
    for role, name in given.items():
        find_column(table, name, role)
        twin = next((other for other in given if other != role and given[other] == name), None)
        if twin is not None:
            raise InputError(
                f"column {name!r} is given for both {role} and {twin}", "each role needs a column of its own"
            )
    if len(table) == 0:
        raise InputError("the table has no rows", "the table needs at least one row of data")
    return table


def _row_numbers(ids: list[str] | None, rows: int) -> Times:
    """Number the rows of each series from 1, in file order."""
    if ids is None:
        return Times(np.arange(1, rows + 1))
    seen: dict[str, int] = {}
    counted = np.empty(rows, dtype=np.int64)
    for row, name in enumerate(ids):
        counted[row] = seen[name] = seen.get(name, 0) + 1
    return Times(counted)


def _check_kind(frequency: Frequency | None, times: np.ndarray, time: str | None) -> None:
    """Refuse a given frequency that does not go with the kind of times."""
    if frequency is None or (frequency.unit == "count") == (times.dtype.kind == "i"):
        return
    if time is None:
        raise InputError(
            f"a frequency of {frequency.label} needs a time column", "pass --time with the name of the column"
        )
    if frequency.unit == "count":
        raise InputError(
            f"the frequency {frequency.to_text()!r} counts integers, but column {time!r} holds dates",
            "pass a frequency with a unit, e.g. --frequency 1h",
        )
    raise InputError(
        f"a frequency of {frequency.label} needs dates, but column {time!r} holds integers",
        "write the times as ISO 8601 dates, or pass --frequency 1",
    )


def _check_observed(values: np.ndarray, ids: list[str] | None, target: str) -> None:
    """Refuse a table or a series without a single value."""
    observed = ~np.isnan(values)
    if not observed.any():
        raise InputError(
            f"all values of the target column {target!r} are missing",
            "name a column of numbers with --target",
        )
    if ids is None:
        return
    alive = {name for name, seen in zip(ids, observed, strict=True) if seen}
    dead = [name for name in dict.fromkeys(ids) if name not in alive]
    if dead:
        raise InputError(
            f"all values are missing in {plural(len(dead), 'series')}: "
            + listed(map(repr, dead[:_EXAMPLES]), len(dead)),
            "drop the rows of such series, or fill in their values",
        )


def _file_order_notes(table: nw.DataFrame, target: str, id_: str | None) -> list[str]:
    notes = ["No --time was given: rows are taken in file order and numbered from 1."]
    others = [name for name in table.columns if name not in (target, id_)]
    like = [str(name) for name in others if looks_like_times(table[name])]
    if like:
        notes.append(f"Column {like[0]!r} looks like timestamps: pass --time {quote(like[0])} to use it.")
    return notes


def _grouped(ids: list[str] | None, times: np.ndarray, values: np.ndarray) -> tuple[list[_Group], np.ndarray]:
    """Split rows by series and sort each by time; also return the rows that stood out of order."""
    if ids is None:
        names: list[str | None] = [None]
        codes = np.zeros(len(times), dtype=np.int64)
    else:
        known = {name: code for code, name in enumerate(dict.fromkeys(ids))}
        names = list(known)
        codes = np.fromiter((known[name] for name in ids), dtype=np.int64, count=len(ids))
    as_filed = np.argsort(codes, kind="stable")
    back = (np.diff(times[as_filed]).astype(np.int64) < 0) & (np.diff(codes[as_filed]) == 0)
    order = np.lexsort((times, codes))
    cuts = np.flatnonzero(np.diff(codes[order])) + 1
    groups = [
        _Group(name, rows, times[rows], values[rows])
        for name, rows in zip(names, np.split(order, cuts), strict=True)
    ]
    return groups, np.sort(as_filed[1:][back])


def _check_distinct(
    groups: Sequence[_Group],
    table: nw.DataFrame,
    target: str,
    id_: str | None,
    read: Times,
    time: str | None,
) -> None:
    """Refuse two rows of one series at the same time."""
    found, examples, clocks = 0, [], []
    for group in groups:
        again = np.flatnonzero(np.diff(group.times).astype(np.int64) == 0) + 1
        found += len(again)
        for place in map(int, again[: _EXAMPLES - len(examples)]):
            rows = f"rows {group.rows[place - 1] + 1} and {group.rows[place] + 1}"
            examples.append(f"{point_text(group.id, group.times[place])} in {rows}")
        clocks.append(group.times[again])
    if not found:
        return
    others = [repr(name) for name in table.columns if name not in (target, time)]
    if read.cut:
        hint = "times are read to the microsecond: count finer ones as integers, or aggregate the rows"
    elif _is_clock_change(np.concatenate(clocks)):
        hint = "clock times repeat when daylight saving ends: write UTC, or times with their offset"
    elif id_ is None and others:
        hint = f"pass --id if the table holds several series (one of {', '.join(others[:8])}), or aggregate"
    else:
        hint = "aggregate the rows that share a time, or drop all but one"
    verb = "repeats" if found == 1 else "repeat"
    raise InputError(
        f"duplicate times in column {time!r}: {plural(found, 'row')} {verb} a time of the same series: "
        + listed(examples, found),
        hint,
    )


def _unsorted(time: str | None, row: int, times: np.ndarray) -> InputError:
    return InputError(
        f"the times of column {time!r} are not sorted: row {row + 1} ({time_text(times[row])}) "
        "is earlier than the row of the same series before it",
        "sort the table by time, or pass --sort",
    )


def _is_clock_change(times: np.ndarray) -> bool:
    """Tell whether all times fall in the small hours of Sundays in the months when clocks change."""
    if times.dtype.kind != "M":
        return False
    days = times.astype("datetime64[D]")
    minutes = (times - days).astype("timedelta64[m]").astype(np.int64)
    weekday = (days.astype(np.int64) + 3) % 7
    month = times.astype("datetime64[M]").astype(np.int64) % 12 + 1
    small_hours = (minutes >= 60) & (minutes < 240)
    return bool(np.all((weekday == 6) & small_hours & np.isin(month, (3, 4, 9, 10, 11))))


def _check_grid_size(groups: Sequence[_Group], frequency: Frequency) -> None:
    """Refuse a grid far larger than the table, which one mistyped time can cause."""
    rows = sum(len(group.times) for group in groups)
    steps = sum(int(frequency.position(group.times[-1:], group.times[0])[0]) + 1 for group in groups)
    if steps <= max(_SPARSE * rows, _LARGEST_SPARSE_GRID):
        return
    gaps = [(np.diff(g.times).astype(np.int64).max(), g) for g in groups if len(g.times) > 1]
    group = max(gaps, key=lambda gap: gap[0])[1]
    place = int(np.argmax(np.diff(group.times).astype(np.int64)))
    raise InputError(
        f"the times span {steps:,} steps of {frequency.label}, but the table has only {plural(rows, 'row')}: "
        f"the largest gap is between {point_text(group.id, group.times[place])} and "
        f"{point_text(group.id, group.times[place + 1])} (row {group.rows[place + 1] + 1})",
        "correct a mistyped time, or pass a coarser --frequency",
    )


def _observed(group: _Group) -> tuple[int, int]:
    """Return the places of the first observed value and of the one after the last."""
    seen = np.flatnonzero(~np.isnan(group.values))
    return int(seen[0]), int(seen[-1]) + 1


def _on_grid(group: _Group, frequency: Frequency) -> Series:
    start, stop = _observed(group)
    times, values = group.times[start:stop], group.values[start:stop]
    place = frequency.position(times, times[0])
    regular = np.full(int(place[-1]) + 1, np.nan)
    regular[place] = values
    return Series(group.id or "", frequency.at(times[0], np.arange(len(regular))), regular)


def _row_step(groups: Sequence[_Group], frequency: Frequency) -> float:
    """Return the median distance between neighbouring rows in steps, 1 where no series has two."""
    steps = [np.diff(frequency.position(group.times, group.times[0])) for group in groups]
    distances = np.concatenate(steps)
    return float(np.median(distances)) if len(distances) else 1.0


def _missing_notes(groups: Sequence[_Group], series: Sequence[Series], frequency: Frequency) -> list[str]:
    """Say how many grid times were masked, apart by whether they had a row, with the first few."""
    counts, examples = {"row": 0, "value": 0}, {"row": [], "value": []}
    for group, regular in zip(groups, series, strict=True):
        has_row = np.zeros(len(regular.times), dtype=bool)
        start, stop = _observed(group)
        has_row[frequency.position(group.times[start:stop], regular.times[0])] = True
        masked = np.isnan(regular.values)
        for lack, mask in (("row", ~has_row), ("value", masked & has_row)):
            counts[lack] += int(mask.sum())
            first = np.flatnonzero(mask)[: _EXAMPLES - len(examples[lack])]
            examples[lack] += [point_text(group.id, time) for time in regular.times[first]]
    total = sum(len(regular.times) for regular in series)
    return [
        f"{plural(counts[lack], 'time step')} of {total:,} without a {lack}, masked: "
        f"{listed(examples[lack], counts[lack])}."
        for lack in ("row", "value")
        if counts[lack]
    ]


def _trim_notes(groups: Sequence[_Group]) -> list[str]:
    """Say what was dropped before the first and after the last observed value."""
    ends = [(group, *_observed(group)) for group in groups]
    leading = [(group, start) for group, start, _ in ends if start]
    trailing = [(group, len(group.times) - stop) for group, _, stop in ends if stop < len(group.times)]
    notes = []
    if leading:
        group, first = leading[0]
        start = point_text(group.id, group.times[first])
        notes.append(
            f"{plural(sum(n for _, n in leading), 'leading row')} without a value dropped: "
            f"{_which(leading)} starts at {start}."
        )
    if trailing:
        group, last = trailing[0]
        stop = point_text(group.id, group.times[-last - 1])
        notes.append(
            f"{plural(sum(n for _, n in trailing), 'trailing row')} without a value dropped: "
            f"the forecast of {_which(trailing)} starts after the last observed value, at {stop}."
        )
    return notes


def _which(touched: Sequence[tuple[_Group, int]]) -> str:
    more = f" (and {len(touched) - 1:,} more)" if len(touched) > 1 else ""
    first = touched[0][0].id
    return "the series" if first is None else f"series {first!r}{more}"


def _constant_notes(series: Sequence[Series]) -> list[str]:
    constant = [each for each in series if np.nanmin(each.values) == np.nanmax(each.values)]
    if not constant:
        return []
    if len(series) == 1:
        return [f"The series is constant: every value is {constant[0].values[0]:g}."]
    names = listed((repr(each.id) for each in constant[:_EXAMPLES]), len(constant))
    return [f"{len(constant):,} of {plural(len(series), 'series')} are constant: {names}."]
