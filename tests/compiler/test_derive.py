"""The derivative of a cell's graph, against autograd through the cell's own function."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_cells import random_cell, random_cells
from reference import B, H, Maps, T, evaluate, gradients_by_autograd, gradients_by_derivative, random_call
from test_expressive_cells import CELLS

import gatewright as gw
from gatewright import exp, layer_norm, log, maximum, minimum, relu, sigmoid, softplus, sqrt, tanh, where
from gatewright.compiler.derive import derive
from gatewright.compiler.graph import Graph, Node
from gatewright.compiler.lower import lower
from gatewright.compiler.operations import OPERATIONS

GRU_TEXT = """\
derivative of cell gru
    t1 = sigmoid(x.z + U.z(h))
    t2 = sigmoid(x.r + U.r(h))
    t3 = U.n(h)
    t4 = tanh(x.n + t2 * t3)
    t5 = 1 - t1
    t6 = dh' * t5 * (1 - t4 * t4)
    t7 = t6 * t2
    t8 = t6 * t3 * (t2 * (1 - t2))
    t9 = dh' * (h - t4) * (t1 * t5)
    dx.r = dU.r = t8
    dx.z = dU.z = t9
    dx.n = t6
    dU.n = t7
    dh = dh' * t1 + (Uᵀ.r(t8) + Uᵀ.z(t9) + Uᵀ.n(t7))"""


def derived(cell):
    return derive(lower(cell.graph).graph)


def assert_same_gradients(cell, seed=0):
    call = random_call(cell, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    g_output = torch.randn(T, B, H, generator=generator, dtype=torch.float64)
    g_final = [torch.randn(B, H, generator=generator, dtype=torch.float64) for _ in cell.graph.states]
    expected = gradients_by_autograd(call, g_output, g_final)
    found = gradients_by_derivative(call, g_output, g_final)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(
            found[name], gradient, rtol=0, atol=1e-10 * scale, msg=lambda m, n=name: f"{n}: {m}\n{cell!r}"
        )


# cells with a shape of their own


@gw.cell
def shared_result(x, U, h, c):
    new = tanh(x.a + U.a(h) + c)
    return new, new


@gw.cell(output="c")
def leaves_as_results(x, U, w, h, c, m, k):
    return tanh(x.a + U.a(k) + c * m), h, x.b, w.a


@gw.cell
def hoisted_result(x, U, w, h, c):
    return tanh(x.a + U.a(h) * c), exp(-exp(w.a))


@gw.cell
def only_compared(x, U, w, h):
    return where(x.a + U.a(h) < w.a, x.b, 2 * h)


@gw.cell
def two_maps_of_a_product_one_compared(x, U, h):
    v = sigmoid(x.a + U.a(h)) * h
    return where(U.b(v) < x.a, U.c(v), h)


@gw.cell
def normed_vectors(x, U, w, h):
    a = layer_norm(U.a(h), w.gain, 0.5) + layer_norm(x.a, 2, w.bias)
    return tanh(a + layer_norm(w.a * w.b, w.c) * h) + layer_norm(layer_norm(h) * x.b)


@gw.cell
def nothing_recurrent(x, h):
    return maximum(sigmoid(x.a), abs(h)) * x.b


@gw.cell
def deep(x, U, h, c):
    a = tanh(x.a + U.a(h) + U.b(c))
    b = sigmoid(U.d(a) + U.e(a) * c)
    v = minimum(a, b) ** 2
    return relu(U.f(v)) + sqrt(softplus(b)), log(1 + v) / (2 + b)


@gw.cell
def power_of_itself(x, U, h):
    v = 0.5 + sigmoid(x.a + U.a(h))
    return tanh(v**v + v**3 + (v * v) ** -0.5 + 2**v + v**0 + v**1)


SHAPES = [
    shared_result, leaves_as_results, hoisted_result, only_compared, two_maps_of_a_product_one_compared,
    normed_vectors, nothing_recurrent, deep, power_of_itself,
]  # fmt: skip


@pytest.mark.parametrize(
    "cell", [*gw.CATALOGUE.values(), *(row[0] for row in CELLS.values()), *SHAPES], ids=lambda c: c.name
)
def test_gradients_equal_autograds(cell):
    assert_same_gradients(cell)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_cells())
