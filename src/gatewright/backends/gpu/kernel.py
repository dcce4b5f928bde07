"""What the forward and the backward loop share: indices, tiles, products, exchange between programs.

All values are tiles ``[rows, columns]`` of float32; what others read or the gradient needs is stored in the
dtype of the layer. A program that has all columns keeps everything in registers. Where columns are shared
out, operands of products go through memory, and all programs of a row wait for each other behind a stage.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from gatewright.backends.gpu.blocks import Blocks
from gatewright.backends.gpu.source import Source, Values, identifier, shifted
from gatewright.compiler.graph import Node
from gatewright.compiler.schedule import Group, Schedule, Stage

HEAD = '''"""{title}"""

import triton
import triton.language as tl

from gatewright.backends.gpu.elementary import (
    all_arrived, log1p, maximum, minimum, power, sigmoid, softplus, tanh,
)
'''


@dataclass(frozen=True)
class Format:
    """How numbers are stored and multiplied.

    Attributes:
        element: Triton's name of the layer's dtype, ``"float32"``.
        operand: of the operands of a product: the same, but float32 in the interpreter, which cannot
            multiply bfloat16.
        precision: of products of float32: ``"ieee"`` or ``"tf32"``.
    """

    element: str
    operand: str
    precision: str

    def rounded(self, text: str) -> str:
        """A float32 value as the operand of a product."""
        if self.element == "float32":
            return text
        again = "" if self.operand == self.element else f".to(tl.{self.operand})"
        return f"{text}.to(tl.{self.element}){again}"


@contextmanager
def kernel_function(
    source: Source, name: str, pointers: Sequence[str], numbers: Sequence[str]
) -> Iterator[None]:
    """A kernel; what is written inside is its body.

    Args:
        source: it is written to.
        name: of the kernel.
        pointers: it is given those that its body names.
        numbers: whole numbers; only for ``H`` may Triton compile a version of its own.
    """
    source.lines += ["", "", ""]
    head = len(source.lines) - 1
    with source.block(""):
        source.lines.pop()
        yield
    used = set(re.findall(r"\w+", "\n".join(source.lines[head + 1 :])))
    given = ", ".join([*(pointer for pointer in pointers if pointer in used), *numbers])
    fixed = ", ".join(f'"{number}"' for number in numbers if number != "H")
    source.lines[head] = f"@triton.jit(do_not_specialize=[{fixed}])\ndef {name}({given}):"


@dataclass(frozen=True)
class Rows:
    """Rows of ``H`` values in memory that other programs wrote.

    Attributes:
        base: pointer to the first.
        length: from one to the next.
        count: how many there are; beyond them all is zero.
    """

    base: str
    length: str = "H"
    count: str = "B"


class Loop(ABC):
    """A pass over the time steps that is being written.

    Args:
        plan: of the cell.
        blocks: of a program.
        format: of numbers.
        reverse: whether the sequence is run from its last step to its first.
        title: of the module.
    """

    def __init__(self, plan: Schedule, blocks: Blocks, format: Format, reverse: bool, title: str) -> None:  # noqa: A002
        self.plan, self.graph, self.blocks = plan, plan.graph, blocks
        self.format, self.reverse = format, reverse
        self.source = Source()
        self.values = Values(self.source, plan.nodes, "zero")
        self.write, self.block = self.source.write, self.source.block
        for line in HEAD.format(title=title).splitlines():
            self.write(line)
        graph = self.graph
        self.states = [identifier("state", graph.states, i) for i in range(len(graph.states))]
        self.maps = [identifier("u", graph.recurrent_maps, i) for i in range(len(graph.recurrent_maps))]
        self.output = graph.state_index(graph.output)
        self.group_of_maps = {frozenset(group.maps): number for number, group in enumerate(plan.groups)}
        self.by_launch = blocks.regime == "launches"
        self._names = 0

    # ---------------------------------------------------------------- the frame of a function

    def module(self, name: str, pointers: Sequence[str], stages: Sequence[Stage]) -> str:
        """The module: one kernel with the loop, or a kernel for each stage where each is a launch."""
        if self.by_launch:
            for number, stage in enumerate(stages):
                self.values.forget()
                with self.function(f"{name}_{number}", pointers):
                    self.before()
                    self.at()
                    self.stage(number, stage)
            return self.source.text()
        with self.function(name, pointers):
            self.before()
            with self.block("for step in range(T):"):
                self.at()
                for number, stage in enumerate(stages):
                    self.stage(number, stage)
                self.turn()
            self.after()
        return self.source.text()

    @abstractmethod
    def before(self) -> None:
        """What stands in front of the loop."""

    @abstractmethod
    def at(self) -> None:
        """Which step it is."""

    @abstractmethod
    def stage(self, number: int, stage: Stage) -> None:
        """A stage of a step."""

    @abstractmethod
    def turn(self) -> None:
        """What a step hands on to the next one of the loop."""

    @abstractmethod
    def after(self) -> None:
        """What stands behind the loop."""

    def function(self, name: str, pointers: Sequence[str]) -> AbstractContextManager[None]:
        """A kernel; what is written inside is its body."""
        numbers = ("T", "B", "H", *(["step"] if self.by_launch else []))
        return kernel_function(self.source, name, pointers, numbers)

    def indices(self) -> None:
        """The rows and columns of this program, and where their values stand in ``[B, H]``."""
        rows, columns = self.blocks.rows, self.blocks.columns
        self.write("# the tile of this program")
        self.write(f"row = tl.program_id(0).to(tl.int64) * {rows} + tl.arange(0, {rows})[:, None]")
        if self.blocks.heads == 1:
            self.write(f"column = tl.program_id(1) * {columns} + tl.arange(0, {columns})[None, :]")
            self.write("here = (row < B) & (column < H)")
        else:
            self.write(f"width = H // {self.blocks.heads}")
            self.write(f"lane = tl.arange(0, {columns})[None, :]")
            self.write("column = tl.program_id(1) * width + lane")
            self.write("here = (row < B) & (lane < width)")
        self.write("place = row * H + column")
        self.write("size = B.to(tl.int64) * H")
        self.write(f"zero = tl.zeros(({rows}, {columns}), tl.float32)")

    def constants(self) -> None:
        """Vector weights and masks that stay the same in all steps."""
        for number in range(len(self.graph.vector_weights)):
            self.load(self.vector(number), f"vector_{number} + column", "column < H")
        for number, (kind, _) in enumerate(self.graph.masks):
            if kind == "unit_mask":
                self.load(f"mask{number}", f"mask_{number} + place")

    def vector(self, number: int) -> str:
        """The name of a vector weight."""
        return identifier("v", [name.replace("#", "") for name in self.graph.vector_weights], number)

    def mask(self, node: Node) -> str:
        """A mask at the step."""
        number = self.graph.masks.index((node.operation, node.name))
        if node.operation == "row_mask":
            return self.load(f"mask{number}", f"mask_{number} + at * B + row", "row < B")
        if node.operation == "step_mask":
            return self.load(f"mask{number}", f"mask_{number} + at * size + place")
        return f"mask{number}"

    # ---------------------------------------------------------------- memory

    def load(self, name: str, pointer: str, mask: str = "here") -> str:
        """A value from memory, under a name."""
        self.write(f"{name} = tl.load({pointer}, mask={mask}, other=0.0).to(tl.float32)")
        return name

    def store(self, pointer: str, value: str) -> None:
        """A value to memory."""
        self.write(f"tl.store({pointer}, {value}, mask=here)")

    def fresh(self, name: str) -> str:
        """A name that was not used before: Triton lets no variable of a loop change its shape."""
        self._names += 1
        return f"{name}_{self._names}"

    def full_row(self, rows: Rows, start: str, length: int) -> str:
        """A block of the columns of this program's rows, as others wrote them: past the first cache."""
        inner = self.fresh("inner")
        self.write(f"{inner} = {'' if start == '0' else f'{start} + '}tl.arange(0, {length})[None, :]")
        mask = f"(row < {rows.count}) & ({inner} < H)"
        pointer = f"{rows.base} + row * {rows.length} + {inner}"
        return f'tl.load({pointer}, mask={mask}, other=0.0, cache_modifier=".cg")'

    # ---------------------------------------------------------------- products

    def weights(self, transposed: bool) -> None:
        """Load the weights that stay: of each map the columns of this program."""
        if self.by_launch:
            return
        self.write("# weights that stay for all steps")
        for place, (start, length) in enumerate(self.blocks.inner):
            self.write(f"depth_{place} = {f'{start} + ' if start else ''}tl.arange(0, {length})[:, None]")
            for number in range(len(self.maps)):
                self.write(f"w_{number}_{place} = {self._weight(number, f'depth_{place}', transposed)}")

    def _weight(self, number: int, depth: str, transposed: bool) -> str:
        if self.blocks.heads == 1:
            row, column, width, own = depth, "column", "H", "column"
        else:
            row, column, width, own = f"tl.program_id(1) * width + {depth}", "lane", "width", "lane"
        if not transposed:
            row, column = "column", depth
        pointer = f"w_hh + ({shifted(number, row)}) * {width} + {column}"
        text = f"tl.load({pointer}, mask=({depth} < {width}) & ({own} < {width}), other=0.0)"
        return text if self.format.operand == self.format.element else f"{text}.to(tl.{self.format.operand})"

    def _dot(self, left: str, weight: str, total: str) -> str:
        return f'{total} = tl.dot({left}, {weight}, {total}, input_precision="{self.format.precision}")'

    def product_of_registers(self, totals: Sequence[tuple[str, int]], value: str) -> None:
        """Add products whose left operand this program has.

        Args:
            totals: what each product is added to, and its map.
            value: the left operand.
        """
        operand = self.fresh("operand")
        self.write(f"{operand} = {self.format.rounded(f'tl.where(here, {value}, 0.0)')}")
        for total, number in totals:
            self.write(self._dot(operand, f"w_{number}_0", total))

    def product_of_rows(self, totals: Sequence[tuple[str, int]], rows: Rows, transposed: bool) -> None:
        """Add products that share a left operand in memory.

        Args:
            totals: what each product is added to, and its map.
            rows: the left operand.
            transposed: whether the weights are used transposed.
        """
        cast = "" if self.format.operand == self.format.element else f".to(tl.{self.format.operand})"
        operand = self.fresh("operand")
        if not self.by_launch:
            for place, (start, length) in enumerate(self.blocks.inner):
                self.write(f"{operand}_{place} = {self.full_row(rows, str(start), length)}{cast}")
                for total, number in totals:
                    self.write(self._dot(f"{operand}_{place}", f"w_{number}_{place}", total))
            return
        ((_, length),) = self.blocks.inner
        with self.block(f"for start in range(0, H, {length}):"):
            self.write(f"{operand} = {self.full_row(rows, 'start', length)}{cast}")
            depth = self.fresh("depth")
            self.write(f"{depth} = start + tl.arange(0, {length})[:, None]")
            for total, number in totals:
                self.write(self._dot(operand, self._weight(number, depth, transposed), total))

    # ---------------------------------------------------------------- means over H

    def mean_of_registers(self, name: str, value: str) -> None:
        """A mean over the columns, all of which this program has."""
        width = "H" if self.blocks.heads == 1 else "width"
        self.write(f"{name} = tl.sum(tl.where(here, {value}, 0.0), 1)[:, None] / {width}")

    def mean_of_rows(self, name: str, rows: Rows) -> None:
        """A mean over a row in memory."""
        self.write(f"{name} = tl.zeros(({self.blocks.rows}, 1), tl.float32)")
        (_, length) = self.blocks.inner[0]
        with self.block(f"for start in range(0, H, {length}):"):
            self.write(f"{name} += tl.sum({self.full_row(rows, 'start', length)}.to(tl.float32), 1)[:, None]")
        self.write(f"{name} = {name} / H")

    # ---------------------------------------------------------------- between stages

    def wait(self, number: int, stages: int) -> None:
        """Behind a stage: what it stored can be read by all programs of the same rows."""
        if self.blocks.regime == "columns":
            count = f"(step * {stages} + {number + 1}) * tl.num_programs(1)"
            self.write(f"all_arrived(counters + tl.program_id(0), {count})")

    def group_of(self, names: str) -> int:
        """The group of the recurrent maps with these names."""
        return self.group_of_maps[frozenset(self.graph.recurrent_maps.index(name) for name in names.split())]

    def is_state(self, group: Group) -> bool:
        """Whether a group's argument is a state itself."""
        return self.plan.nodes[group.argument].operation == "state"

    def crossings(self, stages: Sequence[Stage]) -> list[int]:
        """Nodes that go from one launch to the next, each in a place of its own."""
        return sorted({node for stage in stages for node in stage.crossing}) if self.by_launch else []
