from __future__ import annotations

import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from gatewright.reports import figures
from gatewright.reports.axes import NumberFormatter, as_numbers, as_positions, kept_points
from gatewright.reports.contents import SeriesForecast

NAN = float("nan")
KIND = "beyond the end of the data"


def forecast(times: object, truth: object, ahead: object, median: object, **bands: object) -> SeriesForecast:
    edges = {int(level[1:]): tuple(np.array(edge, float) for edge in band) for level, band in bands.items()}  # type: ignore[attr-defined]
    values = np.array(truth, float), np.array(median, float)
    return SeriesForecast("s", np.array(times), values[0], np.array(ahead), values[1], edges, KIND)  # type: ignore[arg-type]


def dates(*texts: str) -> np.ndarray:
    return np.array(texts, "datetime64[us]")


HARD_FORECASTS = {
    "one point": forecast([0], [1], [1], [2], p90=([1], [3])),
    "one date": forecast(dates("2024-01-01"), [5], dates("2024-01-01"), [5], p90=([4], [6])),
    "nothing": forecast([], [], [], []),
    "no truth": forecast([], [], dates("2024-02-29"), [5], p90=([1], [9])),
    "all missing": forecast([0, 1], [NAN, NAN], [2], [NAN], p90=([NAN], [NAN])),
    "every other missing": forecast(range(5), [1, NAN, 2, NAN, 3], [5, 6, 7], [1, NAN, 2]),
    "constant": forecast(range(5), [7] * 5, [5, 6], [7, 7], p90=([7, 7], [7, 7])),
    "infinite": forecast(range(3), [1, np.inf, 2], [3], [-np.inf], p50=([1], [np.inf])),
    "vast": forecast(range(3), [1e300, 1e99, 1], [3], [-1e99]),
    "nothing but vast, on dates": forecast(
        dates("2024-01-01", "2024-01-02"), [1e150, 2e150], dates("2024-01-03"), [1e300]
    ),
    "65 hours": forecast(dates("2024-01-01", "2024-01-03T17:00"), [1, 2], dates("2024-01-03T17:00"), [2]),
    "tiny": forecast(range(3), [1e-300, 0, 1e-310], [3], [0]),
    "nearly constant": forecast(range(3), [1234567.01, 1234567.02, 1234567.03], [3], [1234567]),
    "ends of the calendar": forecast(dates("0001-01-01", "9999-12-31"), [5, 6], dates("2024-01-01"), [5]),
    "missing dates": forecast(dates("NaT", "2024-01-01T00:00:00.000001"), [1, 2], dates("NaT"), [3]),
    "microseconds": forecast(dates("2024-01-01", "2024-01-01T00:00:00.000001"), [1, 2], [], []),
    "huge integers": forecast([2**62, 2**62 + 1], [5, 6], [2**62 + 2], [5]),
    "crossed bands": forecast([0], [1], [1, 2], [1, 2], p90=([3, 3], [0, 0])),
}


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("series", HARD_FORECASTS.values(), ids=HARD_FORECASTS)
def test_hard_forecasts_are_drawn(series: SeriesForecast, narrow: bool) -> None:
    svg = figures.draw_forecast(series, "f", narrow=narrow)
    ElementTree.fromstring(svg)
    assert "nan" not in svg.lower()


HARD_LINES = {
    "one step": {"a": np.array([1.0])},
    "one zero": {"a": np.array([0.0])},
    "all missing": {"a": np.array([NAN, NAN])},
    "zeros and a constant": {"a": np.zeros(5), "b": np.full(5, 3.0)},
    "falls to zero": {"a": np.array([1, 1e-45, 0, 0, 1e-300, 0, 1e99])},
    "least positive number": {"a": np.array([5e-324, 0.0])},
    "least positive numbers": {"a": np.array([5e-324, 1e-310, 0.0])},
    "overflow": {"a": np.array([1e300, np.inf, 1.0])},
    "negative": {"a": np.array([-1.0, -2.0])},
    "no name, many steps": {"": np.arange(5000.0)},
    "many lines": {f"layer {index}": np.arange(3.0) + index for index in range(14)},
    "unequal lengths": {"a": np.ones(3), "b": np.ones(7), "c": np.ones(0)},
}


@pytest.mark.parametrize("lines", HARD_LINES.values(), ids=HARD_LINES)
def test_hard_lines_are_drawn(lines: dict[str, np.ndarray]) -> None:
    drawn = [figures.draw_error_by_horizon(lines, "e")]
    drawn += [figures.draw_gradient_by_lag(lines, seasons, "g") for seasons in ((), (1, 24, 0, -3, 5000))]
    assert all(ElementTree.fromstring(text).tag.endswith("svg") for text in drawn)


HARD_HISTORIES = {
    "one epoch": ({"epoch": [1], "train_loss": [0.5], "validation_loss": [NAN]}, 1),
    "all missing": ({"epoch": [1, 2], "train_loss": [NAN, NAN], "validation_loss": [NAN, NAN]}, 2),
    "no validation": ({"epoch": [1, 2, 3], "train_loss": [100, 1, 0.1]}, None),
    "zero loss": ({"epoch": [1, 2, 3], "train_loss": [100, 1, 0]}, 2),
    "negative loss": ({"epoch": [1, 2], "train_loss": [-100, 1], "validation_loss": [5, 5]}, 7),
    "infinite loss": ({"epoch": [1, 2], "train_loss": [np.inf, 1], "validation_loss": [5, 5]}, 2),
}


