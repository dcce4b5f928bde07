"""Cells as they are traced: the graph, its text, and what every operation computes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gatewright as gw
from gatewright import exp, layer_norm, maximum, minimum, sigmoid, softplus, tanh, where
from gatewright.compiler.graph import Graph, Node
from gatewright.compiler.operations import OPERATIONS


def gru(x, U, h):
    z = sigmoid(x.z + U.z(h))
    r = sigmoid(x.r + U.r(h))
    n = tanh(x.n + r * U.n(h))
    return (1 - z) * n + z * h


GRU_TEXT = """\
cell gru: state h, output h
  input maps: z r n
  recurrent maps: z r n
    t1 = sigmoid(x.z + U.z(h))
    h' = (1 - t1) * tanh(x.n + sigmoid(x.r + U.r(h)) * U.n(h)) + t1 * h"""


def operations(graph):
    return [node.operation for node in graph.nodes]


def last_line(function):
    """The new state's equation as it is printed."""
    return str(gw.cell(function).graph).splitlines()[-1].strip()


# the graph and its text


def test_the_gru_prints_as_its_equations():
    assert str(gw.cell(gru).graph) == GRU_TEXT


def test_several_states_vector_weights_and_another_output_are_printed():
    @gw.cell(output="h", source="a paper")
    def made_up(x, U, w, c, h):
        c = w.f * c + x.i
        return c, tanh(c) * U.o(h)

    assert str(made_up.graph) == (
        "cell made_up: state c, h, output h\n"
        "  input maps: i\n"
        "  recurrent maps: o\n"
        "  vector weights: f\n"
        "    t1 = w.f * c + x.i\n"
        "    c' = t1\n"
        "    h' = tanh(t1) * U.o(h)"
    )
    assert (made_up.graph.output, made_up.graph.source) == ("h", "a paper")


PRINTED = {
    "left_to_right": (lambda x, h: (x.a - h) - x.b, "x.a - h - x.b"),
    "right_subtraction": (lambda x, h: x.a - (h - x.b), "x.a - (h - x.b)"),
    "right_division": (lambda x, h: x.a / (h / x.b), "x.a / (h / x.b)"),
    "power_of_power": (lambda x, h: (x.a**h) ** x.b, "(x.a ** h) ** x.b"),
    "power_to_power": (lambda x, h: x.a ** (h**x.b), "x.a ** h ** x.b"),
    "power_of_negative": (lambda x, h: (-x.a) ** 2 + h, "(-x.a) ** 2 + h"),
    "negative_of_power": (lambda x, h: -(x.a**2) + h, "-x.a ** 2 + h"),
    "negative_number": (lambda x, h: x.a * -2.5 + h, "x.a * (-2.5) + h"),
    "sum_of_product": (lambda x, h: (x.a + h) * x.b, "(x.a + h) * x.b"),
    "comparison": (lambda x, h: where(x.a + 1 <= h, x.b, 0), "where(x.a + 1 <= h, x.b, 0)"),
    "greater_is_less_turned": (lambda x, h: where(x.a > h, x.b, 0), "where(h < x.a, x.b, 0)"),
    "layer_norm_defaults": (lambda x, h: layer_norm(x.a + h), "layer_norm(x.a + h, 1, 0)"),
}


@pytest.mark.parametrize("case", PRINTED)
def test_brackets_are_printed_where_they_are_needed(case):
    equation, text = PRINTED[case]

    def cell(x, h):
        return equation(x, h)

    printed = last_line(cell).removeprefix("h' = ")
    assert printed == text
    # the text is Python with the meaning of the equation
    names = {"x": SimpleNamespace(a=1.7, b=0.3), "h": 0.6, **vars(gw)}
    if case != "layer_norm_defaults":
        assert eval(printed, names) == pytest.approx(equation(names["x"], names["h"]), rel=1e-15)


