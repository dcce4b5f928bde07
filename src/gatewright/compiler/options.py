"""What the decorator of a cell may state beside its equations, held against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from gatewright.compiler.graph import Graph
from gatewright.compiler.trace import refuse


def check_rows(cell: str, line: str, names: list[str], rows: Sequence[str] | None) -> None:
    """A stated row order names every map once and nothing else."""
    if rows is None:
        return
    stated = tuple(rows)
    complaints = (
        ("leaves out the map", [name for name in names if name not in stated]),
        ("names twice the map", [name for name in stated if stated.count(name) > 1]),
        ("names what is no map of the cell,", [name for name in stated if name not in names]),
    )
    for complaint, found in complaints:
        if found:
            refuse(cell, f"rows={stated} {complaint} {found[0]!r}", "name every map once", line)


def check_keep(graph: Graph, line: str, keep: Mapping[str, int] | None) -> Mapping[str, int]:
    """The stated gates that keep the old state, as a mapping that cannot be changed.

    Args:
        graph: of the cell.
        line: where the cell is defined.
        keep: a map's name and 1, or -1 where the gate lets in what is new; None for none.

    Returns:
        The same, empty for None.

    Raises:
        CellError: it is no mapping, names what is no map of the cell, or has another number.
    """
    if keep is None:
        return MappingProxyType({})
    if not isinstance(keep, Mapping):
        message = f"expected keep as a mapping from a map to 1 or -1, received {keep!r}"
        refuse(graph.name, message, "write it as keep={'z': 1}", line)
    maps = tuple(dict.fromkeys((*graph.input_maps, *graph.recurrent_maps)))
    for name, sign in keep.items():
        if name not in maps:
            message = f"keep={dict(keep)} names what is no map of the cell, {name!r}"
            refuse(graph.name, message, f"the maps are {', '.join(maps)}", line)
        # True is 1 to Python, and says nothing of which way the gate works
        if isinstance(sign, bool) or not isinstance(sign, int) or sign not in (1, -1):
            message = f"keep={dict(keep)} gives {name!r} neither 1 nor -1"
            hint = "1 where sigmoid of the map is the share of the old state, -1 where it is that of the new"
            refuse(graph.name, message, hint, line)
    return MappingProxyType(dict(keep))
