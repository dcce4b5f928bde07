"""The language a cell is written in: a plain function of symbols, traced once to a graph.

    @gw.cell(source="Cho et al. 2014, arXiv:1406.1078")
    def gru(x, U, h):
        z = sigmoid(x.z + U.z(h))
        r = sigmoid(x.r + U.r(h))
        n = tanh(x.n + U.n(r * h))
        return (1 - z) * n + z * h

``x`` gives input maps, ``U`` recurrent maps, ``w`` vector weights; every other argument is a state. The
same function on tensors is the reference for everything that is made from the graph.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch

from gatewright.compiler.graph import Graph, Node, reachable
from gatewright.compiler.operations import OPERATIONS
from gatewright.compiler.options import check_keep, check_rows
from gatewright.compiler.trace import Namespace, Symbol, Traced, Tracer, kind_of, refuse
from gatewright.errors import InputError

if TYPE_CHECKING:
    from gatewright.compiler.derive import Derivative
    from gatewright.compiler.schedule import Schedule

NAMESPACES = ("x", "U", "w")

_cell_dtype: ContextVar[torch.dtype | None] = ContextVar("_cell_dtype", default=None)
"""Of the cell that is running on tensors: a choice between two numbers has no other way to know it."""


def _apply(operation: str, *values: Any) -> Any:
    """An operation on symbols, tensors or numbers."""
    traced = next((value for value in values if isinstance(value, Symbol)), None)
    if traced is not None:
        return traced._tracer.apply(operation, *values)
    for value in values:
        if isinstance(value, Traced):
            value._refused(f"use as an operand of {operation}")
    row = OPERATIONS[operation]
    tensor = next((v for v in values if isinstance(v, torch.Tensor) and v.dtype is not torch.bool), None)
    if tensor is None and not any(isinstance(v, torch.Tensor) for v in values):
        return row.compute(*(_number(operation, value) for value in values)).item()
    if tensor is None:
        dtype, device = _cell_dtype.get() or torch.get_default_dtype(), values[0].device
    else:
        dtype, device = tensor.dtype, tensor.device
    return row.compute(
        *(
            v if isinstance(v, torch.Tensor) else torch.as_tensor(v, dtype=dtype, device=device)
            for v in values
        )
    )


def _number(operation: str, value: Any) -> torch.Tensor:
    if not isinstance(value, Real):
        raise TypeError(
            f"{operation} takes values of a cell, tensors or numbers, received {type(value).__name__}"
        )
    return torch.tensor(
        value if isinstance(value, bool) else float(value),
        dtype=None if isinstance(value, bool) else torch.float64,
    )


def where(condition: Any, if_true: Any, if_false: Any) -> Any:
    """Choose element by element: ``if_true`` where the condition holds, else ``if_false``."""
    return _apply("where", condition, if_true, if_false)


def sigmoid(v: Any) -> Any:
    """σ(v) = 1 / (1 + exp(−v))."""
    return _apply("sigmoid", v)


def tanh(v: Any) -> Any:
    """Hyperbolic tangent."""
    return _apply("tanh", v)


def relu(v: Any) -> Any:
    """max(v, 0), with derivative 0 at 0."""
    return _apply("relu", v)


def exp(v: Any) -> Any:
    """Exponential."""
    return _apply("exp", v)


def log(v: Any) -> Any:
    """Natural logarithm."""
    return _apply("log", v)


def log1p(v: Any) -> Any:
    """log(1 + v), exact for small v."""
    return _apply("log1p", v)


def softplus(v: Any) -> Any:
    """log(1 + exp(v))."""
    return _apply("softplus", v)


def sqrt(v: Any) -> Any:
    """Square root."""
    return _apply("sqrt", v)


def abs(v: Any) -> Any:  # noqa: A001 - the operation's standard name
    """Absolute value, with derivative 0 at 0."""
    return _apply("abs", v)


def maximum(a: Any, b: Any) -> Any:
    """The larger of two values; at a tie the gradient is split evenly."""
    return _apply("maximum", a, b)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of two values; at a tie the gradient is split evenly."""
    return _apply("minimum", a, b)


def sin(v: Any) -> Any:
    """Sine of an angle in radians."""
    return _apply("sin", v)


def cos(v: Any) -> Any:
    """Cosine of an angle in radians."""
    return _apply("cos", v)


def layer_norm(v: Any, gain: Any = 1.0, bias: Any = 0.0) -> Any:
    """(v − mean(v)) / sqrt(var(v) + 1e-5) · gain + bias, mean and variance over ``H``.

    Ba et al. 2016, arXiv:1607.06450. A vector weight used as gain begins at 1, one used as bias at 0.
    """
    return _apply("layer_norm", v, gain, bias)


