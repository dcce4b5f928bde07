"""What the forward and the backward kernel share: arguments, the grid of threads, tiles, barriers, elements.

A kernel is one function of an array of 64-bit words. Rows of the batch are split over groups of threads,
which never wait for each other in a step; within a group the columns are split, with a barrier behind every
stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gatewright.backends.cpu.entry import barrier_function, entry_function
from gatewright.backends.cpu.functions import FUNCTIONS, power_of
from gatewright.backends.cpu.layout import LINE_WORDS, SYSTEM, Form, Layout, Tile, Tiles
from gatewright.backends.cpu.products import (
    Accumulators,
    Term,
    edge_mask,
    panel_size,
    row_pointers,
)
from gatewright.backends.cpu.simd import Code
from gatewright.backends.cpu.vectors import Vectors
from gatewright.compiler.graph import Node
from gatewright.compiler.schedule import Schedule


@dataclass(frozen=True)
class Place:
    """Where ``[B, H]`` values stand: ``base + row · stride + offset + column``."""

    base: str
    stride: str
    offset: str = "0"

    def at(self, code: Code, row: str, column: str) -> str:
        """Pointer to a row and column."""
        offset = code.add_int(code.add_int(code.multiply_int(row, self.stride), self.offset), column)
        return code.at(self.base, offset)


class Elements:
    """Nodes computed element by element at one place, each once.

    Args:
        code: of the kernel.
        nodes: of the schedule.
        leaf: gives the vector of a node that is not to be computed, or None.
    """

    def __init__(self, code: Code, nodes: Sequence[Node], leaf: Callable[[int], str | None]) -> None:
        self._code, self._nodes, self._leaf = code, nodes, leaf
        self._known: dict[int, str] = {}

    def value(self, index: int) -> str:
        """The vector of a node."""
        if index not in self._known:
            found = self._leaf(index)
            self._known[index] = self._computed(index) if found is None else found
        return self._known[index]

    def _computed(self, index: int) -> str:
        node = self._nodes[index]
        if node.operation == "constant":
            assert node.value is not None
            return self._code.constant(node.value)
        if node.operation == "power":
            exponent = self._nodes[node.inputs[1]].value
            if exponent is not None:
                return power_of(self._code, self.value(node.inputs[0]), exponent)
        return FUNCTIONS[node.operation](self._code, *(self.value(operand) for operand in node.inputs))


@dataclass(frozen=True)
class Section:
    """Rows among which those that end later stand first."""

    number: str
    first: str
    last: str


class Kernel:
    """A kernel that is being emitted.

    Args:
        plan: of the cell.
        vectors: of the machine.
        tiles: of the kernel.
        form: of the kernel.
        layout: what it is given.
    """

    def __init__(self, plan: Schedule, vectors: Vectors, tiles: Tiles, form: Form, layout: Layout) -> None:
        self.plan, self.vectors, self.tiles, self.form = plan, vectors, tiles, form
        self.aligned, self.projected, self.ragged = form.aligned, form.projected, form.ragged
        self.graph, self._mean_nodes = plan.graph, layout.means
        self.output = self.graph.state_index(self.graph.output)
        self.declarations: set[str] = set()
        self.code = Code(vectors, self.declarations, form.short)
        self.names = layout.names
        self.word: dict[str, str] = {}
        are_pointers = {*SYSTEM, *layout.pointers}
        for index, name in enumerate(self.names):
            kind = "ptr" if name in are_pointers else "i64"
            self.word[name] = self.code.value(f"load {kind}, ptr {self.code.word('%arguments', index)}")
        self._make_grid()

    def _make_grid(self) -> None:
        code, word = self.code, self.word
        self.threads = code.multiply_int(word["row_groups"], word["column_groups"])
        self.row_group = code.divide_int("%thread", word["column_groups"])
        rest = code.multiply_int(self.row_group, word["column_groups"])
        self.column_group = code.subtract_int("%thread", rest)
        self.first_row, self.last_row = self.share(word["B"], self.row_group, word["row_groups"])
        self.rows = code.subtract_int(self.last_row, self.first_row)
        self.final_row = code.subtract_int(self.last_row, 1)
        self._waits = {name: code.variable(0) for name in ("all", "group")}

    def share(self, count: str, part: str, parts: str) -> tuple[str, str]:
        """First and behind-the-last of one part of a count."""
        code = self.code
        first = code.divide_int(code.multiply_int(count, part), parts)
        return first, code.divide_int(code.multiply_int(count, code.add_int(part, 1)), parts)

    @contextmanager
    def own_rows(self, chosen: Callable[[Section], tuple[str, str]]) -> Iterator[None]:
        """What is emitted inside runs over some own rows where rows end at different steps, else over all.

        Args:
            chosen: gives of a section the first row and the one behind the last.
        """
        if not self.ragged:
            yield
            return
        code, word = self.code, self.word
        kept = self.first_row, self.last_row, self.rows, self.final_row
        with code.loop(self.row_group, word["sections"], word["row_groups"]) as loop:
            first, last = self.share(word["B"], loop.index, word["sections"])
            self.final_row = code.subtract_int(last, 1)
            self.first_row, self.last_row = chosen(Section(loop.index, first, last))
            self.rows = code.subtract_int(self.last_row, self.first_row)
            yield
        self.first_row, self.last_row, self.rows, self.final_row = kept

    def running_at(self, step: str) -> Callable[[Section], tuple[str, str]]:
        """The rows that are run at a step."""
        return lambda section: (section.first, self._behind(section, step))

    def held_at(self, step: str) -> Callable[[Section], tuple[str, str]]:
        """The rows that hold their states at a step."""
        return lambda section: (self._behind(section, step), section.last)

    def running_in(self, start: str, steps: str) -> Callable[[Section], tuple[str, str]]:
        """The rows that are run at one of some steps: rows only end, or only begin."""
        last = self.code.subtract_int(self.code.add_int(start, steps), 1)

        def chosen(section: Section) -> tuple[str, str]:
            stops = (self._behind(section, step) for step in (start, last))
            return section.first, self.code.maximum_int(*stops)

        return chosen

    def _behind(self, section: Section, step: str) -> str:
        """The row behind the last one of a section that is run at a step."""
        code, word = self.code, self.word
        place = code.add_int(code.multiply_int(section.number, word["T"]), step)
        count = code.value(f"load i64, ptr {code.word(word['running'], place)}")
        return code.add_int(section.first, count)

    def panels(self, columns: str, width: int) -> str:
        """How many panels of a width cover the columns."""
        return self.code.divide_int(self.code.add_int(columns, width - 1), width)

    def barrier(self, name: str) -> None:
        """Wait for ``"all"`` threads or for those of the own ``"group"``; nothing when there is only one."""
        code, word = self.code, self.word
        count = self.threads if name == "all" else word["column_groups"]
        with code.when(code.compare_int("sgt", count, 1)):
            seen = code.value(f"load i64, ptr {self._waits[name]}")
            target = code.add_int(seen, count)
            code.do(f"store i64 {target}, ptr {self._waits[name]}")
            line = "0" if name == "all" else code.add_int(self.row_group, 1)
            offset = code.multiply_int(line, LINE_WORDS)
            counter = code.value(f"getelementptr inbounds i64, ptr {word['barriers']}, i64 {offset}")
            # long waits are counted behind the status, those of the group first
            waits = code.word(word["status"], 1 if name == "group" else 2)
            code.do(f"call void @barrier(ptr {counter}, i64 {target}, ptr {word['yield']}, ptr {waits})")

    @contextmanager
    def shared_out(self, count: str) -> Iterator[str]:
        """A loop over items of which each thread takes every so manieth."""
        with self.code.loop("%thread", count, self.threads) as loop:
            yield loop.index

    # ---------------------------------------------------------------- values of a step

    def width(self, state: int) -> str:
        """The argument that says how wide a state is."""
        return "P" if state == self.output else "H"

    def history(self, state: int, step: str) -> Place:
        """Where the value of a state behind a step stands."""
        code, word = self.code, self.word
        if state == self.output:
            return Place(code.at(word["y"], code.multiply_int(step, word["y_step"])), word["P"])
        return self.kept(f"history_{state}", step)

    def kept(self, name: str, step: str) -> Place:
        """Where a value ``[B, H]`` of a step stands that is kept."""
        raise NotImplementedError

    def means(self, node: int) -> str:
        """Where a mean over ``H`` stands, one number a row."""
        place = self._mean_nodes.index(node)
        return self.code.at(self.word["means"], self.code.multiply_int(self.word["B"], place))

    def mask_value(self, node: Node, step: str, row: str, column: str, edge: str) -> str:
        """The vector of a mask at a step, row and column; ``edge`` says which columns there are."""
        code, word = self.code, self.word
        number = self.graph.masks.index((node.operation, node.name))
        base = word[f"mask_{number}"]
        if node.operation == "unit_mask":
            return code.load(Place(base, word[f"mask_{number}_step"]).at(code, row, column), edge)
        base = code.at(base, code.multiply_int(step, word[f"mask_{number}_step"]))
        if node.operation == "row_mask":
            return code.broadcast(code.at(base, row))
        return code.load(Place(base, word["H"]).at(code, row, column), edge)

    # ---------------------------------------------------------------- packing

    def pack_map(
        self, weights: str, biases: str, row: int, packed: str, tile: Tile, place: int, inner: str,
        rows: str = "H",
    ) -> None:  # fmt: skip
        """Pack the rows of one map of W ``[maps · rows, inner]`` and its bias, each thread some panels.

        Args:
            weights: pointer to W.
            biases: pointer to the biases.
            row: the map's place in W.
            packed: where its panels begin.
            tile: of the product.
            place: of the map among those of the tile.
            inner: columns of W.
            rows: the argument that says how many rows a map has.
        """
        code, width, hidden = self.code, tile.width(self.vectors), self.word[rows]
        step = tile.maps * width
        with self.shared_out(self.panels(hidden, width)) as panel:
            column = code.multiply_int(panel, width)
            columns = code.subtract_int(hidden, column)
            first = code.add_int(code.multiply_int(hidden, row), column)
            source = code.at(weights, code.multiply_int(first, inner))
            start = code.multiply_int(panel, panel_size(code, tile, inner))
            target = code.at(packed, code.add_int(start, place * width))
            bias = code.at(biases, first)
            code.do(
                f"call void @pack_rows(ptr {bias}, i64 0, i64 1, i64 {columns}, ptr {target}, i64 {width})"
            )
            body = code.at(target, step)
            code.do(
                f"call void @pack_columns(ptr {source}, i64 {columns}, i64 {inner}, ptr {body}, "
                f"i64 {width}, i64 {step})"
            )

    def pack_transposed(
        self, weights: str, maps: Sequence[int], packed: str, tile: Tile, columns: str, rows: str = "H"
    ) -> None:
        """Pack some maps of W ``[maps · rows, columns]`` for products with Wᵀ, one below the other.

        Args:
            weights: pointer to W.
            maps: their places in W.
            packed: where the panels begin.
            tile: of the product.
            columns: of W.
            rows: the argument that says how many rows a map has.
        """
        code, width, hidden = self.code, tile.width(self.vectors), self.word[rows]
        size = panel_size(code, tile, code.multiply_int(hidden, len(maps)))
        with self.shared_out(self.panels(columns, width)) as panel:
            column = code.multiply_int(panel, width)
            rest = code.subtract_int(columns, column)
            target = code.at(packed, code.multiply_int(panel, size))
            for lane in range(0, width, self.vectors.lanes):
                code.store("zeroinitializer", code.at(target, lane))
            for place, row in enumerate(maps):
                first = code.multiply_int(code.multiply_int(hidden, row), columns)
                source = code.at(weights, code.add_int(first, column))
                start = code.multiply_int(code.add_int(code.multiply_int(hidden, place), 1), width)
                body = code.at(target, start)
                code.do(
                    f"call void @pack_rows(ptr {source}, i64 {columns}, i64 {hidden}, i64 {rest}, "
                    f"ptr {body}, i64 {width})"
                )

    # ---------------------------------------------------------------- loops

    def over_tiles(
        self,
        tile: Tile,
        terms: Callable[[str, str], Sequence[Term]],
        element: Callable[[str, str, str, str], None],
        odd: str,
        columns: str = "H",
    ) -> None:
        """Products and then elements for the own rows and columns, tile by tile.

        Args:
            tile: its shape; without maps there is no product.
            terms: given the panel and the first row, what to sum.
            element: given row, column, mask and the tile's sums at that place, what to do.
            odd: 1 to run through the panels backwards, so that those used last are used first while they
                are still in the cache.
            columns: the argument that says how many columns there are.
        """
        code, width, lanes = self.code, tile.width(self.vectors), self.vectors.lanes
        edge = self.word[columns]
        first, stop = self.share(self.panels(edge, width), self.column_group, self.word["column_groups"])
        room = code.reserve(max(1, tile.rows * tile.blocks * tile.maps) * lanes)
        mirror = code.subtract_int(code.add_int(first, stop), 1)
        with code.loop(first, stop) as panels:
            turned = code.subtract_int(mirror, panels.index)
            panel = code.choose(code.compare_int("eq", odd, 1), "i64", turned, panels.index)
            column = code.multiply_int(panel, width)
            if not tile.maps:
                with code.loop(self.first_row, self.last_row) as rows:
                    self._blocks(tile, rows.index, column, edge, room, element)
                return
            first_row = self.first_row
            for smaller, stop_row in self._row_tiles(tile):
                with code.loop(first_row, stop_row, smaller.rows) as rows:
                    found = terms(panel, rows.index)
                    self._tile(smaller, found, rows.index, column, edge, room, element)
                first_row = stop_row

    def _row_tiles(self, tile: Tile) -> Iterator[tuple[Tile, str]]:
        """Tiles that cover the rows one behind the other, and where each of them stops.

        Where rows end at different steps few are left in the end, and a tile costs as much with one row as
        with all: so there are smaller ones.
        """
        if not self.ragged:
            yield tile, self.last_row
            return
        code, rows, first = self.code, tile.rows, self.first_row
        while rows:
            count = code.divide_int(code.subtract_int(self.last_row, first), rows)
            first = code.add_int(first, code.multiply_int(count, rows))
            yield Tile(rows, tile.blocks, tile.maps), first
            rows //= 2

    def _tile(
        self,
        tile: Tile,
        terms: Sequence[Term],
        first: str,
        column: str,
        edge: str,
        room: str,
        element: Callable[[str, str, str, str], None],
    ) -> None:
        code = self.code
        registers = Accumulators(code, tile)
        for term in terms:
            registers.add(term)
        registers.spill(room)
        count = code.minimum_int(code.subtract_int(self.last_row, first), tile.rows)
        with code.loop("0", count) as row:
            offset = code.multiply_int(row.index, tile.blocks * tile.maps * self.vectors.lanes)
            self._blocks(tile, code.add_int(first, row.index), column, edge, code.at(room, offset), element)

    def _blocks(
        self,
        tile: Tile,
        row: str,
        column: str,
        edge: str,
        sums: str,
        element: Callable[[str, str, str, str], None],
    ) -> None:
        code, lanes = self.code, self.vectors.lanes
        if tile.blocks == 1:
            element(row, column, edge_mask(code, column, edge, self.aligned), sums)
            return
        with code.loop("0", tile.blocks) as block:
            place = code.add_int(column, code.multiply_int(block.index, lanes))
            with code.when(code.compare_int("slt", place, edge)):
                offset = code.multiply_int(block.index, tile.maps * lanes)
                element(row, place, edge_mask(code, place, edge, self.aligned), code.at(sums, offset))

    def left_rows(self, place: Place, first: str, tile: Tile) -> list[str]:
        """Pointers to the left operand of a tile."""
        base = self.code.at(place.base, place.offset)
        return row_pointers(self.code, base, place.stride, first, self.final_row, tile.rows)

    def row_means(self, place: Place, target: str) -> None:
        """The mean over ``H`` of each own row, one number a row.

        Every thread of a group writes the same bits, so none waits for the others before it reads them.
        """
        code, hidden, lanes = self.code, self.word["H"], self.vectors.lanes
        element, kind = self.vectors.element, self.vectors.type
        count = code.value(f"sitofp i64 {hidden} to {element}")
        with code.loop(self.first_row, self.last_row) as rows:
            with code.loop("0", hidden, lanes, [(kind, "zeroinitializer")]) as columns:
                mask = edge_mask(code, columns.index, hidden, self.aligned)
                vector = code.load(place.at(code, rows.index, columns.index), mask)
                columns.carry([code.arithmetic("fadd", columns.carried[0], vector)])
            name = f"llvm.vector.reduce.fadd.{self.vectors.suffix}"
            self.declarations.add(f"declare {element} @{name}({element}, {kind})")
            total = code.value(f"call reassoc {element} @{name}({element} 0.0, {kind} {columns.results[0]})")
            mean = code.value(f"fdiv {element} {total}, {count}")
            code.do(f"store {element} {mean}, ptr {code.at(target, rows.index)}")

    def copy(self, source: Place, target: Place, columns: str) -> None:
        """Copy the own rows and columns."""
        tile = Tile(1, 1, 0)

        def element(row: str, column: str, mask: str, _: str) -> None:
            value = self.code.load(source.at(self.code, row, column), mask)
            self.code.store(value, target.at(self.code, row, column), mask)

        self.over_tiles(tile, lambda _panel, _row: (), element, "0", columns)

    def over_sequence(
        self,
        left: tuple[str, str, str],
        right: tuple[str, str, str],
        steps: str,
        call: Callable[..., None],
    ) -> None:
        """Call a product for the own rows of all steps, with as many rows at once as can be.

        Args:
            left: the left operand: pointer to the first step and row, stride of a step, stride of a row.
            right: the same of the result.
            steps: how many.
            call: given the left pointer, its row stride, the rows, the right pointer and its row stride.
        """
        code, own = self.code, self.first_row
        a, a_step, a_row = left
        c, c_step, c_row = right
        # as many rows at once as can be: those of one step, or the steps of one row
        few = code.compare_int("slt", self.rows, steps)
        outer = code.choose(few, "i64", self.rows, steps)
        inner = code.choose(few, "i64", steps, self.rows)
        a_outer, a_inner = (code.choose(few, "i64", x, y) for x, y in ((a_row, a_step), (a_step, a_row)))
        c_outer, c_inner = (code.choose(few, "i64", x, y) for x, y in ((c_row, c_step), (c_step, c_row)))
        a_first = code.at(a, code.multiply_int(own, a_row))
        c_first = code.at(c, code.multiply_int(own, c_row))
        with code.loop("0", outer) as loop:
            call(
                code.at(a_first, code.multiply_int(loop.index, a_outer)), a_inner, inner,
                code.at(c_first, code.multiply_int(loop.index, c_outer)), c_inner,
            )  # fmt: skip

    # ---------------------------------------------------------------- the module

    def module(self, functions: Sequence[str], pause: str) -> str:
        """The whole module: the kernel, what it calls, and the two ways to enter it."""
        self.code.do("ret void")
        if pause:
            name, _, operand = pause.partition("(")
            self.declarations.add(f"declare void @{name}({operand.split()[0].rstrip(')')})")
        body = self.code.text("void @run(ptr %arguments, i64 %thread)")
        parts = [body, *functions, barrier_function(pause), entry_function(self.names)]
        return "\n\n".join([*parts, *sorted(self.declarations)])
