"""The kernels against the cell's equations, run step by step in float64 by torch's operations."""

import os
from dataclasses import replace

import pytest
import torch
from benchmarks.kernel_parity import compare, compare_random, leaves, make_call, random_call, results
from benchmarks.parity import TOLERANCES, Sizes
from rewritten import REWRITES, rewritten
from test_expressive_cells import CELLS as EXPRESSIVE

import gatewright as gw
from gatewright import layer_norm, sigmoid, tanh
from gatewright.backends.cpu import launch, memory, tiling
from gatewright.backends.dispatch import run

RANDOM_CELLS = int(os.environ.get("GATEWRIGHT_RANDOM_CELLS", "60"))
"""As many as there is time for; python benchmarks/parity.py --random 300 compares more."""


@gw.cell(source="Ba et al. 2016, arXiv:1607.06450")
def layer_norm_lstm(x, U, w, h, c):
    i = sigmoid(layer_norm(x.i, w.gx_i) + layer_norm(U.i(h), w.gh_i, w.b_i))
    f = sigmoid(layer_norm(x.f, w.gx_f) + layer_norm(U.f(h), w.gh_f, w.b_f))
    g = tanh(layer_norm(x.g) + layer_norm(U.g(h)))
    c = f * c + i * g
    return sigmoid(x.o + U.o(h)) * tanh(layer_norm(c, w.g_c, w.b_c)), c


@gw.cell
def handed_on(x, U, w, h, c, m):
    """States that are handed on as they are: each adjoint moves to another state."""
    return tanh(x.a + U.a(m) + h * c), m, w.a


@gw.cell
def turned(x, U, w, a, b):
    """Two states that change places, and an output that is not the first."""
    return b + 0 * x.a, tanh(x.b + U.b(a) + w.v * b)


# what is left in memory from before must change nothing
pytestmark = pytest.mark.usefixtures("poison")

CELLS = {
    **gw.CATALOGUE,
    **{name: row[0] for name, row in EXPRESSIVE.items()},
    "layer_norm_lstm": layer_norm_lstm,
    "handed_on": handed_on,
    "turned": turned,
}

SIZES = (
    # every length at least twice, the longest sequence with few rows and with many
    Sizes(T=37, B=3, I=4, H=7),
    Sizes(T=5, B=19, I=17, H=33),
    Sizes(T=2, B=9, I=1, H=16),
    Sizes(T=1, B=2, I=4, H=18),
    Sizes(T=37, B=1, I=17, H=3),
    Sizes(T=5, B=2, I=1, H=1),
    Sizes(T=2, B=1, I=1, H=33),
    Sizes(T=37, B=19, I=4, H=16),
    Sizes(T=1, B=9, I=17, H=1),
    Sizes(T=5, B=3, I=4, H=32),
)


def forget():
    """Make calls ready anew."""
    launch.forward.cache_clear()
    launch.backward.cache_clear()


def assert_parity(call, used=None):
    errors = compare(call, used)
    assert errors.worst <= TOLERANCES[call.x.dtype], errors


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_every_size_gives_what_the_equations_give(sizes):
    assert_parity(make_call(gw.CATALOGUE["gru"], sizes, torch.float64))
    assert_parity(make_call(gw.CATALOGUE["lstm"], sizes, torch.float32))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_gives_what_its_equations_give(name, reverse):
    if reverse:
        assert_parity(make_call(CELLS[name], Sizes(T=5, B=3, I=4, H=18), torch.float32, reverse=True))
    else:
        assert_parity(make_call(CELLS[name], Sizes(T=7, B=9, I=3, H=7), torch.float64))


@pytest.mark.parametrize("option", REWRITES)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_with_every_option_gives_what_its_equations_give(name, option):
    cell = rewritten(option, CELLS[name].graph)
    assert_parity(make_call(cell, Sizes(T=7, B=9, I=3, H=7), torch.float64))
    assert_parity(make_call(cell, Sizes(T=5, B=3, I=4, H=18), torch.float32, reverse=True))


@pytest.mark.parametrize("seed", range(RANDOM_CELLS))
def test_a_random_cell_gives_what_its_equations_give(seed):
    # one in four in float32
    call = random_call(seed, torch.float32 if seed % 4 == 3 else torch.float64)
    errors, own, passes = compare_random(call)
    assert passes, (call.cell, errors, own)


@pytest.mark.parametrize(
    ("sizes", "projected", "reverse"),
    [
        (Sizes(T=5, B=3, I=4, H=7), 3, False),
        (Sizes(T=5, B=19, I=17, H=33), 16, True),
        (Sizes(T=37, B=2, I=1, H=16), 1, False),
        (Sizes(T=2, B=9, I=4, H=18), 17, True),
        (Sizes(T=20, B=17, I=5, H=49), 40, False),
    ],
)
def test_a_projected_output(sizes, projected, reverse):
    for name, dtype in (("lstm", torch.float64), ("rnn_tanh", torch.float32)):
        call = make_call(gw.CATALOGUE[name], sizes, dtype, projected=projected, reverse=reverse)
        assert_parity(call)
        expected = run(call, "cpu")[0]
        with torch.no_grad():
            assert torch.equal(run(call, "cpu")[0], expected)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", ["gru", "peephole_lstm", "handed_on"])
