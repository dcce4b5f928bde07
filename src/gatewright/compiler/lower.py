"""A graph made ready for code: fewer kinds of nodes, and nothing computed twice.

A layer norm becomes its arithmetic on row means, arithmetic on numbers is done, and what depends on vector
weights alone leaves the time loop: it becomes a vector weight itself, computed once a sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gatewright.compiler.graph import Graph, Node, reachable
from gatewright.compiler.operations import LAYER_NORM_EPSILON, OPERATIONS


@dataclass(frozen=True)
class Lowered:
    """A lowered graph, and how its vector weights follow from those of the cell.

    Attributes:
        graph: without layer norms; its vector weights are the cell's own, under their names, and hoisted
            expressions named ``#0``, ``#1``, ….
        hoisted: nodes of vector weights and constants only, each using only earlier ones.
        leaves: for each vector weight of the graph, its node in ``hoisted``.
    """

    graph: Graph
    hoisted: tuple[Node, ...]
    leaves: tuple[int, ...]

    def vectors(self, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The vector weights of the lowered graph, by operations that autograd follows.

        Args:
            weights: the vector weights of the cell by name, each ``[H]``.

        Returns:
            One ``[H]`` for each name in ``graph.vector_weights``.
        """
        values: list[Tensor] = []
        for node in self.hoisted:
            if node.operation == "vector":
                values.append(weights[node.name])
            elif node.value is not None:
                values.append(next(iter(weights.values())).new_tensor(node.value))
            else:
                values.append(OPERATIONS[node.operation].compute(*(values[i] for i in node.inputs)))
        return tuple(values[leaf] for leaf in self.leaves)


class Expressions:
    """Nodes that grow: equal expressions become one node, arithmetic on numbers is done.

    Args:
        nodes: to begin with, each using only earlier ones.

    Attributes:
        nodes: all so far; their indices never change.
    """

    def __init__(self, nodes: Iterable[Node] = ()) -> None:
        self.nodes: list[Node] = []
        self._known: dict[tuple[Any, ...], int] = {}
        for node in nodes:
            self._known.setdefault(self._key(node), len(self.nodes))
            self.nodes.append(node)

    @staticmethod
    def _key(node: Node) -> tuple[Any, ...]:
        row = OPERATIONS.get(node.operation)
        operands = tuple(sorted(node.inputs)) if row is not None and row.commutative else node.inputs
        # repr, because 0.0 == -0.0
        return node.operation, operands, node.name, repr(node.value)

    def add(self, node: Node) -> int:
        """The index of a node, a new one only when there is no equal one."""
        index = self._known.setdefault(self._key(node), len(self.nodes))
        if index == len(self.nodes):
            self.nodes.append(node)
        return index

    def constant(self, value: float) -> int:
        """The index of a number."""
        return self.add(Node("constant", value=value))

    def value(self, index: int) -> float | None:
        """The number that a node is, or None."""
        return self.nodes[index].value

    def apply(self, operation: str, *operands: int) -> int:
        """The index of an operation on nodes, or of the number that it gives."""
        if operation == "where":
            condition = self.nodes[operands[0]]
            truth = self._computed(condition.operation, condition.inputs)
            if truth is not None:
                return operands[1] if truth else operands[2]
        elif not OPERATIONS[operation].logical:
            number = self._computed(operation, operands)
            if number is not None:
                return self.constant(number)
        return self.add(Node(operation, operands))

    def _computed(self, operation: str, operands: tuple[int, ...]) -> float | None:
        """The result of an operation on numbers, or None when an operand is not one."""
        values = [value for value in map(self.value, operands) if value is not None]
        if len(values) < len(operands):
            return None
        numbers = [torch.tensor(value, dtype=torch.float64) for value in values]
        return float(OPERATIONS[operation].compute(*numbers))


def lower(graph: Graph) -> Lowered:
    """Lower a graph; it computes the same up to rounding.

    Args:
        graph: of a cell.

    Returns:
        The lowered graph, and how its vector weights are computed.
    """
    expressions = Expressions()
    places: list[int] = []
    for node in graph.nodes:
        operands = tuple(places[operand] for operand in node.inputs)
        if node.operation == "layer_norm":
            places.append(_layer_norm(expressions, *operands))
        elif node.operation in OPERATIONS:
            places.append(expressions.apply(node.operation, *operands))
        else:
            places.append(expressions.add(replace(node, inputs=operands)))
    nodes = expressions.nodes
    results = [places[result] for result in graph.results]
    kept, vectors = _divided(nodes, results)
    main, new_index = renumbered(nodes, kept, vectors)
    hoisted, leaf_index = renumbered(nodes, reachable(nodes, vectors), {})
    lowered = replace(
        graph,
        nodes=main,
        results=tuple(new_index[result] for result in results),
        vector_weights=tuple(vectors.values()),
    )
    return Lowered(lowered, hoisted, tuple(leaf_index[vector] for vector in vectors))


def _layer_norm(expressions: Expressions, v: int, gain: int, bias: int) -> int:
    """(v − mean(v)) / sqrt(mean((v − mean(v))²) + ε) · gain + bias."""
    apply = expressions.apply
    centred = apply("subtract", v, apply("mean", v))
    variance = apply("mean", apply("multiply", centred, centred))
    deviation = apply("sqrt", apply("add", variance, expressions.constant(LAYER_NORM_EPSILON)))
    normed = apply("divide", centred, deviation)
    if expressions.value(gain) != 1:
        normed = apply("multiply", normed, gain)
    return normed if expressions.value(bias) == 0 else apply("add", normed, bias)


def _divided(nodes: list[Node], results: list[int]) -> tuple[set[int], dict[int, str]]:
    """The nodes of the time loop, and those among them that are vector weights from now on, by name."""
    fixed: list[bool] = []
    for node in nodes:
        leaf = node.operation in ("vector", "constant")
        computed = node.operation in OPERATIONS and all(fixed[operand] for operand in node.inputs)
        fixed.append(leaf or computed)
    kept: set[int] = set()
    outermost: set[int] = set()
    # a map keeps its rows in the weights even where a choice between numbers has cut it off
    waiting = results + [i for i, node in enumerate(nodes) if node.operation in ("input", "recurrent")]
    while waiting:
        index = waiting.pop()
        if index in kept:
            continue
        kept.add(index)
        row = OPERATIONS.get(nodes[index].operation)
        # true or false is no vector weight: a comparison stays, its operands leave
        if fixed[index] and not (row is not None and row.logical):
            if nodes[index].operation != "constant":
                outermost.add(index)
        else:
            waiting.extend(nodes[index].inputs)
    hoisted = [index for index in sorted(outermost) if nodes[index].operation != "vector"]
    names = {index: f"#{place}" for place, index in enumerate(hoisted)}
    return kept, {index: names.get(index, nodes[index].name) for index in sorted(outermost)}


def renumbered(
    nodes: list[Node], kept: Iterable[int], vectors: Mapping[int, str]
) -> tuple[tuple[Node, ...], dict[int, int]]:
    """The kept nodes with those of ``vectors`` as leaves, and the new index of each."""
    new_index: dict[int, int] = {}
    new_nodes = []
    for index in sorted(kept):
        new_index[index] = len(new_nodes)
        if index in vectors:
            new_nodes.append(Node("vector", name=vectors[index]))
        else:
            operands = tuple(new_index[operand] for operand in nodes[index].inputs)
            new_nodes.append(replace(nodes[index], inputs=operands))
    return tuple(new_nodes), new_index
