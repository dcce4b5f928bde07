"""Kernels over a whole sequence as one differentiable function of torch.

A backend brings the two passes; what is kept for the gradient is its own affair.
Gradients come from the derived kernel. A gradient that is to be differentiated again is computed through the
equations, so that any order is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gatewright.backends.call import Call, Result, Weights, states_of
from gatewright.backends.eager import EagerBackend
from gatewright.compiler.graph import Graph
from gatewright.compiler.interpret import GraphCell
from gatewright.compiler.schedule import schedule

WEIGHTS = 5
"""weight_ih, weight_hh, bias_ih, bias_hh, weight_hr: the weights every cell may have."""

FEWEST_STEPS = 16
SEGMENTS = 8
"""Where gates are computed again: the segments of a sequence, and the fewest steps of one."""


class Ends(NamedTuple):
    """Where the rows of a batch end.

    Attributes:
        lengths: behind so many steps of each row the masks hold its states.
        sections: of equal size, within each of which lengths fall.
    """

    lengths: tuple[int, ...]
    sections: int


class Operands(NamedTuple):
    """What a pass reads, as ``Call`` has it, with the vector weights of the lowered graph.

    ``ends`` is where the rows end, if a pass may leave out what is behind.
    """

    x: Tensor
    weights: Any  # weight_ih, then weight_hh, bias_ih, bias_hh and weight_hr, of which any may be None
    vectors: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    masks: tuple[Tensor, ...] = ()
    ends: Ends | None = None

    def flat(self) -> tuple[Tensor | None, ...]:
        """All of them in one row."""
        return self.x, *self.weights, *self.vectors, *self.states, *self.masks

    @classmethod
    def of(cls, flat: Sequence[Any], vectors: int, masks: int) -> Operands:
        """From one row, with so many vector weights and masks."""
        first, second, third = 1 + WEIGHTS, 1 + WEIGHTS + vectors, len(flat) - masks
        weights, states = tuple(flat[1:first]), tuple(flat[second:third])
        return cls(flat[0], weights, tuple(flat[first:second]), states, tuple(flat[third:]))

    def part(self, graph: Graph, steps: slice, states: tuple[Tensor, ...]) -> Operands:
        """Those of some of the steps, which begin with these states."""
        kinds = (kind for kind, _ in graph.masks)
        masks = (m if kind == "unit_mask" else m[steps] for kind, m in zip(kinds, self.masks, strict=True))
        return self._replace(x=self.x[steps], states=states, masks=tuple(masks))

    def sizes(self, graph: Graph) -> tuple[int, int, int, int, int, bool]:
        """T, B, I, H, P, and whether the output is projected."""
        hidden = self.weights[0].shape[0] // len(graph.input_maps)
        width = self.states[graph.state_index(graph.output)].shape[1]
        steps, batch, features = self.x.shape
        return steps, batch, features, hidden, width, self.weights[4] is not None


class Pass(NamedTuple):
    """What a forward pass gives, and what it keeps for the gradient.

    Attributes:
        y: the output.
        final: the final states.
        kept: the saved nodes, when there are any, then the values of the states that are no output, then the
            output before it is projected.
        every: the values of the states that are no output, where they were asked for.
    """

    y: Tensor
    final: tuple[Tensor, ...]
    kept: tuple[Tensor, ...] = ()
    every: tuple[Tensor, ...] = ()


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
    vectors = ()
    if call.cell.graph.vector_weights:
        given = (call.weights.vectors[name] for name in call.cell.graph.vector_weights)
        vectors = hoist(call.cell.serialized, *given)
    return Operands(call.x, call.weights.maps, vectors, call.states, call.masks)


def records_gradient(operands: Operands) -> bool:
    """Whether autograd will ask for gradients of a call."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in operands.flat())


