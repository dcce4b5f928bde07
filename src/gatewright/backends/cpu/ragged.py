"""Rows of different lengths: what is behind the end of a row is not run.

The masks of a call hold the states of a row behind its end, so that all steps of all rows could be run. The
kernels leave out what no row of a tile needs; here the rows are dealt out so that long ones stand together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatewright.backends.call import Call, Result, states_of
from gatewright.backends.cpu import memory, passes
from gatewright.backends.cpu.sections import row_order
from gatewright.backends.sequence import (
    Ends,
    Operands,
    Pass,
    Way,
    keep,
    kept_of,
    operands_of,
    records_gradient,
    through_equations,
    wanted,
)
from gatewright.compiler.graph import Graph

WORTH = 0.95
"""Of all steps of all rows: where more are to be run, none is left out."""


class Deal(NamedTuple):
    """How rows are dealt out.

    Attributes:
        order: of the rows.
        back: the place of each row in that order.
        ends: of the rows in that order.
    """

    order: Tensor
    back: Tensor
    ends: Ends


def is_worth(call: Call) -> bool:
    """Whether leaving out what is behind the ends of rows saves more than dealing them out costs."""
    if call.lengths is None:
        return False
    steps, batch = call.x.shape[:2]
    return sum(call.lengths) < WORTH * steps * batch


def run(call: Call) -> Result:
    """Run a call whose rows end at different steps."""
    assert call.lengths is not None
    operands, graph = operands_of(call), call.cell.graph
    sections = passes.row_groups(graph, operands)
    order = row_order(call.lengths, sections)
    index = torch.tensor(order, device=call.x.device)
    back = torch.empty_like(index)
    back[index] = torch.arange(len(order), device=call.x.device)
    deal = Deal(index, back, Ends(tuple(call.lengths[row] for row in order), sections))
    counts = len(operands.vectors), len(operands.masks)
    way = Way(passes, graph, call.reverse, call.every, *counts)
    if records_gradient(operands):
        y, *states = _Ragged.apply(way, deal, *operands.flat())
        return y, states_of(call, y, states)
    found = _forward(way, _dealt(graph, operands, deal), training=False)
    y, *states = _results(way.every, deal, found)
    return y, states_of(call, y, states)


class _Ragged(torch.autograd.Function):
    """One layer of one direction over rows of different lengths."""

    @staticmethod
    def forward(ctx: Any, way: Way, deal: Deal, *flat: Tensor | None) -> Any:
        given = _dealt(way.graph, Operands.of(flat, way.vectors, way.masks), deal)
        found = _forward(way, given, training=True)
        keep(ctx, way, flat, (given.x, *given.states, *given.masks, found.y, *found.kept))
        ctx.deal = deal
        return _results(way.every, deal, found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        way, flat, operands, more = kept_of(ctx)
        if torch.is_grad_enabled():
            return None, None, *through_equations(way, operands, gradients)
        states = 1 + len(operands.states)
        masks = states + way.masks
        deal: Deal = ctx.deal
        given = Operands(
            more[0],
            operands.weights,
            operands.vectors,
            tuple(more[1:states]),
            tuple(more[states:masks]),
            deal.ends,
        )
        by_steps = len(gradients) if way.every else 1
        dealt = [
            None if g is None else _gathered(g, 1 if i < by_steps else 0, deal.order)
            for i, g in enumerate(gradients)
        ]
        need_dx = ctx.needs_input_grad[2]
        found = way.passes.backward_pass(
            way.graph,
            way.reverse,
            given,
            Pass(more[masks], (), tuple(more[masks + 1 :])),
            dealt,
            need_dx,
            way.every,
        )
        dx = _gathered(found.x, 1, deal.back) if need_dx else found.x
        found = found._replace(x=dx, states=tuple(_gathered(s, 0, deal.back) for s in found.states))
        return None, None, *wanted(found, flat, need_dx)


def _forward(way: Way, operands: Operands, *, training: bool) -> Pass:
    return way.passes.forward_pass(way.graph, way.reverse, operands, training=training, every=way.every)


def _results(every: bool, deal: Deal, found: Pass) -> tuple[Tensor, ...]:
    """The output and the states, their rows in the caller's order."""
    y = _gathered(found.y, 1, deal.back)
    if every:
        return y, *(_gathered(values, 1, deal.back) for values in found.every)
    return y, *(_gathered(state, 0, deal.back) for state in found.final)


def _dealt(graph: Graph, operands: Operands, deal: Deal) -> Operands:
    """The operands with their rows in another order, and where they end."""
    kinds, order = (kind for kind, _ in graph.masks), deal.order
    return operands._replace(
        x=_gathered(operands.x, 1, order),
        states=tuple(_gathered(state, 0, order) for state in operands.states),
        masks=tuple(
            _gathered(mask, 0 if kind == "unit_mask" else 1, order)
            for kind, mask in zip(kinds, operands.masks, strict=True)
        ),
        ends=deal.ends,
    )


def _gathered(tensor: Tensor, dimension: int, order: Tensor) -> Tensor:
    """A tensor with its rows in another order, in memory that has been touched before."""
    if not any(tensor.stride()):
        # one number, expanded
        return tensor
    return torch.index_select(tensor, dimension, order, out=memory.like(tensor))