class Cell:
    """A recurrent cell: its equations as a function, and the graph traced from them.

    Calling it calls the function, so a cell runs on tensors as it is written. Made by ``cell``.

    Args:
        function: the equations of one time step.
        source: where the equations come from.
        rows: the order of the maps' rows in the weights, when it is not the order of first use.
        output: the state that is the layer's output, when it is not the first.
        torch_function: the function of torch that computes the same equations with the same rows, or empty.
        keep: the maps of the gates that decide how much of an old state is kept, each with 1 where the
            sigmoid of the map is the share that is kept, and -1 where it is the share that is new.

    Attributes:
        name: the function's name.
        keep: as given; empty when nothing is said of it.
        arguments: the function's own, in order.
        graph: the traced graph.
        serialized: the graph as text.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        source: str = "",
        rows: Sequence[str] | None = None,
        output: str | None = None,
        torch_function: str = "",
        keep: Mapping[str, int] | None = None,
    ) -> None:
        if not inspect.isfunction(function):
            hint = "write @gatewright.cell above a def, and options by name: @gatewright.cell(source=...)"
            raise InputError(f"cell: expected a function, received a {type(function).__name__}", hint)
        self.function = function
        self.name = function.__name__
        self.source = source
        self.torch_function = torch_function
        self.arguments = _arguments(function)
        self.graph = _trace(function, self.arguments, source, rows, output)
        self.keep = check_keep(self.graph, _definition(function), keep)
        self.serialized = self.graph.to_json()
        self.__doc__ = function.__doc__
        self.__module__ = function.__module__
        self.__qualname__ = function.__qualname__

    @property
    def schedule(self) -> Schedule:
        """How a backend is to compute the cell: stages, products, what is kept for the gradient."""
        from gatewright.compiler.schedule import schedule

        return schedule(self.graph)

    @property
    def derivative(self) -> Derivative:
        """The equations of one backward time step, from the lowered graph."""
        return self.schedule.derivative

    def __call__(self, *arguments: Any) -> Any:
        """The function itself, on symbols or tensors."""
        dtype = next((value.dtype for value in arguments if isinstance(value, torch.Tensor)), None)
        token = _cell_dtype.set(dtype)
        try:
            return self.function(*arguments)
        finally:
            _cell_dtype.reset(token)

    def step(self, x: Any, recurrent: Any, vectors: Any, states: Sequence[Any]) -> tuple[Any, ...]:
        """One time step with the arguments in the function's own order, the new states always as a tuple.

        Args:
            x: an object whose attributes are the input maps, each ``[B, H]``.
            recurrent: an object whose attributes are the recurrent maps, each a function of ``[B, H]``.
            vectors: an object whose attributes are the vector weights, each ``[H]``.
            states: one ``[B, H]`` per state.

        Returns:
            The new states, one ``[B, H]`` each.
        """
        given = dict(zip(self.graph.states, states, strict=True), x=x, U=recurrent, w=vectors)
        result = self(*(given[name] for name in self.arguments))
        values = result if isinstance(result, tuple) else (result,)
        # a state made of vector weights alone is the same for every row
        return tuple(v.expand(len(states[0]), -1) if v.dim() == 1 else v for v in values)

    def __repr__(self) -> str:
        return f"<cell {self.name}({', '.join(self.arguments)})>"

    def __reduce__(self) -> str:
        """A cell is pickled by name, as a function is: its module must be importable."""
        return self.__qualname__


@overload
def cell(function: Callable[..., Any], /) -> Cell: ...


@overload
def cell(
    *,
    source: str = "",
    rows: Sequence[str] | None = None,
    output: str | None = None,
    torch_function: str = "",
    keep: Mapping[str, int] | None = None,
) -> Callable[[Callable[..., Any]], Cell]: ...


def cell(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a cell of a function that computes one time step; see the module's text for the language.

    Args:
        function: the equations; given when the decorator is used without brackets.
        **options: ``source``, where the equations come from; ``rows``, the order of the maps' rows in the
            weights when it is not the order of first use; ``output``, the state that is the layer's output
            when it is not the first; ``torch_function``, torch's own function for the same equations;
            ``keep``, the maps of the gates that keep the old state, as in ``Cell``.

    Returns:
        The cell, or a decorator that makes one.

    Raises:
        CellError: the function says something that the language does not have.
    """
    if function is not None:
        return Cell(function, **options)
    return lambda function: Cell(function, **options)


