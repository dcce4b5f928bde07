"""What a backend is given: one layer of one direction over a whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from gatewright.compiler.interpret import GraphCell
from gatewright.compiler.language import Cell


# not frozen, as both are made in every call and a frozen one takes four times as long to make
@dataclass(slots=True, eq=False)
class Weights:
    """The parameters of one layer in one direction.

    Attributes:
        weight_ih: ``[maps·H, I]``, rows in the order of the graph's input maps.
        weight_hh: ``[maps·H, P]`` with ``P`` the size of the output state, or None without recurrent maps.
        bias_ih: ``[maps·H]`` or None.
        bias_hh: ``[maps·H]`` or None.
        weight_hr: ``[P, H]``, the projection of the output state, or None.
        vectors: the vector weights by name, each ``[H]``.
    """

    weight_ih: Tensor
    weight_hh: Tensor | None
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    weight_hr: Tensor | None = None
    vectors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def maps(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """All but the vector weights, in torch's order."""
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.weight_hr


@dataclass(slots=True, eq=False)
class Call:
    """One layer of one direction over a whole sequence.

    Attributes:
        cell: the cell, or a graph made from one.
        x: ``[T, B, I]``; for a packed sequence ``[sum of batch_sizes, I]``.
        weights: the parameters.
        states: the initial value of each state, ``[B, H]`` (``[B, P]`` for a projected output).
        reverse: run from the last step to the first; outputs stand where their inputs stand.
        batch_sizes: for a packed sequence, how many rows are active at each step, never growing.
        recompute: keep outputs only for the gradient, and compute the rest again; no effect where torch
            traces or torch.func transforms.
        masks: in the order of the graph's: ``[T, B]``, ``[B, H]`` or ``[T, B, H]`` by their kind; of a packed
            sequence too, where the rows of a step are the first ones.
        lengths: behind so many steps of each row the masks hold its states, so that a backend need not run
            them; a backend may ignore it.
        every: give the states of every step instead of the final ones.
    """

    cell: Cell | GraphCell
    x: Tensor
    weights: Weights
    states: tuple[Tensor, ...]
    reverse: bool = False
    batch_sizes: tuple[int, ...] | None = None
    recompute: bool = False
    masks: tuple[Tensor, ...] = ()
    lengths: tuple[int, ...] | None = None
    every: bool = False

    def tensors(self) -> tuple[Tensor | None, ...]:
        """All that is read: input, maps, of which some may be missing, vector weights, states and masks."""
        return self.x, *self.weights.maps, *self.weights.vectors.values(), *self.states, *self.masks

    def changed(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The same call with every tensor changed by a function."""
        maps = (None if tensor is None else change(tensor) for tensor in self.weights.maps)
        vectors = {name: change(vector) for name, vector in self.weights.vectors.items()}
        return replace(
            self,
            x=change(self.x),
            weights=Weights(*maps, vectors=vectors),  # type: ignore[arg-type]
            states=tuple(map(change, self.states)),
            masks=tuple(map(change, self.masks)),
        )


Result = tuple[Tensor, tuple[Tensor, ...]]
"""The output, laid out as ``Call.x``, and of each state the final value, or ``[T, B, ·]`` with ``every``."""


def states_of(call: Call, y: Tensor, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The states that a call gives, the output among those of every step."""
    if not call.every:
        return tuple(states)
    others, graph = iter(states), call.cell.graph
    return tuple([y if name == graph.output else next(others) for name in graph.states])


class Backend(Protocol):
    """A way to run a call.

    Attributes:
        name: by which it is asked for.
        devices: types of those that ``"auto"`` takes it for; empty for all.
        comment: what begins a comment in the code that it generates.
    """

    name: str
    devices: tuple[str, ...]
    comment: str

    def refusal(self, call: Call) -> str | None:
        """Why this backend cannot run the call, or None when it can."""
        ...

    def describe(self, call: Call) -> tuple[str, ...]:
        """How the call runs: a line each for what a user may want to know of it."""
        ...

    def kernel_source(self, call: Call) -> str:
        """The code that is generated for the call, empty where none is."""
        ...

    def run(self, call: Call) -> Result:
        """Run the call."""
        ...


def following_refusal() -> str | None:
    """Why kernels that only autograd understands cannot run: someone follows the call in another way."""
    if torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack():
        return "what is traced or followed operation by operation needs torch's operations"
    if torch.autograd.forward_ad._current_level >= 0:
        return "its kernels have no derivative in forward mode"
    return transform_refusal()


def transform_refusal() -> str | None:
    """Why kernels that only autograd understands cannot run: a transform of torch.func is at work."""
    if torch._C._functorch.peek_interpreter_stack() is None:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    return "torch.func cannot transform its kernels"
