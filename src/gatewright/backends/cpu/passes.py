"""The forward and the backward pass of a call on the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gatewright.backends.call import Call
from gatewright.backends.cpu import engine, launch, threads
from gatewright.backends.cpu.tiling import Shape
from gatewright.backends.sequence import Operands, Pass, operands_of, records_gradient
from gatewright.compiler.graph import Graph
from gatewright.compiler.schedule import schedule


def describe(call: Call) -> tuple[str, ...]:
    """How a call runs, in words."""
    operands = operands_of(call)
    gradient = records_gradient(operands)
    training = gradient and not call.recompute
    plan, host = schedule(call.cell.graph), engine.machine()
    prepared = launch.forward(*_key(call.cell.graph, operands), training)
    grid, lanes = prepared.grid, host.vectors(launch.ELEMENTS[call.x.dtype]).lanes
    split = [f"{grid.row_groups} over the batch"] if grid.row_groups > 1 else []
    split += [f"{grid.column_groups} over the columns, a barrier a stage"] if grid.column_groups > 1 else []
    tiles = ", ".join(f"{t.rows} x {t.blocks * lanes} x {t.maps}" for t in prepared.tiles.stages if t.maps)
    hidden = prepared.shape.H
    count = len(launch.kept_widths(plan, 1, prepared.shape.projected)) if training else 0
    count = count and count - bool(plan.saved) + len(plan.saved)
    kept = f"{count} x {hidden} values a time step and row" if count else "nothing"
    again = ", gates are computed again" if gradient and call.recompute else ""
    return (
        f"{host.instruction_set}, {lanes} x {str(call.x.dtype).removeprefix('torch.')}",
        f"threads: {grid.threads}" + (f" ({', '.join(split)})" if split else ""),
        f"{plan.kind} cell, {len(plan.forward)} stage(s)"
        + (f", tiles of rows x columns x maps: {tiles}" if tiles else ""),
        f"kept for the gradient beside the output: {kept}{again}",
    )


def kernel_source(call: Call) -> str:
    """LLVM's text of the forward kernel and, where gradients are recorded, of the backward kernel."""
    operands = operands_of(call)
    gradient, key = records_gradient(operands), _key(call.cell.graph, operands)
    kernels: dict[str, launch.Forward | launch.Backward] = {"forward kernel": launch.forward(*key, gradient)}
    if gradient:
        kernels["backward kernel"] = launch.backward(*key)
    return "\n\n".join(f"; {name}\n{kernel.source()}" for name, kernel in kernels.items())


def _key(graph: Graph, operands: Operands) -> tuple[Any, ...]:
    return graph, operands.x.dtype, operands.sizes(graph), threads.available()


def forward_pass(
    graph: Graph,
    reverse: bool,
    operands: Operands,
    *,
    training: bool,
    every: bool = False,
    y: Tensor | None = None,
) -> Pass:
    """Run the forward kernel.

    Args:
        graph: of the cell.
        reverse: run from the last step to the first.
        operands: what it reads.
        training: keep what the gradient needs.
        every: give the states of every step.
        y: where the output is to stand, ``[T, B, P]``, or None.

    Returns:
        Output, final states and what was kept.
    """
    if 0 in operands.x.shape[:2]:
        return _empty_pass(graph, operands, training, every)
    prepared = launch.forward(*_key(graph, operands), training, every, _sections(operands))
    return Pass(*prepared(reverse, readable(operands), y))


def row_groups(graph: Graph, operands: Operands) -> int:
    """Over how many groups of threads the rows of a call are divided."""
    return launch.forward(*_key(graph, operands), False).grid.row_groups


def _sections(operands: Operands) -> int:
    return operands.ends.sections if operands.ends is not None else 0


def output(graph: Graph, operands: Operands) -> Tensor:
    """An uninitialised output ``[T, B, P]``."""
    steps, batch, _, _, width, _ = operands.sizes(graph)
    return launch.output(steps, batch, width, operands.x.dtype)


def kept(graph: Graph, operands: Operands) -> tuple[Tensor, ...]:
    """Uninitialised, what a forward pass keeps for the gradient."""
    shape = Shape(*operands.sizes(graph))
    widths = launch.kept_widths(schedule(graph), shape.H, shape.projected)
    return tuple(operands.x.new_empty(shape.T, shape.B, width) for width in widths)


