"""Nodes on tensors, one after the other, and a whole sequence forwards and backwards through them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from benchmarks.kernel_parity import leaves
from torch import Tensor

import gatewright as gw
from gatewright.backends.call import Call, Weights
from gatewright.backends.eager import EagerBackend
from gatewright.compiler.derive import Derivative, derive
from gatewright.compiler.graph import Node
from gatewright.compiler.lower import Lowered, lower
from gatewright.compiler.operations import OPERATIONS

T, B, I, H = 4, 3, 4, 5  # noqa: E741 - the field's own letters

Leaves = Mapping[tuple[str, str], Tensor]


@dataclass(frozen=True)
class Maps:
    """The recurrent maps by name: weight and bias."""

    weights: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, names: Sequence[str], weight: Tensor | None, bias: Tensor | None) -> Maps:
        if weight is None or bias is None:
            return cls({})
        parts = zip(weight.chunk(len(names)), bias.chunk(len(names)), strict=True)
        return cls(dict(zip(names, parts, strict=True)))

    def product(self, name: str, v: Tensor) -> Tensor:
        weight, bias = self.weights[name]
        return v @ weight.T + bias

    def transposed(self, names: Sequence[str], adjoints: Sequence[Tensor]) -> Tensor:
        parts = [self.weights[n][0].T @ a.expand(B, H).T for n, a in zip(names, adjoints, strict=True)]
        return torch.stack(parts).sum(0).T


def evaluate(nodes: Sequence[Node], leaves: Leaves, maps: Maps, known: Sequence[Tensor] = ()) -> list[Tensor]:
    """The value of every node; ``known`` are those of the first ones."""
    values = list(known)
    for node in nodes[len(known) :]:
        operands = [values[i] for i in node.inputs]
        if node.operation == "constant":
            values.append(torch.tensor(node.value, dtype=torch.float64))
        elif node.operation == "recurrent":
            values.append(maps.product(node.name, operands[0]))
        elif node.operation == "transposed":
            values.append(maps.transposed(node.name.split(), operands))
        elif node.operation in OPERATIONS:
            values.append(OPERATIONS[node.operation].compute(*operands))
        else:
            values.append(leaves[node.operation, node.name])
    return values


def random_call(cell: gw.Cell, seed: int = 0) -> Call:
    """A short sequence in double precision; everything requires a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    graph = cell.graph
    rows, recurrent = len(graph.input_maps) * H, len(graph.recurrent_maps) * H
    weights = Weights(
        weight_ih=normal(rows, I),
        weight_hh=normal(recurrent, H) if recurrent else None,
        bias_ih=normal(rows),
        bias_hh=normal(recurrent) if recurrent else None,
        vectors={name: normal(H) for name in graph.vector_weights},
    )
    return Call(cell, normal(T, B, I), weights, tuple(normal(B, H) for _ in graph.states))


def gradients_by_autograd(call: Call, g_output: Tensor, g_final: Sequence[Tensor]) -> dict[str, Tensor]:
    """Through the cell's own function."""
    output, final = EagerBackend().run(call)
    named = leaves(call)
    found = torch.autograd.grad(
        [output, *final],
        list(named.values()),
        [g_output, *g_final],
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(named, found, strict=True))


def gradients_by_derivative(call: Call, g_output: Tensor, g_final: Sequence[Tensor]) -> dict[str, Tensor]:
    """Through the nodes of the lowered graph and of its derivative."""
    lowered = lower(call.cell.graph)
    derivative = derive(lowered.graph)
    weights = call.weights
    maps = Maps.of(lowered.graph.recurrent_maps, weights.weight_hh, weights.bias_hh)
    with torch.no_grad():
        steps = _forward(call, lowered, maps)
        found, by_vector = _backward(call, derivative, maps, steps, g_output, g_final)
    for name, gradient in _vector_gradients(lowered, weights.vectors, by_vector).items():
        found[f"w.{name}"] = gradient
    return found


def _forward(call: Call, lowered: Lowered, maps: Maps) -> list[list[Tensor]]:
    """The values of all nodes at every step."""
    graph = lowered.graph
    weights = call.weights
    vectors = dict(zip(graph.vector_weights, lowered.vectors(weights.vectors), strict=True))
    inputs = F.linear(call.x, weights.weight_ih, weights.bias_ih).chunk(len(graph.input_maps), -1)
    states, steps = list(call.states), []
    for t in range(T):
        bound = {("vector", name): vector for name, vector in vectors.items()}
        bound |= {("input", name): x[t] for name, x in zip(graph.input_maps, inputs, strict=True)}
        bound |= {("state", name): state for name, state in zip(graph.states, states, strict=True)}
        steps.append(evaluate(graph.nodes, bound, maps))
        states = [steps[-1][result].expand(B, H) for result in graph.results]
    return steps


def _backward(
    call: Call,
    derivative: Derivative,
    maps: Maps,
    steps: list[list[Tensor]],
    g_output: Tensor,
    g_final: Sequence[Tensor],
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Gradients by name, and those of the lowered graph's vector weights."""
    graph = derivative.graph
    arguments = {node.name: node.inputs[0] for node in graph.nodes if node.operation == "recurrent"}
    adjoints, weights = list(g_final), call.weights
    found = {name: torch.zeros_like(tensor) for name, tensor in leaves(call).items()}
    by_vector = [torch.zeros(H, dtype=torch.float64) for _ in graph.vector_weights]
    for t in reversed(range(T)):
        output = graph.state_index(graph.output)
        adjoints[output] = adjoints[output] + g_output[t]
        bound = {("adjoint", s): adjoint for s, adjoint in zip(graph.states, adjoints, strict=True)}
        values = evaluate(derivative.nodes, bound, maps, steps[t])
        dx = torch.cat([values[i].expand(B, H) for i in derivative.inputs], -1)
        found["x"][t] = dx @ weights.weight_ih
        found["weight_ih"] += dx.T @ call.x[t]
        found["bias_ih"] += dx.sum(0)
        recurrent = zip(graph.recurrent_maps, derivative.recurrent, strict=True)
        du = {name: values[i].expand(B, H) for name, i in recurrent}
        if du:
            found["weight_hh"] += torch.cat([a.T @ steps[t][arguments[name]] for name, a in du.items()])
            found["bias_hh"] += torch.cat([a.sum(0) for a in du.values()])
        for place, index in enumerate(derivative.vectors):
            by_vector[place] += values[index].expand(B, H).sum(0)
        adjoints = [
            (torch.zeros(B, H, dtype=torch.float64) if direct is None else values[direct])
            + (maps.transposed(names, [du[name] for name in names]) if names else 0)
            for direct, names in zip(derivative.states, derivative.state_maps, strict=True)
        ]
    found |= dict(zip(graph.states, adjoints, strict=True))
    return found, by_vector


def _vector_gradients(
    lowered: Lowered, vectors: Mapping[str, Tensor], by_vector: Sequence[Tensor]
) -> dict[str, Tensor]:
    """From the lowered graph's vector weights back to the cell's."""
    # a choice between numbers depends on no weight that a gradient is taken by
    pairs = zip(lowered.vectors(vectors), by_vector, strict=True)
    differentiable = [(vector, gradient) for vector, gradient in pairs if vector.requires_grad]
    if not differentiable:
        return {name: torch.zeros_like(vector) for name, vector in vectors.items()}
    outputs, gradients = zip(*differentiable, strict=True)
    found = torch.autograd.grad(
        outputs, list(vectors.values()), gradients, allow_unused=True, materialize_grads=True
    )
    return dict(zip(vectors, found, strict=True))
