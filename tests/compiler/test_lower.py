"""Lowered graphs: what they compute, what leaves the time loop, what is one node."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_cells import random_cells
from reference import B, H, Maps, evaluate, random_call
from test_expressive_cells import CELLS

import gatewright as gw
from gatewright import exp, layer_norm, maximum, sigmoid, sqrt, tanh, where
from gatewright.compiler.graph import Graph, Node
from gatewright.compiler.lower import lower
from gatewright.compiler.operations import FUNCTIONS, OPERATIONS


def text(function):
    """The equations of the lowered graph, without their header."""
    lines = str(lower(gw.cell(function).graph).graph).splitlines()
    return [line.strip() for line in lines if line.startswith("    ")]


def assert_same_results(cell):
    call = random_call(cell)
    graph, lowered = cell.graph, lower(cell.graph)
    maps = Maps.of(graph.recurrent_maps, call.weights.weight_hh, call.weights.bias_hh)
    inputs = torch.randn(len(graph.input_maps), B, H, generator=torch.Generator().manual_seed(1))
    leaves = {("input", name): x.double() for name, x in zip(graph.input_maps, inputs, strict=True)}
    leaves |= {("state", name): state for name, state in zip(graph.states, call.states, strict=True)}
    own = {("vector", name): vector for name, vector in call.weights.vectors.items()}
    vectors = zip(lowered.graph.vector_weights, lowered.vectors(call.weights.vectors), strict=True)
    expected = evaluate(graph.nodes, leaves | own, maps)
    found = evaluate(lowered.graph.nodes, leaves | {("vector", n): v for n, v in vectors}, maps)
    for old, new in zip(graph.results, lowered.graph.results, strict=True):
        torch.testing.assert_close(
            found[new], expected[old], rtol=1e-11, atol=1e-11, msg=lambda m: f"{m}\n{cell!r}"
        )


@pytest.mark.parametrize(
    "cell", [*gw.CATALOGUE.values(), *(row[0] for row in CELLS.values())], ids=lambda c: c.name
)
def test_a_lowered_graph_computes_the_same(cell):
    assert_same_results(cell)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(random_cells(layer_norm=True))
def test_a_lowered_random_graph_computes_the_same(cell):
    assert_same_results(cell)


@pytest.mark.parametrize("cell", gw.CATALOGUE.values(), ids=lambda c: c.name)
def test_a_graph_with_nothing_to_lower_stays_as_it_is(cell):
    lowered = lower(cell.graph)
    assert lowered.graph == cell.graph
    assert (lowered.graph.name, lowered.graph.source) == (cell.graph.name, cell.graph.source)
    assert lowered.vectors({}) == ()


def test_lowered_graphs_are_values():
    first, second = (lower(CELLS["layer_norm_gru"][0].graph) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert lower(first.graph).graph == first.graph


# layer norm


def test_a_layer_norm_becomes_its_arithmetic():
    def cell(x, w, h):
        return layer_norm(x.a + h, w.gain, w.bias)

    assert text(cell) == [
        "t1 = x.a + h",
        "t2 = t1 - mean(t1)",
        "h' = t2 / sqrt(mean(t2 * t2) + 1e-05) * w.gain + w.bias",
    ]


def test_a_gain_of_1_and_a_bias_of_0_are_dropped():
    def cell(x, h):
        return layer_norm(x.a) + layer_norm(h, 2, -0.5)

    assert text(cell)[-1] == (
        "h' = t1 / sqrt(mean(t1 * t1) + 1e-05) + (t2 / sqrt(mean(t2 * t2) + 1e-05) * 2 + (-0.5))"
    )


def test_layer_norms_of_one_value_share_their_means():
    def cell(x, w, h):
        return layer_norm(x.a, w.a) * h + layer_norm(x.a, w.b)

    assert [n.operation for n in lower(gw.cell(cell).graph).graph.nodes].count("mean") == 2


def test_no_cell_can_take_a_mean():
    assert OPERATIONS["mean"].internal
    assert "mean" not in FUNCTIONS
    assert not hasattr(gw, "mean")
    with pytest.raises(gw.CellError, match="the language has no operation"):
        gw.cell(lambda x, h: torch.mean(x.a) + h)


def test_a_mean_is_as_wide_as_what_it_is_taken_of():
    mean = OPERATIONS["mean"].compute
    assert torch.equal(mean(torch.tensor([1.0, 2.0, 6.0])), torch.full((3,), 3.0))
    assert torch.equal(mean(torch.tensor([[1.0, 3.0], [5.0, 5.0]])), torch.tensor([[2.0, 2.0], [5.0, 5.0]]))


# vector weights that are computed once a sequence


def test_what_depends_on_vector_weights_alone_is_hoisted_whole():
    def cell(x, w, a, b):
        radius, angle = exp(-exp(w.nu)), exp(w.theta)
        gamma = sqrt(1 - radius**2)
        return radius * gw.cos(angle) * a + gamma * x.re, radius * gw.sin(angle) * b

    lowered = lower(gw.cell(cell).graph)
    assert lowered.graph.vector_weights == ("#0", "#1", "#2")
    assert text(cell) == ["a' = w.#1 * a + w.#0 * x.re", "b' = w.#2 * b"]
    nu, theta = torch.tensor([0.1, -0.3]), torch.tensor([0.5, 0.7])
    radius = torch.exp(-torch.exp(nu))
    angle = torch.exp(theta)
    expected = (torch.sqrt(1 - radius**2), radius * torch.cos(angle), radius * torch.sin(angle))
    torch.testing.assert_close(lowered.vectors({"nu": nu, "theta": theta}), expected)


def test_plain_vector_weights_keep_their_names_beside_hoisted_ones():
    def cell(x, w, h):
        return w.a * h + sigmoid(w.a) * x.a + w.b

    lowered = lower(gw.cell(cell).graph)
    assert lowered.graph.vector_weights == ("a", "#0", "b")
    weights = {"a": torch.zeros(3), "b": torch.ones(3)}
    a, hoisted, b = lowered.vectors(weights)
    assert a is weights["a"]
    assert b is weights["b"]
    assert torch.equal(hoisted, torch.full((3,), 0.5))


def test_a_hoisted_vector_has_the_dtype_and_the_width_of_the_weights():
    def cell(x, w, h):
        return where(w.a < 0.5, 0.1, 0.7) * h + x.a + layer_norm(w.a, 2)

    weights = {"a": torch.randn(7, dtype=torch.float64)}
    for vector in lower(gw.cell(cell).graph).vectors(weights):
        assert (vector.shape, vector.dtype) == ((7,), torch.float64)


def test_a_comparison_of_vector_weights_stays_and_its_operands_leave():
    def cell(x, w, h):
        return where(2 * w.a < w.b, x.a, h)

    assert text(cell) == ["h' = where(w.#0 < w.b, x.a, h)"]


def test_a_state_may_be_a_hoisted_vector():
    def cell(x, w, h, c):
        return x.a + h * c, 2 * w.a

    lowered = lower(gw.cell(cell).graph)
    assert text(cell) == ["h' = x.a + h * c", "c' = w.#0"]
    assert lowered.graph.nodes[lowered.graph.results[1]] == Node("vector", name="#0")


# numbers, and what is one node


def graph_of(*nodes, results, states=("h",)):
    """A graph that is not traced, because Python would compute with its numbers."""
    return Graph(
        nodes=nodes,
        states=states,
        results=results,
        output="h",
        input_maps=tuple(n.name for n in nodes if n.operation == "input"),
        recurrent_maps=(),
        vector_weights=tuple(n.name for n in nodes if n.operation == "vector"),
    )


def test_arithmetic_on_numbers_is_done():
    graph = graph_of(
        Node("input", name="a"), Node("state", name="h"), Node("constant", value=2.0),
        Node("constant", value=0.5), Node("power", (2, 3)), Node("layer_norm", (3, 4, 2)), Node("mean", (4,)),
        Node("multiply", (0, 6)), Node("add", (7, 1)),
        results=(8, 5), states=("h", "c"),
    )  # fmt: skip
    lowered = lower(graph).graph
    assert lowered.nodes[lowered.results[1]] == Node("constant", value=2.0)
    constants = [node.value for node in lowered.nodes if node.operation == "constant"]
    assert constants == pytest.approx([2.0, 2**0.5], rel=1e-15)


def test_a_choice_between_numbers_is_made_and_maps_keep_their_rows():
    graph = graph_of(
        Node("input", name="a"), Node("input", name="b"), Node("state", name="h"),
        Node("constant", value=1.0), Node("constant", value=2.0), Node("less", (3, 4)),
        Node("where", (5, 0, 1)), Node("add", (6, 2)),
        results=(7,),
    )  # fmt: skip
    lowered = lower(graph).graph
    assert str(lowered).splitlines()[-1].strip() == "h' = x.a + h"
    assert lowered.input_maps == ("a", "b")


def test_equal_expressions_are_one_node_whatever_the_order_of_their_operands():
    graph = graph_of(
        Node("input", name="a"), Node("state", name="h"), Node("multiply", (0, 1)), Node("multiply", (1, 0)),
        Node("add", (2, 3)), Node("subtract", (0, 1)), Node("subtract", (1, 0)), Node("maximum", (5, 6)),
        Node("add", (4, 7)),
        results=(8,),
    )  # fmt: skip
    operations = [node.operation for node in lower(graph).graph.nodes]
    assert (operations.count("multiply"), operations.count("subtract")) == (1, 2)


def test_nothing_of_the_cells_own_arithmetic_is_rearranged():
    def cell(x, U, h):
        return tanh(1 * (x.a + 0) - -h) + maximum(x.b, U.a(h)) / 1

    graph = gw.cell(cell).graph
    assert lower(graph).graph == graph
