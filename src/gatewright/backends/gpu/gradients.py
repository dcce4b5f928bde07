"""Behind the loop: gradients of the weights, of the input and of the initial states, as products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gatewright.compiler.schedule import Schedule


class Adjoints:
    """What the backward loop found.

    Args:
        plan: of the cell.
        values: ``[T, B, segments, H]``.
        reverse: whether the sequence was run from its last step to its first.
    """

    def __init__(self, plan: Schedule, values: Tensor, reverse: bool) -> None:
        self.plan, self.values, self.reverse = plan, values, reverse
        self.inputs = [segment for segment in plan.segments if segment.input_map is not None]
        self.sums = values.sum((0, 1), dtype=torch.float32)
        self.place = {s.recurrent_map: i for i, s in enumerate(plan.segments) if s.recurrent_map is not None}

    def of_input(self, weight_ih: Tensor) -> Tensor:
        """The gradient by the input, ``[T, B, I]``."""
        count, hidden = len(self.inputs), self.values.shape[3]
        order = [segment.input_map for segment in self.inputs]
        weights = weight_ih.view(count, hidden, -1)[order].reshape(count * hidden, -1)
        return self.values.flatten(2)[:, :, : count * hidden] @ weights

    def of_input_weights(self, x: Tensor) -> Tensor:
        """The gradient by ``weight_ih``."""
        count, hidden = len(self.inputs), self.values.shape[3]
        left = self.values.flatten(2).flatten(0, 1)[:, : count * hidden]
        found = (left.T @ x.flatten(0, 1)).view(count, hidden, -1)
        return _ordered(found, [segment.input_map for segment in self.inputs])

    def of_recurrent_weights(self, like: Tensor, old: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The gradient by ``weight_hh``.

        Args:
            like: ``weight_hh``.
            old: of each state its values behind the steps ``[T, B, H]`` and before the first ``[B, H]``.

        Returns:
            A tensor like ``weight_hh``.
        """
        found, hidden, width = torch.empty_like(like), self.values.shape[3], like.shape[1]
        argument = {s.group: i for i, s in enumerate(self.plan.segments) if s.group is not None}
        for number, group in enumerate(self.plan.groups):
            node = self.plan.nodes[group.argument]
            for place in group.maps:
                left = self.values[:, :, self.place[place]]
                target = found[place * hidden : (place + 1) * hidden].view(hidden // width, width, width)
                if node.operation == "state":
                    after, first = old[self.plan.graph.state_index(node.name)]
                    torch.bmm(_heads(self._first(left), width).mT, _heads(first, width), out=target)
                    later, before = (left[:-1], after[1:]) if self.reverse else (left[1:], after[:-1])
                    later, before = (_heads(t.flatten(0, 1), width) for t in (later, before))
                    target.baddbmm_(later.mT, before)
                else:
                    pair = (left, self.values[:, :, argument[number]])
                    left, right = (_heads(t.flatten(0, 1), width) for t in pair)
                    torch.bmm(left.mT, right, out=target)
        return found

    def of_input_bias(self) -> Tensor:
        """The gradient by ``bias_ih``."""
        sums = self.sums[: len(self.inputs)]
        return _ordered(sums, [segment.input_map for segment in self.inputs]).to(self.values.dtype)

    def of_recurrent_bias(self) -> Tensor:
        """The gradient by ``bias_hh``."""
        return torch.cat([self.sums[self.place[i]] for i in range(len(self.place))]).to(self.values.dtype)

    def of_vectors(self) -> list[Tensor]:
        """The gradients by the vector weights of the lowered graph."""
        places = {
            segment.vector: i for i, segment in enumerate(self.plan.segments) if segment.vector is not None
        }
        return [self.sums[places[i]].to(self.values.dtype, copy=True) for i in range(len(places))]

    def of_first_state(self, i: int, carry: Tensor, weight_hh: Tensor | None) -> Tensor:
        """The gradient by an initial state: what the first step handed on, and what its products give."""
        hidden = self.values.shape[3]
        for name in self.plan.derivative.state_maps[i]:
            assert weight_hh is not None
            place = self.plan.graph.recurrent_maps.index(name)
            width = weight_hh.shape[1]
            weight = weight_hh[place * hidden : (place + 1) * hidden].view(-1, width, width)
            adjoint = _heads(self._first(self.values[:, :, self.place[place]]), width)
            carry = carry + torch.bmm(adjoint.float(), weight.float()).transpose(0, 1).flatten(1)
        return carry.to(self.values.dtype)

    def _first(self, values: Tensor) -> Tensor:
        return values[-1 if self.reverse else 0]


def _heads(rows: Tensor, width: int) -> Tensor:
    """Rows ``[N, H]`` by heads, ``[heads, N, width]``."""
    return rows.unflatten(-1, (-1, width)).transpose(0, 1)


def _ordered(found: Tensor, order: Sequence[int | None]) -> Tensor:
    """Blocks of rows that stand in this order, in the order of the maps."""
    back = sorted(range(len(order)), key=lambda place: order[place] or 0)
    return found[back].flatten(0, 1)