class Passes(Protocol):
    """What runs the kernels of a backend."""

    def forward_pass(
        self,
        graph: Graph,
        reverse: bool,
        operands: Operands,
        *,
        training: bool,
        every: bool = False,
        y: Tensor | None = None,
    ) -> Pass:
        """Run from the first step to the last, and keep what the gradient needs where ``training``.

        With ``every`` the states of every step are given; ``y`` is where the output is to stand,
        ``[T, B, P]``, if that is known.
        """
        ...

    def backward_pass(
        self,
        graph: Graph,
        reverse: bool,
        operands: Operands,
        found: Pass,
        gradients: Sequence[Tensor | None],
        need_dx: bool,
        every: bool = False,
    ) -> Operands:
        """The gradients by the operands, from those by the output and by the final states; None for zero.

        With ``every`` they are not by the final states but by all values of those that are no output.

        That by ``x`` is empty when it is not wanted, and there are gradients of weights that are missing, to
        be left aside.
        """
        ...

    def describe(self, call: Call) -> tuple[str, ...]:
        """How a call runs, in words."""
        ...

    def kernel_source(self, call: Call) -> str:
        """The code of the forward kernels and, where gradients are recorded, of the backward kernels."""
        ...

    def output(self, graph: Graph, operands: Operands) -> Tensor:
        """An uninitialised output ``[T, B, P]``."""
        ...

    def kept(self, graph: Graph, operands: Operands) -> tuple[Tensor, ...]:
        """Uninitialised, what a forward pass keeps for the gradient."""
        ...


class Way(NamedTuple):
    """How the operands of a call are run."""

    passes: Passes
    graph: Graph
    reverse: bool
    every: bool
    vectors: int  # how many there are
    masks: int  # likewise


def run(call: Call, passes: Passes) -> Result:
    """Run a call on the kernels of a backend."""
    operands = operands_of(call)
    if records_gradient(operands):
        function = _Recomputed if call.recompute and not call.every else _Sequence
        counts = len(operands.vectors), len(operands.masks)
        way = Way(passes, call.cell.graph, call.reverse, call.every, *counts)
        y, *states = function.apply(way, *operands.flat())
        return y, states_of(call, y, states)
    found = passes.forward_pass(call.cell.graph, call.reverse, operands, training=False, every=call.every)
    return found.y, states_of(call, found.y, found.every if call.every else found.final)


def wanted(found: Operands, flat: Sequence[Tensor | None], need_dx: bool) -> list[Tensor | None]:
    """The gradients that autograd is to be given: none for what is missing or not wanted."""
    gradients = [None if t is None else g for g, t in zip(found.flat(), flat, strict=False)]
    # nothing is derived by masks, which stand last
    return [gradients[0] if need_dx else None, *gradients[1:], *[None] * (len(flat) - len(gradients))]


def keep(ctx: Any, way: Way, flat: Sequence[Tensor | None], more: Sequence[Tensor]) -> None:
    """Hand the operands, and what else a forward pass gives, to the backward pass."""
    ctx.way, ctx.count = way, len(flat)
    # a gradient that is zero is left out rather than filled
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*flat, *more)


def kept_of(ctx: Any) -> tuple[Way, Sequence[Tensor | None], Operands, Sequence[Tensor]]:
    """The way, the operands in one row and as such, and what else the forward pass gave."""
    stored, way = ctx.saved_tensors, ctx.way
    flat = stored[: ctx.count]
    return way, flat, Operands.of(flat, way.vectors, way.masks), stored[ctx.count :]


class _Sequence(torch.autograd.Function):
    """One layer of one direction over a whole sequence."""

    @staticmethod
    def forward(ctx: Any, way: Way, *flat: Tensor | None) -> Any:
        operands = Operands.of(flat, way.vectors, way.masks)
        found = way.passes.forward_pass(way.graph, way.reverse, operands, training=True, every=way.every)
        keep(ctx, way, flat, (found.y, *found.kept))
        return found.y, *(found.every if way.every else found.final)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        way, flat, operands, more = kept_of(ctx)
        if torch.is_grad_enabled():
            return None, *through_equations(way, operands, gradients)
        found = Pass(more[0], (), tuple(more[1:]))
        need_dx = ctx.needs_input_grad[1]
        given = way.passes.backward_pass(
            way.graph, way.reverse, operands, found, gradients, need_dx, way.every
        )
        return None, *wanted(given, flat, need_dx)


