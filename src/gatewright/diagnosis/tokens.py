"""All steps of a recorded sequence as one batch: with the states known, no step waits for another."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewright.backends.eager import RecurrentMaps
from gatewright.compiler.graph import Graph, reachable
from gatewright.compiler.interpret import GraphCell
from gatewright.diagnosis.twin import Trace

_CHUNK = 1 << 25
"""Numbers of Jacobians that are made at once."""


class Tokens:
    """The steps of one call, in the order in which they were run, ``N = T·B`` of them.

    Args:
        trace: of the call.
        rows: which rows of the batch; None for all.

    Attributes:
        steps: ``T``.
        batch: ``B``, how many rows were taken.
        previous: the states in front of each step, ``[N, ·]`` each.
        sizes: of the states.
    """

    def __init__(self, trace: Trace, rows: Tensor | None = None) -> None:
        call = trace.call
        self.trace, self.graph = trace, call.cell.graph
        self._cell = GraphCell(self.graph)
        self.steps = trace.steps
        index = torch.arange(call.x.shape[1], device=call.x.device) if rows is None else rows
        self.batch = len(index)

        def in_order(values: Tensor) -> Tensor:
            """``[T, B, ·]`` in the order of time → ``[N, ·]`` in that of the steps that are run."""
            values = values.flip(0) if call.reverse else values
            return values[:, index].flatten(0, 1)

        self.maps = in_order(trace.maps.detach())
        first = [state.detach() for state in call.states]
        count = len(trace.states[0]) if trace.states else len(first)
        before = [tuple(first[:count]), *trace.states[:-1]] if trace.states else []
        self.previous = tuple(
            torch.stack([states[i].detach() for states in before])[:, index].flatten(0, 1)
            for i in range(count)
        )
        self._first = [state[index].repeat(self.steps, 1) for state in first[count:]]
        self.sizes = tuple(state.shape[-1] for state in self.previous)
        self._masks = []
        for (kind, _), mask in zip(self.graph.masks, call.masks, strict=True):
            if kind == "row_mask":
                self._masks.append(in_order(mask.unsqueeze(-1)))
            else:
                whole = mask.expand(self.steps, *mask.shape) if kind == "unit_mask" else mask
                self._masks.append(in_order(whole))
        weights = call.weights
        self._weight_hr = weights.weight_hr
        self._names = self.graph.input_maps
        self._weights = tuple(None if w is None else w.detach() for w in (weights.weight_hh, weights.bias_hh))
        self._vectors = SimpleNamespace(**{name: v.detach() for name, v in weights.vectors.items()})

    def values(self, previous: tuple[Tensor, ...], select: slice = slice(None)) -> list[Tensor]:
        """The values of all nodes of the graph from given states.

        Args:
            previous: ``[n, ·]`` each.
            select: which of the steps they stand in front of.

        Returns:
            For each node a tensor ``[n, ·]`` or one that can be spread over it.
        """
        x = SimpleNamespace(
            **dict(zip(self._names, self.maps[select].chunk(len(self._names), -1), strict=True))
        )
        recurrent = RecurrentMaps(self.graph, *self._weights)
        states = [*previous, *(state[select] for state in self._first)]
        return self._cell.values(x, recurrent, self._vectors, states, [mask[select] for mask in self._masks])

    def step(self, previous: tuple[Tensor, ...], select: slice = slice(None)) -> tuple[Tensor, ...]:
        """The states behind the steps, from those in front of them."""
        values = self.values(previous, select)
        width = self.maps.shape[-1] // len(self._names)
        found = [values[r].expand(len(previous[0]), width) for r in self.graph.results[: len(previous)]]
        if self._weight_hr is not None:
            place = self.graph.state_index(self.graph.output)
            found[place] = F.linear(found[place], self._weight_hr.detach())
        return tuple(found)

    def vjp(self, gradient: Tensor) -> Tensor:
        """Jᵀδ of every step, ``[N, S]``, all states joined: from behind the step to in front of it."""
        with torch.enable_grad():
            previous = tuple(state.detach().requires_grad_() for state in self.previous)
            after = torch.cat(self.step(previous), -1)
            found = torch.autograd.grad(after, previous, gradient, allow_unused=True)
        return torch.cat(
            [torch.zeros_like(p) if g is None else g for g, p in zip(found, previous, strict=True)], -1
        )

    def jacobians(self) -> Tensor:
        """∂(states behind)/∂(states in front) of every step, all states joined: ``[T, B, S, S]``."""
        size, count = sum(self.sizes), self.steps * self.batch
        chunk = max(1, _CHUNK // size**2)
        return torch.cat(
            [self._jacobians(slice(at, min(at + chunk, count))) for at in range(0, count, chunk)]
        ).view(self.steps, self.batch, size, size)

    def _jacobians(self, select: slice) -> Tensor:
        with torch.enable_grad():
            previous = tuple(state[select].detach().requires_grad_() for state in self.previous)
            after = torch.cat(self.step(previous, select), -1)
            size = after.shape[-1]
            basis = torch.eye(size, dtype=after.dtype, device=after.device)
            found = torch.autograd.grad(
                after, previous, basis.unsqueeze(1).expand(size, *after.shape), is_grads_batched=True,
                allow_unused=True,
            )  # fmt: skip
        columns = [
            p.new_zeros(size, *p.shape) if g is None else g for g, p in zip(found, previous, strict=True)
        ]
        return torch.cat(columns, -1).transpose(0, 1)

    def gates(self) -> dict[str, Tensor]:
        """The value of every sigmoid gate at every step, ``[T, B, H]``, by the name of its input map."""
        with torch.no_grad():
            values = self.values(self.previous)
            named = gate_nodes(self.graph)
            width = self.maps.shape[-1] // len(self._names)
            return {
                name: values[node].expand(len(self.maps), width).unflatten(0, (self.steps, self.batch))
                for name, node in named.items()
            }


def gate_nodes(graph: Graph) -> dict[str, int]:
    """The sigmoid nodes of a graph, by the input map, or the recurrent map, that each reads.

    Args:
        graph: of a cell.

    Returns:
        Name → node; gates that read several maps stand under each that no other gate has.
    """
    found: dict[str, int] = {}
    stops = ("sigmoid", "tanh")
    for index, node in enumerate(graph.nodes):
        if node.operation != "sigmoid":
            continue
        todo, names = list(node.inputs), []
        while todo:
            inner = graph.nodes[todo.pop()]
            if inner.operation in ("input", "recurrent"):
                names.append(inner.name)
            if inner.operation not in (*stops, "recurrent"):
                todo.extend(inner.inputs)
        for name in names:
            found.setdefault(name, index)
    live = reachable(graph.nodes, graph.results)
    return {name: index for name, index in found.items() if index in live}
