"""Between torch's kernels on a GPU and ours a measurement decides; without a GPU its clock is played."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from benchmarks.kernel_parity import make_call
from benchmarks.parity import Sizes

import gatewright as gw
from gatewright.backends import dispatch, measured

pytest.importorskip("triton", reason="the GPU backend is compiled by triton")


@pytest.fixture
def clock(monkeypatch):
    """Seconds by backend, and what was measured."""
    seconds, asked = {"torch": 2e-3, "gpu": 1e-3}, []

    def played(backend, call):
        asked.append((backend.name, call))
        return seconds[backend.name]

    monkeypatch.setattr(measured, "_measured", played)
    monkeypatch.setattr(measured, "_seconds", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    return seconds, asked


def gru_call(T=300, B=5):
    return make_call(gw.CATALOGUE["gru"], Sizes(T=T, B=B, I=3, H=4), torch.float32)


def test_the_faster_one_runs_and_says_by_how_much(clock):
    route = dispatch._faster(gru_call())
    assert route is not None
    assert route.backend.name == "gpu"
    assert route.refusals == {"torch": "measured slower here, 2 ms against 1 ms for 256 steps at most"}


def test_each_kind_of_call_is_measured_once(clock):
    seconds, asked = clock
    dispatch._faster(gru_call())
    seconds["gpu"] = 3e-3
    for call in (gru_call(T=400), gru_call(B=6)):
        route = dispatch._faster(call)
        assert route is not None
        assert route.backend.name == "gpu"
    assert [name for name, _ in asked] == ["torch", "gpu"]
    route = dispatch._faster(gru_call(T=20))
    assert route is not None
    assert route.backend.name == "torch"
    with torch.no_grad():
        dispatch._faster(gru_call())
    assert len(asked) == 6


def test_what_is_measured_is_no_part_of_the_call(clock):
    _, asked = clock
    call = gru_call()
    dispatch._faster(call)
    sample = asked[0][1]
    assert sample.x.shape == (256, 5, 3)
    assert sample.x.requires_grad
    assert sample.x.is_leaf
    assert sample.weights.weight_ih is not call.weights.weight_ih
    assert call.weights.weight_ih.grad is None


def test_where_one_of_them_refuses_nothing_is_measured(clock):
    assert dispatch._faster(make_call(gw.CATALOGUE["gru_reset_before"], Sizes(2, 2, 3, 4))) is None
    assert dispatch._faster(replace(gru_call(), x=torch.zeros(0, 5, 3))) is None
    assert clock[1] == []


def test_while_a_graph_is_captured_nothing_is_measured(clock, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert dispatch._faster(gru_call()) is None
