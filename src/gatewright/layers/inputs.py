"""What a layer accepts: dense, unbatched or packed input and a state, checked and laid out time-major."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from gatewright.errors import InputError
from gatewright.layers.state import State

SequenceInput = Tensor | PackedSequence

StateInput = Tensor | tuple[Tensor, ...] | State


class Expectation(NamedTuple):
    """What a layer expects of its input and its state.

    Attributes:
        layer: the layer's class name, for messages.
        input_size: ``I``.
        state_sizes: the size of each state.
        state_names: the name of each state.
        rows: layers times directions, the first dimension of a state.
        batch_first: whether dense input is ``[B, T, I]``.
        projected: whether the output is projected to another size.
        cell: the name of the cell.
        dtype: of the weights.
        device: of the weights.
    """

    layer: str
    input_size: int
    state_sizes: tuple[int, ...]
    state_names: tuple[str, ...]
    rows: int
    batch_first: bool
    projected: bool
    cell: str
    dtype: torch.dtype
    device: torch.device

    def refuse(self, message: str, hint: str) -> NoReturn:
        """Raise an error that begins with the layer's name."""
        raise InputError(f"{self.layer}: {message}", hint)


class SequenceBatch(NamedTuple):
    """An input, time-major, and the way back to the caller's layout.

    Attributes:
        data: ``[T, B, I]``, or ``[N, I]`` for a packed sequence.
        batch: ``B``.
        batch_first: whether the caller's layout is ``[B, T, ·]``.
        unbatched: whether the caller gave no batch dimension.
        packed: the caller's packed sequence, if it was one.
        batch_sizes: of the packed sequence.
    """

    data: Tensor
    batch: int
    batch_first: bool = False
    unbatched: bool = False
    packed: PackedSequence | None = None
    batch_sizes: tuple[int, ...] | None = None

    def output(self, y: Tensor) -> SequenceInput:
        """An output ``[T, B, ·]`` or ``[N, ·]`` in the caller's layout."""
        if self.packed is not None:
            return PackedSequence(
                y, self.packed.batch_sizes, self.packed.sorted_indices, self.packed.unsorted_indices
            )
        if self.unbatched:
            return y.squeeze(1)
        return y.transpose(0, 1) if self.batch_first else y

    def state_in(self, state: Tensor) -> Tensor:
        """A caller's state as ``[rows, B, ·]`` in the order of the data."""
        if self.packed is not None and self.packed.sorted_indices is not None:
            return state.index_select(1, self.packed.sorted_indices)
        return state.unsqueeze(1) if self.unbatched else state

    def state_out(self, state: Tensor) -> Tensor:
        """A state ``[rows, B, ·]`` in the caller's layout and order."""
        if self.packed is not None and self.packed.unsorted_indices is not None:
            return state.index_select(1, self.packed.unsorted_indices)
        return state.squeeze(1) if self.unbatched else state

    def padded(self) -> tuple[SequenceBatch, Tensor]:
        """A packed sequence as a dense one, rows in the order of the data, and the length of each row."""
        assert self.batch_sizes is not None
        device = self.data.device
        sizes = torch.tensor(self.batch_sizes, device=device)
        data = self.data.new_zeros(len(sizes) * self.batch, self.data.shape[-1])
        data = data.index_copy(0, self.places(), self.data).unflatten(0, (len(sizes), self.batch))
        lengths = (sizes.unsqueeze(1) > torch.arange(self.batch, device=device)).sum(0)
        return SequenceBatch(data, self.batch), lengths

    def places(self) -> Tensor:
        """Where the rows of packed data stand in ``[T · B]``."""
        assert self.batch_sizes is not None
        device = self.data.device
        sizes = torch.tensor(self.batch_sizes, device=device)
        active = torch.arange(self.batch, device=device) < sizes.unsqueeze(1)
        return active.flatten().nonzero().squeeze(1)


