"""The reference: the cell's own function on tensors, one step at a time. Runs every cell everywhere."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gatewright.backends import heads
from gatewright.backends.call import Call, Result, states_of, transform_refusal
from gatewright.compiler.graph import Graph
from gatewright.compiler.interpret import GraphCell


class EagerBackend:
    """Step by step through the equations, with torch's autograd as the derivative."""

    name = "eager"
    devices: tuple[str, ...] = ()
    comment = ""

    def refusal(self, call: Call) -> str | None:
        """Nothing is refused."""
        return None

    def describe(self, call: Call) -> tuple[str, ...]:
        """The kind of loop."""
        return ("step by step in torch's operations; gradients by autograd",)

    def kernel_source(self, call: Call) -> str:
        """Nothing: no code is generated."""
        return ""

    def observed_maps(self, maps: Tensor) -> Tensor:
        """The input maps of a call, which go on as they are: who measures something overrides this."""
        return maps

    def observed_states(self, states: list[Tensor]) -> list[Tensor]:
        """The states behind a step, in the order of the steps that are run: likewise."""
        return states

    def run(self, call: Call) -> Result:
        """Run the equations over the sequence; input maps are one product before the loop."""
        return heads.apart(call, self._run_dense)

    def _run_dense(self, call: Call) -> Result:
        # torch.func cannot transform what is computed again
        if call.recompute and torch.is_grad_enabled() and transform_refusal() is None:
            return checkpoint(self._run_unchanged, call, _versions(call), use_reentrant=False)  # pyright: ignore[reportReturnType]
        return self._run(call)

    def _run_unchanged(self, call: Call, versions: list[int]) -> Result:
        if _versions(call) != versions:
            message = (
                "a tensor that a recomputing layer reads was changed in place before its gradient was taken"
            )
            raise RuntimeError(f"{message}: change a clone of it, or leave recompute off")
        return self._run(call)

    def _run(self, call: Call) -> Result:
        graph, weights = call.cell.graph, call.weights
        maps = self.observed_maps(F.linear(call.x, weights.weight_ih, weights.bias_ih))
        steps = maps.unbind(0) if call.batch_sizes is None else maps.split(call.batch_sizes)
        recurrent = RecurrentMaps(graph, weights.weight_hh, weights.bias_hh)
        vectors = SimpleNamespace(**weights.vectors)
        output = graph.state_index(graph.output)
        states, every = list(call.states), []
        outputs: list[Tensor] = [call.x.new_empty(0)] * len(steps)
        for t in reversed(range(len(steps))) if call.reverse else range(len(steps)):
            rows = steps[t].shape[0]
            x = SimpleNamespace(
                **dict(zip(graph.input_maps, steps[t].chunk(len(graph.input_maps), -1), strict=True))
            )
            old = [state[:rows] for state in states]
            if call.masks:
                assert isinstance(call.cell, GraphCell)
                new = list(call.cell.step(x, recurrent, vectors, old, _masks_at(call, t, rows)))
            else:
                new = list(call.cell.step(x, recurrent, vectors, old))
            if weights.weight_hr is not None:
                new[output] = F.linear(new[output], weights.weight_hr)
            new = self.observed_states(new)
            outputs[t] = new[output]
            # rows that have ended, or in reverse have not begun, keep their state
            states = [
                n if rows == state.shape[0] else torch.cat([n, state[rows:]])
                for n, state in zip(new, states, strict=True)
            ]
            every.append(states)
        y = _joined(outputs, call)
        if not call.every:
            return y, tuple(states)
        every = every[::-1] if call.reverse else every
        others = [state for i, state in enumerate(call.states) if i != output]
        if every:
            others = [torch.stack([s[i] for s in every]) for i in range(len(states)) if i != output]
        else:
            others = [state.new_zeros(0, *state.shape) for state in others]
        return y, states_of(call, y, others)


def _versions(call: Call) -> list[int]:
    """How often each tensor that is read was changed in place; nothing else would notice."""
    tensors = (tensor for tensor in call.tensors() if tensor is not None)
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def _masks_at(call: Call, step: int, rows: int) -> list[Tensor]:
    """The masks of a step's rows, each as it is spread over ``[B, H]``."""
    kinds = (kind for kind, _ in call.cell.graph.masks)
    steps = {"row_mask": lambda m: m[step, :rows].unsqueeze(-1), "step_mask": lambda m: m[step, :rows]}
    return [
        steps[kind](mask) if kind in steps else mask[:rows]
        for kind, mask in zip(kinds, call.masks, strict=True)
    ]


def _joined(outputs: list[Tensor], call: Call) -> Tensor:
    """The outputs of all steps, laid out as the input."""
    if not outputs:
        state = call.states[call.cell.graph.state_index(call.cell.graph.output)]
        return state.new_zeros(0, *state.shape)
    return torch.stack(outputs) if call.batch_sizes is None else torch.cat(outputs)


class RecurrentMaps:
    """``U`` on tensors: maps that are applied to the same value share one product."""

    def __init__(self, graph: Graph, weight: Tensor | None, bias: Tensor | None) -> None:
        self._maps: dict[str, Callable[[Tensor], Tensor]] = {}
        if weight is None:
            return
        names = graph.recurrent_maps
        weights = dict(zip(names, weight.chunk(len(names)), strict=True))
        biases = dict(zip(names, bias.chunk(len(names)), strict=True)) if bias is not None else None
        for group in graph.recurrent_groups:
            whole = group == names
            product = _SharedProduct(
                weight if whole else torch.cat([weights[name] for name in group]),
                bias if whole or biases is None else torch.cat([biases[name] for name in group]),
                len(group),
            )
            for place, name in enumerate(group):
                self._maps[name] = product.part(place)

    def __getattr__(self, name: str) -> Callable[[Tensor], Tensor]:
        return self._maps[name]


class _SharedProduct:
    """One product for several maps, computed when the first of them is asked for at a step."""

    def __init__(self, weight: Tensor, bias: Tensor | None, parts: int) -> None:
        self._weight, self._bias, self._parts = weight, bias, parts
        self._argument: Tensor | None = None
        self._values: tuple[Tensor, ...] = ()

    def part(self, place: int) -> Callable[[Tensor], Tensor]:
        """The map at a place of the group."""

        def apply(argument: Tensor) -> Tensor:
            if argument is not self._argument:
                self._argument = argument
                self._values = F.linear(argument, self._weight, self._bias).chunk(self._parts, -1)
            return self._values[place]

        return apply
