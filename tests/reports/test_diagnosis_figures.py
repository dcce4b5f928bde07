from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from diagnosis_examples import NAN, arrays, charts, curves, few, matrices, needed, numbers, trials
from hypothesis import given

from gatewright.reports import diagnosis_figures as figures
from gatewright.reports import diagnosis_trial_figures as trial_figures
from gatewright.reports.diagnosis_contents import Charts, Trial
from gatewright.reports.figures import draw_gradient_by_lag, gradient_legend


def labels(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", svg)


def check(svg: str) -> None:
    if svg:
        # letters that XML forbids are the page's matter: a name stands in the title only
        plain = re.sub(r"<title[^>]*>.*?</title>", "", svg, flags=re.DOTALL)
        assert ElementTree.fromstring(plain).tag.endswith("svg")
        assert "nan" not in plain.lower()


@few
@given(charts, needed)
def test_hard_measures_are_drawn(chart: Charts, lag: int) -> None:
    check(figures.draw_time_constants(chart.time_constants, lag, "t"))
    check(figures.draw_lyapunov(chart.lyapunov, "l"))
    check(figures.draw_memory(chart.memory_lags, chart.memory, lag, "m"))
    check(figures.draw_unused(chart.unused_lags, chart.unused, lag, "u"))


@few
@given(arrays, arrays, numbers)
def test_hard_training_is_drawn(rates: np.ndarray, losses: np.ndarray, rate: float) -> None:
    check(figures.draw_learning_rates(rates, losses, rate, "r"))
    check(figures.draw_observed(losses, "Loss", "o"))


@few
@given(trials, matrices, arrays)
def test_hard_trials_are_drawn(tried: list[Trial], baseline: np.ndarray, steps: np.ndarray) -> None:
    check(trial_figures.draw_trial_curves(tried, baseline, steps, "c"))
    check(trial_figures.draw_forest(tried, "f"))


def test_many_layers_are_drawn() -> None:
    many = {f"layer {index}": np.arange(1.0, 5) * (index + 1) for index in range(40)}
    check(figures.draw_time_constants(many, 3, "t"))
    check(figures.draw_lyapunov(many, "l"))
    check(figures.draw_memory(np.arange(4), many, 3, "m"))


def test_what_is_not_there_is_not_drawn() -> None:
    none = np.empty(0)
    assert figures.draw_time_constants({"a": np.array([NAN, -1.0])}, 5, "t") == ""
    assert figures.draw_lyapunov({"a": none}, "l") == ""
    assert figures.draw_memory(none, {"a": np.ones(3)}, 5, "m") == ""
    assert figures.draw_unused(np.ones(3), none, 5, "u") == ""
    assert figures.draw_learning_rates(np.array([0.0, -1.0, NAN]), np.ones(3), 1e-3, "r") == ""
    assert figures.draw_observed(none, "Loss", "o") == ""
    assert trial_figures.draw_trial_curves([], np.empty((0, 0)), none, "c") == ""
    assert trial_figures.draw_forest([], "f") == ""


def test_units_that_never_forget_have_a_bar_of_their_own() -> None:
    svg = figures.draw_time_constants({"a": np.array([1.0, np.inf, 2e6])}, 100, "t")
    assert {"∞", "1", "10", "100"} <= set(labels(svg))
    only = figures.draw_time_constants({"a": np.full(3, np.inf)}, 0, "t")
    assert {"∞", "3"} <= set(labels(only))


def test_the_needed_lag_stands_on_the_axis_if_it_is_near() -> None:
    lags, line = np.arange(1, 11), {"a": np.linspace(1, 0, 10)}
    near, far = figures.draw_memory(lags, line, 33, "m"), figures.draw_memory(lags, line, 500, "m")
    assert "33" in labels(near)
    assert "500" not in labels(far)
    assert [entry.label for entry in figures.needed_legend(["a"], lags, 33)] == ["a", "needed: 33 steps"]
    assert [entry.label for entry in figures.needed_legend(["a"], lags, 500)] == ["a"]


def test_lags_ever_further_apart_stand_on_a_log_axis() -> None:
    line = {"a": np.linspace(1, 0, 7)}
    doubled, even = 2.0 ** np.arange(7), np.arange(1.0, 8)
    assert {"1", "10"} <= set(labels(figures.draw_memory(doubled, line, 0, "m")))
    assert "10" not in labels(figures.draw_memory(even, line, 0, "m"))


def test_rates_that_diverged_are_crosses() -> None:
    rates = np.array([1e-3, 1e-2, 1e-1])
    count = [
        figures.draw_learning_rates(rates, np.array(losses), 1e-2, "r").count("line-4")
        for losses in ([0.9, 0.8, 0.7], [0.9, NAN, 0.7], [0.9, NAN, np.inf])
    ]
    assert count[0] == 0 < count[1] < count[2]
    assert "diverged" in [e.label for e in figures.learning_rate_legend(np.array([NAN]), 1e-3)]
    assert "0.01" in labels(figures.draw_learning_rates(rates, np.ones(3), 1e-2, "r"))


def test_exponents_of_minus_infinity_are_marked_once() -> None:
    plain = figures.draw_lyapunov({"a": np.array([-1.0, -2.0, NAN, NAN])}, "l")
    dead = figures.draw_lyapunov({"a": np.array([-1.0, -2.0, -np.inf, -np.inf])}, "l")
    assert dead.count("<use") == plain.count("<use") + 1


def test_steps_that_are_not_finite_are_marked_once_a_run() -> None:
    broken, whole = np.array([1, 2, NAN, NAN, 3, np.inf]), np.array([1, 2, 2, 2, 3, 3])
    crosses = [figures.draw_observed(line, "Loss", "o").count("line-4") for line in (whole, broken)]
    once = figures.draw_observed(np.array([1, 2, NAN, 4, 3, 3]), "Loss", "o").count("line-4")
    assert crosses[0] == 0 < once < crosses[1]
    assert [entry.mark for entry in figures.observed_legend(np.array([1, NAN]), "loss")] == ["line", "cross"]


def trial(name: str, change: float, judgement: str = "helped", **rest: object) -> Trial:
    return Trial(name, "", judgement, 1.0, 1.0, change, change - 0.1, change + 0.1, **rest)  # type: ignore[arg-type]


def test_a_curve_ends_where_a_seed_is_not_finite() -> None:
    rows = np.array([[1.0, 0.9, 0.8], [1.1, 1.0, NAN]])
    _, mean, low, high = trial_figures._mean_and_ends(rows, np.array([0, 10, 20]))
    np.testing.assert_allclose(mean, [1.05, 0.95, NAN])
    np.testing.assert_allclose(low, [1.0, 0.9, NAN])
    np.testing.assert_allclose(high, [1.1, 1.0, NAN])


def test_the_best_trials_are_drawn_beside_the_baseline() -> None:
    steps, baseline = np.arange(5) * 100, curves(0.68)
    several = [
        trial("worst", 0.5, "worse", curves=curves(0.9), steps=steps),
        trial("second", -0.1, curves=curves(0.5), steps=steps),
        trial("no curve", -0.9),
        trial("failed", NAN, "failed", curves=curves(NAN), steps=steps),
        trial("first", -0.5, curves=curves(0.1), steps=steps),
        trial("third", -0.2, "harmless", curves=curves(0.6), steps=steps),
    ]
    entries = trial_figures.trial_curves_legend(several, baseline)
    assert [entry.label for entry in entries] == ["as it is", "first", "second", "third"]
    assert [e.label for e in trial_figures.trial_curves_legend([], baseline)] == ["as it is"]


def test_a_forest_names_each_trial_and_says_why_one_has_no_number() -> None:
    svg = trial_figures.draw_forest(
        [trial("bias", -0.5), trial("日本 $x$ <b>", 0.1, "worse"), Trial("clip", "", "failed")], "f"
    )
    assert {"bias", "?? ?x? ?b?", "clip"} <= set(labels(svg))
    assert any("failed" in label for label in labels(svg))


def test_one_vast_change_does_not_squeeze_the_forest() -> None:
    svg = trial_figures.draw_forest([trial("a", -0.1), trial("b", -0.2), trial("c", 500.0, "worse")], "f")
    values = [float(label.replace("−", "-")) for label in labels(svg) if re.fullmatch(r"−?\d+", label)]
    assert max(values) <= 100


def test_gradient_marks_are_named() -> None:
    entries = gradient_legend({"a": np.ones(30)}, (24, 168), "needed")
    assert [entry.label for entry in entries] == ["a", "needed: 24 steps"]
    assert "24" in labels(draw_gradient_by_lag({"a": np.ones(30)}, (24,), "g"))


@pytest.mark.parametrize("name", ["one", "two"])
def test_ids_begin_with_the_name(name: str) -> None:
    svg = figures.draw_learning_rates(np.array([1e-3, 1e-2]), np.array([1.0, NAN]), 1e-3, name)
    ids = re.findall(r' id="([^"]+)"', svg)
    assert ids
    assert all(one.startswith(f"{name}-") for one in ids)
