"""How numbers of things, times and lists of examples are written in messages and notes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

MICROSECONDS = {
    "week": 604_800_000_000,
    "day": 86_400_000_000,
    "hour": 3_600_000_000,
    "minute": 60_000_000,
    "second": 1_000_000,
    "millisecond": 1_000,
    "microsecond": 1,
}


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: `1 row`, `2,400 rows`; `series` stays as it is."""
    ending = "" if count == 1 or noun.endswith("series") else "s"
    return f"{count:,} {noun}{ending}"


def listed(examples: Iterable[str], total: int) -> str:
    """Join a few examples of `total` things: `a, b, c and 7 more`."""
    shown = list(examples)
    text = ", ".join(shown)
    return f"{text} and {total - len(shown):,} more" if total > len(shown) else text


def time_text(time: np.datetime64 | np.int64 | int) -> str:
    """Write one grid time: `2011-01-31`, `2011-01-31 14:00:00`, or the integer itself."""
    if not isinstance(time, np.datetime64):
        return str(int(time))
    text = str(time.astype("datetime64[us]")).replace("T", " ")
    return text.removesuffix(".000000").removesuffix(" 00:00:00")


def point_text(series: str | None, time: np.datetime64 | np.int64 | int) -> str:
    """Write one (id, time) pair, or the time alone where the table has no ids."""
    return time_text(time) if series is None else f"({series}, {time_text(time)})"


def duration_text(microseconds: int) -> str:
    """Write a time span exactly: `20 minutes`, `1 day 3 hours`."""
    if microseconds == 0:
        return "0 seconds"
    parts, rest = [], abs(microseconds)
    for noun, size in MICROSECONDS.items():
        if noun == "week":
            continue
        amount, rest = divmod(rest, size)
        if amount:
            parts.append(plural(amount, noun))
    return ("-" if microseconds < 0 else "") + " ".join(parts)
