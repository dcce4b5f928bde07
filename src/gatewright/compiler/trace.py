"""What a cell meets while it is traced: symbols that record, and refuse what the language does not have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from gatewright.compiler.graph import Node, reachable
from gatewright.compiler.operations import FUNCTIONS, OPERATIONS
from gatewright.errors import InputError

_COMPILER = str(Path(__file__).parent)
_LIBRARIES = ("torch", "numpy")


class CellError(InputError):
    """A cell says something that the language does not have; the message gives the cell and the line."""


def refuse(cell: str, message: str, hint: str, line: str | None = None) -> NoReturn:
    """Raise with the line of the cell that is being traced: the innermost one not of a library."""
    if line is None:
        frame = sys._getframe(1)
        while frame.f_back is not None and _of_a_library(frame):
            frame = frame.f_back
        line = f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
    raise CellError(f"cell {cell!r} ({line}): {message}", hint)


def _of_a_library(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__", "")
    return frame.f_code.co_filename.startswith(_COMPILER) or module.partition(".")[0] in _LIBRARIES


class Traced:
    """Base of all that a cell meets while it is traced: what is not allowed is refused by name."""

    def _cell(self) -> str:
        raise NotImplementedError

    def _remedy(self, operation: str) -> tuple[str, str]:
        """Message and hint for an operation that this object does not have."""
        raise NotImplementedError

    def _refused(self, operation: str) -> NoReturn:
        message, hint = self._remedy(operation)
        refuse(self._cell(), message, hint)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._refused(f".{name} =")
        object.__setattr__(self, name, value)

    def __array_ufunc__(self, ufunc: Any, _method: str, *_: Any, **__: Any) -> Any:
        self._refused(f"numpy.{ufunc.__name__}")

    @classmethod
    def __torch_function__(cls, function: Any, _types: Any, args: Any = (), _kwargs: Any = None) -> NoReturn:
        flat = [a for arg in args for a in (arg if isinstance(arg, (tuple, list)) else (arg,))]
        traced = next((a for a in [*flat, *(_kwargs or {}).values()] if isinstance(a, Traced)), None)
        name = f"torch.{getattr(function, '__name__', function)}"
        if traced is None:
            raise TypeError(f"{name} cannot be used inside a cell")
        traced._refused(name)


def _refusing(operation: str) -> Callable[..., NoReturn]:
    def method(self: Traced, *_: Any, **__: Any) -> NoReturn:
        self._refused(operation)

    return method


_TRUTH = "if, and, or, not, max(), min() or a chained comparison"
_BINARY_OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "truediv": "/", "pow": "**", "matmul": "@", "floordiv": "//",
    "mod": "%", "and": "&", "or": "|", "xor": "^", "lshift": "<<", "rshift": ">>", "divmod": "divmod()",
}  # fmt: skip
for _name, _sign in _BINARY_OPERATORS.items():
    setattr(Traced, f"__{_name}__", _refusing(_sign))
    setattr(Traced, f"__r{_name}__", _refusing(_sign))
_OTHER_OPERATORS = {
    "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!=", "neg": "-", "pos": "+",
    "invert": "~", "abs": "abs()", "round": "round()", "float": "float() or a function of math",
    "int": "int()", "complex": "complex()", "bool": _TRUTH, "index": "use as an index", "len": "len()",
    "iter": "iteration or unpacking", "getitem": "[ ]", "setitem": "[ ] =", "contains": "in",
    "call": "a call", "array": "numpy",
}  # fmt: skip
for _name, _sign in _OTHER_OPERATORS.items():
    setattr(Traced, f"__{_name}__", _refusing(_sign))
Traced.__hash__ = object.__hash__

_REFLECTED = {
    "add": "__radd__", "subtract": "__rsub__", "multiply": "__rmul__", "divide": "__rtruediv__",
    "power": "__rpow__", "less": "__gt__", "less_equal": "__ge__", "greater": "__lt__",
    "greater_equal": "__le__", "equal": "__eq__", "not_equal": "__ne__",
}  # fmt: skip
"""What a symbol is asked for when a numpy number stands on the left of a sign, by numpy's name of it."""