def read_sequence(given: SequenceInput, expected: Expectation) -> SequenceBatch:
    """Check an input and lay it out time-major.

    Args:
        given: what the layer was called with.
        expected: what it expects.

    Returns:
        The input, time-major.

    Raises:
        InputError: a wrong type, number of dimensions, size, dtype or device.
    """
    if isinstance(given, PackedSequence):
        _check_tensor("input", given.data, expected)
        if given.data.dim() != 2:
            shape = _shape(given.data)
            expected.refuse(
                f"expected packed data [N, {expected.input_size}], received {shape}", "pack [T, B, I]"
            )
        _check_size(given.data, expected)
        sizes = tuple(given.batch_sizes.tolist())
        return SequenceBatch(given.data, sizes[0], packed=given, batch_sizes=sizes)
    layout = "[B, T, I]" if expected.batch_first else "[T, B, I]"
    if not isinstance(given, Tensor):
        hint = "convert it, for example with torch.as_tensor(x, dtype=torch.float32)"
        expected.refuse(f"expected a tensor or a PackedSequence, received {type(given).__name__}", hint)
    if given.dim() not in (2, 3):
        hint = f"give {layout}, or [T, I] for a single sequence"
        expected.refuse(f"expected an input of 2 or 3 dimensions, received {_shape(given)}", hint)
    _check_tensor("input", given, expected)
    _check_size(given, expected)
    if given.dim() == 2:
        return SequenceBatch(given.unsqueeze(1), 1, unbatched=True)
    data = given.transpose(0, 1) if expected.batch_first else given
    return SequenceBatch(data, data.shape[1], expected.batch_first)


def read_states(
    given: StateInput | None,
    sequence: SequenceBatch,
    expected: Expectation,
    initial: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Check an initial state, or make one: for each state ``[rows, B, ·]``.

    Args:
        given: the initial state the layer was called with, or None.
        sequence: the input it goes with.
        expected: what the layer expects.
        initial: what the layer begins with where none is given, ``[rows, size]`` each; zeros if None.

    Returns:
        One tensor a state.

    Raises:
        InputError: a wrong number of states, shape, dtype or device.
    """
    if given is None:
        data = sequence.data
        if initial is not None:
            return [value.unsqueeze(1).expand(-1, sequence.batch, -1) for value in initial]
        return [data.new_zeros(expected.rows, sequence.batch, size) for size in expected.state_sizes]
    states = _as_tuple(given, expected)
    read = []
    for name, state, size in zip(expected.state_names, states, expected.state_sizes, strict=True):
        shape = (expected.rows, size) if sequence.unbatched else (expected.rows, sequence.batch, size)
        if not isinstance(state, Tensor):
            hint = f"give a tensor {list(shape)}"
            expected.refuse(f"state {name}: expected a tensor, received {type(state).__name__}", hint)
        _check_tensor(f"state {name}", state, expected)
        if tuple(state.shape) != shape:
            meaning = (
                "[layers · directions, size]" if sequence.unbatched else "[layers · directions, B, size]"
            )
            hint = f"a state is {meaning}, also with batch_first; leave it out to begin at zero"
            expected.refuse(f"state {name}: expected shape {list(shape)}, received {_shape(state)}", hint)
        read.append(sequence.state_in(state))
    return read


def _as_tuple(given: StateInput, expected: Expectation) -> tuple[Tensor, ...]:
    count = len(expected.state_names)
    names = ", ".join(expected.state_names)
    if isinstance(given, State):
        if tuple(given) != expected.state_names or given.cell != expected.cell:
            hint = "layer.make_state(batch) makes one of this layer"
            expected.refuse(
                f"expected a state of the cell {expected.cell} ({names}), received {given!r}", hint
            )
        return given.tensors
    if count == 1:
        if not isinstance(given, Tensor):
            hint = f"this layer has the one state {names}: pass the tensor itself"
            expected.refuse(f"expected the state as a tensor, received {type(given).__name__}", hint)
        return (given,)
    if not isinstance(given, (tuple, list)) or len(given) != count:
        received = f"{len(given)} values" if isinstance(given, (tuple, list)) else type(given).__name__
        expected.refuse(f"expected a tuple of {count} states, received {received}", f"pass ({names})")
    return tuple(given)


def _check_tensor(what: str, tensor: Tensor, expected: Expectation) -> None:
    if tensor.device != expected.device:
        here, there = str(expected.device), str(tensor.device)
        hint = f"move the {what} with .to({here!r}), or the layer with .to({there!r})"
        expected.refuse(f"{what} is on {tensor.device}, the weights are on {expected.device}", hint)
    # under autocast products choose their own dtype
    if tensor.dtype != expected.dtype and not torch.is_autocast_enabled(tensor.device.type):
        hint = f"convert the {what} with .to({expected.dtype})"
        if tensor.is_floating_point():
            hint += f", or the layer with .to({tensor.dtype})"
        expected.refuse(
            f"{what}: expected {expected.dtype} as the weights have, received {tensor.dtype}", hint
        )


def _check_size(data: Tensor, expected: Expectation) -> None:
    if data.shape[-1] != expected.input_size:
        message = (
            f"expected a last dimension of input_size={expected.input_size}, received shape {_shape(data)}"
        )
        expected.refuse(message, "reshape the input, or make the layer with that input_size")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
