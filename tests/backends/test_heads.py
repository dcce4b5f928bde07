"""Block-diagonal recurrent weights against the dense weights that they stand for."""

from dataclasses import replace

import pytest
import torch
from benchmarks.kernel_parity import compare, make_call, results
from benchmarks.parity import TOLERANCES, Sizes
from rewritten import rewritten

import gatewright as gw
from gatewright.backends import heads
from gatewright.backends.dispatch import BACKENDS

SIZES = Sizes(T=4, B=3, I=4, H=18)

pytestmark = pytest.mark.usefixtures("poison", "numpy_is_silent")


def call_with_heads(cell, count, dtype=torch.float32, **options):
    call = make_call(cell, SIZES, dtype, **options)
    whole = call.weights.weight_hh
    assert whole is not None
    narrow = whole.detach()[:, : SIZES.H // count].contiguous().requires_grad_()
    return replace(call, weights=replace(call.weights, weight_hh=narrow))


def dense(call):
    """The same call with the blocks in a matrix of zeros."""
    weight, maps = call.weights.weight_hh.detach(), len(call.cell.graph.recurrent_maps)
    blocks = [torch.block_diag(*rows.split(weight.shape[1])) for rows in weight.chunk(maps)]
    return replace(call, weights=replace(call.weights, weight_hh=torch.cat(blocks).requires_grad_()))


@pytest.mark.parametrize("backend", ["eager", "cpu", "torch"])
@pytest.mark.parametrize("name", ["gru", "gru_reset_before", "lstm"])
@pytest.mark.parametrize("reverse", [False, True])
def test_heads_are_a_dense_layer_with_blocks(name, backend, reverse):
    call = call_with_heads(gw.CATALOGUE[name], 3, torch.float64, reverse=reverse)
    assert heads.count(call) == 3
    if BACKENDS[backend].refusal(call) is not None:
        assert (name, backend) == ("gru_reset_before", "torch")
        return
    found, expected = results(call, backend), results(dense(call), "eager")
    torch.testing.assert_close(found.outputs, expected.outputs)
    torch.testing.assert_close(found.states, expected.states)
    maps = len(call.cell.graph.recurrent_maps)
    for gradient, other in zip(
        found.gradients["weight_hh"].chunk(maps), expected.gradients["weight_hh"].chunk(maps), strict=True
    ):
        blocks = [other[i : i + 6, i : i + 6] for i in (0, 6, 12)]
        torch.testing.assert_close(gradient, torch.cat(blocks))
    for key in found.gradients.keys() - {"weight_hh"}:
        torch.testing.assert_close(found.gradients[key], expected.gradients[key])


@pytest.mark.parametrize("count", [2, 3, 18])
@pytest.mark.parametrize("option", ["normalised", "everything"])
def test_heads_with_options(option, count):
    """A mean over the units is one over those of a head, on every backend."""
    pytest.importorskip("triton", reason="the GPU backend is compiled by triton")
    call = call_with_heads(rewritten(option, gw.CATALOGUE["lstm"].graph), count)
    for backend in ("cpu", "gpu"):
        assert compare(call, backend=backend).worst <= TOLERANCES[torch.float32]


def test_the_gpu_runs_all_heads_at_once_where_their_weights_stay():
    pytest.importorskip("triton", reason="the GPU backend is compiled by triton")
    call = call_with_heads(gw.CATALOGUE["gru"], 3)
    assert "3 heads at once" in BACKENDS["gpu"].describe(call)[1]
    assert BACKENDS["gpu"].describe(call)[2].startswith("programs: 1 x 3")
    assert BACKENDS["cpu"].describe(call)[0] == "3 heads, zeros between their weights"
    assert "width = H // 3" in BACKENDS["gpu"].kernel_source(call)
    assert BACKENDS["cpu"].kernel_source(call).startswith("; forward kernel")