class Symbol(Traced):
    """A value of a cell while it is traced: an index into the graph that is being built."""

    def __init__(self, tracer: Tracer, index: int) -> None:
        self._tracer = tracer
        self._index = index

    def _cell(self) -> str:
        return self._tracer.name

    def _remedy(self, operation: str) -> tuple[str, str]:
        if operation == _TRUTH:
            message = f"{operation} needs the truth of a value that is only known while the cell runs"
            return (
                message,
                "choose with where(condition, a, b); use maximum(a, b) and minimum(a, b) for max and min",
            )
        name = operation.rpartition(".")[2].removesuffix("()")
        if name in OPERATIONS and OPERATIONS[name].infix:
            return (
                f"{operation} works on numbers, not in a cell",
                f"write {OPERATIONS[name].infix} between values of the cell and Python numbers",
            )
        if name in FUNCTIONS:
            return (
                f"{operation} works on numbers, not in a cell",
                f"use gatewright.{name}, which works on both",
            )
        return (
            f"the language has no operation {operation}",
            f"it has + - * / **, comparisons, {', '.join(FUNCTIONS)}",
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refused(f".{name}")

    def __array_ufunc__(self, ufunc: Any, _method: str, *values: Any, **options: Any) -> Any:
        left = values[0]
        # for a comparison numpy has made an array without dimensions of its number
        if ufunc.__name__ in _REFLECTED and left is not self and getattr(left, "shape", None) == ():
            return getattr(self, _REFLECTED[ufunc.__name__])(left.item())
        return super().__array_ufunc__(ufunc, _method, *values, **options)

    def __add__(self, other: Any) -> Any:
        return self._tracer.apply("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._tracer.apply("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._tracer.apply("subtract", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._tracer.apply("subtract", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._tracer.apply("multiply", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._tracer.apply("multiply", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._tracer.apply("divide", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._tracer.apply("divide", other, self)

    def __pow__(self, other: Any) -> Any:
        return self._tracer.apply("power", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._tracer.apply("power", other, self)

    def __neg__(self) -> Any:
        return self._tracer.apply("negate", self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self._tracer.apply("abs", self)

    def __lt__(self, other: Any) -> Any:
        return self._tracer.apply("less", self, other)

    def __le__(self, other: Any) -> Any:
        return self._tracer.apply("less_equal", self, other)

    def __gt__(self, other: Any) -> Any:
        return self._tracer.apply("less", other, self)

    def __ge__(self, other: Any) -> Any:
        return self._tracer.apply("less_equal", other, self)

    def __eq__(self, other: Any) -> Any:
        return self._tracer.apply("equal", self, other)

    def __ne__(self, other: Any) -> Any:
        return self._tracer.apply("not_equal", self, other)

    __hash__ = object.__hash__


class Namespace(Traced):
    """``x``, ``U`` or ``w``: what is asked for by name is declared by being asked for."""

    def __init__(self, tracer: Tracer, name: str) -> None:
        self._tracer = tracer
        self._name = name

    def _cell(self) -> str:
        return self._tracer.name

    def _remedy(self, operation: str) -> tuple[str, str]:
        meaning = {
            "x": ("the input maps", "x.z"),
            "U": ("the recurrent maps", "U.z(h)"),
            "w": ("the vector weights", "w.a"),
        }[self._name]
        return (
            f"{self._name} stands for {meaning[0]} and is no value: {operation} is not possible",
            f"write {meaning[1]}",
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("_"):
            message = f"{self._name}.{name}: a name that begins with an underscore is none of a map"
            refuse(self._cell(), message, f"write {self._name}.{name.strip('_') or 'z'}")
        if self._name == "U":
            return RecurrentMap(self._tracer, name)
        return self._tracer.leaf({"x": "input", "w": "vector"}[self._name], name)


class RecurrentMap(Traced):
    """``U.z`` before it is applied."""

    def __init__(self, tracer: Tracer, name: str) -> None:
        self._tracer = tracer
        self._name = name

    def _cell(self) -> str:
        return self._tracer.name

    def _remedy(self, operation: str) -> tuple[str, str]:
        name = f"U.{self._name}"
        return f"{name} is a recurrent map and no value: {operation} is not possible", f"apply it: {name}(h)"

    def __call__(self, *values: Any) -> Any:
        """The map applied to a value."""
        return self._tracer.recurrent(self._name, *values)


class Tracer:
    """Builds the nodes of a graph; equal expressions become one node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []
        self._known: dict[tuple[Any, ...], int] = {}
        self._applied: dict[str, int] = {}

    def _node(self, node: Node, operands_matter_in_order: bool = True) -> Symbol:
        operands = node.inputs if operands_matter_in_order else tuple(sorted(node.inputs))
        # repr, because 0.0 == -0.0
        key = (node.operation, operands, node.name, repr(node.value))
        if key not in self._known:
            self._known[key] = len(self.nodes)
            self.nodes.append(node)
        return Symbol(self, self._known[key])

    def leaf(self, kind: str, name: str) -> Symbol:
        """An input map, a vector weight or a state."""
        return self._node(Node(kind, name=name))

    def recurrent(self, name: str, *values: Any) -> Symbol:
        """A recurrent map applied to a value."""
        if len(values) != 1 or not isinstance(values[0], Symbol):
            received = ", ".join(kind_of(value) for value in values) or "nothing"
            hint = f"apply it to a state or to something computed from one: U.{name}(h)"
            refuse(self.name, f"U.{name} takes one value of the cell, received {received}", hint)
        operand = self._operand(values[0], f"U.{name}")
        if self.is_logical(operand):
            self._refuse_comparison(f"U.{name}")
        if name in self._applied:
            hint = f"keep the product in a variable and use that, or name a second map: U.{name}2"
            refuse(self.name, f"the recurrent map U.{name} is applied twice", hint)
        if not any(self.nodes[i].operation == "state" for i in reachable(self.nodes, [operand])):
            hint = "a map of the input alone is an input map: x." + name
            refuse(self.name, f"U.{name} is applied to something that does not depend on a state", hint)
        self._applied[name] = operand
        return self._node(Node("recurrent", (operand,), name))

    def apply(self, operation: str, *values: Any) -> Symbol:
        """An operation on values and numbers."""
        infix = OPERATIONS[operation].infix
        operands = []
        for place, value in enumerate(values):
            index = self._operand(value, infix or operation)
            logical = index < len(self.nodes) and self.is_logical(index)
            if logical != (operation == "where" and place == 0):
                if logical:
                    self._refuse_comparison(infix or operation)
                refuse(
                    self.name, "the first operand of where must be a comparison", "write where(a < b, ...)"
                )
            operands.append(index)
        return self._node(Node(operation, tuple(operands)), not OPERATIONS[operation].commutative)

    def _refuse_comparison(self, operation: str) -> NoReturn:
        message = f"a comparison cannot be an operand of {operation}"
        refuse(self.name, message, "turn it into numbers first: where(condition, 1, 0)")

    def is_logical(self, index: int) -> bool:
        """Whether a node is true or false."""
        operation = OPERATIONS.get(self.nodes[index].operation)
        return operation is not None and operation.logical

    def _operand(self, value: Any, operation: str) -> int:
        if isinstance(value, Symbol):
            if value._tracer is not self:
                message = f"an operand of {operation} belongs to the cell {value._tracer.name!r}"
                refuse(self.name, message, "a cell may only use its own arguments")
            return value._index
        if isinstance(value, Real) and not isinstance(value, bool):
            return self._node(Node("constant", value=float(value)))._index
        if isinstance(value, Traced):
            value._refused(f"use as an operand of {operation}")
        hint = "a trained value is a vector weight (w.a) or a map; a fixed one is a Python number"
        refuse(self.name, f"an operand of {operation} is {kind_of(value)}", hint)


def kind_of(value: Any) -> str:
    """What a value is, in words for a message."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return f"the number {value}"
    if isinstance(value, Symbol):
        return "a value of the cell"
    if isinstance(value, RecurrentMap):
        return f"the recurrent map U.{value._name}, which was not applied"
    if isinstance(value, Namespace):
        return f"the namespace {value._name}"
    return f"a {type(value).__name__}"
