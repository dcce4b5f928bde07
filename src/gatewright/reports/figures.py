"""The figures of a report, each one function from numbers to inline SVG.

A figure is an `<svg>` element whose ids all begin with the name it is given; figures of one page need
different names. Words that the user wrote stay out of the drawing: the page sets them beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gatewright.reports.axes import (
    as_numbers,
    as_positions,
    draw_band,
    draw_line,
    say_empty,
    show_decades,
    show_times,
    show_values,
)
from gatewright.reports.contents import SeriesForecast
from gatewright.reports.lines import (
    NARROW,
    SMALL,
    WIDE,
    LegendEntry,
    draw_lines,
    line_legend,
    listing,
    look,
    mark_foot,
    mark_positions,
    new_figure,
    run_starts,
    show_counts,
    show_span,
)
from gatewright.reports.svg import COLOURS, drawing, inline_svg

_MOST_RULES = 24

_LOSSES = (LegendEntry("training", "accent"), LegendEntry("validation", "line-1", dash=(5.0, 2.0)))


def draw_forecast(series: SeriesForecast, name: str, *, narrow: bool = False) -> str:
    """Draw forecasts with their bands over the truth; upright lines stand where each forecast begins.

    Args:
        series: what to draw.
        name: prefix of every id; letters, digits and hyphens.
        narrow: for a column or a telephone instead of a full page's width.

    Returns:
        An `<svg>` element.
    """
    width, height = NARROW if narrow else WIDE
    columns = width // 2
    dates, (times, ahead) = as_positions(series.times, series.forecast_times)
    truth, median = as_numbers(series.truth), as_numbers(series.median)
    bands = {level: (as_numbers(low), as_numbers(high)) for level, (low, high) in series.bands.items()}
    with drawing(name):
        figure, ax = new_figure(width, height)
        for level in sorted(bands, reverse=True):
            low, high = bands[level]
            draw_band(ax, ahead, low, high, columns, color=COLOURS["band"], alpha=_opacity(len(bands)))
        draw_line(ax, times, truth, columns, color=COLOURS["truth"], linewidth=1.3)
        draw_line(ax, ahead, median, columns, color=COLOURS["accent"], linewidth=2.0)
        starts = _window_starts(ahead, median)
        for start in starts if len(starts) <= _MOST_RULES else ():
            ax.axvline(start, color=COLOURS["rule"], linewidth=0.9, dashes=(2, 2), zorder=0.5)
        show_values(ax)
        show_times(ax, [times, ahead], dates, most_ticks=6 if narrow else 12)
        ax.set_xlabel("" if dates else "time step")
        if not any(np.isfinite(line).any() for line in (truth, median)):
            say_empty(ax)
        return inline_svg(figure, name, _describe(series))


def forecast_legend(series: Iterable[SeriesForecast]) -> list[LegendEntry]:
    """List what `draw_forecast` draws for any of these series."""
    levels = sorted({level for one in series for level in one.bands})
    single = _opacity(len(levels))
    entries = [LegendEntry("truth", "truth"), LegendEntry("forecast (median)", "accent")]
    for index, level in enumerate(levels):
        opacity = round(1 - (1 - single) ** (len(levels) - index), 3)
        entries.append(LegendEntry(f"{level} % band", "band", "band", opacity=opacity))
    entries.append(LegendEntry("a forecast begins", "rule", "upright", dash=(2.0, 2.0)))
    return entries


def draw_error_by_horizon(errors: Mapping[str, np.ndarray], name: str) -> str:
    """Draw the mean absolute error of each model against the number of steps ahead.

    Args:
        errors: model -> [N] in units of the target; the trained model first.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where there are no steps.
    """
    lines = [as_numbers(values) for values in errors.values()]
    longest = max((len(line) for line in lines), default=0)
    if not longest:
        return ""
    with drawing(name):
        figure, ax = new_figure(*SMALL)
        draw_lines(ax, [(np.arange(1, len(line) + 1.0), line) for line in lines])
        show_values(ax)
        top = np.nanmax(np.concatenate([*lines, [0.0]]))
        ax.set_ylim(0, 1.08 * top if top > 0 else 1.0)
        show_counts(ax, 1, longest, "steps ahead")
        if not any(np.isfinite(line).any() for line in lines):
            say_empty(ax)
        return inline_svg(figure, name, f"Mean absolute error by steps ahead of {listing(errors)}.")


def draw_learning_curves(history: Mapping[str, np.ndarray], best_epoch: int | None, name: str) -> str:
    """Draw training and validation loss by epoch, on a log axis when they span much; mark the epoch kept.

    Args:
        history: "epoch", "train_loss" and "validation_loss", each [epochs]; either loss may be missing.
        best_epoch: one of the epochs.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where there are no epochs.
    """
    losses = [as_numbers(history.get(key, np.empty(0))) for key in ("train_loss", "validation_loss")]
    longest = max(len(loss) for loss in losses)
    if not longest:
        return ""
    epochs = as_numbers(history.get("epoch", np.arange(1, longest + 1)))
    with drawing(name):
        figure, ax = new_figure(*SMALL)
        for loss, entry in zip(losses, _LOSSES, strict=True):
            style = {"color": COLOURS[entry.role], "dashes": entry.dash}
            draw_line(ax, epochs[: len(loss)], loss, SMALL[0] // 2, **style)
        show_span(ax, losses)
        if best_epoch is not None:
            ax.axvline(best_epoch, color=COLOURS["rule"], linewidth=1.1, dashes=(2, 2), zorder=0.5)
            kept = losses[1][epochs[: len(losses[1])] == best_epoch]
            ax.plot([best_epoch] * len(kept), kept, "o", color=COLOURS["line-1"], markersize=5.5)
        show_counts(ax, np.nanmin(epochs), np.nanmax(epochs), "epoch")
        if not any(np.isfinite(loss).any() for loss in losses):
            say_empty(ax)
        kept_words = "" if best_epoch is None else f" The weights of epoch {best_epoch} were kept."
        return inline_svg(figure, name, f"Training and validation loss over {longest} epochs.{kept_words}")


def learning_legend(history: Mapping[str, np.ndarray], best_epoch: int | None) -> list[LegendEntry]:
    """List what `draw_learning_curves` draws."""
    keys = ("train_loss", "validation_loss")
    entries = [
        entry
        for key, entry in zip(keys, _LOSSES, strict=True)
        if np.isfinite(as_numbers(history.get(key, np.empty(0)))).any()
    ]
    if best_epoch is not None:
        entries.append(LegendEntry(f"weights kept: epoch {best_epoch}", "rule", "upright", dash=(2.0, 2.0)))
    return entries


def draw_gradient_by_lag(norms: Mapping[str, np.ndarray], marks: Sequence[int], name: str) -> str:
    """Draw how much gradient reaches each earlier time step, on a log axis; lags of interest stand upright.

    A norm of exactly zero has no place on the axis: a small triangle at the foot says where each run of zeros
    begins.

    Args:
        norms: layer -> [T] mean norm of the loss's gradient by the state, index 0 is the last step.
        marks: such as season lengths, in time steps; those outside the window are left out.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where there are no steps.
    """
    lines = [as_numbers(values) for values in norms.values()]
    longest = max((len(line) for line in lines), default=0)
    if not longest:
        return ""
    with drawing(name):
        figure, ax = new_figure(*SMALL)
        draw_lines(ax, [(np.arange(float(len(line))), np.where(line > 0, line, np.nan)) for line in lines])
        show_decades(ax, lines)
        for index, line in enumerate(lines):
            mark_foot(ax, run_starts(line == 0), look(index).role)
        mark_positions(ax, [mark for mark in marks if 0 < mark < longest], longest)
        show_counts(ax, 0, longest - 1, "steps back")
        if not any((line >= 0).any() for line in lines):
            say_empty(ax)
        return inline_svg(figure, name, f"Mean gradient norm by steps back in: {listing(norms)}.")


def gradient_legend(
    norms: Mapping[str, np.ndarray], marks: Sequence[int], kind: str = "season"
) -> list[LegendEntry]:
    """List what `draw_gradient_by_lag` draws.

    Args:
        norms: as given there.
        marks: as given there.
        kind: what the marks are.

    Returns:
        One entry a layer, and one for the marks inside the window.
    """
    longest = max((len(values) for values in norms.values()), default=0)
    shown = [str(mark) for mark in marks if 0 < mark < longest]
    entries = line_legend(norms)
    if shown:
        entries.append(LegendEntry(f"{kind}: {', '.join(shown)} steps", "rule", "upright"))
    return entries


def _window_starts(x: np.ndarray, median: np.ndarray) -> np.ndarray:
    return x[run_starts(np.isfinite(median) & np.isfinite(x))]


def _opacity(levels: int) -> float:
    """Opacity of one band: nested bands add up, and must leave the lines legible."""
    return min(0.17, 0.5 / max(1, levels))


def _describe(series: SeriesForecast) -> str:
    levels = ", ".join(str(level) for level in sorted(series.bands))
    bands = f" with bands of {levels} %" if levels else ""
    span = f" Truth from {series.times[0]} to {series.times[-1]}." if len(series.times) else ""
    return f"Forecast of {series.id}, {series.kind}: median{bands}.{span}"
