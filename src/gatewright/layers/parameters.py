"""The parameters of a layer: their names, shapes and first values, from the graph of its cell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor, nn

from gatewright.compiler.graph import Graph


class Parameters(NamedTuple):
    """What decides which parameters a layer has.

    Attributes:
        graph: of the cell, with the options that add weights.
        input_size: ``I``.
        hidden_size: ``H``.
        layers: ``L``.
        directions: ``D``.
        bias: whether the maps have biases.
        proj_size: ``P``, or 0.
        heads: blocks of the recurrent weights.
        pre_norm: whether the input of every layer is normalised.
        initial: whether the initial state is learned.
    """

    graph: Graph
    input_size: int
    hidden_size: int
    layers: int
    directions: int
    bias: bool
    proj_size: int
    heads: int
    pre_norm: bool
    initial: bool

    @property
    def output_size(self) -> int:
        """Features of one direction's output."""
        return self.proj_size or self.hidden_size

    def rows(self) -> Iterator[tuple[int, str]]:
        """Layers and the suffixes of their directions, in torch's order."""
        for layer in range(self.layers):
            yield layer, ""
            if self.directions == 2:
                yield layer, "_reverse"

    def inputs(self, layer: int) -> int:
        """Features that a layer reads."""
        return self.input_size if layer == 0 else self.output_size * self.directions

    def of_direction(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Shapes by name, in torch's order, of one layer in one direction."""
        graph, hidden = self.graph, self.hidden_size
        maps, recurrent = len(graph.input_maps) * hidden, len(graph.recurrent_maps) * hidden
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (maps, self.inputs(layer))}
        if recurrent:
            shapes["weight_hh"] = (recurrent, self.proj_size or hidden // self.heads)
        if self.bias:
            shapes["bias_ih"] = (maps,)
            if recurrent:
                shapes["bias_hh"] = (recurrent,)
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, hidden)
        return shapes | {f"vector_{name}": (hidden,) for name in graph.vector_weights}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """All shapes by full name: torch's first, in torch's order, then those that torch has not."""
        shapes = {
            f"{name}_l{layer}{suffix}": shape
            for layer, suffix in self.rows()
            for name, shape in self.of_direction(layer).items()
        }
        if self.pre_norm:
            for layer in range(self.layers):
                shapes |= {f"norm_{what}_l{layer}": (self.inputs(layer),) for what in ("weight", "bias")}
        if self.initial:
            rows = self.layers * self.directions
            for state in self.graph.states:
                size = self.output_size if state == self.graph.output else self.hidden_size
                shapes[f"initial_{state}"] = (rows, size)
        return shapes

    def draw(self, name: str, parameter: Tensor) -> None:
        """The first value of a parameter: U(−1/√H, 1/√H) as in torch, gains 1, what is added to them 0."""
        gains, biases = self.graph.layer_norm_vectors()
        vector = name.removeprefix("vector_").rpartition("_l")[0] if name.startswith("vector_") else ""
        if vector in gains or name.startswith("norm_weight"):
            nn.init.ones_(parameter)
        elif vector in biases or name.startswith(("norm_bias", "initial_")):
            nn.init.zeros_(parameter)
        else:
            bound = 1 / math.sqrt(self.hidden_size)
            nn.init.uniform_(parameter, -bound, bound)
