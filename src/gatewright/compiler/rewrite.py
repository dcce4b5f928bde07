"""Rewrites: from a cell's graph to that of the cell with an option, so that every option keeps the fast path.

They are applied in the order in which they stand here: what a step reads of its states is the last to change,
so that a reset counts for all that reads them, and a masked step holds what was reset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gatewright.compiler.graph import Graph, Node, reachable
from gatewright.compiler.lower import Expressions, renumbered

FIRST = "first_"
"""What the name of a state begins with that hands on the initial value of another one."""


class _Rewriting:
    """A graph that is being written anew.

    Args:
        graph: that is rewritten.
        visit: what stands for a node; given this, the node on its new operands, and its new index.
    """

    def __init__(self, graph: Graph, visit: Callable[[_Rewriting, Node, int], int]) -> None:
        self.graph, self._expressions = graph, Expressions()
        places: list[int] = []
        for node in graph.nodes:
            node = replace(node, inputs=tuple(places[operand] for operand in node.inputs))
            places.append(visit(self, node, self.add(node)))
        self.results = [places[result] for result in graph.results]

    def add(self, node: Node) -> int:
        """The index of a node."""
        return self._expressions.add(node)

    def number(self, value: float) -> int:
        """The index of a number."""
        return self._expressions.constant(value)

    def apply(self, operation: str, *operands: int) -> int:
        """The index of an operation."""
        return self.add(Node(operation, operands))

    def chosen(self, kind: str, name: str, if_set: int, otherwise: int) -> int:
        """One value where a mask is not zero, the other where it is."""
        is_set = self.apply("not_equal", self.add(Node(kind, name=name)), self.number(0.0))
        return self.apply("where", is_set, if_set, otherwise)

    def state(self, name: str) -> int:
        """The index of a state."""
        return self.add(Node("state", name=name))

    def finished(self, **changed: tuple[object, ...]) -> Graph:
        """The new graph; ``changed`` are the fields that differ beside nodes and results."""
        nodes = self._expressions.nodes
        kept = reachable(nodes, self.results)
        compact, new_index = renumbered(nodes, kept, {})
        results = tuple(new_index[result] for result in self.results)
        return replace(self.graph, nodes=compact, results=results, **changed)


def _unchanged(_: _Rewriting, _node: Node, index: int) -> int:
    return index


def _hard_sigmoid(to: _Rewriting, v: int) -> int:
    line = to.apply("add", to.apply("multiply", v, to.number(1 / 6)), to.number(0.5))
    return to.apply("minimum", to.apply("maximum", line, to.number(0.0)), to.number(1.0))


def _hard_tanh(to: _Rewriting, v: int) -> int:
    return to.apply("minimum", to.apply("maximum", v, to.number(-1.0)), to.number(1.0))


def _softsign(to: _Rewriting, v: int) -> int:
    return to.apply("divide", v, to.apply("add", to.number(1.0), to.apply("abs", v)))


def _plain(operation: str) -> Callable[[_Rewriting, int], int]:
    return lambda to, v: to.apply(operation, v)


ACTIVATIONS: dict[str, Callable[[_Rewriting, int], int]] = {
    **{name: _plain(name) for name in ("tanh", "sigmoid", "relu", "softplus", "sin")},
    "linear": lambda _, v: v,
    "hard_sigmoid": _hard_sigmoid,
    "hard_tanh": _hard_tanh,
    "softsign": _softsign,
}
"""Functions of a value by the names that Keras and torch have; hard_sigmoid is v / 6 + 1/2, cut off."""


def with_activations(graph: Graph, activation: str, gate_activation: str) -> Graph:
    """Other functions in place of every tanh and of every sigmoid of a cell, by name."""
    stand_ins = {"tanh": ACTIVATIONS[activation], "sigmoid": ACTIVATIONS[gate_activation]}

    def visit(to: _Rewriting, node: Node, index: int) -> int:
        stand_in = stand_ins.get(node.operation)
        return index if stand_in is None else stand_in(to, node.inputs[0])

    return _Rewriting(graph, visit).finished()


def normalised(graph: Graph) -> Graph:
    """Layer norm of every input map and every recurrent map, each with a gain and a bias of its own.

    Ba et al. 2016, arXiv:1607.06450, equation 20: U·h and W·x are normalised apart. The vector weights are
    named ``norm_x_<map>_gain``, ``norm_u_<map>_bias`` and so on.
    """
    names: list[str] = []

    def visit(to: _Rewriting, node: Node, index: int) -> int:
        letter = {"input": "x", "recurrent": "u"}.get(node.operation)
        if letter is None:
            return index
        own = [f"norm_{letter}_{node.name}_{what}" for what in ("gain", "bias")]
        names.extend(own)
        return to.apply("layer_norm", index, *(to.add(Node("vector", name=name)) for name in own))

    written = _Rewriting(graph, visit)
    return written.finished(vector_weights=(*graph.vector_weights, *names))


def with_recurrent_dropout(graph: Graph) -> Graph:
    """What recurrent maps read, times a mask that stays the same for the whole sequence.

    Gal & Ghahramani 2016, arXiv:1512.05287, for the recurrent connections; the unit mask is named
    ``recurrent_dropout`` and holds 0 or 1 / (1 − p).
    """
    kind, name = mask = ("unit_mask", "recurrent_dropout")

    def visit(to: _Rewriting, node: Node, index: int) -> int:
        if node.operation != "recurrent":
            return index
        dropped = to.apply("multiply", node.inputs[0], to.add(Node(kind, name=name)))
        return to.add(replace(node, inputs=(dropped,)))

    masks = (*graph.masks, mask) if graph.recurrent_maps else graph.masks
    return _Rewriting(graph, visit).finished(masks=masks)


def with_zoneout(graph: Graph, rates: Mapping[str, float], training: bool) -> Graph:
    """Some units of a state keep their old value, each at each step with a probability.

    Krueger et al. 2017, arXiv:1606.01305. In training the step mask ``zoneout_<state>`` says where; else the
    new value is the expectation, rate · old + (1 − rate) · new.
    """
    unknown = rates.keys() - set(graph.states)
    if unknown:
        raise ValueError(f"zoneout of {sorted(unknown)}, which are no states of {graph.states}")
    written, masks = _Rewriting(graph, _unchanged), []
    for place, name in enumerate(graph.states):
        rate, old, new = rates.get(name, 0.0), written.state(name), written.results[place]
        if not rate:
            continue
        if training:
            mask = ("step_mask", f"zoneout_{name}")
            written.results[place] = written.chosen(*mask, old, new)
            masks.append(mask)
        else:
            kept = written.apply("multiply", written.number(rate), old)
            rest = written.apply("multiply", written.number(1.0 - rate), new)
            written.results[place] = written.apply("add", kept, rest)
    return written.finished(masks=(*graph.masks, *masks))


def masked(graph: Graph) -> Graph:
    """Where the row mask ``valid`` is zero, a step leaves the states as they are.

    What stands in the input there should be numbers: a gradient is 0 there, and 0 times NaN is NaN.
    """
    written, mask = _Rewriting(graph, _unchanged), ("row_mask", "valid")
    for place, name in enumerate(graph.states):
        written.results[place] = written.chosen(*mask, written.results[place], written.state(name))
    return written.finished(masks=(*graph.masks, mask))


def with_resets(graph: Graph, zero: bool) -> Graph:
    """Where the row mask ``reset`` is not zero, a step begins from the initial states again.

    Args:
        graph: of a cell.
        zero: whether the initial states are zeros. If not, each state has another one, ``first_<state>``,
            which hands its initial value on and is given the same one.

    Returns:
        The new graph, its added states behind its own.
    """
    mask = ("row_mask", "reset")

    def visit(to: _Rewriting, node: Node, index: int) -> int:
        if node.operation != "state":
            return index
        first = to.number(0.0) if zero else to.state(FIRST + node.name)
        return to.chosen(*mask, first, index)

    written, masks = _Rewriting(graph, visit), (*graph.masks, mask)
    if zero:
        return written.finished(masks=masks)
    added = tuple(FIRST + name for name in graph.states)
    written.results += [written.state(name) for name in added]
    return written.finished(states=(*graph.states, *added), masks=masks)
