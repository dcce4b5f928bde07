"""The derivative of a graph: reverse mode, one time step, as nodes like those of the graph.

The adjoint of a value is the derivative of the loss by it. A step of the backward loop gets the adjoints of
the new states and gives those of the input maps, the recurrent maps, the vector weights and the old states.
At special points it is what torch's autograd gives: 0 for ``relu`` and ``abs`` at 0, halves at a tie.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gatewright.compiler.graph import Graph, Node, equations, reachable
from gatewright.compiler.language import cos, log, sigmoid, sin, where
from gatewright.compiler.lower import Expressions, renumbered
from gatewright.compiler.operations import OPERATIONS, SOFTPLUS_THRESHOLD
from gatewright.compiler.trace import Symbol, Tracer


@dataclass(frozen=True)
class Derivative:
    """The equations of one backward time step.

    Two kinds of nodes are only found here. ``adjoint`` is a leaf, the adjoint of a new state. ``transposed``
    is Σ W_mᵀ · operand_m over the recurrent maps of its name, which stand there in row order, divided by
    spaces.

    Attributes:
        graph: the graph it is the derivative of.
        nodes: those of the graph at the same indices, then those of the derivative.
        inputs: for each input map of the graph, the node of its adjoint.
        recurrent: for each recurrent map of the graph, the node of its adjoint.
        vectors: for each vector weight of the graph, the node whose sum over time and batch is its gradient.
        states: for each state, the part of its old value's adjoint that passes through no map applied to
            the state itself, or None when there is none.
        state_maps: for each state, the recurrent maps applied to the state itself, in row order; the adjoint
            of the old value is the node in ``states`` plus Σ W_mᵀ · adjoint_m over these.
        needs: nodes of the graph that nodes of the derivative have as operands.
    """

    graph: Graph
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    recurrent: tuple[int, ...]
    vectors: tuple[int, ...]
    states: tuple[int | None, ...]
    state_maps: tuple[tuple[str, ...], ...]
    needs: frozenset[int]

    def __str__(self) -> str:
        labels: dict[int, list[str]] = {}
        for prefix, names, indices in (
            ("dx.", self.graph.input_maps, self.inputs),
            ("dU.", self.graph.recurrent_maps, self.recurrent),
            ("dw.", self.graph.vector_weights, self.vectors),
        ):
            for name, index in zip(names, indices, strict=True):
                labels.setdefault(index, []).append(prefix + name)
        nodes = Expressions(self.nodes)
        adjoints = dict(zip(self.graph.recurrent_maps, self.recurrent, strict=True))
        for state, direct, maps in zip(self.graph.states, self.states, self.state_maps, strict=True):
            index = direct
            if maps:
                index = nodes.add(Node("transposed", tuple(adjoints[name] for name in maps), " ".join(maps)))
                index = index if direct is None else nodes.apply("add", direct, index)
            if index is not None:
                labels.setdefault(index, []).append(f"d{state}")
        results = [(" = ".join(names), index) for index, names in labels.items()]
        return "\n".join([f"derivative of cell {self.graph.name}", *equations(nodes.nodes, results)])


def derive(graph: Graph) -> Derivative:
    """Differentiate a lowered graph.

    Args:
        graph: without layer norms.

    Returns:
        The equations of one backward time step.

    Raises:
        ValueError: the graph was not lowered.
    """
    if any(node.operation == "layer_norm" for node in graph.nodes):
        raise ValueError("expected a lowered graph, received one with a layer norm")
    sweep = _Sweep(graph)
    sweep.run()
    found = {
        "input": sweep.adjoints_of("input", graph.input_maps),
        "recurrent": sweep.adjoints_of("recurrent", graph.recurrent_maps),
        "vector": sweep.adjoints_of("vector", graph.vector_weights),
    }
    states = [sweep.adjoints.get(sweep.place_of("state", state)) for state in graph.states]
    wanted = [index for indices in found.values() for index in indices]
    wanted += [index for index in states if index is not None]
    nodes, new_index = _finished(sweep.expressions.nodes, len(graph.nodes), wanted)
    added = nodes[len(graph.nodes) :]
    direct = [None if index is None else new_index[index] for index in states]
    return Derivative(
        graph=graph,
        nodes=nodes,
        inputs=tuple(new_index[index] for index in found["input"]),
        recurrent=tuple(new_index[index] for index in found["recurrent"]),
        vectors=tuple(new_index[index] for index in found["vector"]),
        states=tuple(None if index is None or nodes[index].value == 0 else index for index in direct),
        state_maps=tuple(sweep.maps_of.get(sweep.place_of("state", state), ()) for state in graph.states),
        needs=frozenset(i for node in added for i in node.inputs if i < len(graph.nodes)),
    )


class _Sweep(Tracer):
    """One pass over a graph from its results to its leaves; the rules meet its values as symbols.

    Args:
        graph: without layer norms.

    Attributes:
        expressions: the graph's nodes, then those of the derivative.
        adjoints: by node of the graph; a node without one has no influence on the loss.
        maps_of: recurrent maps by the node they are applied to, in row order.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.name)
        self.expressions = Simplified(graph.nodes)
        self.adjoints: dict[int, int] = {}
        self._graph = graph
        self._place = {(node.operation, node.name): index for index, node in enumerate(graph.nodes)}
        self.maps_of: dict[int, tuple[str, ...]] = {}
        for name in graph.recurrent_maps:
            argument = graph.nodes[self.place_of("recurrent", name)].inputs[0]
            self.maps_of[argument] = (*self.maps_of.get(argument, ()), name)

    def apply(self, operation: str, *values: Any) -> Symbol:
        """An operation of a rule, on symbols and numbers."""
        constant = self.expressions.constant
        operands = [v._index if isinstance(v, Symbol) else constant(float(v)) for v in values]
        return Symbol(self, self.expressions.apply(operation, *operands))

    def place_of(self, kind: str, name: str) -> int:
        """The node of the graph that is this map, vector weight or state; -1 for a state never read."""
        return self._place.get((kind, name), -1)

    def adjoints_of(self, kind: str, names: tuple[str, ...]) -> list[int]:
        """The adjoints of maps or vector weights, the number 0 for those without influence."""
        places = (self.place_of(kind, name) for name in names)
        return [
            self.adjoints[place] if place in self.adjoints else self.expressions.constant(0.0)
            for place in places
        ]

    def run(self) -> None:
        """Fill in the adjoints."""
        for state, result in zip(self._graph.states, self._graph.results, strict=True):
            self._contribute(result, self.expressions.add(Node("adjoint", name=state)))
        for index in reversed(range(len(self._graph.nodes))):
            node = self._graph.nodes[index]
            if node.operation != "state" and index in self.maps_of:
                self._contribute_transposed(index)
            if index in self.adjoints and node.operation in OPERATIONS:
                given = (self.adjoints[index], index, *node.inputs)
                contributions = _RULES[node.operation](*(Symbol(self, i) for i in given))
                for operand, contribution in zip(node.inputs, contributions, strict=True):
                    if contribution is not None:
                        self._contribute(operand, contribution._index)

    def _contribute(self, index: int, adjoint: int) -> None:
        if self.expressions.value(index) is not None:
            return
        if index in self.adjoints:
            adjoint = self.expressions.apply("add", self.adjoints.pop(index), adjoint)
        if self.expressions.value(adjoint) != 0:
            self.adjoints[index] = adjoint

    def _contribute_transposed(self, index: int) -> None:
        """What the maps applied to a value give back to it."""
        names = self.maps_of[index]
        if any(self.place_of("recurrent", name) in self.adjoints for name in names):
            operands = tuple(self.adjoints_of("recurrent", names))
            self._contribute(index, self.expressions.add(Node("transposed", operands, " ".join(names))))