def test_equal_expressions_are_one_node():
    @gw.cell
    def twice(x, U, h):
        return sigmoid(x.a + U.a(h)) * tanh(x.b) + tanh(x.b) * sigmoid(x.a + h)

    assert operations(twice.graph).count("tanh") == 1
    assert operations(twice.graph).count("sigmoid") == 2


@pytest.mark.parametrize("operation", [name for name, row in OPERATIONS.items() if row.commutative])
def test_the_order_of_exchangeable_operands_does_not_matter(operation):
    signs = {
        "add": lambda a, b: a + b,
        "multiply": lambda a, b: a * b,
        "equal": lambda a, b: where(a == b, 1, 2),
        "not_equal": lambda a, b: where(a != b, 1, 2),
        "maximum": maximum,
        "minimum": minimum,
    }

    def cell(x, h):
        return signs[operation](x.a, h) * signs[operation](h, x.a)

    assert operations(gw.cell(cell).graph).count(operation) == 1 + (operation == "multiply")


def test_the_order_of_other_operands_matters():
    @gw.cell
    def cell(x, h):
        return (x.a - h) * (h - x.a)

    assert operations(cell.graph).count("subtract") == 2


def test_equal_numbers_are_one_node_but_zero_and_negative_zero_are_two():
    @gw.cell
    def cell(x, h):
        return (x.a + 2) * (h + 2.0) + 0.0 * h + (-0.0) * x.a

    constants = [node.value for node in cell.graph.nodes if node.operation == "constant"]
    assert [math.copysign(1, value) for value in constants if value == 0] == [1, -1]
    assert constants.count(2.0) == 1


def test_arithmetic_that_nothing_needs_is_dropped():
    @gw.cell
    def cell(x, U, h):
        a = x.a + U.a(h)
        _ = exp(a) / 3 + sigmoid(a)
        return tanh(a)

    assert operations(cell.graph) == ["state", "input", "recurrent", "add", "tanh"]


def test_rows_are_in_order_of_first_use():
    @gw.cell
    def cell(x, U, w, h):
        late = U.late(h)
        return x.b * w.z + x.a + late * x.b + U.early(h) * w.a

    graph = cell.graph
    assert (graph.input_maps, graph.recurrent_maps, graph.vector_weights) == (
        ("b", "a"),
        ("late", "early"),
        ("z", "a"),
    )


def test_rows_state_another_order_for_inputs_and_recurrent_maps():
    graph = gw.cell(rows=("n", "r", "z"))(gru).graph
    assert graph.input_maps == graph.recurrent_maps == ("n", "r", "z")
    assert gw.cell(rows="rzn")(gru).graph.input_maps == ("r", "z", "n")


def test_output_names_another_state_than_the_first():
    def cell(x, U, c, h):
        return tanh(x.a + U.a(h)), 2 * c

    assert gw.cell(cell).graph.output == "c"
    assert gw.cell(output="h")(cell).graph.output == "h"
    y, (c, h) = gw.Recurrent(gw.cell(output="h")(cell), 3, 5)(torch.randn(4, 2, 3))
    assert torch.equal(y[-1], h[0])
    assert not torch.equal(h, c)


def test_keep_is_stated_and_cannot_be_changed():
    given = {"z": 1, "r": -1}
    cell = gw.cell(keep=given)(gru)
    given["n"] = 1
    assert dict(cell.keep) == {"z": 1, "r": -1}
    assert cell.graph == gw.cell(gru).graph
    assert dict(gw.cell(gru).keep) == {}
    with pytest.raises(TypeError):
        cell.keep["n"] = 1  # type: ignore[index]  # that is the point


def test_keep_may_name_a_map_of_one_kind_alone():
    @gw.cell(keep={"late": 1, "a": -1})
    def cell(x, U, h):
        return sigmoid(U.late(h)) * h + sigmoid(x.a)

    assert dict(cell.keep) == {"late": 1, "a": -1}


