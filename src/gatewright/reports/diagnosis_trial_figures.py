"""The figures of the trials of a diagnosis: what came of each remedy, and how training went."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator

from gatewright.reports.axes import NumberFormatter, as_numbers, draw_band, draw_line, say_empty
from gatewright.reports.diagnosis_contents import Judgement, Trial
from gatewright.reports.diagnosis_words import best_trials, format_change
from gatewright.reports.lines import LegendEntry, look, new_figure, show_counts, show_span
from gatewright.reports.svg import COLOURS, drawing, inline_svg

JUDGEMENT_ROLES: dict[Judgement, str] = {
    "helped": "line-2",
    "harmless": "ink",
    "worse": "line-1",
    "failed": "line-4",
    "not run": "rule",
}
_MOST_CURVES = 3
_BAND = 0.16
_LONGEST_LABEL = 30
_WIDTH, _HEIGHT = 420, 260
_ROW_HEIGHT = 27
_FOOT_HEIGHT = 62
_MOST_SPREAD = 4.0  # changes so many times the usual one are drawn as arrows at the edge
_SAFE = frozenset(" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.,+/()=%×·")


def draw_trial_curves(trials: Sequence[Trial], baseline: np.ndarray, steps: np.ndarray, name: str) -> str:
    """Draw the held-out loss during training as it is, and with the best remedies.

    A line is the mean over the seeds, its band runs from the lowest to the highest; both end where a seed's
    loss is not finite.

    Args:
        trials: the best of them are drawn.
        baseline: [seeds, points] losses without a remedy.
        steps: [points] training steps of the baseline.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where there is no curve.
    """
    shown = _with_curves(trials)
    bands = [_mean_and_ends(trial.curves, trial.steps) for trial in shown]
    looks = [look(index) for index in range(len(bands))]
    if np.size(baseline):
        bands.append(_mean_and_ends(baseline, steps))
        looks.append(_as_it_is())
    if not bands:
        return ""
    with drawing(name):
        figure, ax = new_figure(_WIDTH, _HEIGHT)
        columns = _WIDTH // 2
        for (x, mean, low, high), entry in zip(bands, looks, strict=True):
            colour = COLOURS[entry.role]
            draw_band(ax, x, low, high, columns, color=colour, alpha=_BAND)
            draw_line(ax, x, mean, columns, color=colour, dashes=entry.dash, linewidth=2.0)
        show_span(ax, [mean for _, mean, _, _ in bands] + [low for _, _, low, _ in bands])
        places = np.concatenate([x[np.isfinite(x)] for x, _, _, _ in bands])
        if places.size:
            show_counts(ax, float(places.min()), float(places.max()), "batches trained on")
        if not any((np.isfinite(mean) & np.isfinite(x)).any() for x, mean, _, _ in bands):
            say_empty(ax)
        names = ", ".join(trial.remedy for trial in shown) or "no remedy"
        return inline_svg(figure, name, f"Held-out loss by batches trained on: as it is, and with {names}.")


def trial_curves_legend(trials: Sequence[Trial], baseline: np.ndarray) -> list[LegendEntry]:
    """List what `draw_trial_curves` draws."""
    entries = [look(index, trial.remedy) for index, trial in enumerate(_with_curves(trials))]
    return [*([_as_it_is()] if np.size(baseline) else []), *entries]


def draw_forest(trials: Sequence[Trial], name: str) -> str:
    """Draw the change of the held-out loss of every trial with its interval, beside a line at no change.

    What lies far beyond the others ends in an arrow at the edge. Trials without a number say why.

    Args:
        trials: one a row, the first at the top. Their names stand in the drawing, so letters other than plain
            ones are replaced there.
        name: prefix of every id; letters, digits and hyphens.

    Returns:
        An `<svg>` element, or nothing where there are no trials.
    """
    if not trials:
        return ""
    low, high = _forest_limits(trials)
    with drawing(name):
        figure, ax = new_figure(_WIDTH, _FOOT_HEIGHT + _ROW_HEIGHT * len(trials))
        ax.axvline(0, color=COLOURS["rule"], linewidth=1.4, zorder=0.5)
        room = 0.04 * (high - low)
        ax.set_xlim(low - room, high + room)
        for row, trial in enumerate(trials):
            _draw_trial(ax, row, trial, (low, high))
        ax.set_ylim(len(trials) - 0.4, -0.6)
        ax.yaxis.set_major_locator(FixedLocator(range(len(trials))))
        ax.yaxis.set_major_formatter(FixedFormatter([_label(trial.remedy) for trial in trials]))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(NumberFormatter())
        ax.grid(False, axis="y")
        ax.set_xlabel("change of the held-out loss in %")
        rows = "; ".join(
            f"{trial.remedy} {format_change(trial.change)} ({trial.judgement})" for trial in trials
        )
        return inline_svg(figure, name, f"Change of the held-out loss with each remedy: {rows}.")


def forest_legend(trials: Sequence[Trial]) -> list[LegendEntry]:
    """List what `draw_forest` draws."""
    present = {trial.judgement for trial in trials}
    return [
        LegendEntry(judgement, role, "dot")
        for judgement, role in JUDGEMENT_ROLES.items()
        if judgement in present
    ]


def _with_curves(trials: Sequence[Trial]) -> list[Trial]:
    return best_trials([trial for trial in trials if np.size(trial.curves)], _MOST_CURVES)


def _as_it_is() -> LegendEntry:
    return LegendEntry("as it is", "truth", dash=(1.5, 1.5))


def _mean_and_ends(
    curves: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, mean, lowest and highest over the seeds; NaN where a seed's loss is not finite."""
    rows = np.atleast_2d(curves)
    rows = rows.reshape(len(rows), -1)
    rows = as_numbers(rows).reshape(rows.shape)
    points = rows.shape[1]
    x = as_numbers(steps)
    x = x[:points] if len(x) >= points else np.arange(float(points))
    # NaN spreads through all three on purpose: a mean over the seeds that are left would look too good
    return x, rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0)


