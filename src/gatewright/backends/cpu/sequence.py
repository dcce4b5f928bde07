"""The kernels as one differentiable function of torch.

Gradients come from the derived kernel. A gradient that is to be differentiated again is computed through the
equations, so that any order is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatewright.backends.call import Call, Result, Weights
from gatewright.backends.cpu import engine, launch, threads
from gatewright.backends.cpu.tiling import Shape
from gatewright.backends.eager import EagerBackend
from gatewright.compiler.graph import Graph
from gatewright.compiler.interpret import GraphCell
from gatewright.compiler.schedule import schedule

WEIGHTS = 5
"""weight_ih, weight_hh, bias_ih, bias_hh, weight_hr: the weights every cell may have."""

FEWEST_STEPS = 16
SEGMENTS = 8
"""Where gates are computed again: the segments of a sequence, and the fewest steps of one."""


class Operands(NamedTuple):
    """What a pass reads, as ``Call`` has it, with the vector weights of the lowered graph."""

    x: Tensor
    weights: Any  # weight_ih, then weight_hh, bias_ih, bias_hh and weight_hr, of which any may be None
    vectors: tuple[Tensor, ...]
    states: tuple[Tensor, ...]

    def flat(self) -> tuple[Tensor | None, ...]:
        """All of them in one row."""
        return self.x, *self.weights, *self.vectors, *self.states

    @classmethod
    def of(cls, flat: Sequence[Any], vectors: int) -> Operands:
        """From one row, with so many vector weights."""
        first, second = 1 + WEIGHTS, 1 + WEIGHTS + vectors
        return cls(flat[0], tuple(flat[1:first]), tuple(flat[first:second]), tuple(flat[second:]))

    def readable(self) -> Operands:
        """As the kernels read them: no gaps between features, something where a weight is missing."""
        x = self.x.resolve_neg() if self.x.is_neg() else self.x
        x = x if x.stride(2) == 1 else x.contiguous()
        weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = self.weights
        nothing = _nothing(x.dtype)
        weight_hh = nothing if weight_hh is None else weight_hh
        bias_ih = x.new_zeros(len(weight_ih)) if bias_ih is None else bias_ih
        bias_hh = x.new_zeros(len(weight_hh)) if bias_hh is None else bias_hh
        weight_hr = nothing if weight_hr is None else weight_hr
        weights = tuple(_plain(w) for w in (weight_ih, weight_hh, bias_ih, bias_hh, weight_hr))
        vectors = tuple(_plain(vector) for vector in self.vectors)
        return Operands(x, weights, vectors, tuple(_plain(state) for state in self.states))

    def sizes(self, graph: Graph) -> tuple[int, int, int, int, int, bool]:
        """T, B, I, H, P, and whether the output is projected."""
        hidden = self.weights[0].shape[0] // len(graph.input_maps)
        width = self.states[graph.state_index(graph.output)].shape[1]
        steps, batch, features = self.x.shape
        return steps, batch, features, hidden, width, self.weights[4] is not None


def _plain(tensor: Tensor) -> Tensor:
    """A tensor whose memory is its values, one behind the other."""
    return tensor.resolve_neg().contiguous() if tensor.is_neg() else tensor.contiguous()


@lru_cache(maxsize=2)
def _nothing(dtype: torch.dtype) -> Tensor:
    """A weight of no size."""
    return torch.empty(0, dtype=dtype, device="cpu")


class Pass(NamedTuple):
    """What a forward pass gives, and what it keeps for the gradient.

    Attributes:
        y: the output.
        final: the final states.
        kept: the saved nodes, when there are any, then the values of the states that are no output, then the
            output before it is projected.
    """

    y: Tensor
    final: tuple[Tensor, ...]
    kept: tuple[Tensor, ...] = ()


def hoisted(cell: str, *weights: Tensor) -> tuple[Tensor, ...]:
    """The vector weights of the lowered graph, from those of the cell in their order."""
    graph = graph_of(cell)
    return schedule(graph).lowered.vectors(dict(zip(graph.vector_weights, weights, strict=True)))


@lru_cache(maxsize=256)
def graph_of(cell: str) -> Graph:
    """The graph of a text."""
    return Graph.from_json(cell)


def operands_of(call: Call, hoist: Callable[..., tuple[Tensor, ...]] = hoisted) -> Operands:
    """The operands of a call; expressions of vector weights are computed here, once, by ``hoist``."""
    weights = call.weights
    vectors = ()
    if call.cell.graph.vector_weights:
        given = (weights.vectors[name] for name in call.cell.graph.vector_weights)
        vectors = hoist(call.cell.serialized, *given)
    maps = (weights.weight_ih, weights.weight_hh, weights.bias_ih, weights.bias_hh, weights.weight_hr)
    return Operands(call.x, maps, vectors, call.states)


def records_gradient(operands: Operands) -> bool:
    """Whether autograd will ask for gradients of a call."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands.flat())


