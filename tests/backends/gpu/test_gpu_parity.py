"""The GPU kernels against the cell's equations, run step by step in float64 by torch's operations.

Without a GPU they run in Triton's interpreter, at small sizes. Programs run there one behind the other, so
that programs which wait for each other are only tested one a row; that columns are shared out rightly is
shown where each stage is a launch of its own, by the same source.
"""

import os
from dataclasses import replace

import pytest
import torch
from benchmarks.kernel_parity import compare, compare_random, make_call, random_call, results
from benchmarks.parity import Sizes
from rewritten import REWRITES, rewritten
from test_expressive_cells import CELLS as EXPRESSIVE

import gatewright as gw
from gatewright import exp, relu, sigmoid, where
from gatewright.backends.dispatch import BACKENDS, run
from gatewright.backends.gpu import engine, room
from gatewright.backends.gpu.blocks import Blocks, choose_blocks, inner_blocks, power_of_two

pytest.importorskip("triton", reason="the GPU backend is compiled by triton")

pytestmark = pytest.mark.usefixtures("poison", "numpy_is_silent")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 6e-2, torch.float16: 8e-3}
"""Relative; of the short ones the rounding of states and gates adds up, and the interpreter cuts off."""

RANDOM_CELLS = int(os.environ.get("GATEWRIGHT_RANDOM_CELLS", "50"))

REGIMES = ("resident", "columns", "launches")


@gw.cell
def coupled(x, w, a, b):
    """Two states, affine in each other: a scan."""
    g = sigmoid(x.g)
    return g * a - exp(-exp(w.n)) * b + x.u, 0.5 * a + where(x.q > 0, g, 0.3) * b + w.k


@gw.cell
def ind_rnn(x, w, h):
    """No products, but not affine either."""
    return relu(x.u + w.u * h)


CELLS = {
    **gw.CATALOGUE,
    **{name: row[0] for name, row in EXPRESSIVE.items()},
    "coupled": coupled,
    "ind_rnn": ind_rnn,
}


@pytest.fixture
def regime(request, monkeypatch):
    """Lay calls with products out in one way, scans in small tiles."""

    def chosen(plan, steps, batch, hidden, *device):
        blocks = choose_blocks(plan, steps, batch, hidden, *device)
        if blocks.regime == "scan":
            return replace(blocks, rows=4, columns=16)
        if blocks.regime == "elements":
            return blocks
        padded = max(16, power_of_two(hidden))
        return {
            "resident": Blocks("resident", 16, padded, ((0, padded),), 4),
            "columns": Blocks("columns", 16, padded, inner_blocks(hidden), 4),
            "launches": Blocks("launches", 16, 16, ((0, 16),), 4),
        }[request.param]

    monkeypatch.setattr(room, "choose_blocks", chosen)
    return request.param


def on_device(call):
    """A call on the device of the tests."""
    return (
        call
        if DEVICE == "cpu"
        else call.changed(lambda t: t.detach().to(DEVICE).requires_grad_(t.requires_grad))
    )


def assert_parity(call, used=None):
    call = on_device(call)
    errors = compare(call, used, backend="gpu")
    assert errors.worst <= TOLERANCES[call.x.dtype], errors


@pytest.mark.parametrize("regime", REGIMES, indirect=True)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_gives_what_its_equations_give(name, regime):
    assert_parity(make_call(CELLS[name], Sizes(T=3, B=3, I=4, H=18), torch.float32))


@pytest.mark.parametrize("regime", REGIMES, indirect=True)
@pytest.mark.parametrize("name", ["gru", "gru_reset_before", "lstm", "mingru"])
@pytest.mark.parametrize("option", REWRITES)
def test_options_are_nodes_of_the_graph_like_any_other(option, name, regime):
    """Masks of every kind and means over the hidden units come through the same emitter."""
    cell = rewritten(option, CELLS[name].graph)
    for reverse in (False, True):
        assert_parity(make_call(cell, Sizes(T=4, B=3, I=4, H=18), torch.float32, reverse=reverse))


@pytest.mark.parametrize(
    ("seed", "regime"),
    [(seed, REGIMES[seed % len(REGIMES)]) for seed in range(RANDOM_CELLS)],
    indirect=["regime"],
)
def test_a_random_cell_gives_what_its_equations_give(seed, regime):
    call = on_device(random_call(seed, torch.float32, steps=(1, 2, 5), project=False))
    errors, own, right = compare_random(call, "gpu")
    assert right, (call.cell, errors, own)


@pytest.mark.parametrize("regime", REGIMES, indirect=True)
@pytest.mark.parametrize(
    "sizes", [Sizes(T=2, B=18, I=3, H=37), Sizes(T=1, B=1, I=1, H=1), Sizes(T=4, B=2, I=5, H=16)], ids=str
)
def test_sizes_that_fill_no_tile(sizes, regime):
    """More rows than a tile, columns that end inside of one, a single one."""
    for name in ("gru_reset_before", "lstm"):
        assert_parity(make_call(CELLS[name], sizes, torch.float32, bias=sizes.B != 2))


