from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gatewright.reports.contents import ScoreRow, SeriesForecast, best_rows, format_score, join_windows
from gatewright.reports.text import score_table

NAN = float("nan")
ROWS = [
    ScoreRow("GRU [64]", 0.7314, 6.4, 0.5, 0.884),
    ScoreRow("seasonal naive", 1.0, 9.3, NAN, 0.912),
    ScoreRow("naive", 0.7312, 31.0, NAN, 0.5),
]


def bold(table: Table) -> list[list[str]]:
    """The bold cells of each column after the first."""
    columns = table.columns[1:]
    return [
        [cell.plain for cell in column.cells if isinstance(cell, Text) and "bold" in str(cell.style)]
        for column in columns
    ]


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_best_of_each_column_is_bold() -> None:
    # equal as printed means equally good; one number alone is not the best of anything
    assert bold(score_table(ROWS, 90)) == [["0.731", "0.731"], ["6.40 %"], [], ["91.2 %"]]


def test_coverage_is_best_nearest_its_level_from_either_side() -> None:
    rows = [ScoreRow("a", 1, 1, 1, 0.95), ScoreRow("b", 1, 1, 1, 0.85), ScoreRow("c", 1, 1, 1, 1.0)]
    assert best_rows(rows, "coverage", 90) == {0, 1}
    assert best_rows(rows, "coverage", 99) == {2}


def test_missing_and_infinite_scores_are_never_best() -> None:
    rows = [
        ScoreRow("a", NAN, np.inf, -np.inf, NAN),
        ScoreRow("b", 2, 1, 1, 0.9),
        ScoreRow("c", 3, 2, 2, 0.8),
    ]
    assert [best_rows(rows, column, 90) for column in ("mase", "smape", "scaled_quantile_loss")] == [{1}] * 3


def test_tables_print_names_as_they_are() -> None:
    text = printed(score_table(ROWS, 90))
    assert "GRU [64]" in text
    assert "coverage of 90 % band" in text
    assert "–" in text


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("mase", NAN, "–"),
        ("mase", np.inf, "∞"),
        ("mase", 0.73149, "0.731"),
        ("mase", 1.5e7, "1.50e+07"),
        ("smape", 6.428, "6.43 %"),
        ("coverage", 0.8844, "88.4 %"),
    ],
)
def test_scores_are_written(column: str, value: float, text: str) -> None:
    assert format_score(column, value) == text


def test_windows_are_joined_with_a_gap() -> None:
    joined = join_windows([np.array([1.0, 2.0]), np.array([3.0])])
    np.testing.assert_array_equal(joined, [1.0, 2.0, NAN, 3.0])
    assert join_windows([np.array([1, 2]), np.array([3])]).tolist() == [1, 2, 2, 3]
    assert join_windows([]).size == 0


def test_lengths_must_agree() -> None:
    three, two = np.arange(3), np.arange(2.0)
    with pytest.raises(ValueError, match="each of 3 times, received 2"):
        SeriesForecast("s", three, two, three, three, {}, "held out")
    with pytest.raises(ValueError, match="3 steps each, received"):
        SeriesForecast("s", three, three, three, three, {90: (two, two)}, "held out")
