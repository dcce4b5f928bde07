"""What all figures share: sizes, the looks of lines, legends, axes that count, marked positions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from gatewright.reports.axes import NumberFormatter, draw_line, show_decades, show_values
from gatewright.reports.svg import COLOURS

WIDE = (1040, 270)
NARROW = (460, 270)
SMALL = (350, 250)
_LOG_SPAN = 20.0  # a curve over more than this ratio is drawn on a log axis

_LINES = ("accent", "line-1", "line-2", "line-3", "line-4", "line-5")
_DASHES = ((), (5.0, 2.0), (1.5, 1.5), (7.0, 2.0, 1.5, 2.0))


@dataclass(frozen=True)
class LegendEntry:
    """One line of a legend, to be set by the page.

    Attributes:
        label: what it stands for; plain text.
        role: the colour, one of `svg.COLOURS`.
        mark: what it looks like.
        dash: lengths of strokes and gaps of a line, empty for a solid one.
        opacity: of a band, 0 to 1.
    """

    label: str
    role: str
    mark: str = "line"  # or "band", "upright", "dot", "cross", "foot"
    dash: tuple[float, ...] = ()
    opacity: float = 1.0


def look(index: int, label: str = "") -> LegendEntry:
    """Give the line of an index its colour and its dashes.

    Args:
        index: of the line among those of its figure.
        label: what the line stands for.

    Returns:
        The line's entry in a legend.
    """
    return LegendEntry(label, _LINES[index % len(_LINES)], dash=_DASHES[index % len(_DASHES)])


def line_legend(labels: Iterable[str]) -> list[LegendEntry]:
    """Give each label, in order, the look of its line as `draw_lines` draws it."""
    return [look(index, label) for index, label in enumerate(labels)]


def new_figure(width: int, height: int) -> tuple[Figure, Axes]:
    """Make an empty figure; sizes in pixels at full size."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.add_subplot()


def draw_lines(ax: Axes, lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw lines in the looks of `line_legend`, the first on top."""
    for index, (x, y) in enumerate(lines):
        entry = look(index)
        style = {"color": COLOURS[entry.role], "dashes": entry.dash, "linewidth": 1.7 if index else 2.2}
        draw_line(ax, x, y, SMALL[0] // 2, zorder=3 - index / 100, **style)


def show_counts(ax: Axes, low: float, high: float, label: str) -> None:
    """Set up a horizontal axis that counts."""
    room = 0.03 * (high - low) or 0.5
    room = max(room, 1e-9 * max(abs(low), abs(high)))  # limits too close to tell apart are refused
    ax.set_xlim(low - room, high + room)
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    ax.xaxis.set_major_formatter(NumberFormatter())
    ax.set_xlabel(label)


def show_span(ax: Axes, lines: Sequence[np.ndarray]) -> bool:
    """Set up a value axis: logarithmic where all values are positive and span much.

    Args:
        ax: where the lines are drawn.
        lines: the values.

    Returns:
        Whether the axis is logarithmic.
    """
    seen = np.concatenate([*lines, np.empty(0)])
    seen = seen[np.isfinite(seen)]
    wide_span = seen.size and seen.min() > 0 and seen.max() > _LOG_SPAN * seen.min()
    if wide_span and show_decades(ax, lines):
        return True
    show_values(ax)
    return False


def mark_positions(ax: Axes, positions: Sequence[int], span: float) -> None:
    """Draw an upright line at each position, with its number above where there is room.

    Args:
        ax: where to draw.
        positions: on the horizontal axis.
        span: length of that axis.
    """
    free_from = -np.inf
    for position in sorted(set(positions)):
        ax.axvline(position, color=COLOURS["rule"], linewidth=1.0, zorder=0.5)
        if position >= free_from:
            foot = ax.get_xaxis_transform()
            ax.text(position, 1.01, str(position), transform=foot, ha="center", va="bottom")
            free_from = position + 0.1 * span


def mark_foot(ax: Axes, positions: np.ndarray, role: str) -> None:
    """Put a small triangle at the foot of the axis, for values that have no place on it."""
    style = {"color": COLOURS[role], "markersize": 6, "clip_on": False}
    ax.plot(positions, [0.02] * len(positions), "v", transform=ax.get_xaxis_transform(), **style)


def mark_top(ax: Axes, positions: np.ndarray, role: str) -> None:
    """Put a cross at the top of the axis, for values that are not finite."""
    style = {"color": COLOURS[role], "markersize": 6, "markeredgewidth": 1.8, "clip_on": False}
    ax.plot(positions, [0.97] * len(positions), "x", transform=ax.get_xaxis_transform(), **style)


def run_starts(mask: np.ndarray) -> np.ndarray:
    """Find where each run of true values begins; indices into the mask."""
    return np.flatnonzero(mask & ~np.concatenate([[False], mask[:-1]]))


def listing(names: Iterable[str]) -> str:
    """Join names for a description."""
    return ", ".join(names)