def run(call: Call) -> Result:
    """Run a call on the kernels."""
    operands = operands_of(call)
    if records_gradient(operands):
        function = _Recomputed if call.recompute else _Sequence
        y, *final = function.apply(call.cell.graph, call.reverse, len(operands.vectors), *operands.flat())
        return y, tuple(final)
    found = forward_pass(call.cell.graph, call.reverse, operands, training=False)
    return found.y, found.final


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
    graph: Graph, reverse: bool, operands: Operands, *, training: bool, y: Tensor | None = None
) -> Pass:
    """Run the forward kernel.

    Args:
        graph: of the cell.
        reverse: run from the last step to the first.
        operands: what it reads.
        training: keep what the gradient needs.
        y: where the output is to stand, ``[T, B, P]``, or None.

    Returns:
        Output, final states and what was kept.
    """
    if 0 in operands.x.shape[:2]:
        return _empty_pass(graph, operands, training)
    prepared = launch.forward(*_key(graph, operands), training)
    return Pass(*prepared(reverse, operands.readable(), y))


def _empty_pass(graph: Graph, operands: Operands, training: bool) -> Pass:
    """No steps or no rows: the states are handed through."""
    shape = Shape(*operands.sizes(graph))
    widths = launch.kept_widths(schedule(graph), shape.H, shape.projected) if training else ()
    kept = tuple(operands.x.new_empty(shape.T, shape.B, width) for width in widths)
    final = tuple(state.clone() for state in operands.states)
    return Pass(operands.x.new_empty(shape.T, shape.B, shape.P), final, kept)


def backward_pass(
    graph: Graph,
    reverse: bool,
    operands: Operands,
    found: Pass,
    gradients: Sequence[Tensor | None],
    need_dx: bool,
) -> Operands:
    """Run the backward kernel.

    Args:
        graph: of the cell.
        reverse: as in the forward pass.
        operands: what the forward pass read.
        found: what it gave and kept.
        gradients: by the output and by the final states; None for zero.
        need_dx: whether the gradient by the input is wanted.

    Returns:
        The gradients by the operands; that by ``x`` is empty when it is not wanted, and there are gradients
        of weights that are missing, to be left aside.
    """
    key, operands = _key(graph, operands), operands.readable()
    dy, *dfinal = gradients
    if 0 in operands.x.shape[:2]:
        states = zip(operands.states, dfinal, strict=True)
        first = tuple(torch.zeros_like(state) if d is None else d.clone() for state, d in states)
        zero = [torch.zeros_like(tensor) for tensor in (operands.x, *operands.weights, *operands.vectors)]
        return Operands.of([*zero, *first], len(operands.vectors))
    dy = None if dy is None else dy.resolve_neg()
    if dy is not None and not any(dy.stride()):
        # the gradient of a sum: one number, expanded; a row of it is enough
        dy = dy[:1, :1].contiguous().expand(dy.shape)
    elif dy is not None and dy.stride(2) != 1:
        dy = dy.contiguous()
    dfinal = [None if d is None else _plain(d) for d in dfinal]
    prepared = launch.backward(*key)
    return Operands(*prepared(reverse, operands, found, dy, dfinal, need_dx))


def wanted(found: Operands, flat: Sequence[Tensor | None], need_dx: bool) -> list[Tensor | None]:
    """The gradients that autograd is to be given: none for what is missing or not wanted."""
    gradients = [None if t is None else g for g, t in zip(found.flat(), flat, strict=True)]
    return [gradients[0] if need_dx else None, *gradients[1:]]


def _keep(
    ctx: Any, graph: Graph, reverse: bool, vectors: int, flat: Sequence[Tensor | None], more: Sequence[Tensor]
) -> None:
    """Hand the operands, and what else a forward pass gives, to the backward pass."""
    ctx.graph, ctx.reverse, ctx.vectors, ctx.count = graph, reverse, vectors, len(flat)
    # a gradient that is zero is left out rather than filled
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*flat, *more)


