"""The state of a layer as a value: select, join, reset and move its rows, save it and load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gatewright.errors import InputError
from gatewright.files import read_tensors, write_tensors

Rows = Tensor | Sequence[int] | slice
"""Rows of a batch: their numbers, a mask ``[B]`` of torch.bool, or a slice."""

KIND = "gatewright state"
"""What a file of a state says that it is."""


class State(Mapping[str, Tensor]):
    """The states of a layer by name, each ``[L·D, B, size]``.

    Give it to a layer in place of a tensor or a tuple, and the layer gives one back. Nothing changes a state:
    every method returns another one, and gradients flow through all but ``detach``, ``save`` and ``load``.

    Args:
        values: the states in the cell's order.
        cell: the name of the cell that they belong to.
    """

    def __init__(self, values: Mapping[str, Tensor], cell: str) -> None:
        self._values, self.cell = dict(values), cell
        rows = {value.shape[1] if value.dim() == 3 else -1 for value in self._values.values()}
        if len(rows) != 1 or -1 in rows:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in self._values.items())
            hint = "every state is [layers · directions, B, size]"
            raise InputError(f"State: expected states with the same rows, received {shapes}", hint)

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    # as tensors: whether values are equal is a question to torch.equal
    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {list(value.shape)}" for name, value in self.items())
        return f"State({self.cell}, {shapes})"

    @property
    def batch(self) -> int:
        """How many rows there are."""
        return next(iter(self._values.values())).shape[1]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The states in the cell's order."""
        return tuple(self._values.values())

    def _with(self, values: Mapping[str, Tensor]) -> State:
        return State(values, self.cell)

    def detach(self) -> State:
        """The same values, through which no gradient goes."""
        return self._with({name: value.detach() for name, value in self.items()})

    def clone(self) -> State:
        """A copy."""
        return self._with({name: value.clone() for name, value in self.items()})

    def to(self, *arguments: object, **options: object) -> State:
        """Moved or converted, as ``Tensor.to``."""
        return self._with({name: value.to(*arguments, **options) for name, value in self.items()})  # type: ignore[call-overload]

    def select(self, rows: Rows) -> State:
        """Some rows, in the order in which they are named."""
        index = self._index(rows)
        return self._with({name: value[:, index] for name, value in self.items()})

    def reset(self, rows: Rows, initial: State | None = None) -> State:
        """Some rows begun anew.

        Args:
            rows: which.
            initial: what they begin with, as many rows as this state has; zeros if None. A layer that learned
                its initial state gives it with ``layer.make_state(batch)``.

        Returns:
            The state with those rows replaced.
        """
        index = self._index(rows)
        if initial is not None:
            self.check_same(initial, rows_too=True)
        chosen = torch.zeros(self.batch, dtype=torch.bool, device=self.tensors[0].device)
        chosen[index] = True
        chosen = chosen.view(1, -1, 1)
        return self._with(
            {
                name: torch.where(chosen, 0 if initial is None else initial[name], value)
                for name, value in self.items()
            }
        )

    def join(self, *others: State) -> State:
        """The rows of this state, then those of the others."""
        for other in others:
            self.check_same(other, rows_too=False)
        return self._with(
            {name: torch.cat([value, *(o[name] for o in others)], dim=1) for name, value in self.items()}
        )

    def save(self, path: str | Path) -> None:
        """Write it to a file, whole or not at all: safetensors, the cell's name beside the states."""
        # one tensor may stand under two names, which a file may not hold
        tensors = {name: value.detach().clone() for name, value in self.items()}
        write_tensors(Path(path), tensors, {"kind": KIND, "cell": self.cell, "names": list(self)})

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> State:
        """Read what ``save`` wrote.

        Args:
            path: of the file.
            device: to put it on.

        Returns:
            The state.

        Raises:
            InputError: the file cannot be read, or is not that of a state.
        """
        tensors, about = read_tensors(Path(path))
        if about.get("kind") != KIND:
            raise InputError(f"State: {path} holds something else", "save a state with state.save(path)")
        try:
            return cls({name: tensors[name].to(device) for name in about["names"]}, about["cell"])
        except (KeyError, TypeError) as error:
            raise InputError(f"State: {path} is damaged: {error!r}", "save the state again") from error

    def _index(self, rows: Rows) -> Tensor:
        """Rows as numbers, checked."""
        device = self.tensors[0].device
        if isinstance(rows, slice):
            return torch.arange(self.batch, device=device)[rows]
        index = torch.as_tensor(rows, device=device)
        if index.dtype is torch.bool:
            if tuple(index.shape) != (self.batch,):
                hint = "a mask has one value a row"
                raise InputError(
                    f"State: expected a mask of shape [{self.batch}], received {list(index.shape)}", hint
                )
            return index.nonzero().squeeze(1)
        if index.numel() == 0:
            return index.to(torch.int64).reshape(0)
        whole = not (index.is_floating_point() or index.is_complex()) and index.dim() == 1
        if not whole or int(index.min()) < -self.batch or int(index.max()) >= self.batch:
            hint = f"name rows by numbers below {self.batch}, by a mask [{self.batch}] or by a slice"
            raise InputError(f"State: expected rows of a batch of {self.batch}, received {rows!r}", hint)
        return index

    def check_same(self, other: State, *, rows_too: bool) -> None:
        """Another state is of the same cell and sizes."""

        def shape(value: Tensor) -> tuple[int, ...]:
            return tuple(value.shape) if rows_too else (value.shape[0], value.shape[2])

        if (
            not isinstance(other, State)
            or other.cell != self.cell
            or [(n, shape(v)) for n, v in self.items()] != [(n, shape(v)) for n, v in other.items()]
        ):
            hint = "states of one layer go together"
            raise InputError(f"State: expected a state like {self!r}, received {other!r}", hint)
