"""A call made ready: code, work space and arguments for one cell, shape, dtype and number of threads."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from gatewright.backends.cpu import engine, memory, threads, tiling
from gatewright.backends.cpu.arguments import (
    WEIGHTS,
    history_names,
    set_kept,
    set_masks,
    set_sequence,
    set_weights,
)
from gatewright.backends.cpu.layout import (
    LINE_WORDS,
    SIZES,
    Form,
    Layout,
    Tile,
    backward_layout,
    forward_layout,
    gradient_names,
)
from gatewright.backends.cpu.sections import running_rows
from gatewright.backends.cpu.tiling import Grid, Shape
from gatewright.backends.cpu.vectors import Vectors
from gatewright.backends.sequence import Ends, Operands
from gatewright.compiler.graph import Graph
from gatewright.compiler.schedule import Schedule, schedule

ELEMENTS = {torch.float32: "float", torch.float64: "double"}
"""The dtypes the backend computes in, as LLVM names them."""

_LINE = 64

_STATUS = ctypes.c_int64 * 3
"""Whether the team was too small, long waits within a group, long waits of all."""


class _Prepared:
    """What the forward and the backward call have in common.

    Args:
        layout: what the kernel is given.
        shape: of the call.
        fixed: arguments that are known.
        areas: parts of the work space, with their bytes.
        grid: of threads.
        key: of the kernel's code.
        make: makes its text.
    """

    def __init__(
        self,
        layout: Layout,
        shape: Shape,
        fixed: dict[str, int],
        areas: dict[str, int],
        grid: Grid,
        key: str,
        make: Callable[[], str],
    ) -> None:
        self.shape, self.grid, self._key, self._make = shape, grid, key, make
        names = layout.names
        self.place = {name: index for index, name in enumerate(names)}
        counters = 8 * LINE_WORDS * (1 + grid.row_groups)
        areas = {"barriers": counters, "status": _LINE} | areas
        self._cleared = counters + _LINE
        self._areas = areas
        self._offsets: list[tuple[int, int]] = []
        size = 0
        for name, length in areas.items():
            self._offsets.append((self.place[name], size))
            size += -(-length // _LINE) * _LINE
        self.size = size
        team = threads.openmp()
        known = {
            "thread_number": team.thread_number if team else 0,
            "thread_count": team.thread_count if team else 0,
            "yield": threads.yield_address(),
            "row_groups": grid.row_groups,
            "column_groups": grid.column_groups,
        }
        known |= {name: getattr(shape, name) for name in SIZES} | fixed
        self._template = array("q", [known.get(name, 0) for name in names])
        self._rows, self._columns = self.place["row_groups"], self.place["column_groups"]
        self._status = self.place["status"]
        self._library: engine.Library | None = None

    def words(self) -> array[int]:
        """A new list of arguments with all that is known filled in."""
        return self._template[:]

    def sizes(self) -> dict[str, int]:
        """The bytes of the parts of the work space, by argument."""
        return dict(self._areas)

    def source(self) -> str:
        """The kernel as LLVM's text."""
        return self._make()

    def library(self) -> engine.Library:
        """The kernel's code."""
        if self._library is None:
            self._library = engine.library(self._key, self._make)
        return self._library

    def lay_out(self, words: array[int], address: int) -> None:
        """Say where the parts of a work space of ``size`` bytes are, and make it ready."""
        for place, offset in self._offsets:
            words[place] = address + offset
        ctypes.memset(address, 0, self._cleared)

    def run(self, words: array[int], ends: Ends | None, reverse: bool) -> None:
        """Run the kernel in a work space of the pool.

        Args:
            words: its arguments.
            ends: of rows that the masks hold behind them, or None.
            reverse: whether the sequence is run from its last step to its first.
        """
        # the kernel reads it, and it is kept until this function ends
        running = None if ends is None else running_rows(ends, self.shape.T, reverse)
        if running is not None:
            words[self.place["running"]] = running.ctypes.data
        library, lease = self.library(), memory.Lease(self.size)
        self.lay_out(words, lease.address)
        count, waiting = self.grid.threads, self.grid.column_groups > 1
        if waiting and threads.crowded():
            # rows of the batch may stay divided: those threads do not wait for each other in a step
            count, waiting = self.grid.row_groups, False
            words[self._columns] = 1
        done = threads.launch(library, words, count)
        if count == 1:
            return
        status = _STATUS.from_address(words[self._status])
        if not done or status[0]:
            # fewer threads than asked for: the same work on one
            words[self._rows] = words[self._columns] = 1
            threads.launch(library, words, 1)
        elif waiting:
            threads.note_waits(status[1])