class Simplified(Expressions):
    """Expressions that lose what does nothing, and carry signs outwards, where they meet and cancel."""

    def apply(self, operation: str, *operands: int) -> int:
        """The index of the simplest form of an operation on nodes."""
        simpler = getattr(self, f"_simpler_{operation}", None)
        index = None if simpler is None else simpler(*operands)
        return super().apply(operation, *operands) if index is None else index

    def _negated(self, index: int) -> int | None:
        """What a node is the negative of, if it is one."""
        node = self.nodes[index]
        return node.inputs[0] if node.operation == "negate" else None

    def _simpler_negate(self, a: int) -> int | None:
        return self._negated(a)

    def _simpler_add(self, a: int, b: int) -> int | None:
        for one, other in ((a, b), (b, a)):
            if self.value(one) == 0:
                return other
            positive = self._negated(other)
            if positive is not None:
                return self.apply("subtract", one, positive)
        return self.apply("multiply", self.constant(2.0), a) if a == b else None

    def _simpler_subtract(self, a: int, b: int) -> int | None:
        if self.value(b) == 0:
            return a
        if self.value(a) == 0:
            return self.apply("negate", b)
        if a == b:
            return self.constant(0.0)
        positive = self._negated(b)
        if positive is not None:
            return self.apply("add", a, positive)
        positive = self._negated(a)
        return None if positive is None else self.apply("negate", self.apply("add", positive, b))

    def _simpler_multiply(self, a: int, b: int) -> int | None:
        for one, other in ((a, b), (b, a)):
            if self.value(one) == 0:
                return one
            if self.value(one) == 1:
                return other
            if self.value(one) == -1:
                return self.apply("negate", other)
            positive = self._negated(one)
            if positive is not None:
                return self.apply("negate", self.apply("multiply", positive, other))
        return None

    def _simpler_divide(self, a: int, b: int) -> int | None:
        if self.value(a) == 0 or self.value(b) == 1:
            return a
        positive = self._negated(a)
        return None if positive is None else self.apply("negate", self.apply("divide", positive, b))

    def _simpler_power(self, base: int, exponent: int) -> int | None:
        if self.value(exponent) == 2:
            return self.apply("multiply", base, base)
        return base if self.value(exponent) == 1 else None

    def _simpler_mean(self, v: int) -> int | None:
        positive = self._negated(v)
        return None if positive is None else self.apply("negate", self.apply("mean", positive))

    def _simpler_where(self, _condition: int, a: int, b: int) -> int | None:
        return a if a == b else None


