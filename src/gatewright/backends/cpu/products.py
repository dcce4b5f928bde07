"""Matrix products as LLVM code: tiles in registers, packed weights, sums over tokens.

A tile is ``rows x blocks`` vectors for each map, all of them in registers while one loop runs over the inner
dimension. The weights of a tile stand packed in the order in which the loop reads them: a panel is
``[1 + inner, maps, blocks · lanes]``, its first row the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gatewright.backends.cpu.layout import Tile
from gatewright.backends.cpu.simd import Code
from gatewright.backends.cpu.vectors import Vectors

UNROLL = 2
"""Steps of the inner dimension in one turn of the loop."""


@dataclass(frozen=True)
class Term:
    """One product that a tile sums: the left rows times a packed panel, into some of the tile's maps.

    Attributes:
        rows: pointer to the left operand of each row.
        panel: pointer to the packed panel.
        inner: length of the inner dimension, an i64.
        first_map: the first of the tile's maps that it adds to.
        maps: how many.
    """

    rows: Sequence[str]
    panel: str
    inner: str
    first_map: int
    maps: int


class Accumulators:
    """The registers of a tile, by row, block and map."""

    def __init__(self, code: Code, tile: Tile) -> None:
        self._code, self.tile = code, tile
        zero = "zeroinitializer"
        self.values = {
            (row, block, index): zero
            for row in range(tile.rows)
            for block in range(tile.blocks)
            for index in range(tile.maps)
        }

    def add(self, term: Term) -> None:
        """Sum a product, its bias first."""
        code, tile, lanes = self._code, self.tile, self._code.vectors.lanes
        width = term.maps * tile.blocks * lanes
        keys = [key for key in self.values if term.first_map <= key[2] < term.first_map + term.maps]

        def weights(place: str) -> dict[tuple[int, int], str]:
            return {
                (block, index): code.weights(
                    code.weight_at(place, ((index - term.first_map) * tile.blocks + block) * lanes)
                )
                for index in range(term.first_map, term.first_map + term.maps)
                for block in range(tile.blocks)
            }

        bias = weights(term.panel)
        for key in keys:
            known = self.values[key]
            self.values[key] = (
                bias[key[1:]] if known == "zeroinitializer" else code.arithmetic("fadd", known, bias[key[1:]])
            )
        panel = code.weight_at(term.panel, width)

        def step(values: dict[tuple[int, int, int], str], index: str) -> None:
            found = weights(code.weight_at(panel, code.multiply_int(index, width)))
            for row in range(tile.rows):
                left = code.broadcast(code.at(term.rows[row], index))
                for key in keys:
                    if key[0] == row:
                        values[key] = code.fused(left, found[key[1:]], values[key])

        whole = code.value(f"and i64 {term.inner}, {-UNROLL}")
        for start, stop, unroll in (("0", whole, UNROLL), (whole, term.inner, 1)):
            carried = [(code.vectors.type, self.values[key]) for key in keys]
            with code.loop(start, stop, unroll, carried) as loop:
                values = dict(zip(keys, loop.carried, strict=True))
                for offset in range(unroll):
                    step(values, code.add_int(loop.index, offset))
                loop.carry([values[key] for key in keys])
            self.values.update(zip(keys, loop.results, strict=True))

    def spill(self, place: str) -> None:
        """Write the registers to ``[rows, blocks, maps]`` vectors."""
        code, tile = self._code, self.tile
        for (row, block, index), value in self.values.items():
            offset = ((row * tile.blocks + block) * tile.maps + index) * code.vectors.lanes
            code.store(value, code.at(place, offset))


def row_pointers(code: Code, base: str, stride: str, first: str, last: str, rows: int) -> list[str]:
    """Pointers to ``rows`` rows from ``first``; those behind ``last`` repeat it, so that all may be read."""
    pointers = []
    for row in range(rows):
        number = code.minimum_int(code.add_int(first, row), last)
        pointers.append(code.at(base, code.multiply_int(number, stride)))
    return pointers


def panel_size(code: Code, tile: Tile, inner: str) -> str:
    """Elements of one panel."""
    return code.multiply_int(code.add_int(inner, 1), tile.maps * tile.width(code.vectors))


def edge_mask(code: Code, column: str, columns: str, aligned: bool) -> str:
    """The mask of a vector at a column, or nothing when no vector crosses the edge."""
    return "" if aligned else code.lanes_below(code.subtract_int(columns, column))


# -------------------------------------------------------------------- functions of a module


def product_function(
    vectors: Vectors, declarations: set[str], tile: Tile, aligned: bool, short: bool = False
) -> str:
    """``product``: C[row, column] = A[row] · panels, for some rows and panels."""
    code = Code(vectors, declarations, short)
    width, lanes = tile.width(vectors), vectors.lanes
    room = code.reserve(tile.rows * tile.blocks * lanes)
    last = code.subtract_int("%rows", 1)
    size = panel_size(code, tile, "%inner")
    with code.loop("%first", "%stop") as panels:
        panel = code.weight_at("%packed", code.multiply_int(panels.index, size))
        column = code.multiply_int(panels.index, width)
        with code.loop("0", "%rows", tile.rows) as rows:
            registers = Accumulators(code, tile)
            left = row_pointers(code, "%a", "%a_row", rows.index, last, tile.rows)
            registers.add(Term(left, panel, "%inner", 0, 1))
            registers.spill(room)
            count = code.minimum_int(code.subtract_int("%rows", rows.index), tile.rows)
            with code.loop("0", count) as row:
                target = code.at("%c", code.multiply_int(code.add_int(rows.index, row.index), "%c_row"))
                source = code.at(room, code.multiply_int(row.index, width))
                for block in range(tile.blocks):
                    place = code.add_int(column, block * lanes)
                    with code.when(code.compare_int("slt", place, "%columns")):
                        mask = edge_mask(code, place, "%columns", aligned)
                        code.store(code.load(code.at(source, block * lanes)), code.at(target, place), mask)
    code.do("ret void")
    parameters = "ptr %a, i64 %a_row, i64 %rows, ptr %packed, i64 %inner, i64 %first, i64 %stop"
    return code.text(f"internal void @product({parameters}, ptr %c, i64 %c_row, i64 %columns) noinline")


def token_sum_function(vectors: Vectors, declarations: set[str], tile: Tile, aligned: bool) -> str:
    """``token_sum``: C[i, j] += sum over tokens of A[token, i] · B[token, j], for some i.

    A token has an outer and an inner number, so that steps and rows of a batch may have any strides.
    """
    code = Code(vectors, declarations)
    lanes, kind = vectors.lanes, vectors.type
    keys = [(row, block) for row in range(tile.rows) for block in range(tile.blocks)]
    last = code.subtract_int("%stop", 1)
    with (
        code.loop("0", "%columns", tile.width(vectors)) as columns,
        code.loop("%first", "%stop", tile.rows) as rows,
    ):
        masks = []
        for block in range(tile.blocks):
            place = code.add_int(columns.index, block * lanes)
            # with several blocks the last ones may lie behind the edge altogether
            masks.append(edge_mask(code, place, "%columns", aligned and tile.blocks == 1))
        numbers = [code.minimum_int(code.add_int(rows.index, row), last) for row in range(tile.rows)]
        targets = [
            code.at("%c", code.add_int(code.multiply_int(n, "%c_row"), columns.index)) for n in numbers
        ]
        initial = [
            (kind, code.load(code.at(targets[row], block * lanes), masks[block])) for row, block in keys
        ]

        def step(values: list[str], left: str, right: str, numbers: list[str] = numbers) -> list[str]:
            found = [code.load(code.at(right, block * lanes), masks[block]) for block in range(tile.blocks)]
            factors = [code.broadcast(code.at(left, number)) for number in numbers]
            return [
                code.fused(factors[row], found[block], value)
                for (row, block), value in zip(keys, values, strict=True)
            ]

        with code.loop("0", "%outer", 1, initial) as outer:
            left = code.at("%a", code.multiply_int(outer.index, "%a_outer"))
            right = code.at("%b", code.add_int(code.multiply_int(outer.index, "%b_outer"), columns.index))
            values = list(outer.carried)
            whole = code.value(f"and i64 %inner, {-UNROLL}")
            for start, stop, unroll in (("0", whole, UNROLL), (whole, "%inner", 1)):
                with code.loop(start, stop, unroll, [(kind, v) for v in values]) as inner:
                    sums = list(inner.carried)
                    for offset in range(unroll):
                        index = code.add_int(inner.index, offset)
                        a = code.at(left, code.multiply_int(index, "%a_inner"))
                        b = code.at(right, code.multiply_int(index, "%b_inner"))
                        sums = step(sums, a, b)
                    inner.carry(sums)
                values = list(inner.results)
            outer.carry(values)
        for (row, block), value in zip(keys, outer.results, strict=True):
            with code.when(code.compare_int("slt", code.add_int(rows.index, row), "%stop")):
                code.store(value, code.at(targets[row], block * lanes), masks[block])
    code.do("ret void")
    parameters = "ptr %a, i64 %a_outer, i64 %a_inner, ptr %b, i64 %b_outer, i64 %b_inner"
    counts = "i64 %outer, i64 %inner, i64 %first, i64 %stop, i64 %columns"
    return code.text(f"internal void @token_sum({parameters}, ptr %c, i64 %c_row, {counts}) noinline")


def column_sum_function(vectors: Vectors, declarations: set[str]) -> str:
    """``column_sum``: c[j] += sum over rows of A[row, j], for columns of one thread."""
    code = Code(vectors, declarations)
    lanes, kind = vectors.lanes, vectors.type
    with code.loop("%first", "%stop", lanes) as columns:
        # the columns of a thread need not be a whole number of vectors
        mask = edge_mask(code, columns.index, "%stop", aligned=False)
        target = code.at("%c", columns.index)
        with code.loop("0", "%rows", 1, [(kind, code.load(target, mask))]) as rows:
            place = code.add_int(code.multiply_int(rows.index, "%a_row"), columns.index)
            rows.carry([code.arithmetic("fadd", rows.carried[0], code.load(code.at("%a", place), mask))])
        code.store(rows.results[0], target, mask)
    code.do("ret void")
    parameters = "ptr %a, i64 %a_row, i64 %rows, ptr %c, i64 %first, i64 %stop"
    return code.text(f"internal void @column_sum({parameters}) noinline")


def pack_columns_function(vectors: Vectors, declarations: set[str], aligned: bool) -> str:
    """``pack_columns``: rows of W become columns of one map of one panel, transposed in registers.

    W is ``[columns, inner]`` from its first row of the panel; ``step`` is the length of a row of the panel.
    """
    code = Code(vectors, declarations)
    lanes = vectors.lanes
    last = code.subtract_int("%columns", 1)
    with code.loop("0", "%width", lanes) as block:
        pointers = row_pointers(code, "%w", "%inner", block.index, last, lanes)
        target = code.at("%panel", block.index)
        with code.loop("0", "%inner", lanes) as inner:
            mask = edge_mask(code, inner.index, "%inner", aligned)
            rows = [code.load(code.at(pointer, inner.index), mask) for pointer in pointers]
            for lane, row in enumerate(transpose(code, rows)):
                place = code.add_int(inner.index, lane)
                if aligned:
                    code.store(row, code.at(target, code.multiply_int(place, "%step")))
                    continue
                with code.when(code.compare_int("slt", place, "%inner")):
                    code.store(row, code.at(target, code.multiply_int(place, "%step")))
    code.do("ret void")
    parameters = "ptr %w, i64 %columns, i64 %inner, ptr %panel, i64 %width, i64 %step"
    return code.text(f"internal void @pack_columns({parameters}) noinline")


def pack_rows_function(vectors: Vectors, declarations: set[str], aligned: bool) -> str:
    """``pack_rows``: some columns of W, row by row, become a panel."""
    code = Code(vectors, declarations)
    lanes = vectors.lanes
    with code.loop("0", "%inner") as inner:
        source = code.at("%w", code.multiply_int(inner.index, "%w_row"))
        target = code.at("%panel", code.multiply_int(inner.index, "%width"))
        # a panel may reach behind the edge by more than one vector
        stop = code.minimum_int("%width", "%columns")
        with code.loop("0", stop, lanes) as block:
            mask = edge_mask(code, block.index, "%columns", aligned)
            code.store(code.load(code.at(source, block.index), mask), code.at(target, block.index))
    code.do("ret void")
    parameters = "ptr %w, i64 %w_row, i64 %inner, i64 %columns, ptr %panel, i64 %width"
    return code.text(f"internal void @pack_rows({parameters}) noinline")


def transpose(code: Code, rows: list[str]) -> list[str]:
    """A square of vectors, transposed."""
    lanes = len(rows)
    stride = 1
    while stride < lanes:
        low = [lane if not lane & stride else lanes + lane - stride for lane in range(lanes)]
        high = [lane + stride if not lane & stride else lanes + lane for lane in range(lanes)]
        following = list(rows)
        for row in range(lanes):
            if not row & stride:
                following[row] = code.shuffle(rows[row], rows[row + stride], low)
                following[row + stride] = code.shuffle(rows[row], rows[row + stride], high)
        rows = following
        stride *= 2
    return rows
