"""A graph run on tensors, node by node: for graphs that no function was written for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gatewright.compiler.graph import MASKS, Graph
from gatewright.compiler.operations import OPERATIONS


class GraphCell:
    """A graph that is run like the cell it was made from.

    Args:
        graph: of a cell, lowered or not.

    Attributes:
        name: the cell's.
        serialized: the graph as text.
        torch_function: none: torch has no function of a graph.
    """

    torch_function = ""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.name = graph.name
        self.serialized = graph.to_json()

    def step(
        self, x: Any, recurrent: Any, vectors: Any, states: Sequence[Tensor], masks: Sequence[Tensor] = ()
    ) -> tuple[Tensor, ...]:
        """One time step; arguments and result as in ``Cell.step``, and the masks of the step."""
        values = self.values(x, recurrent, vectors, states, masks)
        # that of a map, as a projected state is narrower
        shape = getattr(x, self.graph.input_maps[0]).shape
        return tuple(values[result].expand(shape) for result in self.graph.results)

    def values(
        self, x: Any, recurrent: Any, vectors: Any, states: Sequence[Tensor], masks: Sequence[Tensor] = ()
    ) -> list[Tensor]:
        """The values of all nodes at one time step."""
        given = dict(zip(self.graph.states, states, strict=True))
        of_step = dict(zip(self.graph.masks, masks, strict=True))
        values: list[Tensor] = []
        for node in self.graph.nodes:
            operands = [values[operand] for operand in node.inputs]
            match node.operation:
                case "input":
                    value = getattr(x, node.name)
                case "vector":
                    value = getattr(vectors, node.name)
                case "state":
                    value = given[node.name]
                case kind if kind in MASKS:
                    value = of_step[kind, node.name]
                case "constant":
                    value = states[0].new_tensor(node.value)
                case "recurrent":
                    value = getattr(recurrent, node.name)(*operands)
                case operation:
                    value = OPERATIONS[operation].compute(*operands)
            values.append(value)
        return values