def _finished(
    nodes: Sequence[Node], first: int, wanted: Sequence[int]
) -> tuple[tuple[Node, ...], dict[int, int]]:
    """The nodes that are needed, with common factors taken out, and the new index of each that was wanted."""
    kept = reachable(nodes, wanted)
    uses = Counter(operand for index in kept for operand in nodes[index].inputs)
    uses.update(set(wanted))
    expressions = Simplified(nodes[:first])
    place = {index: index for index in range(first)}
    for index in sorted(index for index in kept if index >= first):
        node = nodes[index]
        operands = tuple(place[operand] for operand in node.inputs)
        if node.operation not in OPERATIONS:
            place[index] = expressions.add(replace(node, inputs=operands))
            continue
        own = all(uses[operand] == 1 and operand >= first for operand in node.inputs)
        factored = _factored(expressions, node.operation, *operands) if own else None
        place[index] = expressions.apply(node.operation, *operands) if factored is None else factored
    # the nodes of the graph stay where they are, whether the derivative needs them or not
    needed = reachable(expressions.nodes, [place[index] for index in wanted]) | set(range(first))
    compact, new_index = renumbered(expressions.nodes, needed, {})
    return compact, {index: new_index[place[index]] for index in wanted}


def _factored(expressions: Expressions, operation: str, *operands: int) -> int | None:
    """a·b ± a·c as a·(b ± c), which in a gated cell is the adjoint of a gate; None for anything else."""
    if operation not in ("add", "subtract"):
        return None
    left, right = (expressions.nodes[operand] for operand in operands)
    common = set(left.inputs) & set(right.inputs)
    if left.operation != "multiply" or right.operation != "multiply" or not common:
        return None
    factor = min(common)
    rest = [n.inputs[1] if n.inputs[0] == factor else n.inputs[0] for n in (left, right)]
    return expressions.apply("multiply", factor, expressions.apply(operation, *rest))


# Each rule gets the adjoint g of an operation's result, the result e and the operands, and gives what each
# operand's adjoint grows by, None for a comparison. They are written in the language of cells.


def _divide(g: Any, e: Any, _a: Any, b: Any) -> tuple[Any, ...]:
    return g / b, -(g / b * e)


def _power(g: Any, e: Any, a: Any, b: Any) -> tuple[Any, ...]:
    # torch's masks: b·a**(b−1) would be 0·∞ at the exponent 0, and log has no value at the base 0
    by_base = where(b == 0, 0, g * (b * a ** (b - 1)))
    by_exponent = g * (e * log(a))
    return by_base, where(a == 0, where(b >= 0, 0, by_exponent), by_exponent)


def _maximum(g: Any, _e: Any, a: Any, b: Any) -> tuple[Any, ...]:
    return _split(g, a, b, a < b), _split(g, a, b, b < a)


def _minimum(g: Any, _e: Any, a: Any, b: Any) -> tuple[Any, ...]:
    return _split(g, a, b, b < a), _split(g, a, b, a < b)


def _split(g: Any, a: Any, b: Any, lost: Any) -> Any:
    """The share of an operand of a maximum or a minimum."""
    return where(a == b, 0.5 * g, where(lost, 0, g))


_RULES: dict[str, Callable[..., tuple[Any, ...]]] = {
    "add": lambda g, e, a, b: (g, g),
    "subtract": lambda g, e, a, b: (g, -g),
    "multiply": lambda g, e, a, b: (g * b, g * a),
    "divide": _divide,
    "negate": lambda g, e, a: (-g,),
    "power": _power,
    "where": lambda g, e, c, a, b: (None, where(c, g, 0), where(c, 0, g)),
    "sigmoid": lambda g, e, a: (g * (e * (1 - e)),),
    "tanh": lambda g, e, a: (g * (1 - e * e),),
    "relu": lambda g, e, a: (where(e <= 0, 0, g),),
    "exp": lambda g, e, a: (g * e,),
    "log": lambda g, e, a: (g / a,),
    "log1p": lambda g, e, a: (g / (1 + a),),
    "softplus": lambda g, e, a: (where(a > SOFTPLUS_THRESHOLD, g, g * sigmoid(a)),),
    "sqrt": lambda g, e, a: (g / (2 * e),),
    "abs": lambda g, e, a: (where(a > 0, g, where(a < 0, -g, 0)),),
    "maximum": _maximum,
    "minimum": _minimum,
    "sin": lambda g, e, a: (g * cos(a),),
    "cos": lambda g, e, a: (-(g * sin(a)),),
    "mean": lambda g, e, v: (g._tracer.apply("mean", g),),
}
"""The derivative of every operation that is differentiable."""
