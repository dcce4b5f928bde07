"""What a time says by itself: features that are known for the future too."""

from __future__ import annotations

import numpy as np

from gatewright.data.frequency import Frequency

_HARMONICS = 4
_HOUR = 3_600_000_000
_DAY = 24 * _HOUR


def calendar_names(frequency: Frequency, years: float) -> tuple[str, ...]:
    """Which features a grid has: time of day below a day, weekday up to a day, time of year.

    Args:
        frequency: of the series.
        years: that training sees; the time of year is a feature only where it was seen twice.

    Returns:
        Names of the features, in order.
    """
    names: list[str] = []
    fixed = frequency.unit == "microseconds"
    if fixed and frequency.step < _DAY and _DAY % frequency.step == 0:
        names += [f"{f}-day-{k}" for k in range(1, _HARMONICS + 1) for f in ("sin", "cos")]
    if (fixed and frequency.step <= _DAY) or frequency.unit == "business-days":
        names += [f"weekday-{day}" for day in range(7)]
    if frequency.unit != "count" and years >= 2:
        names += [f"{f}-year-{k}" for k in (1, 2) for f in ("sin", "cos")]
    return tuple(names)


def calendar_features(times: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The named features of each time.

    Args:
        times: ``[T]`` datetime64 or integers.
        names: from ``calendar_names``.

    Returns:
        ``[T, len(names)]`` float32.
    """
    features = np.zeros((len(times), len(names)), dtype=np.float32)
    if not names:
        return features
    stamps = times.astype("datetime64[us]")
    days = stamps.astype("datetime64[D]")
    day_share = (stamps - days).astype(np.int64) / _DAY
    weekday = (days.astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    year_share = (stamps - stamps.astype("datetime64[Y]")).astype(np.int64) / (365.25 * _DAY)
    for column, name in enumerate(names):
        kind, *rest = name.split("-")
        if kind == "weekday":
            features[:, column] = weekday == int(rest[0])
        else:
            share = day_share if rest[0] == "day" else year_share
            angle = 2 * np.pi * int(rest[1]) * share
            features[:, column] = np.sin(angle) if kind == "sin" else np.cos(angle)
    return features
