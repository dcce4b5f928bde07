"""How calls are laid over a GPU, what is said of it, and what is refused."""

import subprocess
import sys

import pytest
import torch

import gatewright as gw
from gatewright.backends.gpu import engine
from gatewright.backends.gpu.blocks import Blocks, choose_blocks, inner_blocks
from gatewright.backends.gpu.engine import INTERPRETED_DEVICE
from gatewright.compiler.schedule import schedule

pytest.importorskip("triton", reason="the GPU backend is compiled by triton")


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def blocks(cell, batch, hidden, element_bytes=2, steps=1024):
    return choose_blocks(
        schedule(gw.CATALOGUE[cell].graph), steps, batch, hidden, element_bytes, INTERPRETED_DEVICE
    )


@pytest.mark.parametrize(
    ("cell", "batch", "hidden", "regime"),
    [
        ("gru", 64, 64, "resident"),
        ("gru", 64, 128, "resident"),
        ("gru", 64, 256, "columns"),
        ("gru", 16, 1024, "columns"),
        ("lstm", 16, 768, "columns"),
        ("gru", 4096, 1024, "launches"),
        ("lstm", 64, 4096, "launches"),
    ],
)
def test_the_regime_follows_from_the_size(cell, batch, hidden, regime):
    assert blocks(cell, batch, hidden).regime == regime


@pytest.mark.parametrize("batch", [1, 7, 64, 300])
@pytest.mark.parametrize("hidden", [1, 40, 200, 513, 1024, 2000])
def test_programs_that_wait_for_each_other_all_have_a_place(batch, hidden):
    found = blocks("gru", batch, hidden)
    rows, columns = found.programs(batch, hidden)
    assert rows * found.rows >= batch
    assert columns * found.columns >= hidden
    if found.regime == "columns":
        assert rows * columns <= INTERPRETED_DEVICE.multiprocessors
        depth = sum(length for _, length in found.inner)
        assert 3 * depth * found.columns * 2 <= INTERPRETED_DEVICE.shared_bytes


@pytest.mark.parametrize("length", [1, 16, 17, 300, 768, 1024])
def test_inner_blocks_cover_the_length(length):
    found = inner_blocks(length)
    starts = [start for start, _ in found]
    assert starts == [sum(size for _, size in found[:i]) for i in range(len(found))]
    assert length <= sum(size for _, size in found) < length + 16
    assert all(size >= 16 and size & (size - 1) == 0 for _, size in found)


def test_the_batch_is_no_part_of_the_code():
    """A kernel is compiled once for all batches of a regime, however long the sequence."""
    layer = gw.GRU(4, 64, device=DEVICE)
    layer.backend = "gpu"
    sizes = [(steps, batch) for steps in (3, 100) for batch in (1, 17, 40)]
    texts = {gw.kernel_source(layer, torch.randn(*size, 4, device=DEVICE)) for size in sizes}
    assert len(texts) == 1


def test_explain_and_source():
    layer = gw.Recurrent("gru_reset_before", 4, 300, device=DEVICE)
    layer.backend = "gpu"
    x = torch.randn(5, 33, 4, device=DEVICE)
    text = gw.explain(layer, x)
    assert text.startswith("gpu: cell gru_reset_before")
    assert "programs wait for each other" in text
    source = gw.kernel_source(layer, x)
    compile(source, "kernel", "exec")
    assert "def forward(" in source
    assert "def backward(" in source


def refusal(layer, x):
    layer.backend = "gpu"
    with pytest.raises(gw.InputError) as error:
        layer.to(DEVICE)(x.to(DEVICE))
    return str(error.value)


def test_what_is_refused_says_why():
    text = refusal(gw.GRU(3, 5).double(), torch.randn(2, 2, 3).double())
    assert "float32, bfloat16, float16, the input is float64" in text
    assert "do not project" in refusal(gw.LSTM(3, 5, proj_size=2), torch.randn(2, 2, 3))
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(2, 3), torch.randn(1, 3)])
    assert "the input is packed" in refusal(gw.LSTM(3, 5, proj_size=2), packed)


def test_without_triton(monkeypatch):
    monkeypatch.setattr(engine, "has_triton", lambda: False)
    assert "triton, which is not installed" in refusal(gw.GRU(3, 5), torch.randn(2, 2, 3))


def test_without_a_gpu_and_without_the_interpreter():
    program = (
        "import torch, gatewright as gw\n"
        "layer = gw.GRU(3, 5); layer.backend = 'gpu'\n"
        "try: layer(torch.randn(2, 2, 3))\n"
        "except gw.InputError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "", "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "its kernels run on CUDA devices, or on the CPU where TRITON_INTERPRET=1" in done.stdout


def test_an_elementwise_cell_is_a_scan_or_a_loop():
    @gw.cell
    def affine(x, h):
        z = gw.sigmoid(x.z)
        return z * h + (1 - z) * x.n

    @gw.cell
    def squared(x, h):
        return gw.sigmoid(x.z) * h * h

    one = choose_blocks(schedule(affine.graph), 1000, 8, 100, 2, INTERPRETED_DEVICE)
    other = choose_blocks(schedule(squared.graph), 1000, 8, 100, 2, INTERPRETED_DEVICE)
    assert (one.regime, other.regime) == ("scan", "elements")
    assert isinstance(one, Blocks)
