"""The tables of a report for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from gatewright.reports.contents import SCORE_COLUMNS, ScoreRow, best_rows, format_score

_HEADINGS = ("MASE", "sMAPE", "scaled quantile loss")


def score_table(rows: Sequence[ScoreRow], coverage_level: int) -> Table:
    """Set out the scores of all models, the best of each column in bold.

    Args:
        rows: one a model.
        coverage_level: level of the band whose coverage is scored, in percent.

    Returns:
        A table for the terminal.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for heading in (*_HEADINGS, f"coverage of {coverage_level} % band"):
        table.add_column(heading, justify="right")
    best = {column: best_rows(rows, column, coverage_level) for column in SCORE_COLUMNS}
    for index, row in enumerate(rows):
        cells = [
            Text(format_score(column, getattr(row, column)), style="bold" if index in best[column] else "")
            for column in SCORE_COLUMNS
        ]
        # Text, not str: square brackets in a name are no markup
        table.add_row(Text(row.model), *cells)
    return table
