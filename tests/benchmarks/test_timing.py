"""How the benchmark measures: turns, pairs, disturbed measurements, the machine's ceilings."""

import pytest
from benchmarks.ceilings import Loops
from benchmarks.timing import Measurement, Plan, measure_rounds, paired_ratio, summarize

from benchmarks import machine


def rounds(*measured):
    return [Measurement(seconds, others) for seconds, others in measured]


def test_each_rival_runs_in_every_round_and_orders_change(monkeypatch):
    monkeypatch.setattr(machine, "time_of_others", lambda: 0.0)
    monkeypatch.setattr("benchmarks.timing.BLOCK_SECONDS", 0.0)
    monkeypatch.setattr("benchmarks.timing.SETTLING_SECONDS", 0.0)
    monkeypatch.setattr("benchmarks.timing.warmed_up", lambda run: 1.0)
    monkeypatch.setattr("benchmarks.timing.PAUSE_SECONDS", 0.0)
    turns = []
    runs = {name: (lambda name=name: turns.append(name)) for name in "abc"}
    measured = measure_rounds(runs, Plan(rounds=20, seconds=60))
    assert [len(measured[name]) for name in "abc"] == [20, 20, 20]
    orders = ["".join(turns[start : start + 3]) for start in range(0, 60, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 3


def test_rounds_go_on_while_others_disturb_them_until_patience_ends(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(machine, "time_of_others", lambda: next(clock) * 1000.0)
    monkeypatch.setattr("benchmarks.timing.warmed_up", lambda run: 1.0)
    monkeypatch.setattr("benchmarks.timing.PAUSE_SECONDS", 0.0)
    measured = measure_rounds({"a": lambda: None}, Plan(rounds=4, seconds=60, least=2, patience=3))
    assert len(measured["a"]) == 12
    assert not any(measurement.quiet for measurement in measured["a"])


def test_ratios_are_taken_within_a_round():
    # the machine slows down tenfold in the second round: the ratio does not
    ratio = paired_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
    assert ratio == {"median": 2.0, "low": 2.0, "high": 2.0}
    ratio = paired_ratio([1.0, 2.0, 3.0, 4.0], [1.0] * 4)
    assert ratio["low"] < ratio["median"] == 2.5 < ratio["high"]


def test_disturbed_measurements_do_not_count_while_enough_others_are_left():
    ours = rounds((1.0, 0), (1.0, 0), (9.0, 1.0), (1.0, 0))
    theirs = rounds((2.0, 0), (80.0, 1.0), (2.0, 0), (2.0, 0.1))
    found = summarize({"ours": ours, "theirs": theirs}, 10**9, "ours", least=2)
    assert found["peers"]["ours"]["gflops"] == 1
    assert found["peers"]["theirs"]["median_ms"] == 2000
    assert found["ratios"]["theirs"] == {"median": 2.0, "low": 2.0, "high": 2.0, "rounds": 2}
    assert found["disturbed"] == []
    found = summarize({"ours": ours, "theirs": theirs}, 10**9, "ours", least=3)
    assert found["disturbed"] == ["theirs"]
    assert found["ratios"]["theirs"]["rounds"] == 4


def test_ratios_need_ours():
    found = summarize({"theirs": rounds((2.0, 0))}, 10**9, "ours", least=1)
    assert found["ratios"] == {}
    assert found["peers"]["theirs"]["gflops"] == 0.5


def test_the_generated_loops_compute_what_they_are_timed_for():
    pytest.importorskip("llvmlite", reason="the loops are generated with llvmlite")
    loops = Loops()
    # s ← s · ½ + ½ stays at 1 in each accumulator; the start is added once
    assert loops.fma(3, 0.5) == loops.accumulators + 1
    import numpy as np

    steps = 5
    data = np.ones(steps * loops.lanes * loops.accumulators, np.float32)
    assert loops.read(steps, data.ctypes.data) == steps * loops.accumulators
    assert loops.fma_rate(1, 0.01) > 0.1