def test_gates_that_are_computed_again(name, reverse):
    call = make_call(CELLS[name], Sizes(T=37, B=3, I=4, H=7), reverse=reverse)
    assert_parity(replace(call, recompute=True))
    projected = make_call(gw.CATALOGUE["lstm"], Sizes(T=20, B=3, I=4, H=7), projected=5, reverse=reverse)
    assert_parity(replace(projected, recompute=True))


@pytest.mark.parametrize("chunk", ["one_step", "some_steps"])
@pytest.mark.parametrize("name", ["gru", "lem", "peephole_lstm", "layer_norm_gru", "handed_on", "mingru"])
def test_a_sequence_of_several_chunks(monkeypatch, name, chunk):
    """Input maps and gradients of weights are computed for some steps at once: here for as few as can be."""
    call = make_call(CELLS[name], Sizes(T=7, B=9, I=3, H=7))
    forward, backward = call.states[0].nbytes * len(call.cell.graph.input_maps), call.states[0].nbytes * 10
    tokens = 3 * 9 if chunk == "some_steps" else 1
    monkeypatch.setattr(tiling, "FORWARD_CHUNK", 3 * forward if chunk == "some_steps" else 1)
    monkeypatch.setattr(tiling, "BACKWARD_CHUNK", 3 * backward if chunk == "some_steps" else 1)
    monkeypatch.setattr(tiling, "FEWEST_TOKENS", tokens)
    forget()
    try:
        assert_parity(call)
    finally:
        forget()


def test_what_is_not_finite_stays_in_its_row():
    call = make_call(CELLS["layer_norm_lstm"], Sizes(T=5, B=9, I=3, H=7))
    others = [row for row in range(9) if row not in (2, 8)]
    expected = results(call, "cpu")
    x = call.x.detach().clone()
    x[1, 2, 0], x[3, 8, 1] = float("nan"), float("inf")
    found = results(replace(call, x=x.requires_grad_()), "cpu")
    y = found.outputs["y"]
    assert y[1:, 2].isnan().all()
    assert y[3:, 8].isnan().all()
    assert torch.equal(y[:, others], expected.outputs["y"][:, others])
    assert torch.equal(found.gradients["x"][:, others], expected.gradients["x"][:, others])