class _Sequence(torch.autograd.Function):
    """One layer of one direction over a whole sequence."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, reverse: bool, vectors: int, *flat: Tensor | None) -> Any:
        found = forward_pass(graph, reverse, Operands.of(flat, vectors), training=True)
        _keep(ctx, graph, reverse, vectors, flat, (found.y, *found.kept))
        return found.y, *found.final

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        stored = ctx.saved_tensors
        flat = stored[: ctx.count]
        operands = Operands.of(flat, ctx.vectors)
        if torch.is_grad_enabled():
            return None, None, None, *through_equations(ctx.graph, ctx.reverse, operands, gradients)
        found = Pass(stored[ctx.count], (), stored[ctx.count + 1 :])
        need_dx = ctx.needs_input_grad[3]
        given = backward_pass(ctx.graph, ctx.reverse, operands, found, gradients, need_dx)
        return None, None, None, *wanted(given, flat, need_dx)


class _Recomputed(torch.autograd.Function):
    """As ``_Sequence``, keeping outputs only: each segment is run again before its gradient."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, reverse: bool, vectors: int, *flat: Tensor | None) -> Any:
        operands = Operands.of(flat, vectors)
        x, states = operands.x, operands.states
        y = launch.output(x.shape[0], x.shape[1], operands.sizes(graph)[4], x.dtype)
        first = []
        for part in _segments(x.shape[0], reverse):
            first.append(states)
            given = operands._replace(x=x[part], states=states)
            states = forward_pass(graph, reverse, given, training=False, y=y[part]).final
        _keep(ctx, graph, reverse, vectors, flat, [state for row in first[1:] for state in row])
        return y, *states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        stored = ctx.saved_tensors
        flat = stored[: ctx.count]
        operands = Operands.of(flat, ctx.vectors)
        if torch.is_grad_enabled():
            return None, None, None, *through_equations(ctx.graph, ctx.reverse, operands, gradients)
        dy, *dfinal = gradients
        count, x, need_dx = len(operands.states), operands.x, ctx.needs_input_grad[3]
        between = stored[ctx.count :]
        first = [operands.states, *(between[i : i + count] for i in range(0, len(between), count))]
        total: list[Any] = [None] * len(flat)
        parts = _segments(x.shape[0], ctx.reverse)
        dx = torch.empty_like(x) if need_dx else None
        for part, states in reversed(list(zip(parts, first, strict=True))):
            given = operands._replace(x=x[part], states=states)
            found = forward_pass(ctx.graph, ctx.reverse, given, training=True)
            from_output = None if dy is None else dy[part]
            d = backward_pass(ctx.graph, ctx.reverse, given, found, (from_output, *dfinal), need_dx)
            dfinal = list(d.states)
            if dx is not None:
                dx[part] = d.x
            for place, gradient in enumerate((*d.weights, *d.vectors), start=1):
                known = total[place]
                total[place] = gradient if known is None else known.add_(gradient)
        found = Operands.of([dx, *total[1 : len(flat) - count], *dfinal], ctx.vectors)
        return None, None, None, *wanted(found, flat, need_dx)


def _segments(steps: int, reverse: bool) -> list[slice]:
    """Parts of a sequence in the order in which they are run."""
    length = max(FEWEST_STEPS, -(-steps // SEGMENTS))
    if not reverse:
        return [slice(start, min(steps, start + length)) for start in range(0, max(steps, 1), length)]
    return [slice(max(0, stop - length), stop) for stop in range(max(steps, 1), 0, -length)]


def through_equations(
    graph: Graph, reverse: bool, operands: Operands, gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again: those of the equations, run step by step."""
    lowered = schedule(graph).graph
    with torch.enable_grad():
        # each operand under a name of its own: what leads from one to another is autograd's to follow
        flat = [None if tensor is None else tensor.view_as(tensor) for tensor in operands.flat()]
        operands = Operands.of(flat, len(operands.vectors))
        vectors = dict(zip(lowered.vector_weights, operands.vectors, strict=True))
        weights = Weights(*operands.weights, vectors=vectors)
        call = Call(GraphCell(lowered), operands.x, weights, operands.states, reverse)
        y, final = EagerBackend().run(call)
        results = [(o, g) for o, g in zip((y, *final), gradients, strict=True) if g is not None]
        found = iter(
            torch.autograd.grad(
                [o for o, _ in results],
                [tensor for tensor in flat if tensor is not None and tensor.requires_grad],
                [g for _, g in results],
                create_graph=True,
                allow_unused=True,
            )
        )
    return [next(found) if tensor is not None and tensor.requires_grad else None for tensor in flat]