def output(steps: int, batch: int, features: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised sequence ``[T, B, features]``."""
    return memory.tensor((steps, batch, features), dtype)


def kept_widths(plan: Schedule, hidden: int, projected: bool) -> tuple[int, ...]:
    """Features of what a forward pass keeps.

    The saved nodes, then each state that is no output, then the output before it is projected.
    """
    saved = (len(plan.saved) * hidden,) if plan.saved else ()
    return (*saved, *[hidden] * (len(plan.graph.states) - 1 + projected))


class Forward(_Prepared):
    """A forward call made ready."""

    def __init__(
        self,
        cell: Graph,
        dtype: torch.dtype,
        shape: Shape,
        count: int,
        training: bool,
        every: bool,
        sections: int,
        short: bool,
    ) -> None:
        plan, vectors = schedule(cell), engine.machine().vectors(ELEMENTS[dtype])
        graph, projected = plan.graph, shape.projected
        grid = tiling.choose_grid(plan, vectors, shape, count, sections)
        self.tiles = tiles = tiling.forward_tiles(plan, vectors, shape, grid)
        self.plan, self.dtype, self.training, self.every = plan, dtype, training, every
        layout = forward_layout(plan, training)
        chunk = tiling.forward_chunk(plan, vectors, shape, grid)
        size, state = vectors.bytes, shape.B * shape.H * vectors.bytes
        areas = {
            "maps": chunk * state * len(graph.input_maps),
            "packed_ih": len(graph.input_maps) * _packed(tiles.product, vectors, shape.I, shape.H),
            "work": state * len(layout.work),
            "means": len(layout.means) * shape.B * size,
        }
        for stage, tile in zip(plan.forward, tiles.stages, strict=True):
            for number in stage.groups:
                one = tile.with_maps(len(plan.groups[number].maps))
                areas[f"packed_{number}"] = _packed(one, vectors, shape.P, shape.H)
        if projected:
            areas["packed_hr"] = _packed(tiles.projection, vectors, shape.H, shape.P)
        if not training:
            turning = ["hidden"] * projected + ([] if every else history_names(graph))
            areas |= dict.fromkeys(turning, (shape.T if every else 2) * state)
        self.zeros = _zeros(dtype, max(shape.P, shape.H) + vectors.lanes)
        fixed = {
            "chunk": chunk,
            "sections": sections,
            "history_mask": -1 if training or every else 1,
            "zeros": self.zeros.data_ptr(),
        }
        form = Form(shape.aligned(vectors), projected, sections > 0, training, short=short)
        pause = engine.machine().pause
        super().__init__(
            layout, shape, fixed, areas, grid, f"forward {form} {vectors} {tiles} {_signature(graph)}",
            lambda: _forward_text(plan, vectors, tiles, form, pause),
        )  # fmt: skip

    def __call__(
        self, reverse: bool, operands: Operands, y: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Run: the output, the final states, what is kept for the gradient, and the states of every step."""
        shape, place, words = self.shape, self.place, self.words()
        y = output(shape.T, shape.B, shape.P, self.dtype) if y is None else y
        final = [torch.empty_like(state) for state in operands.states]
        kept: tuple[Tensor, ...] = ()
        if self.training:
            widths = kept_widths(self.plan, shape.H, shape.projected)
            kept = tuple(output(shape.T, shape.B, width, self.dtype) for width in widths)
            set_kept(words, place, self.plan, kept)
        every: tuple[Tensor, ...] = ()
        if self.every:
            names, first = history_names(self.plan.graph), bool(self.plan.saved)
            every = kept[first : first + len(names)]
            every = every or tuple(output(shape.T, shape.B, shape.H, self.dtype) for _ in names)
            for name, history in zip(names, every, strict=True):
                words[place[name]] = history.data_ptr()
        set_sequence(words, place, "x", operands.x, reverse)
        set_sequence(words, place, "y", y, reverse)
        set_weights(words, place, operands)
        set_masks(words, place, self.plan, operands.masks, reverse)
        for number, state in enumerate(operands.states):
            words[place[f"first_{number}"]] = state.data_ptr()
            words[place[f"final_{number}"]] = final[number].data_ptr()
        self.run(words, operands.ends, reverse)
        # in the order of the steps that are run; a reader wants that of time
        return y, tuple(final), kept, tuple(h.flip(0) for h in every) if reverse else every


class Backward(_Prepared):
    """A backward call made ready."""

    def __init__(
        self, cell: Graph, dtype: torch.dtype, shape: Shape, count: int, every: bool, sections: int
    ) -> None:
        plan, vectors = schedule(cell), engine.machine().vectors(ELEMENTS[dtype])
        projected = shape.projected
        grid = tiling.choose_grid(plan, vectors, shape, count, sections)
        tiles = tiling.backward_tiles(plan, vectors, shape, grid)
        self.plan, self.dtype = plan, dtype
        self.by_steps = ("dy", *gradient_names(plan.graph)) if every else ("dy",)
        layout = backward_layout(plan, every)
        chunk = tiling.backward_chunk(plan, vectors, shape, sections > 0)
        size, state = vectors.bytes, shape.B * shape.H * vectors.bytes
        inputs = len(plan.graph.input_maps)
        areas = {
            "adjoints": chunk * state * len(plan.segments),
            "packed_ih": _packed(tiles.product, vectors, inputs * shape.H, shape.I),
            "work": state * len(layout.work),
            "means": len(layout.means) * shape.B * size,
        }
        stage_of = dict.fromkeys(range(len(plan.groups)), 0)
        for number, stage in enumerate(plan.backward):
            stage_of.update(dict.fromkeys(stage.groups, number))
        for number, runs in enumerate(layout.runs):
            tile = tiles.projection if projected else tiles.stages[stage_of[number]]
            for run in runs:
                one = tile.with_maps(1)
                areas[run.name] = _packed(one, vectors, len(run.maps) * shape.H, shape.P)
        if projected:
            one = tiles.stages[0].with_maps(1)
            areas["packed_hr"] = _packed(one, vectors, shape.P, shape.H)
            areas["projected"] = chunk * shape.B * shape.P * size
        for number, direct in enumerate(plan.derivative.states):
            if direct is not None:
                areas[f"carry_{number}"] = state
        self.zeros = _zeros(dtype, shape.B * shape.H + vectors.lanes)
        fixed = {"chunk": chunk, "sections": sections, "zeros": self.zeros.data_ptr()}
        form = Form(shape.aligned(vectors), projected, sections > 0, every=every)
        pause = engine.machine().pause
        super().__init__(
            layout, shape, fixed, areas, grid, f"backward {form} {vectors} {tiles} {_signature(plan.graph)}",
            lambda: _backward_text(plan, vectors, tiles, form, pause),
        )  # fmt: skip

    def __call__(
        self,
        reverse: bool,
        operands: Operands,
        found: Any,
        by_steps: Sequence[Tensor | None],
        dfinal: Sequence[Tensor | None],
        need_dx: bool,
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Run: gradients of the input, the weights, the vector weights and the initial states."""
        shape, place, words = self.shape, self.place, self.words()
        zeros = self.zeros.data_ptr()
        set_sequence(words, place, "x", operands.x, reverse)
        set_sequence(words, place, "y", found.y, reverse)
        set_kept(words, place, self.plan, found.kept)
        for name, gradient in zip(self.by_steps, by_steps, strict=True):
            if gradient is None:
                words[place[name]] = zeros
            else:
                set_sequence(words, place, name, gradient, reverse)
        dx = operands.x.new_empty(0)
        if need_dx:
            dx = output(shape.T, shape.B, shape.I, self.dtype)
            if operands.ends is not None:
                # rows behind their ends are not written
                dx.zero_()
            set_sequence(words, place, "dx", dx, reverse)
            words[place["need_dx"]] = 1
        dweights = tuple(torch.empty_like(weight) for weight in operands.weights)
        for name, weight, gradient in zip(WEIGHTS, operands.weights, dweights, strict=True):
            if name in place:
                words[place[name]] = weight.data_ptr()
            words[place[f"d{name}"]] = gradient.data_ptr()
        dvectors = tuple(torch.empty_like(vector) for vector in operands.vectors)
        for number, (vector, gradient) in enumerate(zip(operands.vectors, dvectors, strict=True)):
            words[place[f"vector_{number}"]] = vector.data_ptr()
            words[place[f"dvector_{number}"]] = gradient.data_ptr()
        set_masks(words, place, self.plan, operands.masks, reverse)
        dfirst = tuple(torch.empty_like(state) for state in operands.states)
        for number, (state, last) in enumerate(zip(operands.states, dfinal, strict=True)):
            words[place[f"first_{number}"]] = state.data_ptr()
            words[place[f"dfinal_{number}"]] = zeros if last is None else last.data_ptr()
            words[place[f"dfirst_{number}"]] = dfirst[number].data_ptr()
        self.run(words, operands.ends, reverse)
        return dx, dweights, dvectors, dfirst


# what writes kernels is loaded when one is to be written: most calls find theirs on the disk
def _forward_text(*arguments: Any) -> str:
    from gatewright.backends.cpu.forward import forward_module

    return forward_module(*arguments)


def _backward_text(*arguments: Any) -> str:
    from gatewright.backends.cpu.backward import backward_module

    return backward_module(*arguments)


def _packed(tile: Tile, vectors: Vectors, inner: int, columns: int) -> int:
    """Bytes of packed weights; what is read ahead of the last panel lies in front of the next area."""
    width = tile.width(vectors)
    return -(-columns // width) * (1 + inner) * tile.maps * width * vectors.bytes


_zero_buffers: dict[torch.dtype, Tensor] = {}


def _zeros(dtype: torch.dtype, count: int) -> Tensor:
    """At least so many zeros, one buffer for all calls."""
    known = _zero_buffers.get(dtype)
    if known is None or len(known) < count:
        length = 1 << (count - 1).bit_length()
        known = _zero_buffers[dtype] = torch.zeros(length, dtype=dtype, device="cpu")
    return known


@lru_cache(maxsize=256)
def _signature(graph: Graph) -> str:
    """A graph without its name: cells of the same equations share their code."""
    return repr(replace(graph, name="", source=""))


@lru_cache(maxsize=1024)
def forward(
    graph: Graph,
    dtype: torch.dtype,
    sizes: tuple[int, int, int, int, int, bool],
    count: int,
    training: bool,
    every: bool = False,
    sections: int = 0,
    short: bool = False,
) -> Forward:
    """The forward call of a cell for the sizes of ``Shape`` on so many threads, made ready."""
    return Forward(graph, dtype, Shape(*sizes), count, training, every, sections, short)


@lru_cache(maxsize=1024)
def backward(
    graph: Graph,
    dtype: torch.dtype,
    sizes: tuple[int, int, int, int, int, bool],
    count: int,
    every: bool = False,
    sections: int = 0,
) -> Backward:
    """The backward call of a cell for the sizes of ``Shape`` on so many threads, made ready."""
    return Backward(graph, dtype, Shape(*sizes), count, every, sections)