def test_graphs_of_equal_equations_are_equal_whatever_they_are_called():
    @gw.cell(source="elsewhere")
    def other(x, U, h):
        update = sigmoid(U.z(h) + x.z)
        reset = sigmoid(x.r + U.r(h))
        return (1 - update) * tanh(x.n + U.n(h) * reset) + h * update

    def similar(x, U, h):
        z = sigmoid(x.z + U.z(h))
        r = sigmoid(x.r + U.r(h))
        n = tanh(x.n + r * U.n(h))
        return (1 - z) * n + z * h

    graph = gw.cell(gru).graph
    assert gw.cell(similar).graph == graph
    assert hash(gw.cell(similar).graph) == hash(graph)
    assert gw.cell(rows="rzn")(gru).graph != graph
    assert other.graph.input_maps == graph.input_maps
    assert len(other.graph.nodes) == len(graph.nodes)


def test_recurrent_maps_of_one_value_are_one_group():
    @gw.cell
    def cell(x, U, h):
        r = sigmoid(x.r + U.r(h))
        return tanh(x.n + U.n(r * h) + U.m(h * r)) * U.z(h)

    assert cell.graph.recurrent_groups == (("r", "z"), ("n", "m"))


def test_a_cell_is_still_its_function():
    cell = gw.cell(gru)
    rng = torch.Generator().manual_seed(0)
    z, r, n, h = torch.randn(4, 3, 5, generator=rng, dtype=torch.float64)
    x, U = SimpleNamespace(z=z, r=r, n=n), SimpleNamespace(z=lambda v: v, r=lambda v: 2 * v, n=lambda v: -v)
    assert torch.equal(cell(x, U, h), gru(x, U, h))
    assert repr(cell) == "<cell gru(x, U, h)>"


def test_arguments_may_stand_in_any_order():
    @gw.cell
    def turned(c, w, h, U, x):
        return c + w.a * h, tanh(x.a + U.a(h)) + c

    assert turned.graph.states == ("c", "h")
    layer = gw.Recurrent(turned, 3, 5, dtype=torch.float64)
    _, (c, h) = layer(torch.ones(1, 2, 3, dtype=torch.float64))
    assert c.abs().max() == 0
    assert h.abs().max() > 0


def test_one_state_may_be_returned_as_a_tuple():
    @gw.cell
    def cell(x, U, h):
        return (tanh(x.a + U.a(h)),)

    assert cell.graph.states == ("h",)


def test_a_cell_may_call_another_cell():
    inner = gw.cell(gru)

    @gw.cell
    def scaled(x, U, h):
        return 0.5 * inner(x, U, h)

    assert str(scaled.graph).endswith(
        "h' = 0.5 * ((1 - t1) * tanh(x.n + sigmoid(x.r + U.r(h)) * U.n(h)) + t1 * h)"
    )


def test_names_may_be_shared_between_the_namespaces_and_the_states():
    @gw.cell
    def cell(x, U, w, a):
        return tanh(x.a + U.a(a) + w.a * a)

    assert str(cell.graph).endswith("a' = tanh(x.a + U.a(a) + w.a * a)")


@pytest.mark.parametrize(
    "number", [2, 2.0, np.float64(2), np.float32(2), np.int64(2)], ids=lambda n: type(n).__name__
)
def test_python_and_numpy_numbers_stand_on_either_side(number):
    def cell(x, h):
        return where(number < x.a, number * x.a - number, number / x.a + number**h)

    assert last_line(cell) == "h' = where(2 < x.a, 2 * x.a - 2, 2 / x.a + 2 ** h)"


COMPARED = {
    "<": (lambda n, v: n < v, "2 < x.a"),
    "<=": (lambda n, v: n <= v, "2 <= x.a"),
    ">": (lambda n, v: n > v, "x.a < 2"),
    ">=": (lambda n, v: n >= v, "x.a <= 2"),
    "==": (lambda n, v: n == v, "x.a == 2"),
    "!=": (lambda n, v: n != v, "x.a != 2"),
}