def test_gradients_of_random_cells_equal_autograds(cell):
    assert_same_gradients(cell)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_cells(layer_norm=True))
def test_gradients_of_random_cells_with_layer_norms_equal_autograds(cell):
    assert_same_gradients(cell)


def test_random_cells_have_every_operation_and_shape_and_follow_from_their_seed():
    cells = [random_cell(seed, layer_norm=seed % 2 == 1) for seed in range(200)]
    found = {node.operation for cell in cells for node in cell.graph.nodes}
    assert {name for name, row in OPERATIONS.items() if not row.internal} <= found
    assert {len(cell.graph.states) for cell in cells} == {1, 2, 3}
    assert any(node.operation == "transposed" for cell in cells[::2] for node in derived(cell).nodes)
    assert repr(random_cell(7)) == repr(random_cell(7)) != repr(random_cell(8))


# the nodes


def test_the_derivative_of_the_gru_prints_as_its_equations():
    assert str(derived(gw.CATALOGUE["gru"])) == GRU_TEXT


def test_the_derivative_of_a_map_of_a_product_prints_its_transpose():
    assert "    t6 = Uᵀ.n(t5)\n    t7 = t6 * h * (t2 * (1 - t2))\n" in str(
        derived(gw.CATALOGUE["gru_reset_before"])
    )


def test_equal_adjoints_are_one_node():
    derivative = derived(gw.CATALOGUE["gru"])
    graph = derivative.graph
    dx = dict(zip(graph.input_maps, derivative.inputs, strict=True))
    du = dict(zip(graph.recurrent_maps, derivative.recurrent, strict=True))
    assert (dx["r"], dx["z"]) == (du["r"], du["z"])
    assert len({*dx.values(), *du.values()}) == 4
    lstm = derived(gw.CATALOGUE["lstm"])
    assert lstm.inputs == lstm.recurrent


def test_the_derivative_begins_with_the_graph_and_reads_results_not_what_they_come_from():
    derivative = derived(gw.CATALOGUE["gru"])
    graph = derivative.graph
    assert derivative.nodes[: len(graph.nodes)] == graph.nodes
    read = {str(graph.nodes[i].operation) for i in derivative.needs}
    assert read == {"sigmoid", "tanh", "recurrent", "state", "subtract", "constant"}
    assert {graph.nodes[i].name for i in derivative.needs if graph.nodes[i].operation == "recurrent"} == {"n"}
    assert derivative.state_maps == (("r", "z", "n"),)
    assert derivative == derived(gw.CATALOGUE["gru"])
    assert hash(derivative) == hash(derived(gw.CATALOGUE["gru"]))


def test_no_influence_is_the_number_zero_or_none():
    derivative = derived(only_compared)
    dx = dict(zip(derivative.graph.input_maps, derivative.inputs, strict=True))
    for index in (dx["a"], *derivative.recurrent, *derivative.vectors):
        assert derivative.nodes[index] == Node("constant", value=0.0)
    rnn = derived(gw.CATALOGUE["rnn_tanh"])
    assert (rnn.states, rnn.state_maps) == ((None,), (("h",),))


def test_contributions_that_cancel_are_no_influence():
    @gw.cell
    def cell(x, U, h, c):
        return tanh(x.a + U.a(h) + (c - x.b) + (1 - c)), x.b

    derivative = derived(cell)
    assert derivative.states == (None, None)
    assert_same_gradients(cell)


def test_maps_of_one_value_share_one_transposed_product():
    derivative = derived(deep)
    transposed = [n.name for n in derivative.nodes if n.operation == "transposed"]
    assert sorted(transposed) == ["d e", "f"]
    assert derivative.state_maps == (("a",), ("b",))


