"""Gradients of gradients where operands depend on each other or stand in two places."""

import pytest
import torch
from benchmarks.parity import relative_error

import gatewright as gw
from gatewright import exp, sigmoid, tanh
from gatewright.backends.call import Call, Weights
from gatewright.backends.dispatch import BACKENDS, run


@gw.cell
def twice_used(x, U, w, h):
    return tanh(x.a + U.a(h) * w.g) * sigmoid(exp(w.g) + x.b)


def first_and_second(layer, x, states):
    results = layer(x, states)[0]
    first = torch.autograd.grad(results.square().sum(), [x, *layer.parameters()], create_graph=True)
    total = torch.stack([gradient.square().sum() for gradient in first]).sum()
    second = torch.autograd.grad(total, [x, *layer.parameters()])
    return [*first, *second]


def worst_error(make_states, layer):
    """Between the first and second gradients of the kernels and those of the equations."""
    found = {}
    for backend in ("cpu", "eager"):
        torch.manual_seed(2)
        x = torch.randn(4, 3, 5, dtype=torch.float64, requires_grad=True)
        layer.backend = backend
        found[backend] = first_and_second(layer, x, make_states(x))
    return max(relative_error(a, b) for a, b in zip(found["cpu"], found["eager"], strict=True))


def test_a_state_computed_from_the_input():
    layer = gw.GRU(5, 5, dtype=torch.float64)
    assert worst_error(lambda x: x.mean(0, keepdim=True), layer) <= 1e-10


def test_a_tied_bias():
    layer = gw.GRU(5, 4, dtype=torch.float64)
    layer.bias_hh_l0 = layer.bias_ih_l0
    assert worst_error(lambda x: None, layer) <= 1e-10


def test_a_vector_weight_and_an_expression_of_it():
    layer = gw.Recurrent(twice_used, 5, 4, dtype=torch.float64)
    assert worst_error(lambda x: None, layer) <= 1e-10


def test_a_projected_output():
    assert worst_error(lambda x: None, gw.LSTM(5, 8, proj_size=3, dtype=torch.float64)) <= 1e-10


@pytest.mark.parametrize("width", [8, 3])
def test_a_projection_of_any_width_is_applied(width):
    cell, hidden = gw.CATALOGUE["lstm"], 8

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    weights = Weights(random(32, 5), random(32, width), random(32), random(32), random(width, hidden))
    call = Call(cell, random(4, 2, 5), weights, (random(2, width), random(2, hidden)))
    for actual, expected in zip(run(call, "cpu")[1], run(call, "eager")[1], strict=True):
        assert relative_error(actual, expected) <= 1e-10


def test_a_projection_that_the_cell_does_not_allow_is_refused():
    weights = Weights(torch.randn(15, 4), torch.randn(15, 3), None, None, torch.randn(3, 5))
    call = Call(gw.CATALOGUE["gru"], torch.randn(2, 1, 4), weights, (torch.randn(1, 3),))
    assert BACKENDS["cpu"].refusal(call) == "its kernels project an output that only recurrent maps read"
