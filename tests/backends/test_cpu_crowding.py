"""Threads that wait for each other give way when others have the cores."""

import time

import pytest
import torch

import gatewright as gw
from gatewright.backends.cpu import threads


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test turns, and no memory of earlier crowding."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(threads._state, "crowded_until", 0.0)
    monkeypatch.setattr(threads._state, "retreat", threads.SHORTEST_RETREAT)
    return now


def test_a_few_long_waits_are_no_crowd(clock):
    threads.note_waits(threads.CROWDED - 1)
    assert not threads.crowded()


def test_a_retreat_ends_and_is_longer_the_next_time(clock):
    lengths = []
    for _ in range(8):
        threads.note_waits(threads.CROWDED)
        begin = clock[0]
        while threads.crowded():
            clock[0] += 0.01
        lengths.append(clock[0] - begin)
    assert lengths[0] == pytest.approx(threads.SHORTEST_RETREAT, abs=0.02)
    assert lengths == sorted(lengths)
    assert lengths[-1] == pytest.approx(threads.LONGEST_RETREAT, abs=0.02)


def test_after_a_call_without_waits_the_next_retreat_is_a_short_one(clock):
    """Else a thread that is woken on a busy core twice in two seconds would cost seconds."""
    for _ in range(8):
        threads.note_waits(threads.CROWDED)
        clock[0] += threads.LONGEST_RETREAT
    threads.note_waits(0)
    threads.note_waits(threads.CROWDED)
    assert threads.crowded()
    clock[0] += threads.SHORTEST_RETREAT + 0.01
    assert not threads.crowded()


def test_a_crowded_call_runs_on_one_thread_and_gives_the_same_bits(two_threads, clock, monkeypatch):
    layer = gw.GRU(128, 128)
    x = torch.randn(64, 1, 128)
    assert "over the columns" in gw.explain(layer, x)
    used = []
    launch = threads.launch
    monkeypatch.setattr(threads, "launch", lambda *given: (used.append(given[2]), launch(*given))[1])
    monkeypatch.setattr(threads, "note_waits", lambda waits: None)
    with torch.no_grad():
        expected, _ = layer(x)
        threads._state.crowded_until = clock[0] + 1
        found, _ = layer(x)
    assert used == [2, 1]
    assert torch.equal(found, expected)
