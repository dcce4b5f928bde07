"""The kernels as a function of torch: first and second gradients, transforms, and what autograd checks."""

from typing import Any

import pytest
import torch
from benchmarks.kernel_parity import leaves, make_call, results
from benchmarks.parity import Sizes
from test_expressive_cells import CELLS as EXPRESSIVE
from torch.autograd import forward_ad

import gatewright as gw
from gatewright import exp, layer_norm, sigmoid, tanh
from gatewright.backends.call import Call, Weights
from gatewright.backends.dispatch import run

# torch's own, of what it uses itself
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

SIZES = Sizes(T=3, B=2, I=2, H=3)


@gw.cell
def custom(x, U, w, h, c):
    """Two stages, a layer norm, an expression of a vector weight, and a state that is handed on."""
    z = sigmoid(layer_norm(x.z + U.z(h), w.g, w.b))
    n = tanh(x.n + U.n(z * h) + exp(w.d) * c)
    return (1 - z) * h + z * n, n


CELLS = {
    **{name: gw.CATALOGUE[name] for name in ("gru", "lstm", "gru_reset_before")},
    "custom": custom,
}


def function_of(call, backend="cpu"):
    """The results of a call as a function of everything that it is given."""
    names, graph = list(leaves(call)), call.cell.graph

    def function(*tensors):
        given = dict(zip(names, tensors, strict=True))
        maps = [given.get(name) for name in ("weight_hh", "bias_ih", "bias_hh")]
        weights = Weights(
            given["weight_ih"], *maps, vectors={name: given[f"w.{name}"] for name in graph.vector_weights}
        )
        states = tuple(given[name] for name in graph.states)
        y, final = run(Call(call.cell, given["x"], weights, states, call.reverse), backend)
        return y, *final

    return function, tuple(leaves(call).values())


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", CELLS)
def test_gradients_equal_differences(name, reverse):
    function, operands = function_of(make_call(CELLS[name], SIZES, reverse=reverse))
    assert torch.autograd.gradcheck(function, operands, eps=1e-6, atol=1e-7, fast_mode=True)


@pytest.mark.parametrize("name", ["gru", "custom"])
def test_every_entry_of_the_jacobian_equals_differences(name):
    function, operands = function_of(make_call(CELLS[name], Sizes(T=2, B=2, I=1, H=2)))
    assert torch.autograd.gradcheck(function, operands, eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", CELLS)
def test_second_gradients_equal_differences(name, reverse):
    function, operands = function_of(make_call(CELLS[name], SIZES, reverse=reverse))
    assert torch.autograd.gradgradcheck(function, operands, eps=1e-6, atol=1e-6, fast_mode=True)


def test_third_gradients_are_those_of_the_equations():
    call = make_call(gw.CATALOGUE["gru"], SIZES)
    found = []
    for backend in ("cpu", "eager"):
        function, operands = function_of(call, backend)
        value = function(*operands)[0].square().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, operands[0], create_graph=True)
            value = gradient.square().sum()
        found.append(value)
    assert torch.allclose(*found, rtol=1e-10, atol=0)


@pytest.mark.parametrize("wanted", ["x", "weight_hh", "w.g", "c"])
def test_a_second_gradient_by_one_operand(wanted):
    call = make_call(custom, SIZES)
    found = []
    for backend in ("cpu", "eager"):
        function, operands = function_of(call, backend)
        operands = [
            t.detach().requires_grad_(name == wanted) for name, t in zip(leaves(call), operands, strict=True)
        ]
        one = operands[list(leaves(call)).index(wanted)]
        (gradient,) = torch.autograd.grad(function(*operands)[0].sum(), one, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), one)[0])
    assert torch.allclose(*found, rtol=1e-10, atol=1e-13)


# -------------------------------------------------------------------- torch.func


def layer_and_parameters(cell="gru"):
    torch.manual_seed(0)
    layer = gw.Recurrent(cell, 2, 3, dtype=torch.float64)
    return layer, {name: p.detach() for name, p in layer.named_parameters()}


def loss(layer, parameters, x):
    return torch.func.functional_call(layer, parameters, (x,))[0].square().sum()


@pytest.mark.parametrize("cell", ["gru", custom], ids=["gru", "custom"])
def test_forward_mode_goes_through_the_equations(cell):
    layer, parameters = layer_and_parameters(cell)
    x, tangent = torch.randn(2, 4, 2, 2, dtype=torch.float64)
    x.requires_grad_()
    gradient = torch.autograd.grad(loss(layer, parameters, x), x)[0]
    expected = (gradient * tangent).sum()
    found = torch.func.jvp(lambda x: loss(layer, parameters, x), (x.detach(),), (tangent,))[1]
    assert torch.allclose(found, expected, rtol=1e-12)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), tangent)
        assert "not cpu: its kernels have no derivative in forward mode" in gw.explain(layer, dual)
        tangents = forward_ad.unpack_dual(loss(layer, parameters, dual)).tangent
    assert tangents is not None
    assert torch.allclose(tangents, expected, rtol=1e-12)