def _arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        plain = parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
        if not plain:
            hint = "take x, U, w and the states by name, without defaults: def cell(x, U, h)"
            refuse(
                function.__name__, f"the argument {parameter} is not a plain one", hint, _definition(function)
            )
    if not set(parameters) - set(NAMESPACES):
        hint = "add an argument for what a step hands to the next: def cell(x, U, h)"
        refuse(function.__name__, "a cell needs at least one state", hint, _definition(function))
    return tuple(parameters)


def _definition(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    return f"{Path(code.co_filename).name}, line {code.co_firstlineno}" if code else "definition"


def _trace(
    function: Callable[..., Any],
    arguments: tuple[str, ...],
    source: str,
    rows: Sequence[str] | None,
    output: str | None,
) -> Graph:
    """Call the function with symbols and keep what its results depend on."""
    name, line = function.__name__, _definition(function)
    tracer = Tracer(name)
    states = tuple(argument for argument in arguments if argument not in NAMESPACES)
    symbols = {state: tracer.leaf("state", state) for state in states}
    result = function(*(symbols[a] if a in symbols else Namespace(tracer, a) for a in arguments))
    results = _results(tracer, states, result, line)
    kept = reachable(tracer.nodes, results)
    for state, symbol in symbols.items():
        if symbol._index not in kept:
            hint = f"use {state} in the equations, or take it out of the arguments"
            refuse(name, f"the state {state} is never used", hint, line)
    maps = {
        kind: [node.name for node in tracer.nodes if node.operation == kind]
        for kind in ("input", "recurrent", "vector")
    }
    for index, node in enumerate(tracer.nodes):
        if node.operation in maps and index not in kept:
            label = {"input": "x", "recurrent": "U", "vector": "w"}[node.operation] + f".{node.name}"
            hint = f"use it in the equations or delete it: {label} would be trained for nothing"
            refuse(name, f"{label} does not reach the new states", hint, line)
    if not maps["input"]:
        refuse(name, "the cell never reads its input", "use an input map, such as x.z", line)
    if output is not None and output not in states:
        refuse(name, f"the output {output!r} is not a state", f"the states are {', '.join(states)}", line)
    check_rows(name, line, [*maps["input"], *maps["recurrent"]], rows)
    order = {kind: _row_order(maps[kind], rows) for kind in ("input", "recurrent")}
    nodes, new_index = _compacted(tracer.nodes, kept)
    return Graph(
        nodes=nodes,
        states=states,
        results=tuple(new_index[result] for result in results),
        output=output or states[0],
        input_maps=order["input"],
        recurrent_maps=order["recurrent"],
        vector_weights=tuple(maps["vector"]),
        name=name,
        source=source,
    )


def _results(tracer: Tracer, states: tuple[str, ...], result: Any, line: str) -> list[int]:
    """Indices of the new states."""
    values = result if isinstance(result, tuple) else (result,)
    expected = ", ".join(f"{state}'" for state in states)
    if len(values) != len(states):
        message = f"expected {len(states)} returned state(s), received {len(values)}"
        refuse(tracer.name, message, f"return the new states in the order of the arguments: {expected}", line)
    results = []
    for state, value in zip(states, values, strict=True):
        if not isinstance(value, Symbol) or value._tracer is not tracer:
            received = (
                f"a value of the cell {value._tracer.name!r}" if isinstance(value, Symbol) else kind_of(value)
            )
            message = f"the new value of {state} is {received}, not a value of this cell"
            refuse(tracer.name, message, f"return the new states: {expected}", line)
        if tracer.is_logical(value._index):
            message = f"the new value of {state} is a comparison"
            refuse(tracer.name, message, "turn it into numbers: where(condition, 1, 0)", line)
        results.append(value._index)
    return results


def _row_order(names: list[str], rows: Sequence[str] | None) -> tuple[str, ...]:
    """Order of first use, or the stated one."""
    return tuple(names) if rows is None else tuple(name for name in rows if name in names)


def _compacted(nodes: Sequence[Node], kept: set[int]) -> tuple[tuple[Node, ...], dict[int, int]]:
    """The kept nodes, renumbered, and the new index of each."""
    new_index = {old: new for new, old in enumerate(sorted(kept))}
    compact = []
    for old in sorted(kept):
        node = nodes[old]
        compact.append(Node(node.operation, tuple(new_index[i] for i in node.inputs), node.name, node.value))
    return tuple(compact), new_index
