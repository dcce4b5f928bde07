"""Long sequences side by side, cut into chunks of steps, for truncated backpropagation through time."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatewright.data.wording import plural
from gatewright.errors import InputError


class Chunk(NamedTuple):
    """The next steps of every stream.

    Attributes:
        inputs: ``[T, B, ...]``, zero where a stream has run out.
        targets: ``[T, B, ...]``, likewise, or None where the sequences have none.
        resets: ``[T, B]``, True at the first step of a sequence: its state begins anew there.
        valid: ``[T, B]``, False where a stream has run out.
        first: whether the epoch begins here, so that there is no state to go on from.
    """

    inputs: Tensor
    targets: Any  # not Tensor | None: who asked for targets need not tell a type checker that they are there
    resets: Tensor
    valid: Tensor
    first: bool


class _Piece(NamedTuple):
    """``length`` steps of a sequence from ``start`` on, which stand at step ``at`` of a stream."""

    sequence: int
    start: int
    length: int
    at: int


_Layout = list[list[_Piece]]


class Streams:
    """Sequences as ``B`` parallel streams, chunk by chunk; one pass over them is an epoch.

    A sequence is a tensor ``[T_i, ...]``, or a pair ``(inputs, targets)`` of those: lists hold sequences, a
    tuple is a pair. Each chunk goes on where the one before ended, so that a state may be carried over::

        for chunk in streams:
            state = None if chunk.first else state.detach()
            y, state = layer(chunk.inputs, state, resets=chunk.resets, mask=chunk.valid)

    The longest sequence goes first, each to the stream that is shortest so far; in its stream it takes its
    place in the order given. Every step of every sequence is in one chunk of an epoch, and every chunk has
    ``steps`` steps: what a stream lacks at the end is filled with zeros.

    Args:
        sequences: one sequence or a list of them, alike in dtype, device and all dimensions but the first.
        streams: ``B``.
        steps: ``T``, steps of a chunk.
        next_step: make the targets: each is the input one step later; a sequence's last element is only that.
        cut: lay the sequences end to end and cut this line into ``B`` parts whose lengths differ by one at
            most; a sequence cut by it begins anew in the next stream. None cuts where there is one sequence.
        shuffle: draw another order of the sequences every epoch; a single one stays as it is.
        generator: draws the orders; None makes one from torch's seed.

    Attributes:
        epoch: epochs that were run to their end.

    Raises:
        InputError: sequences that do not fit together, or fewer than streams.
    """

    def __init__(
        self,
        sequences: Tensor | tuple[Tensor, Tensor] | Sequence[Tensor] | Sequence[tuple[Tensor, Tensor]],
        *,
        streams: int,
        steps: int,
        next_step: bool = False,
        cut: bool | None = None,
        shuffle: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        flags = {"next_step": next_step, "shuffle": shuffle, "cut": cut is None or cut}
        _check_settings({"streams": streams, "steps": steps}, flags)
        self.streams, self.steps, self.shuffle = streams, steps, shuffle
        self._sequences = _read(sequences, next_step)
        self._lengths = [len(columns[0]) for columns in self._sequences]
        self.cut = len(self._sequences) == 1 if cut is None else cut
        self._check_enough()
        if shuffle and generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))
        self._generator = generator
        self._longest = max(_length(pieces) for pieces in self._lay_out(None))
        self.epoch = 0
        # the chunk that is next, the seed of its epoch's order, and whether the next pass goes on from there
        self._chunk, self._seed, self._resumed = 0, None, False

    def __len__(self) -> int:
        """Chunks of an epoch."""
        # an order only moves sequences of the same length between streams, so it is the same for all epochs
        return (self._longest + self.steps - 1) // self.steps

    def __iter__(self) -> Iterator[Chunk]:
        """Begin an epoch, or go on with the one that was loaded."""
        if not self._resumed:
            self._chunk, self._seed = 0, self._draw_seed()
        self._resumed = False
        layout = self._lay_out(self._seed)
        for chunk in range(self._chunk, len(self)):
            self._chunk = chunk + 1  # whoever saves the state now has this chunk already
            yield self._gather(layout, chunk * self.steps)
        self.epoch += 1
        self._chunk, self._seed = 0, None

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands: the chunk after the one given last comes next.

        Returns:
            Numbers, and the generator's state where sequences are shuffled; no data.
        """
        generator = self._generator.get_state() if self.shuffle and self._generator is not None else None
        position = {"epoch": self.epoch, "chunk": self._chunk, "seed": self._seed, "generator": generator}
        return {"made_for": self._made_for(), **position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was called: the next pass gives the rest of that epoch.

        A generator that was handed over is set to its state of then.

        Args:
            state: from ``state_dict`` of streams of the same sequences.

        Raises:
            InputError: a state of something else, or of other sequences or settings.
        """
        names = {"made_for", "epoch", "chunk", "seed", "generator"}
        if not isinstance(state, dict) or set(state) != names:
            received = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
            raise InputError(
                f"Streams: expected a state of {', '.join(sorted(names))}, received {received}",
                "give what state_dict() returned",
            )
        for name, here in self._made_for().items():
            there = state["made_for"].get(name)
            if there != here:
                raise InputError(
                    f"Streams: expected a state of streams with {name}={here}, received {name}={there}",
                    "make the streams of the sequences and with the settings of those that were saved",
                )
        self.epoch, self._chunk, self._seed = state["epoch"], state["chunk"], state["seed"]
        self._resumed = self._chunk > 0
        if self.shuffle and self._generator is not None:
            self._generator.set_state(state["generator"])

    def _made_for(self) -> dict[str, int | bool]:
        """What must be the same for a state to fit."""
        settings = {name: getattr(self, name) for name in ("streams", "steps", "cut", "shuffle")}
        sizes = {"sequences": len(self._lengths), "elements": sum(self._lengths), "longest": self._longest}
        return settings | sizes

    def _check_enough(self) -> None:
        """Every stream must get something, or it would be computed for nothing."""
        if self.cut and sum(self._lengths) < self.streams:
            message = f"Streams: expected at least {plural(self.streams, 'step')} to cut into as many streams"
            raise InputError(f"{message}, received {sum(self._lengths)}", "give more data, or fewer streams")
        if not self.cut and len(self._lengths) < self.streams:
            message = f"Streams: expected at least {plural(self.streams, 'sequence')} for as many streams"
            hint = "give fewer streams, or cut=True, which shares out the steps of all sequences evenly"
            raise InputError(f"{message}, received {len(self._lengths)}", hint)

    def _draw_seed(self) -> int | None:
        """Of the order of an epoch; None leaves the sequences in theirs."""
        if not self.shuffle or self._generator is None:
            return None
        generator = self._generator
        return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))

    def _lay_out(self, seed: int | None) -> _Layout:
        """The pieces of every stream in an epoch."""
        count = len(self._lengths)
        if seed is None:
            order = list(range(count))
        else:
            order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        return (_cut if self.cut else _balanced)(self._lengths, order, self.streams)

    def _gather(self, layout: _Layout, begin: int) -> Chunk:
        """The chunk whose first step is step ``begin`` of the streams."""
        size = (self.steps, self.streams)
        chunk = [column.new_zeros(*size, *column.shape[1:]) for column in self._sequences[0]]
        # filled on the CPU and moved as a whole, as each of their entries would be a launch on a GPU
        resets, valid = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
        for stream, pieces in enumerate(layout):
            number = bisect_right(pieces, begin, key=lambda piece: piece.at) - 1
            while number < len(pieces) and (piece := pieces[number]).at < begin + self.steps:
                number += 1
                low, high = max(piece.at, begin), min(piece.at + piece.length, begin + self.steps)
                if low >= high:  # the stream has run out
                    break
                rows, shift = slice(low - begin, high - begin), piece.start - piece.at
                for whole, column in zip(chunk, self._sequences[piece.sequence], strict=True):
                    whole[rows, stream] = column[low + shift : high + shift]
                valid[rows, stream] = True
                resets[low - begin, stream] = low == piece.at
        device = chunk[0].device
        targets = chunk[1] if len(chunk) == 2 else None
        return Chunk(chunk[0], targets, resets.to(device), valid.to(device), begin == 0)


def _check_settings(sizes: dict[str, Any], flags: dict[str, Any]) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            message = f"Streams: expected {name} as an integer of at least 1, received {value!r}"
            hint = "streams run side by side, steps are learned from at once: streams=32, steps=64"
            raise InputError(message, hint)
    for name, value in flags.items():
        if not isinstance(value, bool):
            message = f"Streams: expected {name} as True or False, received {value!r}"
            raise InputError(message, "pass a generator as generator=, beside shuffle=True")


def _length(pieces: list[_Piece]) -> int:
    """Steps of a stream."""
    return pieces[-1].at + pieces[-1].length


def _balanced(lengths: list[int], order: list[int], streams: int) -> _Layout:
    """Whole sequences: the longest first, each to the shortest stream (Graham 1969), then put in order.

    Args:
        lengths: of the sequences.
        order: their numbers in the order in which a stream shall run through them.
        streams: how many.

    Returns:
        The pieces of each stream.
    """
    places: list[list[int]] = [[] for _ in range(streams)]
    shortest = [(0, stream) for stream in range(streams)]
    for place in sorted(range(len(order)), key=lambda place: -lengths[order[place]]):
        length, stream = shortest[0]
        heapq.heapreplace(shortest, (length + lengths[order[place]], stream))
        places[stream].append(place)
    layout: _Layout = []
    for taken in places:
        pieces, at = [], 0
        for sequence in (order[place] for place in sorted(taken)):
            pieces.append(_Piece(sequence, 0, lengths[sequence], at))
            at += lengths[sequence]
        layout.append(pieces)
    return layout


def _cut(lengths: list[int], order: list[int], streams: int) -> _Layout:
    """All sequences end to end, cut into parts whose lengths differ by one at most.

    Args:
        lengths: of the sequences, at least ``streams`` in all.
        order: their numbers in the order in which they follow each other.
        streams: how many parts.

    Returns:
        The pieces of each stream.
    """
    total = sum(lengths)
    bounds = [total * stream // streams for stream in range(streams + 1)]
    layout: _Layout = [[] for _ in range(streams)]
    stream = done = 0  # the part that is being filled, and how far the line is laid
    for sequence in order:
        start = 0
        while start < lengths[sequence]:
            length = min(lengths[sequence] - start, bounds[stream + 1] - done)
            layout[stream].append(_Piece(sequence, start, length, done - bounds[stream]))
            start, done = start + length, done + length
            stream += done == bounds[stream + 1]
    return layout


def _read(sequences: Any, next_step: bool) -> list[tuple[Tensor, ...]]:
    """Check the sequences.

    Args:
        sequences: what the caller gave.
        next_step: whether targets are made of the inputs.

    Returns:
        For each sequence its inputs, and its targets if there are any; of the same length, nothing copied.

    Raises:
        InputError: no sequences, or such that do not fit together.
    """
    if isinstance(sequences, (Tensor, tuple)):
        sequences = [sequences]
    if not isinstance(sequences, Sequence) or not sequences:
        received = "none" if isinstance(sequences, Sequence) else type(sequences).__name__
        hint = "give one tensor [T, ...], one pair (inputs, targets), or a list of either"
        raise InputError(f"Streams: expected at least one sequence, received {received}", hint)
    read: list[tuple[Tensor, ...]] = []
    for number, sequence in enumerate(sequences):
        columns = sequence if isinstance(sequence, tuple) else (sequence,)
        _check_sequence(f"Streams: sequence {number}", columns, next_step)
        _check_alike(f"Streams: sequence {number}", columns, read[0] if read else columns)
        read.append(columns)
    return [(x[:-1], x[1:]) for (x,) in read] if next_step else read


def _check_sequence(name: str, columns: tuple[Any, ...], next_step: bool) -> None:
    """Refuse what is no tensor or pair of tensors with a step to learn from."""
    if len(columns) not in (1, 2) or not all(isinstance(column, Tensor) for column in columns):
        received = ", ".join(type(column).__name__ for column in columns)
        hint = "convert arrays with torch.as_tensor; several sequences are a list, a tuple is a pair"
        raise InputError(f"{name}: expected a tensor or a pair of tensors, received {received}", hint)
    if next_step and len(columns) == 2:
        hint = "leave out the targets, or leave out next_step"
        raise InputError(f"{name}: next_step makes the targets, received a pair that has some", hint)
    least = 2 if next_step else 1
    for column in columns:
        if column.dim() == 0 or len(column) < least:
            message = f"{name}: expected [T, ...] with T of at least {least}, received shape {_shape(column)}"
            raise InputError(message, "leave out sequences without a step to learn from")
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        message = f"{name}: expected as many targets as inputs, received {lengths[0]} inputs"
        hint = "give a target for every step; a list, not a tuple, holds several sequences"
        raise InputError(f"{message} and {lengths[1]} targets", hint)


def _check_alike(name: str, columns: tuple[Tensor, ...], first: tuple[Tensor, ...]) -> None:
    """Refuse a sequence that does not fit into one tensor with the first."""
    if len(columns) != len(first):
        kinds = ("a tensor", "a pair")
        message = f"{name}: expected {kinds[len(first) - 1]} as sequence 0 is"
        hint = "give targets with every sequence or with none"
        raise InputError(f"{message}, received {kinds[len(columns) - 1]}", hint)
    if len({column.device for column in columns}) > 1:
        devices = " and ".join(str(column.device) for column in columns)
        raise InputError(f"{name}: expected a pair on one device, received {devices}", "move one with .to()")
    for what, column, model in zip(("inputs", "targets"), columns, first, strict=False):
        if _form(column) != _form(model):
            message = f"{name}: expected {what} {_form(model)} as sequence 0 has, received {_form(column)}"
            raise InputError(message, "give all sequences the same features, dtype and device")


def _form(column: Tensor) -> str:
    """What must be the same for all sequences: `[T, 3] of torch.float32 on cpu`."""
    return f"{_shape(column, 'T')} of {column.dtype} on {column.device}"


def _shape(column: Tensor, first: str | None = None) -> str:
    sizes = [str(size) for size in column.shape]
    return f"[{', '.join(sizes if first is None else [first, *sizes[1:]])}]"
