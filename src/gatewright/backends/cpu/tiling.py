"""How a call is cut up: threads over rows and columns, tiles, chunks of time."""

from __future__ import annotations

from dataclasses import dataclass

from gatewright.backends.cpu.layout import Tile, Tiles
from gatewright.backends.cpu.vectors import Vectors
from gatewright.compiler.schedule import Schedule

MOST_ROWS = 8
"""Rows of the largest tile: more would need more pointers than a processor has registers for."""

BARRIER_CYCLES = 1000
"""Of one barrier between two cores."""
WAITING = 1.1
"""How much longer a step is for threads that wait for each other: the slowest sets the pace."""
ELEMENT_CYCLES = 80
"""Of the elementwise part for one vector: a few elementary functions."""
LAUNCH_CYCLES = 150_000
"""Of waking threads that have gone to sleep since the last call."""

LEVEL_1, LEVEL_2 = 1 << 15, 1 << 19
"""Bytes of weights that the caches hold beside all else that a step touches."""

FORWARD_CHUNK = 1 << 18
BACKWARD_CHUNK = 1 << 20
"""Bytes a chunk of time is to fill, for each thread or in all."""
FEWEST_TOKENS = 256
"""Tokens of a chunk below which adding to the weight gradients costs more than the products."""


@dataclass(frozen=True)
class Shape:
    """The sizes of a call, and whether its output is projected from ``H`` to ``P``."""

    T: int
    B: int
    I: int  # noqa: E741 - the field's own letter
    H: int
    P: int
    projected: bool = False

    def aligned(self, vectors: Vectors) -> bool:
        """Whether no vector crosses the edge of a row."""
        return not any(size % vectors.lanes for size in (self.H, self.I, self.P))


@dataclass(frozen=True)
class Grid:
    """Threads over groups of rows, and over columns within a group."""

    row_groups: int
    column_groups: int

    @property
    def threads(self) -> int:
        """All threads."""
        return self.row_groups * self.column_groups


def choose_grid(plan: Schedule, vectors: Vectors, shape: Shape, threads: int, sections: int = 0) -> Grid:
    """The grid with the shortest estimated call.

    Args:
        plan: of the cell.
        vectors: of the machine.
        shape: of the call.
        threads: that there are.
        sections: in which rows that end later stand first, one for each group of rows, or all for one group;
            0 where all end together.

    Returns:
        The grid.
    """
    grids = [
        Grid(rows, count // rows)
        for count in range(1, threads + 1)
        for rows in range(1, min(count, shape.B) + 1)
        if count % rows == 0
    ]
    if sections:
        grids = [grid for grid in grids if grid.row_groups in (1, sections)]
    return min(grids, key=lambda grid: (_cycles(plan, vectors, shape, grid), grid.threads))


def _cycles(plan: Schedule, vectors: Vectors, shape: Shape, grid: Grid) -> float:
    """An estimate of a call's cycles; only the differences between grids matter."""
    maps = len(plan.graph.recurrent_maps)
    blocks = -(-shape.H // vectors.lanes)
    rows = -(-shape.B // grid.row_groups)
    own = -(-blocks // grid.column_groups)
    size = maps * own * vectors.lanes * shape.H * vectors.bytes
    # cycles to bring a vector of weights to the registers, in part hidden behind the arithmetic
    fetch = 0.8 if size <= LEVEL_1 else 2.0 if size <= LEVEL_2 else 4.0
    product = maps * shape.H * own * (fetch + rows)
    inputs = len(plan.graph.input_maps) * shape.I * own * rows
    step = product + inputs + own * rows * ELEMENT_CYCLES
    if grid.column_groups > 1:
        step = WAITING * step + BARRIER_CYCLES * len(plan.forward)
    return shape.T * step + (LAUNCH_CYCLES if grid.threads > 1 else 0)


def forward_tiles(plan: Schedule, vectors: Vectors, shape: Shape, grid: Grid) -> Tiles:
    """The tiles of the forward kernel."""
    maps = [sum(len(plan.groups[number].maps) for number in stage.groups) for stage in plan.forward]
    return Tiles(
        stages=tuple(_stage_tile(vectors, shape, grid, count) for count in maps),
        product=_long_tile(vectors, (shape.H,), max(shape.T, shape.B)),
        sums=Tile(1, 1),
        projection=_stage_tile(vectors, shape, grid, 1, shape.P),
    )


def backward_tiles(plan: Schedule, vectors: Vectors, shape: Shape, grid: Grid) -> Tiles:
    """The tiles of the backward kernel."""
    states = sum(plan.graph.nodes[group.argument].operation == "state" for group in plan.groups)
    counts = [len(stage.groups) for stage in plan.backward]
    counts[0] += states
    return Tiles(
        stages=tuple(_stage_tile(vectors, shape, grid, count) for count in counts),
        product=_long_tile(vectors, (shape.I,)),
        sums=_long_tile(vectors, (shape.I, shape.P)),
        projection=_stage_tile(vectors, shape, grid, 1, shape.P),
    )


def _accumulators(vectors: Vectors) -> int:
    """Registers left for sums beside weights and the left operand."""
    return vectors.registers * 3 // 4


def _stage_tile(vectors: Vectors, shape: Shape, grid: Grid, maps: int, columns: int = 0) -> Tile:
    if not maps:
        return Tile(1, 1, 0)
    own = -(-shape.B // grid.row_groups)
    most = max(1, min(MOST_ROWS, own, _accumulators(vectors) // maps))
    rows = -(-own // -(-own // most))
    blocks = -(-(columns or shape.H) // vectors.lanes)
    share = -(-blocks // grid.column_groups)
    wide = _blocks(share, _accumulators(vectors) // (rows * maps))
    size = maps * blocks * vectors.lanes * shape.H * vectors.bytes
    if rows == 1 and LEVEL_1 < size <= 2 * LEVEL_1:
        # half of the weights stay in the first cache from one step to the next, if they are a panel
        wide = -(-wide // 2)
    return Tile(rows, wide, maps)


def _long_tile(vectors: Vectors, columns: tuple[int, ...], tokens: int = MOST_ROWS) -> Tile:
    """The tile of a product over many tokens, or over few: a tile costs as much with one row as with all."""
    rows = min(MOST_ROWS, _accumulators(vectors), 1 << max(0, tokens - 1).bit_length())
    blocks = -(-min(columns) // vectors.lanes)
    return Tile(rows, _blocks(blocks, _accumulators(vectors) // rows), 1)


def _blocks(count: int, most: int) -> int:
    """The widest tile that wastes least behind the last column."""
    most = max(1, min(4, most, count))
    return min(range(1, most + 1), key=lambda blocks: (-(-count // blocks) * blocks, -blocks))


def forward_chunk(plan: Schedule, vectors: Vectors, shape: Shape, grid: Grid) -> int:
    """Steps whose input maps are computed at once."""
    step = shape.B * len(plan.graph.input_maps) * shape.H * vectors.bytes
    return max(1, min(shape.T, FORWARD_CHUNK * grid.threads // step))


def backward_chunk(plan: Schedule, vectors: Vectors, shape: Shape, ragged: bool = False) -> int:
    """Steps whose weight gradients are computed at once; two at least, as a step reads the one behind it.

    Where rows end at different steps a chunk has about half as many tokens, and so is twice as long.
    """
    step = shape.B * len(plan.segments) * shape.H * vectors.bytes
    steps = max(BACKWARD_CHUNK // step, -(-FEWEST_TOKENS // shape.B)) * (2 if ragged else 1)
    return max(2, min(shape.T, steps))