def test_transforms_of_a_layer():
    layer, parameters = layer_and_parameters()
    x = torch.randn(5, 4, 2, 2, dtype=torch.float64)
    single = [loss(layer, parameters, one) for one in x]
    found = torch.func.vmap(lambda one: loss(layer, parameters, one))(x)
    assert torch.allclose(found, torch.stack(single), rtol=1e-12)
    by_weights = torch.func.grad(lambda p: loss(layer, p, x[0]))(parameters)
    gradient_of_one = torch.func.grad(lambda p, one: loss(layer, p, one))
    per_sample = torch.func.vmap(gradient_of_one, (None, 0))(parameters, x)
    for place, one in enumerate(x):
        own = dict(layer.named_parameters())
        expected = torch.autograd.grad(loss(layer, own, one), list(own.values()))
        for (name, _), gradient in zip(layer.named_parameters(), expected, strict=True):
            assert torch.allclose(per_sample[name][place], gradient, rtol=1e-10, atol=1e-13)
            if place == 0:
                assert torch.allclose(by_weights[name], gradient, rtol=1e-10, atol=1e-13)


def test_a_hessian_of_a_layer():
    layer, parameters = layer_and_parameters()
    x = torch.randn(2, 1, 2, dtype=torch.float64)
    found = torch.func.hessian(lambda x: loss(layer, parameters, x))(x)
    expected = torch.autograd.functional.hessian(lambda x: loss(layer, parameters, x), x)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


# -------------------------------------------------------------------- what autograd checks


@pytest.mark.parametrize("name", ["x", "weight_hh", "bias_ih", "c"])
def test_an_operand_that_was_changed_in_place_is_noticed(name):
    call = make_call(gw.CATALOGUE["lstm"], SIZES)
    y, _ = run(call, "cpu")
    with torch.no_grad():
        leaves(call)[name].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_an_output_that_was_changed_in_place_is_noticed():
    for sizes in (SIZES, Sizes(T=40, B=32, I=2, H=48)):
        call = make_call(gw.CATALOGUE["gru"], sizes)
        y, _ = run(call, "cpu")
        y.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_final_states_may_be_changed_in_place():
    call = make_call(gw.CATALOGUE["lstm"], SIZES)
    expected = results(call, "cpu")
    y, final = run(call, "cpu")
    weights = torch.randn(3, *final[0].shape, dtype=torch.float64)
    right = torch.autograd.grad(
        (y.sum() + (weights[0] * final[0] * 2).sum() + (weights[1] * final[1] * 3).sum()), call.x
    )[0]
    y, final = run(call, "cpu")
    changed = [final[0].mul_(2), final[1].mul_(3)]
    found = torch.autograd.grad(
        y.sum() + (weights[0] * changed[0]).sum() + (weights[1] * changed[1]).sum(), call.x
    )[0]
    assert torch.allclose(found, right, rtol=1e-12)
    assert torch.equal(y, expected.outputs["y"])


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled", "ignore:Error detected in")
def test_a_gradient_of_nan_is_found_by_autograd():
    call = make_call(gw.CATALOGUE["gru"], SIZES)
    with torch.autograd.detect_anomaly(check_nan=True):
        y, _ = run(call, "cpu")
        loss = (y * float("nan")).sum()
        with pytest.raises(RuntimeError, match="returned nan values"):
            loss.backward()


def test_hooks_on_what_is_saved_see_all_of_it():
    """As a user does who moves what is saved elsewhere, or counts it."""
    call = make_call(EXPRESSIVE["peephole_lstm"][0], SIZES)
    expected = results(call, "cpu")
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        found = results(call, "cpu")
    for name, gradient in expected.gradients.items():
        assert torch.equal(found.gradients[name], gradient)


def test_a_checkpointed_layer_gives_the_same():
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    layer = gw.LSTM(2, 3, 2, dtype=torch.float64)
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(layer(x)[0].sum(), [x, *layer.parameters()])
    y, _ = checkpoint(layer, x, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(y.sum(), [x, *layer.parameters()]), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_program_runs_its_layer_again():
    """torch.jit.trace keeps what it sees: numbers, if the kernels ran unseen."""
    layer = gw.GRU(2, 3).requires_grad_(False)
    first, second = torch.randn(2, 4, 2, 2)
    traced: Any = torch.jit.trace(layer, (first,), check_trace=False)
    assert torch.allclose(traced(second)[0], layer(second)[0], atol=1e-6)


def test_a_program_that_is_followed_operation_by_operation_is_all_there():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    layer = gw.GRU(2, 3).requires_grad_(False)
    first, second = torch.randn(2, 4, 2, 2)
    followed: Any = make_fx(lambda x: layer(x)[0])(first)
    assert torch.allclose(followed(second), layer(second)[0], atol=1e-6)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y, _ = layer(mode.from_tensor(first))
    assert y.shape == (4, 2, 3)


def test_tensors_of_other_types_keep_their_type():
    class Named(torch.Tensor):
        """A tensor that its owner wants to see again."""

    layer = gw.GRU(2, 3)
    x = torch.randn(4, 2, 2).as_subclass(Named)
    assert "not cpu: its kernels read plain tensors, x is a Named" in gw.explain(layer, x)
    assert type(layer(x)[0]) is Named