def test_every_node_of_the_derivative_is_needed():
    for cell in (*gw.CATALOGUE.values(), *SHAPES):
        derivative = derived(cell)
        results = {*derivative.inputs, *derivative.recurrent, *derivative.vectors, *derivative.states}
        used = {operand for node in derivative.nodes for operand in node.inputs} | results
        assert set(range(len(derivative.graph.nodes), len(derivative.nodes))) <= used


def test_a_result_may_be_a_number():
    graph = Graph(
        nodes=(
            Node("input", name="a"),
            Node("state", name="h"),
            Node("add", (0, 1)),
            Node("constant", value=2.0),
        ),
        states=("h", "c"),
        results=(2, 3),
        output="h",
        input_maps=("a",),
        recurrent_maps=(),
        vector_weights=(),
    )
    derivative = derive(graph)
    assert [node.name for node in derivative.nodes if node.operation == "adjoint"] == ["h"]
    assert derivative.states == (derivative.inputs[0], None)


def test_a_graph_with_a_layer_norm_is_refused():
    with pytest.raises(ValueError, match="expected a lowered graph, received one with a layer norm"):
        derive(normed_vectors.graph)


# where a derivative is a matter of choice

POINTS = (-2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 19.5, 20.0, 20.5)

SPECIAL = {
    "relu": lambda a, b: relu(a) * b,
    "abs": lambda a, b: abs(a) * b,
    "maximum": lambda a, b: 3 * maximum(a, b),
    "maximum_of_itself": lambda a, b: maximum(a, a) * b,
    "maximum_of_a_number": lambda a, b: maximum(a, 0) + minimum(1, b),
    "minimum": lambda a, b: 3 * minimum(a, b),
    "where": lambda a, b: where(a < b, 2 * a, sqrt(b)),
    "where_equal": lambda a, b: where(a == b, log(a), exp(b)),
    "where_not_equal": lambda a, b: where(a != b, a * a, b),
    "where_less_equal": lambda a, b: where(a <= b, a * b, b / 3),
    "power": lambda a, b: a**b,
    "square": lambda a, b: a**2 * b,
    "cube": lambda a, b: a**3 * b,
    "power_0": lambda a, b: a**0 * b,
    "power_1": lambda a, b: a**1 * b,
    "inverse": lambda a, b: a**-1 + b,
    # of a square: torch gives the root of -0.0 the slope -inf for a number as exponent, inf for a tensor
    "root": lambda a, b: (a * a) ** 0.5 + b**1.5,
    "power_of_number": lambda a, b: 2**a * 0.5**b,
    "power_of_zero": lambda a, b: 0**a + b,
    "power_of_negative": lambda a, b: (-2) ** a + b,
    "softplus": lambda a, b: softplus(a) * b,
    "sqrt": lambda a, b: sqrt(a) + b,
    "log": lambda a, b: log(a) + b,
    "log1p": lambda a, b: gw.log1p(a) + b,
    "divide": lambda a, b: a / b,
}


@pytest.mark.parametrize("name", SPECIAL)
def test_special_points_are_torchs(name):
    expression = SPECIAL[name]

    def special(x, h):
        return expression(x.a, x.b) + h

    cell = gw.cell(special)
    a, b = torch.cartesian_prod(torch.tensor(POINTS), torch.tensor(POINTS)).double().unbind(1)
    a, b = a[None].requires_grad_(), b[None].requires_grad_()
    h = torch.zeros_like(a)
    (result,) = cell.step(SimpleNamespace(a=a, b=b), None, None, [h])
    g = torch.full_like(a, 0.7)
    expected = torch.autograd.grad(result, [a, b], g)
    derivative = derived(cell)
    leaves = {("input", "a"): a, ("input", "b"): b, ("state", "h"): h, ("adjoint", "h"): g}
    with torch.no_grad():
        values = evaluate(derivative.nodes, leaves, Maps({}))
    place = dict(zip(derivative.graph.input_maps, derivative.inputs, strict=True))
    for found, gradient in zip((values[place["a"]], values[place["b"]]), expected, strict=True):
        torch.testing.assert_close(found.expand_as(g), gradient, rtol=1e-13, atol=1e-13, equal_nan=True)