class _Recomputed(torch.autograd.Function):
    """As ``_Sequence``, keeping outputs only: each segment is run again before its gradient."""

    @staticmethod
    def forward(ctx: Any, way: Way, *flat: Tensor | None) -> Any:
        operands = Operands.of(flat, way.vectors, way.masks)
        x, states = operands.x, operands.states
        y = way.passes.output(way.graph, operands)
        first = []
        for part in _segments(x.shape[0], way.reverse):
            first.append(states)
            given = operands.part(way.graph, part, states)
            states = way.passes.forward_pass(way.graph, way.reverse, given, training=False, y=y[part]).final
        keep(ctx, way, flat, [state for row in first[1:] for state in row])
        return y, *states

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        way, flat, operands, more = kept_of(ctx)
        if torch.is_grad_enabled():
            return None, *through_equations(way, operands, gradients)
        dy, *dfinal = gradients
        count, x, need_dx = len(operands.states), operands.x, ctx.needs_input_grad[1]
        first = [operands.states, *(tuple(more[i : i + count]) for i in range(0, len(more), count))]
        total: list[Any] = [None] * len(flat)
        parts = _segments(x.shape[0], way.reverse)
        dx = torch.empty_like(x) if need_dx else None
        for part, states in reversed(list(zip(parts, first, strict=True))):
            given = operands.part(way.graph, part, states)
            found = way.passes.forward_pass(way.graph, way.reverse, given, training=True)
            from_output = None if dy is None else dy[part]
            d = way.passes.backward_pass(
                way.graph, way.reverse, given, found, (from_output, *dfinal), need_dx
            )
            dfinal = list(d.states)
            if dx is not None:
                dx[part] = d.x
            for place, gradient in enumerate((*d.weights, *d.vectors), start=1):
                known = total[place]
                total[place] = gradient if known is None else known.add_(gradient)
        found = Operands.of([dx, *total[1 : len(flat) - count - way.masks], *dfinal], way.vectors, 0)
        return None, *wanted(found, flat, need_dx)


def _segments(steps: int, reverse: bool) -> list[slice]:
    """Parts of a sequence in the order in which they are run."""
    length = max(FEWEST_STEPS, -(-steps // SEGMENTS))
    if not reverse:
        return [slice(start, min(steps, start + length)) for start in range(0, max(steps, 1), length)]
    return [slice(max(0, stop - length), stop) for stop in range(max(steps, 1), 0, -length)]


def through_equations(
    way: Way, operands: Operands, gradients: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again: those of the equations, run step by step."""
    lowered = schedule(way.graph).graph
    with torch.enable_grad():
        # each operand under a name of its own: what leads from one to another is autograd's to follow
        flat = [None if tensor is None else tensor.view_as(tensor) for tensor in operands.flat()]
        operands = Operands.of(flat, len(operands.vectors), len(operands.masks))
        vectors = dict(zip(lowered.vector_weights, operands.vectors, strict=True))
        weights = Weights(*operands.weights, vectors=vectors)
        cell, masks = GraphCell(lowered), operands.masks
        call = Call(cell, operands.x, weights, operands.states, way.reverse, masks=masks, every=way.every)
        y, states = EagerBackend().run(call)
        if way.every:
            output = lowered.state_index(lowered.output)
            states = tuple(state for i, state in enumerate(states) if i != output)
        results = [(o, g) for o, g in zip((y, *states), gradients, strict=True) if g is not None]
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
