"""The catalogue: one row a cell. Tests, benchmarks and documents go through it."""

from __future__ import annotations

import difflib

from gatewright.cells.gru import gru, gru_reset_before
from gatewright.cells.lstm import lstm
from gatewright.cells.rnn import rnn_relu, rnn_tanh
from gatewright.compiler.language import Cell
from gatewright.errors import InputError

CATALOGUE: dict[str, Cell] = {cell.name: cell for cell in (gru, gru_reset_before, lstm, rnn_tanh, rnn_relu)}
"""Every catalogued cell by name."""


def find_cell(cell: str | Cell) -> Cell:
    """A cell itself, or the catalogued one of that name.

    Args:
        cell: a cell or a name.

    Returns:
        The cell.

    Raises:
        InputError: no such name, or something that is not a cell.
    """
    if isinstance(cell, Cell):
        return cell
    if not isinstance(cell, str):
        hint = "decorate the function with @gatewright.cell, or give the name of a catalogued cell"
        raise InputError(f"expected a cell or a name, received a {type(cell).__name__}", hint)
    if cell not in CATALOGUE:
        near = difflib.get_close_matches(cell, CATALOGUE, n=1)
        hint = (f"did you mean {near[0]!r}? " if near else "") + f"The catalogue has {', '.join(CATALOGUE)}"
        raise InputError(f"no cell named {cell!r}", hint)
    return CATALOGUE[cell]
