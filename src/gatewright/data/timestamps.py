"""Time columns: datetimes, dates, ISO and other unambiguous text, and integers, as one numpy array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import narwhals as nw
import numpy as np
import polars as pl

from gatewright.data.columns import as_text, is_text, row_list, type_text
from gatewright.data.wording import MICROSECONDS, plural
from gatewright.errors import InputError

_REMEDY = "write times as ISO 8601, year first: 2011-01-31 or 2011-01-31 14:00:00"
_LARGEST = 2**62  # so that differences of two integer times fit in int64
_NUMBER = r"^[+-]?[0-9]+(\.[0-9]*)?$"
_NANOSECONDS = r"[.,][0-9]{6}[0-9]*[1-9]"
_COMPACT_DATES = (19000101, 21001231)
_COMPACT = r"^([0-9]{4})([0-9]{2})([0-9]{2})[Tt ]([0-9]{2}):?([0-9]{2}):?([0-9]{2})?"
_TIME = (
    r"(?:[Tt ] *(?P<hour>[0-9]{1,2})(?::(?P<minute>[0-5][0-9])"
    r"(?::(?:(?P<second>[0-5][0-9])(?:[.,](?P<fraction>[0-9]{1,9}))?)?)?)?"
    r" *(?P<half>[AaPp][Mm])? *(?P<zone>[Zz]|UTC|GMT|[+-][0-9]{2}(?::?[0-9]{2})?)?)?"
)
_ISO = (
    r"^(?P<year>[0-9]{4})(?:-(?P<month>[0-9]{1,2})(?:-(?P<day>[0-9]{1,2}))?"
    r"|[/.](?P<month2>[0-9]{1,2})[/.](?P<day2>[0-9]{1,2}))" + _TIME + "$"
)
_DAY_OR_MONTH_FIRST = r"^[0-9]{1,2}[-/. ][0-9]{1,2}[-/. ][0-9]{2,4}([T ].*)?$"
_NAMED_MONTHS = tuple(
    form.replace("%b", name)
    for form in ("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%b %d %Y", "%Y-%b-%d")
    for name in ("%b", "%B")
)


@dataclass(frozen=True, eq=False)
class Times:
    """A time column, read.

    Attributes:
        values: `datetime64[us]` without a zone, or `int64`; one a row.
        notes: what a person should know about the reading.
        cut: whether times were finer than a microsecond.
    """

    values: np.ndarray
    notes: tuple[str, ...] = ()
    cut: bool = False


def read_times(column: nw.Series) -> Times:
    """Read a time column of any dtype.

    Integers count, unless every one is a calendar date written YYYYMMDD. Times with a zone become UTC;
    where every one has the same time of day, as days and months have, the clock times are kept instead,
    since a day that starts at local midnight does not start at a fixed hour of UTC.

    Args:
        column: of any dtype that holds times or integers, or text that spells them.

    Returns:
        One time a row, with notes for a person.

    Raises:
        InputError: times are missing, do not parse, or leave open which is the day and which the month.
    """
    times, cut = _read(column)
    if not cut:
        return times
    note = f"Times of column {column.name!r} are cut to microseconds."
    return Times(times.values, (*times.notes, note), cut=True)


def _read(column: nw.Series) -> tuple[Times, bool]:
    """Read the times, and tell whether they were finer than a microsecond."""
    dtype = column.dtype
    if is_text(column):
        text = as_text(column)
        return _from_text(column, text), bool(text.str.contains(_NANOSECONDS).any())
    _refuse_missing(column.name, np.flatnonzero(column.is_null().to_numpy().astype(bool)))
    if isinstance(dtype, nw.Datetime):
        fine = dtype.time_unit == "ns" and bool((column.dt.nanosecond() % 1000 != 0).any())
        return _from_datetimes(column, dtype.time_zone), fine
    if dtype == nw.Date:
        return Times(np.array(column.to_list(), dtype="datetime64[us]")), False
    if dtype.is_numeric():
        return _from_numbers(column.name, column.to_numpy()), False
    raise InputError(
        f"the time column {column.name!r} holds no times: its type is {type_text(column)}",
        "turn it into datetimes, ISO 8601 text or integers, or pass another --time",
    )


def looks_like_times(column: nw.Series) -> bool:
    """Tell whether a column holds dates or datetimes, or text that starts out as such."""
    if isinstance(column.dtype, nw.Datetime) or column.dtype == nw.Date:
        return True
    if not is_text(column):
        return False
    text = as_text(column.drop_nulls().head(50))
    return len(text) > 0 and text.null_count() == 0 and _parse(text)["wall"].null_count() == 0


def _refuse_missing(name: str, rows: np.ndarray) -> None:
    if len(rows):
        raise InputError(
            f"the time column {name!r} is missing a time in {plural(len(rows), 'row')}: {row_list(rows)}",
            "fill these times in, or drop the rows",
        )


def _from_datetimes(column: nw.Series, zone: str | None) -> Times:
    if zone is None:
        return Times(column.to_numpy().astype("datetime64[us]"))
    wall = column.dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")
    utc = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None).to_numpy().astype("datetime64[us]")
    return _without_zone(column.name, wall, utc, zone)


def _without_zone(name: str, wall: np.ndarray, utc: np.ndarray, zone: str) -> Times:
    """Choose between UTC and clock times, and say so where the two differ."""
    if np.array_equal(wall, utc):
        return Times(utc)
    clock = wall - wall.astype("datetime64[D]")
    if len(wall) > 1 and np.all(clock == clock[0]):
        return Times(
            wall,
            (f"The time zone of column {name!r} ({zone}) is dropped: every time has the same time of day.",),
        )
    return Times(utc, (f"Times of column {name!r} are converted from {zone} to UTC.",))


def _from_numbers(name: str, values: np.ndarray) -> Times:
    if values.dtype.kind != "i":
        floats = values.astype(np.float64)
        bad = np.flatnonzero((floats != np.floor(floats)) | (np.abs(floats) > _LARGEST))
        _refuse_uncountable(name, bad, [f"{v:g}" for v in floats.tolist()])
    whole = values.astype(np.int64)
    if len(whole) and (whole.max() > _LARGEST or whole.min() < -_LARGEST):
        raise InputError(f"the time column {name!r} holds integers beyond 2^62", "count in smaller integers")
    if len(whole) and _COMPACT_DATES[0] <= whole.min() and whole.max() <= _COMPACT_DATES[1]:
        dates = pl.Series(whole).cast(pl.String).str.to_date("%Y%m%d", strict=False)
        if dates.null_count() == 0:
            note = f"Numbers such as {whole[0]} in column {name!r} are read as dates (year, month, day)."
            return Times(dates.to_numpy().astype("datetime64[us]"), (note,))
    if len(whole) > 1 and whole.min() >= 10**9 and whole.max() < 2 * 10**18:
        note = (
            f"Column {name!r} looks like a Unix clock; it is counted as plain integers. "
            "Write it as ISO 8601 times to have hours, days and seasons."
        )
        return Times(whole, (note,))
    return Times(whole)


def _refuse_uncountable(name: str, bad: np.ndarray, entries: Sequence[object] | pl.Series) -> None:
    if len(bad):
        raise InputError(
            f"the time column {name!r} holds numbers that are not whole or too large: "
            + row_list(bad, entries),
            "count in integers, or write dates as ISO 8601 text",
        )


def _from_text(column: nw.Series, text: pl.Series) -> Times:
    name = column.name
    _refuse_missing(name, np.flatnonzero(text.is_null().to_numpy()))
    if len(text) and text.str.contains(_NUMBER).all():
        whole = text.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)
        _refuse_uncountable(name, np.flatnonzero(whole.is_null().to_numpy()), text)
        return _from_numbers(name, whole.to_numpy())
    parsed = _parse(text)
    _refuse_unparsed(name, text, parsed)
    wall = parsed["wall"].to_numpy().astype("datetime64[us]")
    zoned = parsed["zone"].is_not_null().to_numpy()
    if not zoned.any():
        return Times(wall)
    if not zoned.all():
        rows = np.flatnonzero(zoned != zoned[0])
        raise InputError(
            f"the time column {name!r} mixes times with and without a zone: "
            f"row 1: {text[0]!r}, {row_list(rows[:1], text)}",
            "write every time with its offset, or every one without",
        )
    zones = parsed["zone"].unique(maintain_order=True).to_list()
    shown = " and ".join(zones[:3]) + (" and others" if len(zones) > 3 else "")
    return _without_zone(name, wall, wall - _offsets(parsed["zone"]), shown)


def _refuse_unparsed(name: str, text: pl.Series, parsed: pl.DataFrame) -> None:
    bad = np.flatnonzero(parsed["wall"].is_null().to_numpy())
    if not len(bad):
        return
    rows = row_list(bad, text)
    if text.gather(bad[:1]).str.contains(_DAY_OR_MONTH_FIRST).all():
        raise InputError(
            f"the time column {name!r} does not say which number is the day and which the month "
            f"in {plural(len(bad), 'row')}: {rows}",
            _REMEDY,
        )
    raise InputError(
        f"the time column {name!r} holds text that is not a time in {plural(len(bad), 'row')}: {rows}",
        _REMEDY,
    )


def _parse(text: pl.Series) -> pl.DataFrame:
    """Parse text into `wall` (datetime, null where it does not parse) and `zone` (text, null without)."""
    tidy = text.str.replace(_COMPACT, "${1}-${2}-${3}T${4}:${5}:${6}")
    for quarter in range(1, 5):
        tidy = tidy.str.replace(rf"^([0-9]{{4}})[- ]?[Qq]{quarter}$", f"${{1}}-{3 * quarter - 2:02d}")
    part = tidy.to_frame("text").select(pl.col("text").str.extract_groups(_ISO)).unnest("text")
    part = part.with_columns(
        month=pl.coalesce("month", "month2"),
        day=pl.coalesce("day", "day2"),
        hour=_hour_of_day().cast(pl.String),
    )
    iso = part.select(
        wall=pl.format(
            "{}-{}-{} {}:{}:{}.{}",
            "year",
            pl.col("month").str.zfill(2),
            pl.col("day").fill_null("01").str.zfill(2),
            pl.col("hour").fill_null("00").str.zfill(2),
            pl.col("minute").fill_null("00"),
            pl.col("second").fill_null("00"),
            pl.col("fraction").fill_null("0").str.slice(0, 6).str.pad_end(6, "0"),
        ).str.to_datetime("%Y-%m-%d %H:%M:%S%.6f", strict=False, time_unit="us"),
        zone="zone",
    )
    if iso["wall"].null_count() == 0:
        return iso
    named = [text.str.to_date(each, strict=False).cast(pl.Datetime("us")) for each in _NAMED_MONTHS]
    words = pl.DataFrame([column.alias(str(n)) for n, column in enumerate(named)])
    sane = words.select(pl.coalesce(pl.all()).alias("word")).select(
        pl.when(pl.col("word").dt.year() >= 1000).then("word").alias("word")
    )
    return iso.with_columns(wall=pl.coalesce(iso["wall"], sane["word"]))


def _hour_of_day() -> pl.Expr:
    """Return the hour on a 24-hour clock, null where an hour with am or pm is not 1 to 12."""
    hour, half = pl.col("hour").cast(pl.Int64), pl.col("half").str.to_lowercase()
    twelve = pl.when(hour.is_between(1, 12)).then(hour % 12 + pl.when(half == "pm").then(12).otherwise(0))
    return pl.when(half.is_null()).then(hour).otherwise(pl.coalesce(twelve, pl.lit(99)))


def _offsets(zones: pl.Series) -> np.ndarray:
    """Return each zone's distance from UTC as a numpy timedelta."""
    part = zones.to_frame("zone").select(
        sign=pl.when(pl.col("zone").str.starts_with("-")).then(-1).otherwise(1),
        hours=pl.col("zone").str.extract(r"^[+-]([0-9]{2})").cast(pl.Int64).fill_null(0),
        minutes=pl.col("zone").str.extract(r"([0-9]{2})$").cast(pl.Int64).fill_null(0),
        long=pl.col("zone").str.len_chars() > 3,
    )
    minutes = part.select(
        pl.col("sign") * (60 * pl.col("hours") + pl.when("long").then("minutes").otherwise(0))
    ).to_series()
    return (minutes.to_numpy() * MICROSECONDS["minute"]).astype("timedelta64[us]")