@pytest.mark.parametrize("number", [2, np.float64(2)], ids=["python", "numpy"])
@pytest.mark.parametrize("sign", COMPARED)
def test_a_number_is_compared_from_the_left(sign, number):
    compare, text = COMPARED[sign]

    def cell(x, h):
        return where(compare(number, x.a), h, x.a)

    assert last_line(cell) == f"h' = where({text}, h, x.a)"


# what the operations compute: the graph through an interpreter of its own, against the function on tensors


def normalised(v, gain, bias):
    v = np.broadcast_to(v, np.broadcast_shapes(v.shape, np.shape(gain)))
    mean = v.mean(-1, keepdims=True)
    return (v - mean) / np.sqrt(((v - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * gain + bias


FORMULAS = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "negate": lambda a: -a,
    "power": lambda a, b: a**b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "where": np.where,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "tanh": lambda a: (np.exp(a) - np.exp(-a)) / (np.exp(a) + np.exp(-a)),
    "relu": lambda a: a * (a > 0),
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "softplus": lambda a: np.log(1 + np.exp(a)),
    "sqrt": lambda a: a**0.5,
    "abs": lambda a: np.where(a < 0, -a, a),
    "maximum": lambda a, b: np.where(a > b, a, b),
    "minimum": lambda a, b: np.where(a < b, a, b),
    "sin": np.sin,
    "cos": np.cos,
    "layer_norm": normalised,
}


def interpreted(graph: Graph, x, U, w, states):
    """The new states of one step in NumPy, node by node."""
    values = []
    for node in graph.nodes:
        operands = [values[i] for i in node.inputs]
        if node.operation == "recurrent":
            weight, bias = U[node.name]
            values.append(operands[0] @ weight.T + bias)
        elif node.operation == "constant":
            values.append(np.float64(node.value))
        elif node.operation in ("input", "vector", "state"):
            values.append({"input": x, "vector": w, "state": states}[node.operation][node.name])
        else:
            values.append(FORMULAS[node.operation](*operands))
    return [values[i] for i in graph.results]


EXPRESSIONS = {
    "add": lambda a, b, v: (a + b) + (2 + v) + (b + 0.5),
    "subtract": lambda a, b, v: (a - v) * (2 - b) - (a - 0.5),
    "multiply": lambda a, b, v: (a * b) * (v * 3) * (-0.5 * a),
    "divide": lambda a, b, v: a / exp(b) + 2 / exp(v) + b / 3,
    "negate": lambda a, b, v: -a * -(b + v),
    "plus": lambda a, b, v: +a * b + v,
    "power": lambda a, b, v: exp(a) ** b + v**2 + (a * a) ** 1.5,
    "power_of_number": lambda a, b, v: 2**a + 0.5**b + 3**v,
    "less": lambda a, b, v: where(a < b, a, v) + where(v < 0.2, b, 2),
    "less_equal": lambda a, b, v: where(a <= a, b, v) + where(b <= 0.1, 1, v),
    "greater": lambda a, b, v: where(a > b, a, v) + where(v > 0.3, 0.1, b),
    "greater_equal": lambda a, b, v: where(a >= a, a, v) + where(b >= 0, b, 0.7),
    "equal": lambda a, b, v: where(a == b, a, v) + where(relu_of(b) == 0, 1.1, b),
    "not_equal": lambda a, b, v: where(a != a, a, v) + where(relu_of(b) != 0, 1.1, b),
    "where_of_numbers": lambda a, b, v: where(a < b, 0.1, 0.7) / where(v < 0, 3, 7),
    "sigmoid": lambda a, b, v: sigmoid(a) * sigmoid(v) + sigmoid(0.3) * b,
    "tanh": lambda a, b, v: tanh(a) * tanh(v) + tanh(0.3) * b,
    "relu": lambda a, b, v: gw.relu(a) * gw.relu(v) + gw.relu(-2) * b + gw.relu(b),
    "exp": lambda a, b, v: exp(a) + exp(-exp(v)) + exp(0.3) * b,
    "log": lambda a, b, v: gw.log(a * a + 0.1) + gw.log(exp(v)) + gw.log(3) * b,
    "log1p": lambda a, b, v: gw.log1p(a * a) + gw.log1p(exp(v)) + gw.log1p(3) * b,
    "softplus": lambda a, b, v: softplus(a) + softplus(v) + softplus(0.3) * b,
    "sqrt": lambda a, b, v: gw.sqrt(a * a + 1) + gw.sqrt(exp(v)) + gw.sqrt(3) * b,
    "abs": lambda a, b, v: gw.abs(a) * gw.abs(v) + gw.abs(-3) * b,
    "builtin_abs": lambda a, b, v: abs(a) * abs(v) + abs(b),
    "maximum": lambda a, b, v: maximum(a, b) * maximum(v, 0.1) + maximum(-0.2, b) + maximum(a, v),
    "minimum": lambda a, b, v: minimum(a, b) * minimum(v, 0.1) + minimum(-0.2, b) + minimum(a, v),
    "sin": lambda a, b, v: gw.sin(a) + gw.sin(v) * gw.sin(b * 3) + gw.sin(1),
    "cos": lambda a, b, v: gw.cos(a) + gw.cos(v) * gw.cos(b * 3) + gw.cos(1),
    "layer_norm": lambda a, b, v: layer_norm(a + b) * v,
    "layer_norm_gain": lambda a, b, v: layer_norm(a, v) + layer_norm(b, 2),
    "layer_norm_bias": lambda a, b, v: layer_norm(a, b, v) + layer_norm(b, bias=0.25) + layer_norm(v),
}


def relu_of(v):
    return gw.relu(v)


def traced(expression):
    def operation(x, U, w, h):
        return expression(x.a, U.a(h), w.a)

    return gw.cell(operation)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_operation_on_the_graph_equals_the_same_function_on_tensors(name):
    cell = traced(EXPRESSIONS[name])
    rng = np.random.default_rng(sum(map(ord, name)))
    a, h = rng.normal(size=(2, 3, 7))
    v, bias = rng.normal(size=(2, 7))
    weight = rng.normal(size=(7, 7))
    (expected,) = interpreted(cell.graph, {"a": a}, {"a": (weight, bias)}, {"a": v}, {"h": h})

    def tensors(dtype):
        def of(array):
            return torch.from_numpy(array).to(dtype)

        x, w = SimpleNamespace(a=of(a)), SimpleNamespace(a=of(v))
        recurrent = SimpleNamespace(a=lambda s: s @ of(weight).T + of(bias))
        return cell.step(x, recurrent, w, [of(h)])[0]

    assert np.isfinite(expected).all()
    assert expected.shape == (3, 7)
    np.testing.assert_allclose(tensors(torch.float64).numpy(), expected, rtol=1e-12, atol=1e-12, strict=True)
    single = tensors(torch.float32)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.double().numpy(), expected, rtol=2e-4, atol=2e-4)


def test_the_expressions_above_hold_every_operation():
    used = {node.operation for e in EXPRESSIONS.values() for node in traced(e).graph.nodes}
    written = {name for name, row in OPERATIONS.items() if not row.internal}
    assert written <= used
    assert set(FORMULAS) == written


NUMBERS = {
    "sigmoid": (0.3, 1 / (1 + math.exp(-0.3))),
    "tanh": (0.3, math.tanh(0.3)),
    "relu": (-0.3, 0.0),
    "exp": (0.3, math.exp(0.3)),
    "log": (0.3, math.log(0.3)),
    "log1p": (0.3, math.log1p(0.3)),
    "softplus": (0.3, math.log(1 + math.exp(0.3))),
    "sqrt": (0.3, math.sqrt(0.3)),
    "abs": (-0.3, 0.3),
    "sin": (0.3, math.sin(0.3)),
    "cos": (0.3, math.cos(0.3)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_an_operation_on_numbers_is_a_number_in_double_precision(name):
    given, expected = NUMBERS[name]
    result = getattr(gw, name)(given)
    assert isinstance(result, float)
    assert result == pytest.approx(expected, rel=1e-15)


def test_operations_of_two_and_three_numbers():
    assert (maximum(0.1, 0.2), minimum(0.1, 0.2)) == (0.2, 0.1)
    assert (where(1 < 2, 0.1, 0.2), where(1 > 2, 0.1, 0.2)) == (0.1, 0.2)


@pytest.mark.parametrize("value", ["0.3", None, [0.3]], ids=["string", "none", "list"])
def test_an_operation_refuses_what_is_no_number_and_no_tensor(value):
    with pytest.raises(TypeError, match="sigmoid takes values of a cell, tensors or numbers, received"):
        sigmoid(value)


def test_a_choice_between_numbers_keeps_their_precision_in_a_layer():
    @gw.cell
    def threshold(x, U, h):
        return where(x.a + U.a(h) > 0, 0.1, 0.7)

    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        y, _ = gw.Recurrent(threshold, 3, 5, dtype=dtype)(torch.randn(6, 4, 3, dtype=dtype))
        assert y.dtype == dtype
        assert set(y.flatten().tolist()) == set(torch.tensor([0.1, 0.7], dtype=dtype).tolist())


def test_a_state_of_vector_weights_alone_is_the_same_for_every_row():
    @gw.cell
    def keeps(x, U, w, h, c):
        return tanh(x.a + U.a(h)) + c, exp(w.c)

    layer = gw.Recurrent(keeps, 3, 5)
    x = torch.randn(4, 3, 3)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, [4, 2, 1])
    for given in (x, packed):
        _, (_, c) = layer(given)
        expected = layer.get_parameter("vector_c_l0").exp().expand(1, 3, 5)
        torch.testing.assert_close(c, expected, rtol=0, atol=0)


# graphs made by hand are validated too


def graph_of(*nodes, results=None, output="h", inputs=("a",), states=("h",)):
    return Graph(
        nodes=nodes,
        states=states,
        results=(len(nodes) - 1,) if results is None else results,
        output=output,
        input_maps=inputs,
        recurrent_maps=(),
        vector_weights=(),
    )


STATE, INPUT = Node("state", name="h"), Node("input", name="a")


def test_a_graph_made_by_hand_equals_the_traced_one():
    @gw.cell
    def cell(x, h):
        return h + x.a

    assert cell.graph == graph_of(STATE, INPUT, Node("add", (0, 1)))


SUM = Node("add", (0, 1))
INVALID = {
    "later_node": (lambda: graph_of(STATE, INPUT, Node("add", (0, 2))), "node 2 uses a node that does not"),
    "arity": (lambda: graph_of(STATE, INPUT, Node("add", (0,))), "node 2: add takes 2 operands, received 1"),
    "unknown": (
        lambda: graph_of(STATE, INPUT, Node("cube", (0,))),
        "node 2 has the unknown operation 'cube'",
    ),
    "logical_result": (lambda: graph_of(STATE, INPUT, Node("less", (0, 1))), "result 2 is not a value"),
    "no_such_result": (lambda: graph_of(STATE, INPUT, SUM, results=(7,)), "result 7 is not a value"),
    "two_results": (lambda: graph_of(STATE, INPUT, SUM, results=(1, 2)), "expected 1 results, one per state"),
    "output": (lambda: graph_of(STATE, INPUT, SUM, output="c"), "output 'c' is not one of the states"),
    "names": (lambda: graph_of(STATE, INPUT, SUM, inputs=("b",)), "do not match the declared names"),
    "comparison_as_number": (
        lambda: graph_of(STATE, INPUT, Node("less", (0, 1)), Node("add", (0, 2))),
        "node 3: a comparison belongs in the first place of where",
    ),
    "number_as_comparison": (
        lambda: graph_of(STATE, INPUT, Node("where", (0, 0, 1))),
        "node 2: a comparison belongs in the first place of where",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_graph_is_refused(case):
    make, message = INVALID[case]
    with pytest.raises(ValueError, match=message):
        make()
