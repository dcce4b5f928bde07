"""The kernels as one differentiable function of torch.

Gradients come from the derived kernel. A gradient that is to be differentiated again is computed through the
equations, so that any order is right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatewright.backends.call import Call, Result, Weights
from gatewright.backends.cpu import engine, launch, threads
from gatewright.backends.cpu.tiling import Shape
from gatewright.backends.eager import EagerBackend
from gatewright.compiler.interpret import GraphCell
from gatewright.compiler.schedule import schedule

_EQUATIONS = EagerBackend()

_WEIGHTS = 4
"""weight_ih, weight_hh, bias_ih, bias_hh: the weights every cell may have."""


def run(call: Call) -> Result:
    """Run a call on the kernels."""
    plan = schedule(call.cell.graph)
    weights = call.weights
    vectors = plan.lowered.vectors(weights.vectors) if plan.graph.vector_weights else ()
    tensors = (
        call.x, weights.weight_ih, weights.weight_hh, weights.bias_ih, weights.bias_hh, *vectors, *call.states,
    )  # fmt: skip
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        y, *final = _Sequence.apply(call, len(vectors), *tensors)
    else:
        y, final, _, _ = _forward(call, False, tensors, len(vectors))
    return y, tuple(final)


def describe(call: Call) -> tuple[str, ...]:
    """How a call runs, in words."""
    plan = schedule(call.cell.graph)
    prepared = launch.forward(_key(call, call.x, torch.is_grad_enabled()))
    grid, host = prepared.grid, engine.machine()
    split = [f"{grid.row_groups} over the batch"] if grid.row_groups > 1 else []
    split += [f"{grid.column_groups} over the columns, a barrier a stage"] if grid.column_groups > 1 else []
    lanes = host.vectors(launch.ELEMENTS[call.x.dtype]).lanes
    tiles = ", ".join(f"{t.rows} x {t.blocks * lanes} x {t.maps}" for t in prepared.tiles.stages if t.maps)
    kept = len(plan.saved) + len(plan.graph.states) - 1
    return (
        f"{host.instruction_set}, {lanes} x {str(call.x.dtype).removeprefix('torch.')}",
        f"threads: {grid.threads}" + (f" ({', '.join(split)})" if split else ""),
        f"{plan.kind} cell, {len(plan.forward)} stage(s)"
        + (f", tiles of rows x columns x maps: {tiles}" if tiles else ""),
        f"kept for the gradient beside the output: {kept} x {call.states[0].shape[-1]} values a time step and row",
    )


def _forward(call: Call, training: bool, tensors: tuple[Tensor | None, ...], vectors: int) -> Any:
    x, given, vector_weights, states = _prepared(tensors, vectors)
    prepared = launch.forward(_key(call, x, training))
    return prepared(x, call.reverse, given, vector_weights, states)


def _key(call: Call, x: Tensor, training: bool) -> launch.Key:
    steps, batch, features = x.shape
    shape = Shape(steps, batch, features, call.weights.weight_ih.shape[0] // len(call.cell.graph.input_maps))
    return launch.Key(call.cell.graph, x.dtype, shape, threads.available(), training)


def _prepared(tensors: tuple[Tensor | None, ...], vectors: int) -> tuple[Tensor, Any, Any, Any]:
    """Tensors as the kernels read them: no gaps between features, something where there is no bias."""
    x, *rest = tensors
    assert x is not None
    if x.stride(2) != 1:
        x = x.contiguous()
    weight_ih, weight_hh, bias_ih, bias_hh = rest[:_WEIGHTS]
    assert weight_ih is not None
    weight_hh = x.new_empty(0) if weight_hh is None else weight_hh
    bias_ih = x.new_zeros(len(weight_ih)) if bias_ih is None else bias_ih
    bias_hh = x.new_zeros(len(weight_hh)) if bias_hh is None else bias_hh
    weights = tuple(w.contiguous() for w in (weight_ih, weight_hh, bias_ih, bias_hh))
    others = [t.contiguous() for t in rest[_WEIGHTS:] if t is not None]
    return x, weights, tuple(others[:vectors]), tuple(others[vectors:])


class _Sequence(torch.autograd.Function):
    """One layer of one direction over a whole sequence."""

    @staticmethod
    def forward(ctx: Any, call: Call, vectors: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        y, finals, saved, histories = _forward(call, True, tensors, vectors)
        ctx.call, ctx.vectors, ctx.count = call, vectors, len(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, y, saved, *histories)
        return y, *finals

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        dy, *dfinals = gradients
        stored = ctx.saved_tensors
        tensors = stored[: ctx.count]
        if torch.is_grad_enabled():
            return None, None, *_through_equations(ctx.call, tensors, ctx.vectors, gradients)
        y, saved, *histories = stored[ctx.count :]
        x, weights, vectors, states = _prepared(tensors, ctx.vectors)
        if dy is not None and dy.stride(2) != 1:
            dy = dy.contiguous()
        dfinals = [None if d is None else d.contiguous() for d in dfinals]
        prepared = launch.backward(_key(ctx.call, x, True))
        need_dx = ctx.needs_input_grad[2]
        dx, dweights, dvectors, dfirsts = prepared(
            x, ctx.call.reverse, weights, vectors, states, y, saved, histories, dy, dfinals, need_dx
        )
        given = [d if t is not None else None for d, t in zip(dweights, tensors[1:], strict=False)]
        return None, None, dx, *given, *dvectors, *dfirsts


def _through_equations(
    call: Call, tensors: tuple[Tensor | None, ...], vectors: int, gradients: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again: those of the equations, run step by step."""
    x, weight_ih, weight_hh, bias_ih, bias_hh, *rest = tensors
    assert x is not None
    assert weight_ih is not None
    others = [tensor for tensor in rest if tensor is not None]
    graph = schedule(call.cell.graph).graph
    given = dict(zip(graph.vector_weights, others[:vectors], strict=True))
    weights = Weights(weight_ih, weight_hh, bias_ih, bias_hh, None, given)
    with torch.enable_grad():
        y, final = _EQUATIONS.run(Call(GraphCell(graph), x, weights, tuple(others[vectors:]), call.reverse))
        wanted = [t for t in tensors if t is not None and t.requires_grad]
        results = [(o, g) for o, g in zip((y, *final), gradients, strict=True) if g is not None]
        found = torch.autograd.grad(
            [o for o, _ in results], wanted, [g for _, g in results], create_graph=True, allow_unused=True
        )
    by_tensor = iter(found)
    return [next(by_tensor) if t is not None and t.requires_grad else None for t in tensors]
