"""The report page: one HTML file that opens offline, without a script, and asks for nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from gatewright.reports import figures
from gatewright.reports.contents import (
    SCORE_COLUMNS,
    Report,
    ScoreRow,
    SeriesForecast,
    best_rows,
    format_score,
    join_windows,
)
from gatewright.reports.lines import LegendEntry, line_legend
from gatewright.reports.template import Panel, render

__all__ = ["Report", "ScoreRow", "SeriesForecast", "join_windows", "render_page"]

_MOST_WIDE = 3  # with more series than this the figures stand in two columns

GRADIENT_CAPTION = (
    "How strongly the loss of a forecast still depends on the state so many steps earlier. "
    "A line that falls fast means that the net cannot learn from further back than that."
)
_HELD_OUT_CAPTION = (
    "When a forecast was made, the model had seen nothing to the right of the line where it begins."
)
_FUTURE_CAPTION = "The truth ends where the forecast begins."


@dataclass(frozen=True)
class _Group:
    """Figures that share a heading and a legend."""

    title: str
    caption: str
    legend: Sequence[LegendEntry]
    panels: Sequence[Panel] = field(default=())


def render_page(report: Report) -> str:
    """Set a report as a complete HTML page.

    The same report gives the same text. Whatever the user wrote is escaped; there is no script and no
    reference to anything outside the page.

    Args:
        report: what to show; empty parts are left out.

    Returns:
        The page, to be written as UTF-8.
    """
    return render(
        "forecast.html.jinja",
        report=report,
        score_rows=_score_cells(report),
        forecast_groups=_forecast_groups(report),
        panels=_small_panels(report),
    )


def _score_cells(report: Report) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Model names, each with its scores as shown and whether they are the column's best."""
    table: list[tuple[str, list[tuple[str, bool]]]] = [(row.model, []) for row in report.scores]
    for column in SCORE_COLUMNS:
        best = best_rows(report.scores, column, report.coverage_level)
        for index, row in enumerate(report.scores):
            table[index][1].append((format_score(column, getattr(row, column)), index in best))
    return table


def _forecast_groups(report: Report) -> list[_Group]:
    """The forecast figures, held out first."""
    kinds = (
        ("Forecasts of held-out data", "held-out", report.held_out, _HELD_OUT_CAPTION),
        ("Forecasts beyond the end of the data", "future", report.future, _FUTURE_CAPTION),
    )
    groups = []
    for title, name, series, caption in kinds:
        panels = [_forecast_panel(one, f"{name}-{index}", len(series)) for index, one in enumerate(series, 1)]
        if panels:
            groups.append(_Group(title, caption, figures.forecast_legend(series), panels))
    return groups


def _forecast_panel(series: SeriesForecast, name: str, count: int) -> Panel:
    narrow = Markup(figures.draw_forecast(series, f"{name}-narrow", narrow=True))
    if count > _MOST_WIDE:
        return Panel(series.id, [narrow])
    return Panel(series.id, [Markup(figures.draw_forecast(series, f"{name}-wide")), narrow])


def _small_panels(report: Report) -> list[Panel]:
    """The figures that stand side by side."""
    norms, seasons = report.gradient_norms, report.season_lengths
    epochs, best = report.history, report.best_epoch
    panels = [
        Panel(
            "Error by steps ahead",
            [Markup(figures.draw_error_by_horizon(report.error_by_horizon, "error-by-horizon"))],
            f"Mean absolute error over the held-out windows, in units of {report.target}.",
            line_legend(report.error_by_horizon),
        ),
        Panel(
            "Learning curves",
            [Markup(figures.draw_learning_curves(epochs, best, "learning-curves"))],
            "Mean loss of each epoch. Validation that rises while training falls is overfitting.",
            figures.learning_legend(epochs, best),
        ),
        Panel(
            "Gradient memory",
            [Markup(figures.draw_gradient_by_lag(norms, seasons, "gradient-by-lag"))],
            GRADIENT_CAPTION + _seasons_outside(report),
            figures.gradient_legend(norms, seasons),
        ),
    ]
    return [panel for panel in panels if panel.drawings[0]]


def _seasons_outside(report: Report) -> str:
    """Say which seasons are longer than the window that the net learns from."""
    longest = max((len(values) for values in report.gradient_norms.values()), default=0)
    outside = [str(season) for season in report.season_lengths if season >= longest]
    return f" Not on the axis: the season of {' and '.join(outside)} steps." if outside else ""
