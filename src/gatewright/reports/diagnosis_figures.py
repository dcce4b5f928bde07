"""The figures of a diagnosis that show what was measured, each one function from numbers to inline SVG.

How far the gradient reaches is drawn by `figures.draw_gradient_by_lag`. Rules for names and words are those
of `figures`: ids begin with the name given, words that the user wrote stay out of the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from gatewright.reports.axes import (
    NumberFormatter,
    as_numbers,
    decade_ticks,
    draw_line,
    say_empty,
    show_decades,
    show_values,
)
from gatewright.reports.diagnosis_words import format_number, format_threshold
from gatewright.reports.lines import (
    SMALL,
    LegendEntry,
    draw_lines,
    line_legend,
    listing,
    look,
    mark_foot,
    mark_positions,
    mark_top,
    new_figure,
    run_starts,
    show_counts,
    show_span,
)
from gatewright.reports.svg import COLOURS, drawing, inline_svg

_SHORTEST, _LONGEST = -1.0, 6.0  # powers of ten of the time constants told apart
_BARS_PER_DECADE = 4
_MOST_DOTS = 40
_MOST_FILLED = 3
_MOST_REACH = 4  # a needed lag so many times beyond the measured ones still stands on the axis
_DIVERGED = 1e6
_SMALLEST_RATE = 1e-30


def draw_time_constants(constants: Mapping[str, np.ndarray], needed_lag: int, name: str) -> str:
    """Draw over how many steps the units of each layer forget: bars on a log axis, the needed lag upright.

    Units that forget over more than a million steps, or never, are gathered in a last bar.

    Args:
        constants: layer -> [H] time constants in steps; infinity is possible, what is below zero is left out.
        needed_lag: in steps; 0 where unknown.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where there are no units.
    """
    powers = [_powers(values) for values in constants.values()]
    if not any(len(one) for one in powers):
        return ""
    finite = np.concatenate(powers)
    finite = finite[np.isfinite(finite)]
    needed = min(math.log10(needed_lag), _LONGEST) if needed_lag > 0 else math.nan
    reach = np.append(finite, [] if math.isnan(needed) else needed)
    low = math.floor(_BARS_PER_DECADE * (reach.min() if reach.size else 0)) / _BARS_PER_DECADE
    high = math.floor(_BARS_PER_DECADE * (reach.max() if reach.size else 0) + 1) / _BARS_PER_DECADE
    edges = np.linspace(low, high, round((high - low) * _BARS_PER_DECADE) + 1)
    width = max(1 / _BARS_PER_DECADE, 0.06 * (high - low))
    never = (high + width / 2, high + 1.5 * width)
    with drawing(name):
        figure, ax = new_figure(*SMALL)
        for index, one in enumerate(powers):
            counts, _ = np.histogram(one[np.isfinite(one)], edges)
            # fills of many layers would hide each other
            fill = 0.14 if len(powers) <= _MOST_FILLED else 0.0
            _draw_bars(ax, counts, edges, index, fill)
            _draw_bars(ax, np.array([np.isposinf(one).sum()]), np.array(never), index, fill)
        if not math.isnan(needed):
            ax.axvline(needed, color=COLOURS["rule"], linewidth=1.0, zorder=0.5)
            foot = ax.get_xaxis_transform()
            ax.text(needed, 1.01, format_number(needed_lag), transform=foot, ha="center", va="bottom")
        _show_powers(ax, low, high, never)
        show_values(ax)
        ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        ax.set_ylim(bottom=0)
        words = f"Number of units by the steps over which their gate forgets, in: {listing(constants)}."
        return inline_svg(figure, name, words + _needed_words(needed_lag))


def draw_lyapunov(exponents: Mapping[str, np.ndarray], name: str) -> str:
    """Draw the leading Lyapunov exponents of each layer by their index, with a line at zero.

    An exponent of minus infinity has no place on the axis: a triangle at the foot says where they begin.

    Args:
        exponents: layer -> [m] per step, descending.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where there are no exponents.
    """
    lines = [as_numbers(values) for values in exponents.values()]
    longest = max((len(line) for line in lines), default=0)
    if not longest:
        return ""
    with drawing(name):
        figure, ax = new_figure(*SMALL)
        ax.axhline(0, color=COLOURS["rule"], linewidth=1.4, zorder=0.5)
        draw_lines(ax, [(np.arange(1, len(line) + 1.0), line) for line in lines])
        for index, (line, values) in enumerate(zip(lines, exponents.values(), strict=True)):
            role = look(index).role
            if len(line) <= _MOST_DOTS:
                ax.plot(np.arange(1, len(line) + 1), line, "o", color=COLOURS[role], markersize=3.5)
            mark_foot(ax, 1 + run_starts(np.isneginf(np.reshape(values, -1))), role)
        show_values(ax)
        show_counts(ax, 1, longest, "index")
        if not any(np.isfinite(line).any() for line in lines):
            say_empty(ax)
        leading = [
            f"{layer} {format_number(line[0])}"
            for layer, line in zip(exponents, lines, strict=True)
            if len(line)
        ]
        return inline_svg(figure, name, f"Lyapunov exponents by index; the largest: {listing(leading)}.")


def lyapunov_legend(exponents: Mapping[str, np.ndarray]) -> list[LegendEntry]:
    """List what `draw_lyapunov` draws."""
    return [*line_legend(exponents), LegendEntry("zero: a small difference stays", "rule")]


def draw_memory(lags: np.ndarray, memory: Mapping[str, np.ndarray], needed_lag: int, name: str) -> str:
    """Draw how much of the inputs of earlier steps can be read from the state, as R² by lag.

    Args:
        lags: [M] steps back.
        memory: layer -> [M] R²; what is below zero is drawn as zero.
        needed_lag: in steps; 0 where unknown.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where nothing was measured.
    """
    places = as_numbers(lags)
    lines = [as_numbers(values)[: len(places)] for values in memory.values()]
    if not any(len(line) for line in lines):
        return ""
    order = np.argsort(places, kind="stable")
    with drawing(name):
        figure, ax = new_figure(*SMALL)
        drawn = [(order[order < len(line)], line) for line in lines]
        draw_lines(ax, [(places[kept], np.clip(line[kept], 0, 1)) for kept, line in drawn])
        show_values(ax)
        ax.set_ylim(-0.03, 1.03)
        _show_lags(ax, places, needed_lag)
        if not any(np.isfinite(line).any() for line in lines):
            say_empty(ax)
        words = f"Share of earlier inputs that the state remembers, by steps back, in: {listing(memory)}."
        return inline_svg(figure, name, words + _needed_words(needed_lag))


def draw_unused(lags: np.ndarray, shares: np.ndarray, needed_lag: int, name: str) -> str:
    """Draw how much of the rest error the inputs of earlier steps explain: information left unused.

    Args:
        lags: [N] steps back.
        shares: [N] of the rest error; what is below zero is drawn as zero.
        needed_lag: in steps; 0 where unknown.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where nothing was measured.
    """
    count = min(np.size(lags), np.size(shares))
    if not count:
        return ""
    places, percent = as_numbers(lags)[:count], 100 * as_numbers(shares)[:count].clip(0, 1)
    with drawing(name):
        figure, ax = new_figure(*SMALL)
        # few stems are thick, many are thin
        ax.vlines(places, 0, percent, color=COLOURS["accent"], linewidth=min(5.0, max(1.0, 200 / count)))
        if count <= _MOST_DOTS:
            ax.plot(places, percent, "o", color=COLOURS["accent"], markersize=4.5)
        show_values(ax)
        highest = np.nanmax(np.append(percent, 0.0))
        ax.set_ylim(0, 1.08 * highest if highest > 1e-6 else 1.0)
        _show_lags(ax, places, needed_lag)
        if not np.isfinite(percent).any():
            say_empty(ax)
        words = "Percentage of the rest error that inputs so many steps back explain."
        return inline_svg(figure, name, words + _needed_words(needed_lag))


def needed_legend(labels: Sequence[str], lags: np.ndarray, needed_lag: int) -> list[LegendEntry]:
    """List what `draw_memory` and `draw_unused` draw.

    Args:
        labels: of the lines.
        lags: as drawn.
        needed_lag: in steps; 0 where unknown.

    Returns:
        One entry a line, and one for the needed lag where it is on the axis.
    """
    entries = line_legend(labels)
    if needed_on_axis(lags, needed_lag):
        entries.append(needed_entry(needed_lag))
    return entries


def needed_entry(needed_lag: int) -> LegendEntry:
    """Say in a legend what the upright line at the needed lag is."""
    return LegendEntry(f"needed: {needed_lag} steps", "rule", "upright")


def needed_on_axis(lags: np.ndarray, needed_lag: int) -> bool:
    """Tell whether the needed lag is near enough to the measured lags to stand on their axis."""
    places = as_numbers(lags)
    longest = float(np.nanmax(places, initial=0.0, where=np.isfinite(places)))
    return 0 < needed_lag <= _MOST_REACH * longest


def draw_learning_rates(rates: np.ndarray, losses: np.ndarray, rate: float, name: str) -> str:
    """Draw the loss behind a few steps at each learning rate, relative to the loss before.

    The rate in use stands upright, with its number above.

    Args:
        rates: [R] tried; only those above zero can be drawn.
        losses: [R] loss after over loss before; NaN where training diverged, drawn as a cross at the top.
        rate: the one in use; NaN where unknown.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where no rate was tried.
    """
    count = min(np.size(rates), np.size(losses))
    places, after = as_numbers(rates)[:count], _drawn_losses(losses)[:count]
    kept = np.flatnonzero((places > _SMALLEST_RATE) & (places < 1 / _SMALLEST_RATE))
    kept = kept[np.argsort(places[kept], kind="stable")]
    places, after = places[kept], after[kept]
    if not len(places):
        return ""
    in_use = rate if _SMALLEST_RATE < rate < 1 / _SMALLEST_RATE else math.nan
    with drawing(name):
        figure, ax = new_figure(*SMALL)
        draw_line(ax, places, after, SMALL[0] // 2, color=COLOURS["accent"], linewidth=2.0)
        ax.plot(places, after, "o", color=COLOURS["accent"], markersize=4.5)
        logarithmic = show_span(ax, [after])
        low, high = ax.get_ylim()
        if low <= 1 <= high or not logarithmic:
            ax.axhline(1, color=COLOURS["rule"], linewidth=1.4, zorder=0.5)
        mark_top(ax, places[np.isnan(after)], "line-4")
        show_decades(ax, [places, np.array([in_use])], across=True)
        low, high = ax.get_xlim()
        if low <= in_use <= high:  # words outside would push the axes together
            ax.axvline(in_use, color=COLOURS["rule"], linewidth=1.1, dashes=(2, 2), zorder=0.5)
            foot = ax.get_xaxis_transform()
            ax.text(in_use, 1.01, format_threshold(in_use), transform=foot, ha="center", va="bottom")
        ax.set_xlabel("learning rate")
        used = "" if math.isnan(in_use) else f" In use: {format_threshold(in_use)}."
        return inline_svg(figure, name, f"Loss after over loss before at {len(places)} learning rates.{used}")


def _drawn_losses(losses: np.ndarray) -> np.ndarray:
    """Losses as numbers; one that is a million times what it was has diverged too."""
    numbers = as_numbers(losses)
    return np.where(np.abs(numbers) < _DIVERGED, numbers, np.nan)


def learning_rate_legend(losses: np.ndarray, rate: float) -> list[LegendEntry]:
    """List what `draw_learning_rates` draws."""
    after = _drawn_losses(losses)
    entries = [LegendEntry("loss after ÷ before", "accent"), LegendEntry("1: nothing learnt", "rule")]
    if np.isnan(after).any():
        entries.append(LegendEntry("diverged", "line-4", "cross"))
    if _SMALLEST_RATE < rate < 1 / _SMALLEST_RATE:
        entries.append(LegendEntry(f"in use: {format_threshold(rate)}", "rule", "upright", dash=(2.0, 2.0)))
    return entries


def draw_observed(values: np.ndarray, what: str, name: str) -> str:
    """Draw a number of each observed training step, on a log axis when they span much.

    A step whose number is not finite is a cross at the top; of neighbours only the first.

    Args:
        values: [N], the first is that of step 1.
        what: what the numbers are, a few words.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where no step was observed.
    """
    line = as_numbers(values)
    if not len(line):
        return ""
    steps = np.arange(1, len(line) + 1.0)
    with drawing(name):
        figure, ax = new_figure(*SMALL)
        draw_line(ax, steps, line, SMALL[0] // 2, color=COLOURS["accent"])
        show_span(ax, [line])
        mark_top(ax, steps[run_starts(np.isnan(line))], "line-4")
        show_counts(ax, 1, len(line), "training step")
        if not np.isfinite(line).any():
            say_empty(ax)
        return inline_svg(figure, name, f"{what} over {len(line)} training steps.")


def observed_legend(values: np.ndarray, what: str) -> list[LegendEntry]:
    """List what `draw_observed` draws."""
    broken = [LegendEntry("not finite", "line-4", "cross")] if np.isnan(as_numbers(values)).any() else []
    return [LegendEntry(what, "accent"), *broken]


def _powers(constants: np.ndarray) -> np.ndarray:
    """Powers of ten of time constants, between the shortest and the longest told apart; infinity beyond."""
    values = np.asarray(constants, dtype=np.float64).reshape(-1)
    values = values[values >= 0]
    with np.errstate(divide="ignore"):
        powers = np.log10(values)
    return np.where(powers > _LONGEST, np.inf, np.maximum(powers, _SHORTEST))


def _draw_bars(ax: Axes, counts: np.ndarray, edges: np.ndarray, index: int, fill: float) -> None:
    """Draw the bars of one layer so that those of others show through."""
    entry = look(index)
    colour = COLOURS[entry.role]
    if fill:
        ax.stairs(counts, edges, fill=True, color=colour, alpha=fill, linewidth=0)
    line = ax.stairs(counts, edges, color=colour, linewidth=1.6, zorder=3 - index / 100)
    if entry.dash:
        line.set_linestyle((0, entry.dash))


def _show_powers(ax: Axes, low: float, high: float, never: tuple[float, float]) -> None:
    """Set up a horizontal axis of powers of ten that ends with a place for infinity."""
    ticks = [(math.log10(value), label) for value, label in decade_ticks(low, high)]
    ticks.append((sum(never) / 2, "∞"))
    ax.set_xlim(low - 0.03 * (high - low), never[1] + 0.03 * (high - low))
    ax.xaxis.set_major_locator(FixedLocator([place for place, _ in ticks]))
    ax.xaxis.set_major_formatter(FixedFormatter([label for _, label in ticks]))
    ax.set_xlabel("steps until forgotten")


def _show_lags(ax: Axes, lags: np.ndarray, needed_lag: int) -> None:
    """Set up a horizontal axis of lags: logarithmic where they lie ever further apart."""
    places = np.unique(lags[np.isfinite(lags)])
    if not places.size:
        return
    shown = needed_lag if needed_on_axis(lags, needed_lag) else 0
    ends = np.array([min(places[0], shown or places[0]), max(places[-1], shown)])
    gaps = np.diff(places)
    if places[0] > 0 and len(gaps) > 2 and gaps[-1] > 4 * gaps[0] and show_decades(ax, [ends], across=True):
        ax.set_xlabel("steps back")
    else:
        show_counts(ax, float(ends[0]), float(ends[1]), "steps back")
        ax.xaxis.set_major_formatter(NumberFormatter())
    if shown:
        mark_positions(ax, [shown], float(ends[1] - ends[0]))


def _needed_words(needed_lag: int) -> str:
    return f" The task needs {needed_lag} steps." if needed_lag > 0 else ""