@pytest.mark.parametrize("regime", REGIMES, indirect=True)
@pytest.mark.parametrize("name", ["gru_reset_before", "lstm", "coupled", "ind_rnn"])
def test_from_the_last_step_to_the_first(name, regime):
    assert_parity(make_call(CELLS[name], Sizes(T=5, B=3, I=2, H=18), torch.float32, reverse=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("regime", REGIMES, indirect=True)
@pytest.mark.parametrize("name", ["gru", "lstm", "coupled"])
def test_short_numbers(name, regime, dtype):
    """Sums and states are float32 in the loop, so that errors stay near those of one rounding."""
    assert_parity(make_call(CELLS[name], Sizes(T=6, B=3, I=4, H=18), dtype))


@pytest.mark.parametrize("name", ["mingru", "coupled"])
@pytest.mark.parametrize("regime", ["resident"], indirect=True)
@pytest.mark.parametrize("steps", [1, 4, 11])
def test_a_scan_of_several_tiles(name, regime, steps):
    call = make_call(CELLS[name], Sizes(T=steps, B=2, I=3, H=19), torch.float32)
    assert "4 steps at once" in "".join(BACKENDS["gpu"].describe(call))
    assert_parity(call)
    assert_parity(replace(call, reverse=True))


@pytest.mark.parametrize("regime", ["resident", "launches"], indirect=True)
def test_gradients_of_some_results_only(regime):
    for used in (("y",), ("h",), ("c",)):
        assert_parity(make_call(CELLS["lstm"], Sizes(T=3, B=2, I=3, H=7), torch.float32), used)


@pytest.mark.parametrize("regime", ["resident"], indirect=True)
def test_gates_that_are_computed_again(regime):
    call = make_call(CELLS["lstm"], Sizes(T=18, B=2, I=3, H=7), torch.float32)
    assert_parity(replace(call, recompute=True))


@pytest.mark.parametrize("regime", ["resident"], indirect=True)
def test_strides_as_they_come(regime):
    call = on_device(make_call(CELLS["gru"], Sizes(T=3, B=4, I=5, H=7), torch.float32))
    expected = results(call, "gpu")
    turned = call.x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    found = results(replace(call, x=turned), "gpu")
    assert torch.equal(found.outputs["y"], expected.outputs["y"])
    torch.testing.assert_close(found.gradients["x"], expected.gradients["x"])


@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (4, 0), (0, 0)])
def test_nothing_to_compute(steps, batch):
    layer = gw.GRU(3, 5, device=DEVICE)
    layer.backend = "gpu"
    x = torch.randn(steps, batch, 3, device=DEVICE, requires_grad=True)
    h = torch.randn(1, batch, 5, device=DEVICE, requires_grad=True)
    y, last = layer(x, h)
    assert y.shape == (steps, batch, 5)
    assert torch.equal(last, h)
    weight = layer.get_parameter("weight_ih_l0")
    by_state, by_weight = torch.autograd.grad(y.sum() + 2 * last.sum(), [h, weight])
    assert torch.equal(by_state, torch.full_like(h, 2.0))
    assert not by_weight.any()


@pytest.mark.parametrize("regime", ["resident"], indirect=True)
def test_second_gradients_go_through_the_equations(regime):
    call = on_device(make_call(CELLS["rnn_tanh"], Sizes(T=2, B=2, I=2, H=3), torch.float32))
    weight = call.weights.weight_hh
    assert weight is not None

    def second(backend):
        y, _ = run(call, backend)
        (first,) = torch.autograd.grad(y.square().sum(), call.x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), weight)[0]

    torch.testing.assert_close(second("gpu"), second("eager"), rtol=1e-4, atol=1e-5)


def test_equal_bits_from_run_to_run():
    call = on_device(make_call(CELLS["gru"], Sizes(T=3, B=3, I=4, H=18), torch.float32))
    one, other = results(call, "gpu"), results(call, "gpu")
    for name, gradient in one.gradients.items():
        assert torch.equal(gradient, other.gradients[name]), name


def test_a_kernel_that_is_too_large_for_the_device_makes_room_for_a_smaller_one(monkeypatch):
    """An estimate decides what fits; where it is wrong, the next regime runs, and is remembered."""
    call = on_device(make_call(CELLS["gru"], Sizes(T=3, B=3, I=4, H=18), torch.float32))
    expected, launch, refused = results(call, "eager"), engine.launch, []

    def launched(kernel, programs, given, warps, *, together=False):
        if not refused:
            refused.append(kernel)
            raise engine.too_large()(400_000, 232_448, "shared memory")
        launch(kernel, programs, given, warps, together=together)

    monkeypatch.setattr(room, "_shares", {})
    monkeypatch.setattr(engine, "launch", launched)
    found = results(call, "gpu")
    assert len(refused) == len(room._shares) == 1
    torch.testing.assert_close(found.outputs["y"], expected.outputs["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("regime", ["launches"], indirect=True)
def test_what_no_regime_fits_is_an_error(regime, monkeypatch):
    def launched(*_, **__):
        raise engine.too_large()(400_000, 232_448, "shared memory")

    monkeypatch.setattr(engine, "launch", launched)
    with pytest.raises(engine.too_large(), match="400000"):
        results(on_device(make_call(CELLS["gru"], Sizes(T=3, B=3, I=4, H=18), torch.float32)), "gpu")


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter takes minutes for real sizes")
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(T=64, B=33, I=40, H=100),
        Sizes(T=64, B=64, I=256, H=256),
        Sizes(T=32, B=16, I=512, H=768),
        Sizes(T=16, B=300, I=64, H=1024),
        Sizes(T=1000, B=3, I=8, H=64),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["gru", "gru_reset_before", "lstm", "layer_norm_gru", "mingru"])
def test_real_sizes(name, sizes, dtype):
    """In the regime that the size has of itself: programs that wait for each other among them."""
    assert_parity(make_call(CELLS[name], sizes, dtype))
