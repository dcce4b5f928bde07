"""Axes that hold whatever a run gives: gaps, lone points, zeros, constants, very long series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    Formatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
# what lies beyond is drawn as missing: its squares overflow inside the plotting code
_LARGEST = 1e100
_SMALLEST = 5e-324  # above zero
_MOST_DECADES = 20
_SAFE_YEARS = (date2num(np.datetime64("0010-01-01")), date2num(np.datetime64("9900-01-01")))


class NumberFormatter(Formatter):
    """Tick labels in plain digits, with the decimals their distance needs; powers of ten far from one."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Write one tick."""
        return self.format_ticks([x])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Write all ticks of an axis alike."""
        largest = max((abs(float(value)) for value in values), default=0.0)
        if largest == 0:
            return ["0"] * len(values)
        step = min((float(d) for d in np.abs(np.diff(values)) if d > 0), default=largest)
        exponent = math.floor(math.log10(largest))
        shift = exponent if not -4 <= exponent < 7 else 0
        decimals = max(0, shift - math.floor(math.log10(step) + 1e-9))
        # a step of 2.5 or 25 needs one digit more than its power of ten says
        scaled = step / 10.0**shift * 10.0**decimals
        decimals += not math.isclose(scaled, round(scaled), rel_tol=1e-6)
        power = f"×10{str(shift).translate(_SUPERSCRIPT)}" if shift else ""
        return [
            _signed(float(value) / 10.0**shift, min(decimals, 7 if shift else 12)) + power for value in values
        ]


def as_numbers(values: np.ndarray) -> np.ndarray:
    """Copy to float64; what cannot be drawn (infinite, or beyond 1e100) becomes NaN."""
    numbers = np.array(values, dtype=np.float64).reshape(-1)
    numbers[~(np.abs(numbers) < _LARGEST)] = np.nan
    return numbers


def as_positions(*times: np.ndarray) -> tuple[bool, list[np.ndarray]]:
    """Place times on a horizontal axis.

    Args:
        *times: arrays of datetime64 or of integers; empty ones may have any type.

    Returns:
        Whether the axis shows dates, and one float64 array for each input.
    """
    arrays = [np.asarray(time) for time in times]
    if not any(array.size and np.issubdtype(array.dtype, np.datetime64) for array in arrays):
        return False, [as_numbers(array) if array.size else np.empty(0) for array in arrays]
    places = [
        np.asarray(date2num(array.astype("datetime64[us]")), dtype=np.float64) if array.size else np.empty(0)
        for array in arrays
    ]
    low, high = _SAFE_YEARS  # calendars of the plotting code end at the years 1 and 9999
    places = [np.where((place > low) & (place < high), place, np.nan) for place in places]
    return True, places


def kept_points(columns: int, *rows: np.ndarray) -> np.ndarray:
    """Choose the points of long lines that the eye can tell apart.

    Of each of `columns` stretches the first, last, lowest and highest point stays, and a gap if there is one.

    Args:
        columns: how many stretches the drawing can show side by side.
        *rows: [N] each; every row's own extremes stay.

    Returns:
        Sorted indices into the rows.
    """
    size = len(rows[0])
    if size <= 4 * columns:
        return np.arange(size)
    edges = np.linspace(0, size, columns + 1).astype(int)
    kept: set[int] = set()
    for start, stop in pairwise(edges):
        kept.update((int(start), int(stop) - 1))
        for row in rows:
            stretch = row[start:stop]
            finite = np.isfinite(stretch)
            if not finite.all():
                kept.add(int(start + np.argmin(finite)))
            if finite.any():
                kept.update((int(start + np.nanargmin(stretch)), int(start + np.nanargmax(stretch))))
    return np.array(sorted(kept))


def draw_line(ax: Axes, x: np.ndarray, y: np.ndarray, columns: int, **look: Any) -> None:
    """Draw a line with its gaps; points that stand alone become dots.

    Args:
        ax: where to draw.
        x: [N] positions.
        y: [N] values, NaN for a gap.
        columns: see `kept_points`.
        **look: passed to `Axes.plot`.
    """
    if not len(y):
        return
    kept = kept_points(columns, y)
    x, y = x[kept], y[kept]
    ax.plot(x, y, solid_joinstyle="round", **look)
    alone = _alone(np.isfinite(y) & np.isfinite(x))
    if alone.any():
        colour = {key: value for key, value in look.items() if key in ("color", "zorder")}
        ax.plot(x[alone], y[alone], "o", markersize=4.5, **colour)


def draw_band(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, columns: int, **look: Any) -> None:
    """Fill between two lines, with their gaps; a step that stands alone becomes a bar.

    Args:
        ax: where to draw.
        x: [N] positions.
        low: [N] lower edge, NaN for a gap.
        high: [N] upper edge, NaN for a gap.
        columns: see `kept_points`.
        **look: colour and opacity.
    """
    if not len(x):
        return
    kept = kept_points(columns, low, high)
    x, low, high = x[kept], low[kept], high[kept]
    present = np.isfinite(x) & np.isfinite(low) & np.isfinite(high)
    if present.any():
        ax.fill_between(x, low, high, where=present.tolist(), linewidth=0, **look)
    alone = _alone(present)
    if alone.any():
        ax.vlines(x[alone], low[alone], high[alone], linewidth=7, **look)


def show_times(ax: Axes, places: Sequence[np.ndarray], dates: bool, most_ticks: int) -> None:
    """Set limits and ticks of a time axis.

    Args:
        ax: where to draw.
        places: everything the axis must show, as `as_positions` gives it.
        dates: as `as_positions` gives it.
        most_ticks: how many labels fit side by side.
    """
    finite = np.concatenate([place[np.isfinite(place)] for place in places])
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        room = 0.012 * (high - low) or (0.5 if dates else 1.0)
        room = max(room, 1e-12 * max(abs(low), abs(high)))  # limits too close to tell apart are refused
        ax.set_xlim(low - room, high + room)
    if not dates:
        ax.xaxis.set_major_locator(MaxNLocator(most_ticks, integer=True, min_n_ticks=1))
        ax.xaxis.set_major_formatter(NumberFormatter())
        return
    # asked for more, few ticks leave spans that no step of the calendar fits, such as 65 hours
    locator = AutoDateLocator(minticks=max(2, most_ticks // 4), maxticks=most_ticks)
    formatter = ConciseDateFormatter(
        locator,
        formats=["%Y", "%b", "%d %b", "%H:%M", "%H:%M", "%S.%f"],
        zero_formats=["", "%Y", "%b", "%d %b", "%H:%M", "%H:%M"],
        offset_formats=["", "%Y", "%Y", "%d %b %Y", "%d %b %Y", "%d %b %Y %H:%M"],
    )
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(formatter)


def show_values(ax: Axes) -> None:
    """Set ticks of an ordinary value axis."""
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.yaxis.set_major_formatter(NumberFormatter())
    ax.grid(False, axis="x")


def show_decades(ax: Axes, lines: Sequence[np.ndarray], *, across: bool = False) -> bool:
    """Make a value axis logarithmic, if there is anything above zero to show on it.

    Args:
        ax: where the lines are drawn.
        lines: the values; those at or below zero cannot be shown.
        across: for the horizontal axis instead of the upright one.

    Returns:
        Whether the axis is logarithmic now.
    """
    values = np.concatenate([*lines, np.empty(0)])
    values = values[values > 0]
    if not across:
        show_values(ax)
    if not values.size:
        return False
    high = math.log10(float(values.max()))
    low = max(math.log10(float(values.min())), high - _MOST_DECADES)
    room = 0.04 * (high - low) if across and high - low > 1 else max(0.2, 0.05 * (high - low))
    ticks = decade_ticks(low - room, high + room)
    axis, set_scale, set_limits = (
        (ax.xaxis, ax.set_xscale, ax.set_xlim) if across else (ax.yaxis, ax.set_yscale, ax.set_ylim)
    )
    # limits are set below; those that the scale would choose fail where equal points stand alone
    ax.autoscale(False, axis="x" if across else "y")
    set_scale("log")
    set_limits(max(10 ** (low - room), _SMALLEST), 10 ** (high + room))
    axis.set_major_locator(FixedLocator([value for value, _ in ticks]))
    axis.set_major_formatter(FixedFormatter([label for _, label in ticks]))
    axis.set_minor_locator(NullLocator())
    return True


def say_empty(ax: Axes) -> None:
    """Leave a word where there is nothing to draw."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(NullLocator())
        # the one for dates does not take that there are none
        axis.set_major_formatter(NullFormatter())
    ax.set_xlabel("")
    ax.spines["bottom"].set_visible(False)
    ax.text(0.5, 0.5, "no values to draw", transform=ax.transAxes, ha="center", va="center")


def decade_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """List ticks between two powers of ten, given as exponents: decades, or 1, 2 and 5 where they are few."""
    decades = high - low
    digits = (1, 2, 5) if decades < 2 else (1,)
    stride = max(1, math.ceil(decades / 6))
    plain = low > -4 and high < 5
    ticks = []
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for digit in digits if exponent % stride == 0 else ():
            if low <= exponent + math.log10(digit) <= high:
                power = ("" if digit == 1 else f"{digit}×") + f"10{str(exponent).translate(_SUPERSCRIPT)}"
                value = float(f"{digit}e{exponent}")
                ticks.append((value, f"{value:g}" if plain else power))
    return ticks


def _alone(present: np.ndarray) -> np.ndarray:
    """Mark the points whose neighbours are both missing."""
    padded = np.concatenate([[False], present, [False]])
    return present & ~padded[:-2] & ~padded[2:]


def _signed(value: float, decimals: int) -> str:
    """Write a number with a true minus sign, and zero without one."""
    text = f"{value:,.{decimals}f}".replace(",", "\N{NO-BREAK SPACE}" if abs(value) >= 1e4 else "")
    if float(text.replace("\N{NO-BREAK SPACE}", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")
