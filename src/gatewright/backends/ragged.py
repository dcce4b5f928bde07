"""Rows of different lengths: what is behind the end of a row is not run.

The masks of a call hold the states of a row behind its end, so that all steps of all rows could be run. Here
the rows are sorted by length and the sequence is cut into parts, each run with the rows that have not ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatewright.backends.call import Call, Result
from gatewright.backends.cpu import memory
from gatewright.backends.sequence import (
    Operands,
    Pass,
    Passes,
    Way,
    keep,
    kept_of,
    operands_of,
    records_gradient,
    states_of,
    through_equations,
    wanted,
)
from gatewright.compiler.graph import Graph

MOST_PARTS = 16
"""The finest cut: sixteen parts of equal length."""

ROW_BLOCK = 4
"""Rows come in such blocks, so that few shapes of kernels are needed; the masks hold those too many."""

PART_STEPS, PART_PRODUCTS = 8, 2_000_000
"""What a part costs beside its steps: so many steps of a row (packing weights, adding gradients), and as
long as so many multiplications take (calling the kernels)."""


class Part(NamedTuple):
    """Steps that are run with the first so many rows."""

    steps: slice
    rows: int


class Plan(NamedTuple):
    """How a ragged batch is run.

    Attributes:
        order: of the rows, the longest first; None where they stand so.
        back: the place of each row in that order.
        parts: of the sequence, in the order of time; together all steps.
    """

    order: Tensor | None
    back: Tensor | None
    parts: tuple[Part, ...]


def make_plan(lengths: Sequence[int], steps: int, products: int, device: torch.device) -> Plan | None:
    """The cheapest cut of a batch, or None where nothing is saved.

    Args:
        lengths: of each row.
        steps: of the sequence.
        products: multiplications of a step of a row.
        device: of the batch.

    Returns:
        A plan.
    """
    batch = len(lengths)
    order = sorted(range(batch), key=lambda row: -lengths[row])
    cost = PART_STEPS + PART_PRODUCTS // max(1, products)
    parts = _parts([lengths[row] for row in order], steps, cost)
    if not parts or all(part.rows == batch for part in parts):
        return None
    if order == list(range(batch)):
        return Plan(None, None, parts)
    index = torch.tensor(order, device=device)
    back = torch.empty_like(index)
    back[index] = torch.arange(batch, device=device)
    return Plan(index, back, parts)


def _parts(lengths: Sequence[int], steps: int, cost: int) -> tuple[Part, ...]:
    """The cut of least cost, by dynamic programming over the finest one.

    Args:
        lengths: the longest first.
        steps: of the sequence.
        cost: of a part beside its steps, in rows times steps.

    Returns:
        The parts.
    """
    size = max(1, -(-steps // MOST_PARTS))
    bounds = [*range(0, steps, size), steps]
    active, place = [], len(lengths)
    for start in bounds[:-1]:
        while place and lengths[place - 1] <= start:
            place -= 1
        active.append(min(len(lengths), -(-place // ROW_BLOCK) * ROW_BLOCK))
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(bounds)):
        # a part runs with the rows of its first step: later ones have no more
        costs = (
            (
                best[start][0] + active[start] * (bounds[stop] - bounds[start]) + cost * bool(active[start]),
                start,
            )
            for start in range(stop)
        )
        best.append(min(costs))
    parts, stop = [], len(bounds) - 1
    while stop:
        start = best[stop][1]
        parts.append(Part(slice(bounds[start], bounds[stop]), active[start]))
        stop = start
    return tuple(reversed(parts))


def sorted_rows(graph: Graph, operands: Operands, order: Tensor | None) -> Operands:
    """The operands with their rows in another order."""
    if order is None:
        return operands
    kinds = (kind for kind, _ in graph.masks)
    return operands._replace(
        x=_gathered(operands.x, 1, order),
        states=tuple(_gathered(state, 0, order) for state in operands.states),
        masks=tuple(
            _gathered(mask, 0 if kind == "unit_mask" else 1, order)
            for kind, mask in zip(kinds, operands.masks, strict=True)
        ),
    )


def _gathered(tensor: Tensor, dimension: int, order: Tensor) -> Tensor:
    """A tensor with its rows in another order, in memory that has been touched before."""
    if not any(tensor.stride()):
        return tensor
    return torch.index_select(tensor, dimension, order, out=memory.like(tensor))


def _rows(graph: Graph, operands: Operands, part: Part, states: Sequence[Tensor]) -> Operands:
    """The operands of a part, which begins with these states of all rows."""
    cut = operands.part(graph, part.steps, tuple(state[: part.rows] for state in states))
    kinds = (kind for kind, _ in graph.masks)
    masks = (
        mask[: part.rows] if kind == "unit_mask" else mask[:, : part.rows]
        for kind, mask in zip(kinds, cut.masks, strict=True)
    )
    return cut._replace(x=cut.x[:, : part.rows], masks=tuple(masks))


def run(call: Call, passes: Passes, plan: Plan) -> Result:
    """Run a call by parts on the kernels of a backend."""
    operands = operands_of(call)
    counts = len(operands.vectors), len(operands.masks)
    way = Way(passes, call.cell.graph, call.reverse, call.every, *counts)
    if records_gradient(operands):
        y, *states = Ragged.apply(way, plan, True, *operands.flat())
    else:
        y, *states = Ragged.forward(None, way, plan, False, *operands.flat())
    return y, states_of(call, y, states)


class Ragged(torch.autograd.Function):
    """One layer of one direction over rows of different lengths."""

    @staticmethod
    def forward(ctx: Any, way: Way, plan: Plan, training: bool, *flat: Tensor | None) -> Any:
        """The output, then the states."""
        operands = Operands.of(flat, way.vectors, way.masks)
        given = sorted_rows(way.graph, operands, plan.order)
        y, others, states, more = _forward(way, plan, given, training)
        results = (y, *(others if way.every else states))
        if training:
            keep(ctx, way, flat, (given.x, *given.states, *given.masks, y, *more))
            ctx.plan = plan
        if plan.back is None:
            return results
        steps = len(results) if way.every else 1
        return tuple(_gathered(t, 1 if i < steps else 0, plan.back) for i, t in enumerate(results))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        """The gradients of the operands."""
        way, flat, operands, more = kept_of(ctx)
        plan: Plan = ctx.plan
        if torch.is_grad_enabled():
            return None, None, None, *through_equations(way, operands, gradients)
        count, masks = len(operands.states), way.masks
        given = operands._replace(
            x=more[0], states=tuple(more[1 : 1 + count]), masks=tuple(more[1 + count : 1 + count + masks])
        )
        y, saved = more[1 + count + masks], more[2 + count + masks :]
        if plan.order is not None:
            steps = len(gradients) if way.every else 1
            gradients = tuple(
                None if g is None else _gathered(g, 1 if i < steps else 0, plan.order)
                for i, g in enumerate(gradients)
            )
        need_dx = ctx.needs_input_grad[3]
        found = _backward(way, plan, given, y, saved, gradients, need_dx)
        if plan.back is not None:
            found = found._replace(states=tuple(s.index_select(0, plan.back) for s in found.states))
        return None, None, None, *wanted(found, flat, need_dx)


def _forward(
    way: Way, plan: Plan, operands: Operands, training: bool
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """The output, the other states of every step, the final states, and what each part needs backward."""
    graph, output = way.graph, way.graph.state_index(way.graph.output)
    y = way.passes.output(graph, operands)
    states = [state.clone() for state in operands.states]
    steps = operands.x.shape[0]
    values = {i: y if i == output else y.new_empty(steps, *state.shape) for i, state in enumerate(states)}
    shown = values if way.every else {output: y}
    more: list[Tensor] = []
    for part in reversed(plan.parts) if way.reverse else plan.parts:
        rows = part.rows
        if rows:
            given = _rows(graph, operands, part, states)
            if training:
                # states are overwritten below: the gradient needs those that a part began with
                given = given._replace(states=tuple(state.clone() for state in given.states))
            into = y[part.steps, :rows]
            found = way.passes.forward_pass(
                graph, way.reverse, given, training=training, every=way.every, y=into
            )
            for state, last in zip(states, found.final, strict=True):
                state[:rows] = last
            others = (i for i in range(len(states)) if i != output)
            for i, value in zip(others, found.every, strict=False):
                values[i][part.steps, :rows] = value
            if training:
                more += [*given.states, *found.kept]
        for i, value in shown.items():
            value[part.steps, rows:] = states[i][rows:]
    return y, [values[i] for i in range(len(states)) if i != output], states, more


def _backward(
    way: Way,
    plan: Plan,
    operands: Operands,
    y: Tensor,
    saved: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    need_dx: bool,
) -> Operands:
    graph, count = way.graph, len(operands.states)
    output = graph.state_index(graph.output)
    others = [i for i in range(count) if i != output]
    # the gradients by the values of every step, and those by the states behind the part that is next
    by_steps = dict(zip([output, *others] if way.every else [output], gradients, strict=False))
    final = [None] * count if way.every else gradients[1:]
    carry = [
        torch.zeros_like(state) if d is None else d.clone()
        for state, d in zip(operands.states, final, strict=True)
    ]
    x = operands.x
    dx = memory.like(x).zero_() if need_dx else x.new_empty(0)
    total: list[Tensor | None] = []
    run = [part for part in plan.parts if part.rows]
    share = len(saved) // max(1, len(run))
    order = list(reversed(plan.parts)) if way.reverse else list(plan.parts)
    place = len(run)
    for part in reversed(order):
        rows = part.rows
        for i, gradient in by_steps.items():
            if gradient is not None and rows < x.shape[1]:
                carry[i][rows:] += gradient[part.steps, rows:].sum(0)
        if not rows:
            continue
        place -= 1
        stored = saved[place * share : (place + 1) * share]
        given = _rows(graph, operands, part, stored[:count])
        found = Pass(y[part.steps, :rows], (), tuple(stored[count:]))
        steps = {i: None if g is None else g[part.steps, :rows] for i, g in by_steps.items()}
        last = [c[:rows].clone() for c in carry]
        if way.every:
            steps = {i: _with_last(g, given, last[i], way.reverse) for i, g in steps.items()}
        d = way.passes.backward_pass(
            graph,
            way.reverse,
            given,
            found,
            [*steps.values(), *([] if way.every else last)],
            need_dx,
            way.every,
        )
        for c, first in zip(carry, d.states, strict=True):
            c[:rows] = first
        if need_dx and plan.order is None:
            dx[part.steps, :rows] = d.x
        elif need_dx:
            # back into the caller's order at once
            dx[part.steps].index_copy_(1, plan.order[:rows], d.x)
        new = [*d.weights, *d.vectors]
        total = new if not total else [n if t is None else t.add_(n) for t, n in zip(total, new, strict=True)]
    if not total:
        total = [None if t is None else torch.zeros_like(t) for t in (*operands.weights, *operands.vectors)]
    return Operands.of([dx, *total, *carry], way.vectors, 0)


def _with_last(gradient: Tensor | None, given: Operands, last: Tensor, reverse: bool) -> Tensor:
    """A gradient by the values of every step, with that by the state behind the last one that is run."""
    steps = given.x.shape[0]
    whole = last.new_zeros(steps, *last.shape) if gradient is None else gradient.clone()
    whole[0 if reverse else -1] += last
    return whole