@pytest.mark.parametrize("name", CELLS)
def test_inference_gives_the_bits_of_training(name):
    for sizes, dtype in (
        (Sizes(T=7, B=9, I=3, H=7), torch.float64),
        (Sizes(T=5, B=3, I=4, H=18), torch.float32),
    ):
        call = make_call(CELLS[name], sizes, dtype)
        training, (*trained,) = run(call, "cpu")
        with torch.no_grad():
            y, final = run(call, "cpu")
        with torch.inference_mode():
            again, _ = run(call, "cpu")
        assert not y.requires_grad
        for actual, expected in zip((y, again, *final), (training, training, *trained), strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("used", [("y",), ("h",), ("c",), ("h", "c"), ("y", "c")], ids="-".join)
def test_gradients_of_some_of_the_results(used):
    assert_parity(make_call(gw.CATALOGUE["lstm"], Sizes(T=5, B=3, I=4, H=7)), used)
    assert_parity(make_call(gw.CATALOGUE["lstm"], Sizes(T=5, B=3, I=4, H=7), reverse=True), used)


@pytest.mark.parametrize("name", ["gru", "gru_reset_before", "peephole_lstm", "mingru"])
def test_without_biases(name):
    assert_parity(make_call(CELLS[name], Sizes(T=5, B=3, I=4, H=7), bias=False))


@pytest.mark.parametrize("name", ["lstm", "peephole_lstm"])
def test_gradients_by_some_of_the_operands(name):
    whole = make_call(CELLS[name], Sizes(T=5, B=3, I=4, H=7))
    expected = results(whole, "cpu").gradients
    for wanted in leaves(whole):
        call = whole.changed(lambda tensor: tensor.detach().clone())
        leaves(call)[wanted].requires_grad_()
        found = results(call, "cpu").gradients
        assert list(found) == [wanted]
        assert torch.equal(found[wanted], expected[wanted]), wanted


def strided(tensor):
    """The same numbers, with gaps between rows and between features."""
    wide = tensor.new_full([2 * length for length in tensor.shape], float("nan"))
    view = wide[tuple(slice(None, None, 2) for _ in tensor.shape)]
    view.copy_(tensor)
    return view


def turned_around(tensor):
    """The same numbers, the first dimension laid out last."""
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lay_out", [strided, turned_around])
def test_operands_laid_out_in_other_ways(lay_out, reverse):
    call = make_call(CELLS["peephole_lstm"], Sizes(T=5, B=3, I=4, H=7), reverse=reverse)
    other = call.changed(lambda tensor: lay_out(tensor.detach()).requires_grad_())
    expected, found = results(call, "cpu"), results(other, "cpu")
    for a, b in ((found.outputs, expected.outputs), (found.gradients, expected.gradients)):
        for name, tensor in b.items():
            assert torch.equal(a[name], tensor), name


def test_operands_that_are_expanded():
    call = make_call(gw.CATALOGUE["gru"], Sizes(T=5, B=3, I=4, H=7))
    row = torch.randn(1, 1, 4, dtype=torch.float64, requires_grad=True)
    state = torch.randn(1, 7, dtype=torch.float64, requires_grad=True)
    y, (h,) = run(replace(call, x=row.expand(5, 3, 4), states=(state.expand(3, 7),)), "cpu")
    other = replace(call, x=row.repeat(5, 3, 1), states=(state.repeat(3, 1),))
    expected, (expected_h,) = run(other, "eager")
    assert torch.allclose(y, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad((y.sum(), h.sum()), (row, state))
    for actual, right in zip(
        found, torch.autograd.grad((expected.sum(), expected_h.sum()), (row, state)), strict=True
    ):
        assert torch.allclose(actual, right, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "make_gradient",
    [
        lambda shape: torch.ones((), dtype=torch.float64).expand(shape),
        lambda shape: torch.randn(shape[2], dtype=torch.float64).expand(shape),
        lambda shape: torch.randn(shape[1], 1, dtype=torch.float64).expand(shape),
        lambda shape: turned_around(torch.randn(shape, dtype=torch.float64)),
        lambda shape: strided(torch.randn(shape, dtype=torch.float64)),
    ],
    ids=["of_a_sum", "of_a_row", "of_a_column", "turned_around", "strided"],
)
def test_gradients_of_the_output_laid_out_in_other_ways(make_gradient):
    for hidden in (1, 7):
        call = make_call(gw.CATALOGUE["gru"], Sizes(T=5, B=3, I=4, H=hidden))
        y, _ = run(call, "cpu")
        dy = make_gradient(y.shape)
        named = list(leaves(call).values())
        found = torch.autograd.grad(y, named, dy, retain_graph=True)
        for a, b in zip(found, torch.autograd.grad(y, named, dy.contiguous()), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_layer_whose_input_is_a_slice(batch_first):
    torch.manual_seed(0)
    layer = gw.LSTM(4, 7, 2, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    wide = torch.randn(6, 5, 9, dtype=torch.float64, requires_grad=True)
    found = {}
    for backend in ("cpu", "eager"):
        layer.backend = backend
        y, (h, c) = layer(wide[::2, 1:, 3:7])
        loss = y.square().sum() + h.sum() + (c * c).sum()
        found[backend] = [y, h, c, *torch.autograd.grad(loss, [wide, *layer.parameters()])]
    for actual, expected in zip(found["cpu"], found["eager"], strict=True):
        assert torch.allclose(actual, expected, rtol=1e-10, atol=1e-12)


def test_another_default_device_changes_nothing():
    call = make_call(gw.CATALOGUE["lstm"], Sizes(T=5, B=3, I=4, H=7))
    expected = results(call, "cpu")
    try:
        torch.set_default_device("meta")
        forget()
        found = results(call, "cpu")
    finally:
        torch.set_default_device(None)
    for name, gradient in expected.gradients.items():
        assert torch.equal(found.gradients[name], gradient)


def test_blocks_and_empty_tensors_are_full_of_nan():
    assert torch.empty(3).isnan().all()
    assert memory.tensor((1 << 20,), torch.float64).isnan().all()


@pytest.mark.parametrize("name", ["gru", "peephole_lstm", "layer_norm_gru"])
def test_results_that_lie_in_the_pool(name):
    call = make_call(CELLS[name], Sizes(T=20, B=17, I=5, H=49))
    assert call.x.shape[0] * call.states[0].nbytes > memory.POOLED
    assert_parity(call)
    assert_parity(replace(call, reverse=True))


@pytest.mark.parametrize("shape", [(0, 3), (5, 0), (0, 0)], ids=["no_steps", "no_rows", "neither"])
@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_an_empty_sequence_or_batch(name, shape):
    call = make_call(gw.CATALOGUE[name], Sizes(T=shape[0], B=shape[1], I=4, H=7))
    expected, found = results(call, "eager"), results(call, "cpu")
    for a, b in (
        (found.outputs, expected.outputs),
        (found.states, expected.states),
        (found.gradients, expected.gradients),
    ):
        for key, tensor in b.items():
            assert torch.equal(a[key], tensor), key


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        (torch.bfloat16, "its kernels compute in float32, float64, the input is bfloat16"),
        (torch.float16, "its kernels compute in float32, float64, the input is float16"),
    ],
)
def test_other_dtypes_are_refused_with_the_reason(dtype, reason):
    layer = gw.GRU(3, 5, dtype=dtype)
    x = torch.randn(4, 2, 3).to(dtype)
    assert f"not cpu: {reason}" in gw.explain(layer, x)
    assert layer(x)[0].dtype == dtype
    layer.backend = "cpu"
    with pytest.raises(gw.InputError, match=reason):
        layer(x)


def test_complex_numbers_are_refused_by_the_layer():
    with pytest.raises(gw.InputError, match="expected"):
        gw.GRU(3, 5)(torch.randn(4, 2, 3, dtype=torch.complex64))
