"""What a kernel is given and how it is cut up: known before, and without, its code."""

from __future__ import annotations

from dataclasses import dataclass

from gatewright.backends.cpu.vectors import Vectors
from gatewright.compiler.graph import Graph
from gatewright.compiler.schedule import Schedule

LINE_WORDS = 8
"""Words between the counters of two barriers, so that each has a cache line of its own."""

SIZES = ("T", "B", "H", "I", "P")
GRID = (*SIZES, "row_groups", "column_groups", "sections", "chunk")
SYSTEM = ("thread_number", "thread_count", "yield", "barriers", "status")


@dataclass(frozen=True)
class Tile:
    """The shape of a tile.

    Attributes:
        rows: rows of the left operand.
        blocks: vectors of columns.
        maps: products that share the left operand.
    """

    rows: int
    blocks: int
    maps: int = 1

    def width(self, vectors: Vectors) -> int:
        """Columns of one map in a tile."""
        return self.blocks * vectors.lanes

    def with_maps(self, maps: int) -> Tile:
        """As many rows and blocks, with another number of maps."""
        return Tile(self.rows, self.blocks, maps)


@dataclass(frozen=True)
class Tiles:
    """The tiles of one kernel.

    Attributes:
        stages: of each stage; a stage without a product has a tile without maps.
        product: of products over many tokens.
        sums: of sums over tokens.
        projection: of the product that projects the output, or of its transpose.
    """

    stages: tuple[Tile, ...]
    product: Tile
    sums: Tile
    projection: Tile


@dataclass(frozen=True)
class Form:
    """What else a kernel's code depends on.

    Attributes:
        aligned: whether ``H``, ``I`` and ``P`` are whole numbers of vectors.
        projected: whether the output is projected from ``H`` to ``P``; ``P`` is ``H`` otherwise.
        ragged: whether rows end at different steps.
        training: forward, whether what the gradient needs is kept.
        every: backward, whether there are gradients by all values of all states.
        short: forward, whether packed weights are bfloat16.
    """

    aligned: bool
    projected: bool
    ragged: bool
    training: bool = False
    every: bool = False
    short: bool = False


@dataclass(frozen=True)
class Layout:
    """What a kernel is given, and where values of a step stand.

    Attributes:
        pointers: names of its arguments that are pointers.
        numbers: names of its arguments that are numbers.
        work: nodes that cross from one stage to the next in work space.
        means: nodes that are means over ``H``.
    """

    pointers: tuple[str, ...]
    numbers: tuple[str, ...]
    work: tuple[int, ...]
    means: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All arguments in their order."""
        return (*SYSTEM, *GRID, *self.pointers, *self.numbers)


@dataclass(frozen=True)
class ForwardLayout(Layout):
    """What the forward kernel is given.

    Attributes:
        saved: nodes written for the gradient.
    """

    saved: tuple[int, ...]


def forward_layout(plan: Schedule, training: bool) -> ForwardLayout:
    """The layout of the forward kernel of a cell."""
    graph = plan.graph
    saved = plan.saved if training else ()
    elsewhere = {*saved, *graph.results}
    crossing = {node for stage in plan.forward for node in stage.crossing}
    pointers = ["x", "y", "w_ih", "w_hh", "b_ih", "b_hh", "w_hr", "zeros", "maps", "packed_ih", "packed_hr"]
    pointers += ["saved", "work", "means", "hidden", "running"]
    pointers += [f"packed_{number}" for number in range(len(plan.groups))]
    pointers += [f"vector_{number}" for number in range(len(graph.vector_weights))]
    pointers += [f"mask_{number}" for number in range(len(graph.masks))]
    for state in range(len(graph.states)):
        pointers += [f"first_{state}", f"history_{state}", f"final_{state}"]
    return ForwardLayout(
        pointers=tuple(pointers),
        numbers=("x_step", "x_row", "y_step", "history_mask", "ready", *_mask_steps(graph)),
        work=tuple(sorted(node for node in crossing if node not in elsewhere)),
        saved=saved,
        means=tuple(node for stage in plan.forward for node in stage.means),
    )


def gradient_names(graph: Graph) -> tuple[str, ...]:
    """The arguments that are gradients by all values of the states that are no output."""
    return tuple(f"devery_{i}" for i, state in enumerate(graph.states) if state != graph.output)


def _mask_steps(graph: Graph) -> tuple[str, ...]:
    """The first stride of each mask: from step to step, or of a unit mask from row to row."""
    return tuple(f"mask_{i}_step" for i in range(len(graph.masks)))


@dataclass(frozen=True)
class Run:
    """Maps of a group whose adjoints stand side by side, so that one loop multiplies them all.

    Attributes:
        name: of the packed weights.
        segment: the first of them.
        maps: their places among the recurrent maps.
    """

    name: str
    segment: int
    maps: tuple[int, ...]


@dataclass(frozen=True)
class BackwardLayout(Layout):
    """What the backward kernel is given.

    Attributes:
        runs: of each group.
    """

    runs: tuple[tuple[Run, ...], ...]


def backward_layout(plan: Schedule, every: bool) -> BackwardLayout:
    """The layout of the backward kernel of a cell; ``every`` with gradients by all values of all states."""
    graph = plan.graph
    segments = {segment.node for segment in plan.segments}
    crossing = {node for stage in plan.backward for node in stage.crossing}
    runs = tuple(_runs(plan, number) for number in range(len(plan.groups)))
    pointers = ["x", "y", "dy", "w_ih", "w_hh", "saved", "adjoints", "work", "means", "zeros"]
    pointers += ["dx", "dw_ih", "dw_hh", "db_ih", "db_hh", "packed_ih"]
    pointers += ["w_hr", "dw_hr", "packed_hr", "hidden", "projected", "running"]
    pointers += [run.name for group in runs for run in group]
    for vector in range(len(graph.vector_weights)):
        pointers += [f"vector_{vector}", f"dvector_{vector}"]
    pointers += [f"mask_{number}" for number in range(len(graph.masks))]
    for state in range(len(graph.states)):
        pointers += [
            f"first_{state}",
            f"history_{state}",
            f"dfinal_{state}",
            f"dfirst_{state}",
            f"carry_{state}",
        ]
    others = gradient_names(graph) if every else ()
    pointers += others
    numbers = ["x_step", "x_row", "y_step", "dy_step", "dy_row", "dx_step", "need_dx", *_mask_steps(graph)]
    numbers += [f"{name}_{stride}" for name in others for stride in ("step", "row")]
    return BackwardLayout(
        pointers=tuple(pointers),
        numbers=tuple(numbers),
        work=tuple(sorted(crossing - segments)),
        means=tuple(node for stage in plan.backward for node in stage.means),
        runs=runs,
    )


def _runs(plan: Schedule, number: int) -> tuple[Run, ...]:
    place = {s.recurrent_map: index for index, s in enumerate(plan.segments) if s.recurrent_map is not None}
    order = sorted((place[row], row) for row in plan.groups[number].maps)
    runs: list[list[tuple[int, int]]] = []
    for segment, row in order:
        if runs and runs[-1][-1][0] == segment - 1:
            runs[-1].append((segment, row))
        else:
            runs.append([(segment, row)])
    return tuple(
        Run(f"packed_{number}_{index}", run[0][0], tuple(row for _, row in run))
        for index, run in enumerate(runs)
    )
