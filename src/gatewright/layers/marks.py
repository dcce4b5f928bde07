"""Which steps of which rows count, and where sequences begin: lengths, masks and resets, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gatewright.backends.call import following_refusal, transform_refusal
from gatewright.backends.cpu import memory
from gatewright.layers.inputs import Expectation, SequenceBatch

Lengths = Tensor | Sequence[int]

MASKED = ("hold", "zero")
"""What the output of a masked step may be: the one before it, or zero."""


class _Cleaned(torch.autograd.Function):
    """Zeros where steps do not count, and in the gradient, in memory that has been touched before."""

    @staticmethod
    def forward(ctx: Any, data: Tensor, valid: Tensor) -> Tensor:
        ctx.save_for_backward(valid)
        return torch.where(valid.unsqueeze(-1), data, data.new_zeros(()), out=memory.like(data))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (valid,), (gradient,) = ctx.saved_tensors, gradients
        if torch.is_grad_enabled():
            return gradient.masked_fill(~valid.unsqueeze(-1), 0), None
        zero = gradient.new_zeros(())
        return torch.where(valid.unsqueeze(-1), gradient, zero, out=memory.like(gradient)), None


class Marks(NamedTuple):
    """What is said of the steps of a batch, time-major.

    Attributes:
        valid: ``[T, B]``, whether a step counts, or None where all do.
        resets: ``[T, B]``, whether a sequence begins with a step, or None where none does.
        lengths: behind so many steps of each row nothing is valid and nothing begins, or None.
        zero: whether the output of a step that does not count is zero.
    """

    valid: Tensor | None = None
    resets: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    zero: bool = False

    def cleaned(self, data: Tensor) -> Tensor:
        """An input with zeros where steps do not count: what stood there may be anything, NaN too."""
        if self.valid is None:
            return data
        if torch.compiler.is_compiling() or following_refusal():
            return data.masked_fill(~self.valid.unsqueeze(-1), 0)
        return _Cleaned.apply(data, self.valid)

    def of_output(self, y: Tensor) -> Tensor:
        """An output ``[T, B, ·]``, zero where it is to be."""
        return y.masked_fill(~self.valid.unsqueeze(-1), 0) if self.zero and self.valid is not None else y

    def of_direction(self, name: str, reverse: bool, dtype: torch.dtype) -> Tensor:
        """The row mask ``valid`` or ``reset`` of one direction.

        In front of the first step of a sequence the past is cut off, and the future behind the last one: in
        reverse a sequence begins with the step before the marked one.
        """
        if name == "valid":
            assert self.valid is not None
            return self.valid.to(dtype)
        assert self.resets is not None
        resets = self.resets.to(dtype)
        if reverse:
            # lengthened first: a tracer could not tell T - 1 from 1
            resets = torch.cat([resets, resets.new_zeros(1, resets.shape[1])])[1:]
        return resets


NOTHING = Marks()
"""All steps count, and no sequence begins in the middle of a row."""


def read_marks(
    lengths: Lengths | None,
    mask: Tensor | None,
    resets: Tensor | None,
    masked: str,
    sequence: SequenceBatch,
    expected: Expectation,
) -> Marks:
    """Check what a call says of its steps.

    Args:
        lengths: steps of each row, ``[B]``.
        mask: whether a step counts, in the layout of the input without its features.
        resets: whether a sequence begins with a step, likewise.
        masked: ``"hold"`` or ``"zero"``.
        sequence: the input.
        expected: what the layer expects.

    Returns:
        What it says, time-major.

    Raises:
        InputError: a wrong type, dtype, shape, device or value, or an input that is packed.
    """
    if masked not in MASKED:
        hint = "'hold' repeats the output of the last step that counts"
        expected.refuse(f"expected masked as 'hold' or 'zero', received {masked!r}", hint)
    if lengths is None and mask is None and resets is None:
        return NOTHING
    if sequence.packed is not None:
        names = (("lengths", lengths), ("mask", mask), ("resets", resets))
        name = next(name for name, given in names if given is not None)
        hint = "give the padded tensor with lengths=..., which runs as fast"
        expected.refuse(f"{name} with a PackedSequence, which has its lengths already", hint)
    if expected.projected:
        hint = "pack the sequences, or make the layer without proj_size"
        expected.refuse("lengths, mask and resets are not possible with proj_size", hint)
    valid = None if mask is None else _read_flags("mask", mask, sequence, expected)
    if lengths is not None:
        limits = _read_lengths(lengths, sequence, expected)
        within = torch.arange(sequence.data.shape[0], device=limits.device).unsqueeze(1) < limits
        valid = within if valid is None else valid & within
    begins = None if resets is None else _read_flags("resets", resets, sequence, expected)
    return Marks(valid, begins, _ends(valid, begins), masked == "zero")


def _ends(valid: Tensor | None, resets: Tensor | None) -> tuple[int, ...] | None:
    """Where the last marked step of each row is, for backends that leave out what is behind."""
    # where torch traces or transforms, values are not known; and a GPU would have to be waited for
    if valid is None or torch.compiler.is_compiling() or transform_refusal() or valid.device.type != "cpu":
        return None
    marked = valid if resets is None else valid | resets
    places = torch.arange(1, len(marked) + 1).unsqueeze(1)
    return tuple((marked * places).amax(0).tolist()) if len(marked) else None


def _read_lengths(given: Lengths, sequence: SequenceBatch, expected: Expectation) -> Tensor:
    steps, batch = sequence.data.shape[:2]
    if isinstance(given, np.ndarray):
        given = torch.as_tensor(given)
    if sequence.unbatched and not isinstance(given, Sequence):
        # one row, whose length needs no brackets
        given = torch.as_tensor(given).reshape(-1)
    if not isinstance(given, Tensor):
        whole = isinstance(given, Sequence) and all(type(value) is int for value in given)
        if not whole:
            hint = "give a tensor of whole numbers, or a list of them"
            expected.refuse(f"expected lengths as whole numbers, received {type(given).__name__}", hint)
        given = torch.tensor(given, dtype=torch.int64)
    if given.is_floating_point() or given.is_complex() or given.dtype is torch.bool:
        hint = "convert them with .to(torch.int64)"
        expected.refuse(f"expected lengths as whole numbers, received {given.dtype}", hint)
    if tuple(given.shape) != (batch,):
        hint = f"one length a row, here {batch}"
        expected.refuse(f"expected lengths of shape [{batch}], received {list(given.shape)}", hint)
    if not torch.compiler.is_compiling() and transform_refusal() is None and batch:
        least, most = int(given.min()), int(given.max())
        if least < 0 or most > steps:
            received = least if least < 0 else most
            hint = "a length of 0 leaves a row as it is"
            expected.refuse(f"expected lengths from 0 to the {steps} steps, received {received}", hint)
    return given.to(sequence.data.device)


def _read_flags(name: str, given: Tensor, sequence: SequenceBatch, expected: Expectation) -> Tensor:
    if not isinstance(given, Tensor):
        expected.refuse(f"expected {name} as a tensor, received {type(given).__name__}", "use torch.tensor")
    if given.dtype is not torch.bool:
        hint = f"compare it first: {name} != 0"
        expected.refuse(f"expected {name} of torch.bool, received {given.dtype}", hint)
    if given.device != expected.device:
        hint = f"move it with .to({str(expected.device)!r})"
        expected.refuse(f"{name} is on {given.device}, the weights are on {expected.device}", hint)
    steps, batch = sequence.data.shape[:2]
    shape, layout = [steps, batch], "[T, B]"
    if sequence.unbatched:
        shape, layout = [steps], "[T]"
    elif sequence.batch_first:
        shape, layout = [batch, steps], "[B, T]"
    if list(given.shape) != shape:
        hint = f"its layout is {layout}, that of the input without its features"
        expected.refuse(f"expected {name} of shape {shape}, received {list(given.shape)}", hint)
    if sequence.unbatched:
        return given.unsqueeze(1)
    return given.transpose(0, 1) if sequence.batch_first else given
