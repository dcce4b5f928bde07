"""Which backend runs a call, and what a backend does with one layer of one direction."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from benchmarks.parity import relative_error

import gatewright as gw
from gatewright import sigmoid, tanh
from gatewright.backends.call import Call, Weights
from gatewright.backends.dispatch import BACKENDS, CHOICES, route, run

T, B, I, H = 5, 3, 4, 7  # noqa: E741 - the field's own letters


@gw.cell
def two_stages(x, U, h):
    r = sigmoid(x.r + U.r(h))
    return tanh(x.n + U.n(r * h)) * U.z(h)


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def make_call(cell, *, reverse=False, batch_sizes=None, bias=True, seed=0):
    torch.manual_seed(seed)
    graph = cell.graph
    inputs, recurrents = len(graph.input_maps) * H, len(graph.recurrent_maps) * H
    weights = Weights(
        random(inputs, I),
        random(recurrents, H),
        random(inputs) if bias else None,
        random(recurrents) if bias else None,
    )
    x = random(T, B, I) if batch_sizes is None else random(sum(batch_sizes), I)
    states = tuple(random(B, H) for _ in graph.states)
    return Call(cell, x, weights, states, reverse, batch_sizes)


def test_the_fastest_backend_comes_first():
    assert CHOICES == ("auto", "cpu", "torch", "gpu", "eager")
    assert all(backend.name == name for name, backend in BACKENDS.items())
    assert route(make_call(gw.CATALOGUE["gru"])).backend is BACKENDS["cpu"]


def test_a_backend_for_another_device_is_not_asked():
    """Of no use to a reader: a tensor on the CPU does not miss the GPU's kernels, nor the other way round."""
    assert "gpu" not in route(make_call(two_stages, batch_sizes=(3, 2))).refusals
    call = make_call(two_stages)
    meta = replace(call, x=call.x.to("meta"))
    assert list(route(meta).refusals) == ["torch"]


def test_the_eager_backend_refuses_nothing():
    for cell in (*gw.CATALOGUE.values(), two_stages):
        for options in ({}, {"reverse": True}, {"reverse": True, "batch_sizes": (3, 2, 1)}, {"bias": False}):
            assert BACKENDS["eager"].refusal(make_call(cell, **options)) is None


def test_a_backend_that_is_passed_over_gives_its_reason():
    chosen = route(make_call(two_stages, batch_sizes=(3, 2)))
    assert chosen.backend is BACKENDS["eager"]
    assert chosen.refusals == {
        "cpu": "its kernels take dense sequences, the input is packed",
        "torch": "torch has no kernel for the cell 'two_stages'",
    }
    assert route(make_call(two_stages), "eager").refusals == {}
    with pytest.raises(gw.InputError, match="backend 'torch' cannot run this call: torch has no kernel"):
        run(make_call(two_stages), "torch")


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "packed"])
@pytest.mark.parametrize("name", [name for name, cell in gw.CATALOGUE.items() if cell.torch_function])
def test_all_backends_give_the_same_of_one_call(name, direction, bias):
    sizes = (3, 3, 2, 1) if direction == "packed" else None
    call = make_call(gw.CATALOGUE[name], reverse=direction == "reverse", batch_sizes=sizes, bias=bias)
    weights = call.weights
    biases = [b for b in (weights.bias_ih, weights.bias_hh) if b is not None]
    leaves = [call.x, *call.states, weights.weight_ih, weights.weight_hh, *biases]
    found = {}
    for backend in ("eager", "torch") + (("cpu",) if sizes is None else ()):
        y, final = run(call, backend)
        torch.manual_seed(1)
        loss = torch.stack([(v * torch.randn_like(v)).sum() for v in (y, *final)]).sum()
        found[backend] = [y, *final, *torch.autograd.grad(loss, leaves)]
    expected = found.pop("torch")
    for tensors in found.values():
        for actual, reference in zip(tensors, expected, strict=True):
            assert relative_error(actual, reference) <= 1e-10


def test_reverse_is_the_turned_sequence_run_forwards():
    call = make_call(two_stages, reverse=True)
    y, (h,) = run(call)
    forwards = Call(call.cell, call.x.flip(0), call.weights, call.states)
    expected, (expected_h,) = run(forwards)
    assert relative_error(y, expected.flip(0)) <= 1e-12
    assert relative_error(h, expected_h) <= 1e-12
    assert torch.equal(y[0], h)


def test_a_packed_call_in_reverse_begins_each_row_at_its_own_end():
    call = make_call(two_stages, reverse=True, batch_sizes=(3, 2, 2, 1))
    y, (h,) = run(call)
    rows = call.x.split((3, 2, 2, 1))
    for row, length in enumerate((4, 3, 1)):
        x = torch.stack([step[row] for step in rows[:length]])[:, None]
        state = tuple(s[row : row + 1] for s in call.states)
        alone, (last,) = run(Call(call.cell, x, call.weights, state, reverse=True))
        together = torch.stack([step[row] for step in y.split((3, 2, 2, 1))[:length]])
        assert relative_error(together, alone[:, 0]) <= 1e-14
        assert relative_error(h[row], last[0]) <= 1e-14


def test_maps_of_one_value_share_one_product_a_step(monkeypatch):
    products = []

    def counted(*arguments):
        products.append(arguments[1].shape[0])
        return linear(*arguments)

    linear = F.linear
    call = make_call(two_stages)
    monkeypatch.setattr(F, "linear", counted)
    run(call, "eager")
    # all input maps before the loop; then r and z together, and n by itself
    assert products == [2 * H, *[2 * H, H] * T]
