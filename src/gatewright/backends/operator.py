"""The kernels as operators registered with torch, for where torch traces a program instead of running it.

They take the cell as text, so that an exported program needs nothing but this package to be run; whoever
loads one imports this module first. It is not loaded with the package, because torch's tracer takes a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gatewright.backends.call import Call, Result, states_of
from gatewright.backends.cpu import engine
from gatewright.backends.cpu import passes as cpu_passes
from gatewright.backends.gpu import engine as gpu_engine
from gatewright.backends.gpu import passes as gpu_passes
from gatewright.backends.sequence import (
    WEIGHTS,
    Operands,
    Pass,
    Passes,
    graph_of,
    hoisted,
    operands_of,
    records_gradient,
    wanted,
)
from gatewright.compiler.graph import Graph

PASSES: dict[str, Passes] = {"cpu": cpu_passes, "gpu": gpu_passes}
"""What runs the operators, by the name of the backend."""


@torch.library.custom_op("gatewright::sequence", mutates_args=())
def sequence_forward(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor | None,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    vectors: Sequence[Tensor],
    states: Sequence[Tensor],
    masks: Sequence[Tensor],
    cell: str,
    backend: str,
    reverse: bool,
    every: bool,
    training: bool,
) -> list[Tensor]:
    """The output, the states, final or of every step but the output, and what is kept for the gradient."""
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    operands = Operands(x, weights, tuple(vectors), tuple(states), tuple(masks))
    found = PASSES[backend].forward_pass(graph_of(cell), reverse, operands, training=training, every=every)
    # no two results of an operator may be one tensor
    states = [state.clone() if training else state for state in found.every] if every else found.final
    return [found.y, *states, *(found.kept if training else ())]


@sequence_forward.register_fake
def _(x: Tensor, *others: Any) -> list[Tensor]:
    *weights, vectors, states, _masks, cell, backend, _reverse, every, training = others
    graph, operands = graph_of(cell), Operands(x, tuple(weights), tuple(vectors), tuple(states))
    kept = PASSES[backend].kept(graph, operands) if training else ()
    y = x.new_empty(x.shape[0], x.shape[1], states[graph.state_index(graph.output)].shape[1])
    return [y, *_states(graph, operands, every), *kept]


def _states(graph: Graph, operands: Operands, every: bool) -> list[Tensor]:
    """Uninitialised, the states that a call gives: the final ones, or those of every step but the output."""
    if not every:
        return [state.new_empty(state.shape) for state in operands.states]
    names = zip(graph.states, operands.states, strict=True)
    steps = operands.x.shape[0]
    return [state.new_empty(steps, *state.shape) for name, state in names if name != graph.output]


@torch.library.custom_op("gatewright::sequence_backward", mutates_args=())
def sequence_backward(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor | None,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    vectors: Sequence[Tensor],
    states: Sequence[Tensor],
    masks: Sequence[Tensor],
    found: Sequence[Tensor],
    gradients: Sequence[Tensor],
    cell: str,
    backend: str,
    reverse: bool,
    every: bool,
    need_dx: bool,
) -> list[Tensor]:
    """The gradients by the operands, in their order; empty where there is none."""
    weights = (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    operands = Operands(x, weights, tuple(vectors), tuple(states), tuple(masks))
    given = Pass(found[0], (), tuple(found[1:]))
    d = PASSES[backend].backward_pass(graph_of(cell), reverse, operands, given, gradients, need_dx, every)
    d = wanted(d, operands.flat()[: len(d.flat())], need_dx)
    return [x.new_empty(0) if gradient is None else gradient for gradient in d]


@sequence_backward.register_fake
def _(x: Tensor, *others: Any) -> list[Tensor]:
    *weights, vectors, states, _masks, _found, _gradients, _cell, _backend, _reverse, _every, need_dx = others
    flat = (x, *weights, *vectors, *states)
    d = [None if t is None else torch.empty_like(t, memory_format=torch.contiguous_format) for t in flat]
    return [x.new_empty(0) if t is None else t for t in (d[0] if need_dx else None, *d[1:])]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *maps, vectors, states, masks, cell, backend, reverse, every, _ = inputs
    ctx.cell, ctx.backend, ctx.reverse, ctx.every = cell, backend, reverse, every
    ctx.vectors, ctx.masks = len(vectors), len(masks)
    ctx.count = len(maps) + len(vectors) + len(states) + len(masks)
    results = len(states) if every else 1 + len(states)
    ctx.save_for_backward(*maps, *vectors, *states, *masks, output[0], *output[results:])


def _gradients(ctx: Any, gradients: Sequence[Tensor | None]) -> tuple[Any, ...]:
    stored = ctx.saved_tensors
    operands, found = Operands.of(stored[: ctx.count], ctx.vectors, ctx.masks), stored[ctx.count :]
    results = [found[0], *_states(graph_of(ctx.cell), operands, ctx.every)]
    given = [
        torch.zeros_like(result) if gradient is None else gradient
        for gradient, result in zip(gradients[: len(results)], results, strict=True)
    ]
    need_dx = ctx.needs_input_grad[0]
    d = torch.ops.gatewright.sequence_backward(
        operands.x, *operands.weights, operands.vectors, operands.states, operands.masks, found, given,
        ctx.cell, ctx.backend, ctx.reverse, ctx.every, need_dx,
    )  # fmt: skip
    given = (operands.x if need_dx else None, *operands.weights)
    maps = [None if t is None else g for g, t in zip(d[: 1 + WEIGHTS], given, strict=True)]
    rest = d[1 + WEIGHTS :]
    return *maps, rest[: ctx.vectors], rest[ctx.vectors :], [None] * ctx.masks, None, None, None, None, None


torch.library.register_autograd("gatewright::sequence", _gradients, setup_context=_keep)


hoist: Any = torch.compiler.allow_in_graph(hoisted)
"""One operation to a tracer, which would trace the compiler otherwise."""


@torch.compiler.assume_constant_result
def machine_refusal() -> str | None:
    """Why no kernel for the CPU can be made on this machine, or None."""
    return engine.refusal()


@torch.compiler.assume_constant_result
def device_refusal(device: torch.device) -> str | None:
    """Why no kernel for a GPU can run on a device, or None."""
    return gpu_engine.refusal(device)


def run(call: Call, backend: str) -> Result:
    """A call as an operator that a backend runs."""
    operands = operands_of(call, hoist)
    training = records_gradient(operands)
    found = torch.ops.gatewright.sequence(
        operands.x, *operands.weights, operands.vectors, operands.states, operands.masks,
        call.cell.serialized, backend, call.reverse, call.every, training,
    )  # fmt: skip
    count = len(call.states) - call.every
    return found[0], states_of(call, found[0], found[1 : 1 + count])