@pytest.mark.parametrize(("history", "best"), HARD_HISTORIES.values(), ids=HARD_HISTORIES)
def test_hard_histories_are_drawn(history: dict[str, list[float]], best: int | None) -> None:
    arrays = {name: np.array(values, float) for name, values in history.items()}
    drawn = figures.draw_learning_curves(arrays, best, "l")
    assert ElementTree.fromstring(drawn).tag.endswith("svg")


def test_what_is_not_there_is_not_drawn() -> None:
    assert figures.draw_learning_curves({}, None, "l") == ""
    assert figures.draw_learning_curves({"train_loss": np.empty(0)}, None, "l") == ""
    assert figures.draw_error_by_horizon({}, "e") == ""
    assert figures.draw_error_by_horizon({"a": np.empty(0)}, "e") == ""
    assert figures.draw_gradient_by_lag({}, (), "g") == ""


def test_learning_curves_over_a_large_span_use_a_log_axis() -> None:
    def labels(losses: list[float]) -> list[str]:
        svg = figures.draw_learning_curves({"train_loss": np.array(losses)}, None, "l")
        return re.findall(r">([^<>]+)</text>", svg)

    assert {"1", "10", "100"} <= set(labels([100, 10, 0.5]))
    assert "10" not in labels([3, 2, 1])


def test_a_gap_breaks_the_line_and_starts_a_window() -> None:
    whole = forecast(range(4), range(4), range(4, 9), [1, 2, 3, 4, 5])
    broken = forecast(range(4), range(4), range(4, 9), [1, 2, NAN, 4, 5])
    rule = re.compile(r"stroke-dasharray: 1\.8")
    count = [len(rule.findall(figures.draw_forecast(one, "f"))) for one in (whole, broken)]
    assert count == [1, 2]


def test_a_zero_gradient_is_marked_where_it_begins() -> None:
    name = "g"
    plain = figures.draw_gradient_by_lag({"a": np.array([1, 0.5, 0.2, 0.1])}, (), name)
    dead = figures.draw_gradient_by_lag({"a": np.array([1, 0.5, 0.0, 0.0])}, (), name)
    assert dead.count("<use") == plain.count("<use") + 1


def test_figures_are_deterministic_and_leave_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    series = HARD_FORECASTS["crossed bands"]
    first = figures.draw_forecast(series, "f")
    matplotlib.rcParams["lines.linewidth"] = 9
    try:
        assert figures.draw_forecast(series, "f") == first
    finally:
        matplotlib.rcParams["lines.linewidth"] = before["lines.linewidth"]
    assert dict(matplotlib.rcParams) == before


def test_drawing_needs_no_pyplot() -> None:
    script = (
        "import sys, numpy; from gatewright.reports.figures import draw_error_by_horizon as draw;"
        "draw({'a': numpy.ones(3)}, 'e'); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_two_names_share_no_id() -> None:
    lines = {"a": np.array([1.0, 0.0])}
    ids = [
        set(re.findall(r' id="([^"]+)"', figures.draw_gradient_by_lag(lines, (), name)))
        for name in ("one", "two")
    ]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_legends_name_what_is_drawn() -> None:
    bands = [entry for entry in figures.forecast_legend(HARD_FORECASTS.values()) if entry.mark == "band"]
    assert [entry.label for entry in bands] == ["50 % band", "90 % band"]
    assert bands[0].opacity > bands[1].opacity
    assert [entry.label for entry in figures.gradient_legend({"a": np.ones(30)}, (24, 168))][
        -1
    ] == "season: 24 steps"
    history = {"train_loss": np.ones(2), "validation_loss": np.full(2, NAN)}
    assert [entry.label for entry in figures.learning_legend(history, 2)] == [
        "training",
        "weights kept: epoch 2",
    ]


def test_thinning_keeps_extremes_ends_and_gaps() -> None:
    rng = np.random.default_rng(0)
    line = rng.normal(size=20_000)
    line[777], line[12_345], line[5_000] = 50, -50, NAN
    kept = kept_points(200, line)
    assert len(kept) <= 5 * 200
    assert {0, 777, 5_000, 12_345, 19_999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert kept_points(200, line[:800]).tolist() == list(range(800))


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ([0, 150, 300], ["0", "150", "300"]),
        ([-0.5, 0.0, 0.5], ["−0.5", "0.0", "0.5"]),
        ([0, 2.5, 5], ["0.0", "2.5", "5.0"]),
        ([0, 0.25, 0.5], ["0.00", "0.25", "0.50"]),
        ([0, 25_000, 50_000], ["0", "25\u00a0000", "50\u00a0000"]),
        ([0, 1e8, 2e8], ["0×10⁸", "1×10⁸", "2×10⁸"]),
        ([1e-6, 2e-6], ["1×10⁻⁶", "2×10⁻⁶"]),
        ([1234567.01, 1234567.02], ["1\u00a0234\u00a0567.01", "1\u00a0234\u00a0567.02"]),
        ([0], ["0"]),
        ([], []),
    ],
)
def test_tick_labels(ticks: list[float], labels: list[str]) -> None:
    assert NumberFormatter().format_ticks(ticks) == labels


def test_positions_tell_dates_from_numbers() -> None:
    is_date, (first, second) = as_positions(dates("1970-01-02", "NaT"), np.empty(0))
    assert is_date
    assert first[0] == 1.0
    assert np.isnan(first[1])
    assert second.size == 0
    assert as_positions(np.array([3, 4]))[0] is False


def test_numbers_that_cannot_be_drawn_become_missing() -> None:
    given = np.array([1.0, np.inf, -1e200, NAN])
    np.testing.assert_array_equal(as_numbers(given), [1.0, NAN, NAN, NAN])
    assert given[1] == np.inf
