"""Launches that become a CUDA graph, and memory that is not there; what a GPU would do is played."""

import pytest
import torch
from benchmarks.kernel_parity import make_call
from benchmarks.parity import Sizes

import gatewright as gw
from gatewright.backends.dispatch import run
from gatewright.backends.gpu import engine, passes

pytest.importorskip("triton", reason="the GPU backend is compiled by triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Graph:
    """A captured graph that counts."""

    def __init__(self):
        self.replays = 0

    def replay(self):
        self.replays += 1


@pytest.fixture
def captured(monkeypatch):
    """Graphs in the order of their capture, none known at first."""
    graphs = []

    def capture(_):
        graphs.append(Graph())
        return graphs[-1]

    monkeypatch.setattr(engine, "_captured", capture)
    monkeypatch.setattr(engine, "_graphs", {})
    monkeypatch.setattr(engine, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return graphs


def test_what_is_launched_again_is_captured_and_replayed(captured):
    launched = []
    for _ in range(4):
        engine.repeated("a", (), lambda: launched.append("a"))
    assert launched == ["a"]
    assert [graph.replays for graph in captured] == [3]
    engine.repeated("b", (), lambda: launched.append("b"))
    assert launched == ["a", "b"]


def test_only_the_latest_graphs_are_kept(captured):
    for key in range(engine.MOST_GRAPHS + 1):
        for _ in range(2):
            engine.repeated(key, (), lambda: None)
    engine.repeated(0, (), lambda: None)
    assert len(captured) == engine.MOST_GRAPHS + 1
    assert len(engine._graphs) == engine.MOST_GRAPHS


def test_inside_of_someone_elses_graph_nothing_is_captured(captured, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    launched = []
    for _ in range(3):
        engine.repeated("a", (), lambda: launched.append("a"))
    assert launched == ["a"] * 3
    assert captured == []


@pytest.mark.skipif(DEVICE == "cpu", reason="CUDA graphs need a GPU")
def test_a_replayed_graph_gives_the_same():
    layer = gw.GRU(64, 4096, device=DEVICE, dtype=torch.bfloat16)
    layer.backend = "gpu"
    x = torch.randn(8, 128, 64, device=DEVICE, dtype=torch.bfloat16)
    with torch.no_grad():
        found = [layer(x)[0].clone() for _ in range(6)]
    assert any(graph is not None for graph, _ in engine._graphs.values())
    assert all(torch.equal(y, found[0]) for y in found)


def test_too_little_memory_says_what_helps(monkeypatch):
    def kept(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(passes, "kept", kept)
    call = make_call(gw.CATALOGUE["lstm"], Sizes(2, 2, 3, 4), torch.float32)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run(call, "gpu")
    assert "set recompute=True" in caught.value.__notes__[0]


@pytest.mark.skipif(DEVICE == "cpu", reason="a GPU's memory is meant")
def test_too_little_memory_leaves_nothing_allocated():
    layer = gw.LSTM(64, 512, device=DEVICE)
    layer.backend = "gpu"
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    x = torch.randn(1, 1, 64, device=DEVICE).expand(100_000, 4096, 64)
    with pytest.raises(torch.OutOfMemoryError):
        layer(x)
    assert torch.cuda.memory_allocated() <= before + (1 << 20)