def _empty_pass(graph: Graph, operands: Operands, training: bool, every: bool) -> Pass:
    """No steps or no rows: the states are handed through."""
    final = tuple(state.clone() for state in operands.states)
    steps, out = operands.x.shape[0], graph.state_index(graph.output)
    states = [state.new_empty(steps, *state.shape) for i, state in enumerate(final) if i != out]
    stored = kept(graph, operands) if training else ()
    return Pass(output(graph, operands), final, stored, tuple(states) if every else ())


def backward_pass(
    graph: Graph,
    reverse: bool,
    operands: Operands,
    found: Pass,
    gradients: Sequence[Tensor | None],
    need_dx: bool,
    every: bool = False,
) -> Operands:
    """Run the backward kernel.

    Args:
        graph: of the cell.
        reverse: as in the forward pass.
        operands: what the forward pass read.
        found: what it gave and kept.
        gradients: by the output and by the final states; None for zero.
        need_dx: whether the gradient by the input is wanted.
        every: the gradients are not by the final states but by all values of those that are no output.

    Returns:
        The gradients by the operands; that by ``x`` is empty when it is not wanted, and there are gradients
        of weights that are missing, to be left aside.
    """
    key, operands = _key(graph, operands), readable(operands)
    dy, *others = gradients
    count = len(operands.states)
    dfinal, devery = ([None] * count, others) if every else (others, [])
    if 0 in operands.x.shape[:2]:
        states = zip(operands.states, dfinal, strict=True)
        first = tuple(torch.zeros_like(state) if d is None else d.clone() for state, d in states)
        zero = [torch.zeros_like(tensor) for tensor in (operands.x, *operands.weights, *operands.vectors)]
        return Operands.of([*zero, *first], len(operands.vectors), 0)
    dfinal = [None if d is None else _plain(d) for d in dfinal]
    prepared = launch.backward(*key, every, _sections(operands))
    by_steps = [_by_steps(d) for d in (dy, *devery)]
    return Operands(*prepared(reverse, operands, found, by_steps, dfinal, need_dx))


def _by_steps(gradient: Tensor | None) -> Tensor | None:
    """A gradient ``[T, B, ·]`` as the kernel reads it."""
    if gradient is None:
        return None
    gradient = gradient.resolve_neg()
    if not any(gradient.stride()):
        # the gradient of a sum: one number, expanded; a row of it is enough
        return gradient[:1, :1].contiguous().expand(gradient.shape)
    return gradient if gradient.stride(2) == 1 else gradient.contiguous()


def readable(operands: Operands) -> Operands:
    """As the kernels read them: no gaps between features, something where a weight is missing."""
    x = operands.x.resolve_neg() if operands.x.is_neg() else operands.x
    x = x if x.stride(2) == 1 else x.contiguous()
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = operands.weights
    nothing = _nothing(x.dtype)
    weight_hh = nothing if weight_hh is None else weight_hh
    bias_ih = x.new_zeros(len(weight_ih)) if bias_ih is None else bias_ih
    bias_hh = x.new_zeros(len(weight_hh)) if bias_hh is None else bias_hh
    weight_hr = nothing if weight_hr is None else weight_hr
    weights = tuple(_plain(w) for w in (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr))
    vectors = tuple(_plain(vector) for vector in operands.vectors)
    states = tuple(_plain(state) for state in operands.states)
    # gaps between the steps or rows of a mask do not matter
    masks = tuple(m if m[:1].is_contiguous() else _plain(m) for m in operands.masks)
    return operands._replace(x=x, weights=weights, vectors=vectors, states=states, masks=masks)


def _plain(tensor: Tensor) -> Tensor:
    """A tensor whose memory is its values, one behind the other."""
    return tensor.resolve_neg().contiguous() if tensor.is_neg() else tensor.contiguous()


@lru_cache(maxsize=2)
def _nothing(dtype: torch.dtype) -> Tensor:
    """A weight of no size."""
    return torch.empty(0, dtype=dtype, device="cpu")
