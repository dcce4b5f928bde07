"""What a forecast report holds: plain numbers and strings, measured elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["held out", "beyond the end of the data"]

SCORE_COLUMNS = ("mase", "smape", "scaled_quantile_loss", "coverage")


@dataclass(frozen=True)
class SeriesForecast:
    """One series to draw: a stretch of truth and the forecasts made for it.

    Several forecast windows may stand one after the other, set apart by a NaN in the median; `join_windows`
    joins them so.

    Attributes:
        id: the name of the series, as the user wrote it.
        times: [T] datetime64 or integers, the stretch of truth to show.
        truth: [T] in units of the target; NaN is missing and drawn as a gap.
        forecast_times: [N] as `times`.
        median: [N] in units of the target.
        bands: level in percent -> (low, high), each [N].
        kind: whether truth is known under the forecast.
    """

    id: str
    times: np.ndarray
    truth: np.ndarray
    forecast_times: np.ndarray
    median: np.ndarray
    bands: Mapping[int, tuple[np.ndarray, np.ndarray]]
    kind: Kind

    def __post_init__(self) -> None:
        if len(self.times) != len(self.truth):
            raise ValueError(
                f"expected a truth for each of {len(self.times)} times, received {len(self.truth)}"
            )
        steps = len(self.forecast_times)
        values = [self.median, *(edge for band in self.bands.values() for edge in band)]
        if any(len(value) != steps for value in values):
            received = sorted({len(value) for value in values})
            raise ValueError(f"expected median and bands of {steps} steps each, received {received}")


@dataclass(frozen=True)
class ScoreRow:
    """The scores of one model over all held-out windows; NaN where a score does not exist.

    Attributes:
        model: the name to show.
        mase: error relative to the in-sample seasonal naive forecast; smaller is better.
        smape: in percent, 0 to 200; smaller is better.
        scaled_quantile_loss: quantile loss in the scale of `mase`; smaller is better.
        coverage: share of true values inside the band, 0 to 1; best at the band's own level.
    """

    model: str
    mase: float
    smape: float
    scaled_quantile_loss: float
    coverage: float


@dataclass(frozen=True)
class Report:
    """Everything a report page shows, in the order of the page.

    Attributes:
        title: the page's heading.
        verdict: one or two plain sentences; says so when a baseline wins.
        good: whether the verdict is good news.
        scores: one row a model, the trained model first.
        coverage_level: level of the band whose coverage is scored, in percent.
        score_note: one line on how the scores were made.
        target: name of the forecast column.
        held_out: forecasts to compare with known truth.
        future: forecasts beyond the end of the data.
        error_by_horizon: model -> [N] mean absolute error by step ahead, in units of the target; as `scores`.
        history: "epoch", "train_loss" and "validation_loss", each one value an epoch.
        best_epoch: the epoch whose weights were kept.
        gradient_norms: layer -> [T] mean norm of the loss's gradient by the state, index 0 is the last step.
        season_lengths: in time steps.
        facts: name -> value: data, rows, model, seed, versions.
        notes: one sentence each.
        files: file in the run folder -> what it holds.
        command: what to type to get this run again.
    """

    title: str
    verdict: str
    good: bool
    scores: Sequence[ScoreRow]
    coverage_level: int
    target: str
    score_note: str = ""
    held_out: Sequence[SeriesForecast] = ()
    future: Sequence[SeriesForecast] = ()
    error_by_horizon: Mapping[str, np.ndarray] = field(default_factory=dict)
    history: Mapping[str, np.ndarray] = field(default_factory=dict)
    best_epoch: int | None = None
    gradient_norms: Mapping[str, np.ndarray] = field(default_factory=dict)
    season_lengths: tuple[int, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


def join_windows(windows: Sequence[np.ndarray]) -> np.ndarray:
    """Lay forecast windows end to end with one gap between each two, as `SeriesForecast` wants them.

    Args:
        windows: arrays [N_i] of values, or of times; all of one type.

    Returns:
        [sum of N_i + windows - 1]; the gap is NaN among values and a repeated time among times.
    """
    pieces: list[np.ndarray] = []
    for window in windows:
        if pieces:
            last = pieces[-1][-1:]
            pieces.append(np.full_like(last, np.nan) if np.issubdtype(last.dtype, np.floating) else last)
        pieces.append(np.asarray(window))
    return np.concatenate(pieces) if pieces else np.empty(0)


def format_score(column: str, value: float) -> str:
    """Write a score as the tables show it; an en dash where there is none.

    Args:
        column: one of `SCORE_COLUMNS`.
        value: as in `ScoreRow`.

    Returns:
        The text.
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if column == "coverage":
        return f"{100 * value:.1f} %"
    if abs(value) >= 1e5:
        return f"{value:.2e}" + (" %" if column == "smape" else "")
    return f"{value:.2f} %" if column == "smape" else f"{value:.3f}"


def best_rows(rows: Sequence[ScoreRow], column: str, coverage_level: int) -> set[int]:
    """Find the rows that are best in a column: the smallest, or the coverage nearest its level.

    Rows that read the same as the best are best too. A column with fewer than two numbers has no best.

    Args:
        rows: the score table.
        column: one of `SCORE_COLUMNS`.
        coverage_level: in percent.

    Returns:
        Indices into `rows`.
    """
    distance: dict[int, float] = {}
    for index, row in enumerate(rows):
        value = float(getattr(row, column))
        if math.isfinite(value):
            # rounded as shown, so that a tie on the page is a tie here
            distance[index] = round(abs(100 * value - coverage_level), 1) if column == "coverage" else value
    if len(distance) < 2:
        return set()
    best = min(distance, key=lambda index: distance[index])
    if column == "coverage":
        return {index for index, value in distance.items() if value == distance[best]}
    shown = format_score(column, distance[best])
    return {index for index, value in distance.items() if format_score(column, value) == shown}