def _forest_limits(trials: Sequence[Trial]) -> tuple[float, float]:
    """Choose the span of the axis in percent, so that one vast change does not squeeze the others."""
    changes = 100 * as_numbers(np.array([trial.change for trial in trials]))
    ends = 100 * as_numbers(np.array([end for trial in trials for end in (trial.low, trial.high)]))
    usual = np.abs(changes[np.isfinite(changes)])
    most = max(1.0, _MOST_SPREAD * float(np.median(usual))) if usual.size else 1.0
    seen = np.concatenate([changes, ends, [0.0]])
    seen = seen[np.isfinite(seen)].clip(-most, most)
    low, high = float(seen.min()), float(seen.max())
    return (low, high) if high - low > 1e-6 else (-1.0, 1.0)


def _draw_trial(ax: Axes, row: int, trial: Trial, limits: tuple[float, float]) -> None:
    """Draw one row: interval, dot, and arrows where they go beyond the axis."""
    colour = COLOURS[JUDGEMENT_ROLES[trial.judgement]]
    low, high = limits
    if math.isnan(trial.change):
        ax.annotate(trial.judgement, (0, row), xytext=(6, 0), textcoords="offset points", va="center")
        return
    ends = [100 * end for end in (trial.low, trial.high) if not math.isnan(end)]
    inside = [min(max(end, low), high) for end in ends]
    if len(inside) == 2:
        ax.plot(inside, [row, row], color=colour, linewidth=2.0, solid_capstyle="butt")
    everything = [100 * trial.change, *ends]
    if min(everything) < low:
        ax.plot([low], [row], "<", color=colour, markersize=6, clip_on=False)
    if max(everything) > high:
        ax.plot([high], [row], ">", color=colour, markersize=6, clip_on=False)
    if low <= 100 * trial.change <= high:
        ax.plot([100 * trial.change], [row], "o", color=colour, markersize=7)


def _label(text: str) -> str:
    """Make a name fit for a drawing: plain letters, one line, not too long."""
    plain = "".join(letter if letter in _SAFE else "?" for letter in " ".join(text.split()))
    return plain if len(plain) <= _LONGEST_LABEL else plain[: _LONGEST_LABEL - 1] + "…"
