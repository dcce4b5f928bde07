"""What the language does not have is refused at definition, with the cell's name, the line and a remedy.

Each refused cell is a function whose offending line ends in a mark; the message must name that very line.
"""

import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import gatewright as gw
from gatewright import sigmoid, tanh, where

MARK = "# here"
HERE = Path(__file__).name
CASES = {}


def refused(message, hint, **options):
    """Note a function as a cell that is refused with these words."""

    def noted(function):
        CASES[function.__name__] = (function, message, hint, options)
        return function

    return noted


def marked_line(function):
    """The number of the line that the message must name; a definition begins at its decorator."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = [i for i, line in enumerate(lines) if line.rstrip().endswith(MARK)]
    return first if lines[offset].startswith("def ") else first + offset


# operations the language does not have


@refused("the language has no operation //", "it has + - * / **, comparisons, where, sigmoid")
def floor_division(x, U, h):
    z = sigmoid(x.z)
    return z + U.z(h) // 2  # here


@refused("the language has no operation %", "it has + - * / **")
def remainder(x, U, h):
    return 7 % (x.z + U.z(h))  # here


@refused("the language has no operation @", "it has + - * / **")
def matrix_product(x, U, h):
    return x.z @ U.z(h)  # here


@refused("the language has no operation [ ]", "it has + - * / **")
def indexing(x, U, h):
    a = x.z + U.z(h)
    return a[:, 1:]  # here


@refused("the language has no operation [ ] =", "it has + - * / **")
def item_assignment(x, U, h):
    a = x.z + U.z(h)
    a[0] = 1  # here
    return a


@refused("the language has no operation .sum", "it has + - * / **")
def method(x, U, h):
    return (x.z + U.z(h)).sum(-1)  # here


@refused("the language has no operation .shape", "it has + - * / **")
def attribute(x, U, h):
    return x.z + U.z(h) / h.shape[-1]  # here


@refused(".tanh works on numbers, not in a cell", "use gatewright.tanh, which works on both")
def method_with_a_function(x, U, h):
    return (x.z + U.z(h)).tanh()  # here


@refused("the language has no operation ~", "it has + - * / **")
def inversion(x, U, h):
    return where(~(x.z > 0), h, U.z(h))  # here


@refused("the language has no operation &", "it has + - * / **")
def bitwise_and(x, U, h):
    return where((x.z > 0) & (h > 0), h, U.z(h))  # here


@refused("the language has no operation iteration or unpacking", "it has + - * / **")
def unpacking(x, U, h):
    a, b = x.z  # here
    return a + b + U.z(h)


@refused("the language has no operation len()", "it has + - * / **")
def length(x, U, h):
    return x.z / len(h) + U.z(h)  # here


@refused("the language has no operation a call", "it has + - * / **")
def called_state(x, U, h):
    return x.z + h(U.z(h))  # here


@refused("the language has no operation round()", "it has + - * / **")
def rounding(x, U, h):
    return round(x.z + U.z(h))  # here


@refused("the language has no operation float() or a function of math", "it has + - * / **")
def function_of_math(x, U, h):
    return x.z + math.exp(U.z(h))  # here


@refused("torch.tanh works on numbers, not in a cell", "use gatewright.tanh, which works on both")
def function_of_torch(x, U, h):
    return torch.tanh(x.z + U.z(h))  # here


@refused("torch.relu works on numbers, not in a cell", "use gatewright.relu")
def function_of_torch_written_in_python(x, U, h):
    return F.relu(x.z + U.z(h))  # here


@refused("the language has no operation torch.linear", "it has + - * / **")
def layer_of_torch(x, U, h):
    return torch.nn.Linear(3, 3)(x.z + U.z(h))  # here


@refused("the language has no operation torch.cat", "it has + - * / **")
def concatenation(x, U, h):
    return x.z + torch.cat([U.z(h), h], -1)  # here


@refused("torch.add works on numbers, not in a cell", "write + between values of the cell and Python numbers")
def sum_of_torch(x, U, h):
    return torch.add(x.z, U.z(h))  # here


@refused("numpy.tanh works on numbers, not in a cell", "use gatewright.tanh, which works on both")
def function_of_numpy(x, U, h):
    return np.tanh(x.z + U.z(h))  # here


@refused("the language has no operation .clip", "it has + - * / **")
def function_of_numpy_written_in_python(x, U, h):
    return np.clip(x.z + U.z(h), 0, 1)  # here


@refused("numpy.multiply works on numbers, not in a cell", "write * between values of the cell and Python")
def product_with_an_array(x, U, h):
    return np.ones(3) * x.z + U.z(h)  # here


@refused("numpy.maximum works on numbers, not in a cell", "use gatewright.maximum")
def maximum_of_numpy(x, U, h):
    return np.maximum(0.0, x.z + U.z(h))  # here


@refused("the language has no operation .a =", "it has + - * / **")
def attribute_assignment(x, U, h):
    h.a = x.a  # here
    return h + U.a(h)


# the truth of a value


TRUTH = "if, and, or, not, max(), min() or a chained comparison needs the truth of a value that is only known"
CHOOSE = "choose with where(condition, a, b); use maximum(a, b) and minimum(a, b) for max and min"


@refused(TRUTH, CHOOSE)
def branch(x, U, h):
    a = x.z + U.z(h)
    if a > 0:  # here
        return a
    return tanh(a)


@refused(TRUTH, CHOOSE)
def conditional_expression(x, U, h):
    return x.z if U.z(h) else h  # here


@refused(TRUTH, CHOOSE)
def conjunction(x, U, h):
    return where(x.z > 0 and h > 0, h, U.z(h))  # here


@refused(TRUTH, CHOOSE)
def disjunction(x, U, h):
    return where(x.z > 0 or h > 0, h, U.z(h))  # here


@refused(TRUTH, CHOOSE)
def negation(x, U, h):
    return where(not x.z > 0, h, U.z(h))  # here


@refused(TRUTH, CHOOSE)
def builtin_max(x, U, h):
    return max(x.z, U.z(h))  # here


@refused(TRUTH, CHOOSE)
def builtin_min(x, U, h):
    return min(x.z, U.z(h), 1)  # here


@refused(TRUTH, CHOOSE)
def chained_comparison(x, U, h):
    return where(0 < x.z < 1, h, U.z(h))  # here


@refused(TRUTH, CHOOSE)
def loop(x, U, h):
    while x.z > 0:  # here
        h = h + 1
    return h + U.z(h)


# comparisons and numbers


@refused("a comparison cannot be an operand of *", "turn it into numbers first: where(condition, 1, 0)")
def comparison_as_a_number(x, U, h):
    return (x.z > 0) * U.z(h)  # here


@refused("a comparison cannot be an operand of tanh", "where(condition, 1, 0)")
def comparison_in_a_function(x, U, h):
    return tanh(x.z > 0) + U.z(h)  # here


@refused("a comparison cannot be an operand of where", "where(condition, 1, 0)")
def comparison_as_a_branch(x, U, h):
    return where(x.z > 0, h > 0, U.z(h))  # here


@refused("the first operand of where must be a comparison", "write where(a < b, ...)")
def number_as_a_comparison(x, U, h):
    return where(x.z, h, U.z(h))  # here


# operands that are not of the cell


@refused("an operand of * is a Tensor", "a trained value is a vector weight (w.a) or a map; a fixed one is a")
def tensor_operand(x, U, h):
    return x.z * torch.ones(3) + U.z(h)  # here


@refused("an operand of maximum is a Tensor", "a trained value is a vector weight (w.a)")
def tensor_in_a_function(x, U, h):
    return gw.maximum(torch.zeros(3), x.z + U.z(h))  # here


@refused("an operand of + is a str", "a fixed one is a Python number")
def string_operand(x, U, h):
    return x.z + "h" + U.z(h)  # here


@refused("an operand of + is a NoneType", "a fixed one is a Python number")
def none_operand(x, U, h):
    return U.z(h) + None + x.z  # here


@refused("an operand of * is a bool", "a fixed one is a Python number")
def bool_operand(x, U, h):
    return U.z(h) * True + x.z  # here


@refused("an operand of + is a complex", "a fixed one is a Python number")
def complex_operand(x, U, h):
    return U.z(h) + 1j + x.z  # here


@refused("an operand of layer_norm is a list", "a trained value is a vector weight (w.a)")
def list_operand(x, U, h):
    return gw.layer_norm(x.z + U.z(h), [1.0, 2.0])  # here


# maps and namespaces


@refused("x stands for the input maps and is no value: + is not possible", "write x.z")
def input_as_a_value(x, U, h):
    return x + U.z(h)  # here


@refused("x stands for the input maps and is no value: use as an operand of * is not possible", "write x.z")
def input_as_an_operand(x, U, h):
    return U.z(h) * x  # here


@refused("w stands for the vector weights and is no value: - is not possible", "write w.a")
def vector_namespace_as_a_value(x, U, w, h):
    return x.z + U.z(h) - (-w)  # here


@refused("U stands for the recurrent maps and is no value: a call is not possible", "write U.z(h)")
def recurrent_namespace_called(x, U, h):
    return x.z + U(h)  # here


@refused("x stands for the input maps and is no value: [ ] is not possible", "write x.z")
def input_indexed(x, U, h):
    return x["z"] + U.z(h)  # here


@refused("x stands for the input maps and is no value: .z = is not possible", "write x.z")
def input_map_assigned(x, U, h):
    x.z = tanh(x.z)  # here
    return x.z + U.z(h)


@refused("w stands for the vector weights and is no value: .a = is not possible", "write w.a")
def vector_weight_assigned(x, U, w, h):
    w.a = gw.exp(w.a)  # here
    return w.a * x.z + U.z(h)


@refused("x._z: a name that begins with an underscore is none of a map", "write x.z")
def underscore(x, U, h):
    return x._z + U.z(h)  # here


@refused("U.z is a recurrent map and no value: use as an operand of + is not possible", "apply it: U.z(h)")
def recurrent_map_unapplied(x, U, h):
    return x.z + U.z  # here


@refused("U.z is a recurrent map and no value: * is not possible", "apply it: U.z(h)")
def recurrent_map_multiplied(x, U, h):
    return U.z * h + x.z  # here


@refused("U.z is a recurrent map and no value: use as an operand of tanh is not possible", "apply it: U.z(h)")
def recurrent_map_in_a_function(x, U, h):
    return tanh(U.z) + x.z + h  # here


@refused("U.z is applied to something that does not depend on a state", "is an input map: x.z")
def recurrent_map_of_the_input(x, U, h):
    return U.z(tanh(x.n)) + h  # here


@refused("U.z takes one value of the cell, received the number 2", "something computed from one: U.z(h)")
def recurrent_map_of_a_number(x, U, h):
    return U.z(2) + x.z + h  # here


@refused("U.z takes one value of the cell, received nothing", "U.z(h)")
def recurrent_map_of_nothing(x, U, h):
    return U.z() + x.z + h  # here


@refused("U.z takes one value of the cell, received a value of the cell, a value of the cell", "U.z(h)")
def recurrent_map_of_two_values(x, U, h):
    return U.z(h, x.z) + x.z  # here


@refused("U.z takes one value of the cell, received the recurrent map U.r, which was not applied", "U.z(h)")
def recurrent_map_of_a_map(x, U, h):
    return U.z(U.r) + x.z + h  # here


@refused(
    "the recurrent map U.z is applied twice", "keep the product in a variable and use that, or name a second"
)
def recurrent_map_twice(x, U, h):
    z = sigmoid(x.z + U.z(h))
    return z * U.z(z * h)  # here


@refused("the recurrent map U.z is applied twice", "keep the product in a variable")
def recurrent_map_twice_on_one_value(x, U, h):
    return (x.z + U.z(h)) * U.z(h)  # here


@refused("a comparison cannot be an operand of U.z", "turn it into numbers first: where(condition, 1, 0)")
def recurrent_map_of_a_comparison(x, U, h):
    return x.z + U.z(h > 0)  # here


# results


@refused(
    "expected 2 returned state(s), received 1", "return the new states in the order of the arguments: h', c'"
)
def too_few_states(x, U, h, c):  # here
    return x.z + U.z(h) + c


@refused(
    "expected 1 returned state(s), received 2", "return the new states in the order of the arguments: h'"
)
def too_many_states(x, U, h):  # here
    return x.z + U.z(h), h


@refused("expected 2 returned state(s), received 1", "h', c'")
def states_in_a_list(x, U, h, c):  # here
    return [x.z + U.z(h) + c, c]


@refused("the new value of h is a list, not a value of this cell", "return the new states: h'")
def result_in_a_list(x, U, h):  # here
    return [x.z + U.z(h)]


@refused("the new value of h is the number 0.5, not a value of this cell", "return the new states: h'")
def number_result(x, U, h):  # here
    tanh(x.z + U.z(h))
    return 0.5


@refused("the new value of c is a Tensor, not a value of this cell", "return the new states: h', c'")
def tensor_result(x, U, h, c):  # here
    return x.z + U.z(h) + c, torch.zeros(3)


@refused("the new value of h is a NoneType, not a value of this cell", "return the new states: h'")
def no_result(x, U, h):  # here
    tanh(x.z + U.z(h))


@refused("the new value of h is the recurrent map U.z, which was not applied", "return the new states: h'")
def unapplied_result(x, U, h):  # here
    return U.z


@refused("the new value of h is the namespace x", "return the new states: h'")
def namespace_result(x, U, h):  # here
    return x


@refused("the new value of h is a comparison", "turn it into numbers: where(condition, 1, 0)")
def comparison_result(x, U, h):  # here
    return x.z > U.z(h)


# arguments, and what was declared for nothing


@refused("the argument *states is not a plain one", "take x, U, w and the states by name, without defaults")
def variable_arguments(x, U, *states):  # here
    return x.z


@refused("the argument **states is not a plain one", "take x, U, w and the states by name")
def keyword_arguments(x, U, h, **states):  # here
    return x.z + U.z(h)


@refused("the argument h=0 is not a plain one", "without defaults: def cell(x, U, h)")
def default_argument(x, U, h=0):  # here
    return x.z + U.z(h)


@refused("the argument h is not a plain one", "take x, U, w and the states by name")
def keyword_only(x, U, *, h):  # here
    return x.z + U.z(h)


@refused("the argument x is not a plain one", "take x, U, w and the states by name")
def positional_only(x, /, U, h):  # here
    return x.z + U.z(h)


@refused(
    "a cell needs at least one state", "add an argument for what a step hands to the next: def cell(x, U, h)"
)
def no_state(x, w):  # here
    return x.z * w.a


@refused("the state c is never used", "use c in the equations, or take it out of the arguments")
def unused_state(x, U, h, c):  # here
    return x.z + U.z(h), tanh(x.c)


@refused("the cell never reads its input", "use an input map, such as x.z")
def no_input(x, U, h):  # here
    return tanh(U.z(h))


@refused(
    "x.r does not reach the new states", "use it in the equations or delete it: x.r would be trained for"
)
def unused_input_map(x, U, h):  # here
    sigmoid(x.r)
    return x.z + U.z(h)


@refused("U.r does not reach the new states", "use it in the equations or delete it")
def unused_recurrent_map(x, U, h):  # here
    sigmoid(U.r(h))
    return x.z + U.z(h)


@refused("w.r does not reach the new states", "use it in the equations or delete it")
def unused_vector_weight(x, U, w, h):  # here
    sigmoid(w.r)
    return x.z + U.z(h)


@refused("rows=('z',) leaves out the map 'r'", "name every map once", rows="z")
def rows_leave_out_a_map(x, U, h):  # here
    return x.z + U.r(h)


@refused("rows=('z', 'r', 'z') names twice the map 'z'", "name every map once", rows="zrz")
def rows_name_a_map_twice(x, U, h):  # here
    return x.z + U.r(h)


@refused("rows=('z', 'q') names what is no map of the cell, 'q'", "name every map once", rows="zq")
def rows_name_no_map(x, U, h):  # here
    return x.z + U.z(h)


@refused("keep={'q': 1} names what is no map of the cell, 'q'", "the maps are z, r", keep={"q": 1})
def keep_names_no_map(x, U, h):  # here
    return x.z + U.r(h)


@refused("keep={'z': 2} gives 'z' neither 1 nor -1", "-1 where it is that of the new", keep={"z": 2})
def keep_of_another_number(x, U, h):  # here
    return x.z + U.z(h)


@refused("keep={'z': True} gives 'z' neither 1 nor -1", "1 where sigmoid of the map", keep={"z": True})
def keep_of_a_truth_value(x, U, h):  # here
    return x.z + U.z(h)


@refused("expected keep as a mapping from a map to 1 or -1, received 'z'", "write it as keep=", keep="z")
def keep_is_no_mapping(x, U, h):  # here
    return x.z + U.z(h)


@refused("the output 'y' is not a state", "the states are h, c", output="y")
def output_is_no_state(x, U, h, c):  # here
    return x.z + U.z(h) + c, c


@pytest.mark.parametrize("name", CASES)
def test_refused_with_the_cell_the_line_and_a_remedy(name):
    function, message, hint, options = CASES[name]
    with pytest.raises(gw.CellError) as caught:
        gw.cell(**options)(function)
    expected = f"cell {name!r} ({HERE}, line {marked_line(function)}): {message}"
    assert caught.value.message[: len(expected)] == expected
    assert hint in caught.value.hint
    assert str(caught.value) == f"{caught.value.message}\n  hint: {caught.value.hint}"
    assert isinstance(caught.value, gw.InputError)


def test_a_decorated_cell_is_named_by_the_line_of_its_decorator():
    line = inspect.currentframe().f_lineno + 3  # type: ignore[union-attr]  # the test runs in a frame
    with pytest.raises(gw.CellError) as caught:

        @gw.cell(
            source="nowhere",
        )
        def unused(x, U, h, c):
            return x.z + U.z(h), x.c

    assert f"({HERE}, line {line})" in caught.value.message


def test_a_value_of_another_cell_is_refused():
    kept = {}

    @gw.cell
    def first(x, U, h):
        kept["z"] = sigmoid(x.z + U.z(h))
        return kept["z"]

    def operand(x, U, h):
        return x.z + U.z(h) * kept["z"]  # here

    def argument(x, U, h):
        return x.z + h + U.z(kept["z"])  # here

    def result(x, U, h):
        tanh(x.z + U.z(h))
        return kept["z"]

    for function, word in ((operand, "*"), (argument, "U.z")):
        with pytest.raises(gw.CellError) as caught:
            gw.cell(function)
        line = marked_line(function)
        expected = f"({HERE}, line {line}): an operand of {word} belongs to the cell 'first'"
        assert expected in caught.value.message
        assert caught.value.hint == "a cell may only use its own arguments"
    with pytest.raises(
        gw.CellError, match=r"the new value of h is a value of the cell 'first', not a value of"
    ):
        gw.cell(result)


# helpers: functions a cell calls


def gate(a, b):
    return sigmoid(a + b)


def wrong_gate(a, b):
    total = a + b
    return total.clamp(0, 1)  # here


def test_a_cell_may_call_functions_of_its_own():
    @gw.cell
    def helped(x, U, h):
        z = gate(x.z, U.z(h))
        return z * h + (1 - z) * tanh(x.n)

    @gw.cell
    def written_out(x, U, h):
        z = sigmoid(x.z + U.z(h))
        return z * h + (1 - z) * tanh(x.n)

    assert helped.graph == written_out.graph


def test_a_mistake_in_a_helper_names_the_line_of_the_helper():
    def helped(x, U, h):
        return wrong_gate(x.z, U.z(h)) * h

    with pytest.raises(gw.CellError) as caught:
        gw.cell(helped)
    assert f"cell 'helped' ({HERE}, line {marked_line(wrong_gate)})" in caught.value.message


@pytest.mark.parametrize(
    "given", [3, "Cho et al. 2014", tanh(0.5), torch.nn.GRU(3, 5)], ids=lambda g: type(g).__name__
)
def test_a_cell_of_something_that_is_no_function_is_refused(given):
    with pytest.raises(
        gw.InputError, match=f"expected a function, received a {type(given).__name__}"
    ) as caught:
        gw.cell(given)
    assert "@gatewright.cell(source=...)" in caught.value.hint


def test_an_error_of_the_users_own_comes_through_unchanged():
    def broken(x, U, h):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        gw.cell(broken)
