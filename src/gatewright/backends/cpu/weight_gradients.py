"""The gradients of weights and biases: sums over tokens of adjoints times what they belong to.

They are added chunk by chunk while the adjoints are in the cache. Every thread has its own rows of every
gradient, so that none is summed twice and the sums do not depend on how many threads there are.
"""

from __future__ import annotations

from gatewright.backends.cpu.kernel import Kernel, Section
from gatewright.compiler.schedule import Segment


class WeightGradients:
    """The part of a backward kernel that sums gradients of weights.

    Args:
        kernel: that it is part of.
        row: elements from the adjoints of one row of the batch to those of the next.
        slot: elements from those of one step to those of the next.
    """

    def __init__(self, kernel: Kernel, row: str, slot: str) -> None:
        self._kernel, self._row, self._slot = kernel, row, slot

    def _slice(self, count: str = "H") -> tuple[str, str]:
        """The rows of each map's weights whose gradients are this thread's."""
        code, rows, hidden = self._kernel.code, self._kernel.tiles.sums.rows, self._kernel.word[count]
        first, stop = self._kernel.share(self._kernel.panels(hidden, rows), "%thread", self._kernel.threads)
        return (
            code.minimum_int(code.multiply_int(first, rows), hidden),
            code.minimum_int(code.multiply_int(stop, rows), hidden),
        )

    def clear(self) -> None:
        """Gradients of weights begin at zero; each thread clears what it will sum."""
        code, word = self._kernel.code, self._kernel.word
        first, stop = self._slice()
        count = code.subtract_int(stop, first)
        for name, maps, columns in (
            ("dw_ih", len(self._kernel.graph.input_maps), word["I"]),
            ("dw_hh", len(self._kernel.graph.recurrent_maps), word["P" if self._kernel.projected else "H"]),
            ("db_ih", len(self._kernel.graph.input_maps), "1"),
            ("db_hh", len(self._kernel.graph.recurrent_maps), "1"),
        ):
            for number in range(maps):
                row = code.add_int(code.multiply_int(word["H"], number), first)
                self._zero(
                    code.at(word[name], code.multiply_int(row, columns)), code.multiply_int(count, columns)
                )
        for vector in range(len(self._kernel.graph.vector_weights)):
            self._zero(code.at(word[f"dvector_{vector}"], first), count)
        if self._kernel.projected:
            first, stop = self._slice("P")
            rows = code.multiply_int(code.subtract_int(stop, first), word["H"])
            self._zero(code.at(word["dw_hr"], code.multiply_int(first, word["H"])), rows)

    def _zero(self, pointer: str, count: str) -> None:
        size = self._kernel.code.multiply_int(count, self._kernel.vectors.bytes)
        self._kernel.declarations.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        self._kernel.code.do(f"call void @llvm.memset.p0.i64(ptr {pointer}, i8 0, i64 {size}, i1 false)")

    def add(self, start: str, steps: str) -> None:
        """Add what the steps of a chunk contribute."""
        kernel = self._kernel
        if not kernel.ragged:
            self._add(start, steps, "0", kernel.word["B"])
            return
        with kernel.code.loop("0", kernel.word["sections"]) as loop:
            first, last = kernel.share(kernel.word["B"], loop.index, kernel.word["sections"])
            _, stop = kernel.running_in(start, steps)(Section(loop.index, first, last))
            self._add(start, steps, first, kernel.code.subtract_int(stop, first))

    def _add(self, start: str, steps: str, row: str, rows: str) -> None:
        """Add what some rows contribute at the steps of a chunk.

        Args:
            start: the first step.
            steps: how many.
            row: the first row.
            rows: how many.
        """
        self._tokens = row, rows
        code, word, hidden = self._kernel.code, self._kernel.word, self._kernel.word["H"]
        begins = code.compare_int("eq", start, 0)
        skipped = code.choose(begins, "i64", "1", "0")
        rest = code.subtract_int(steps, skipped)
        adjoints = (self._slot, self._row)
        for number, segment in enumerate(self._kernel.plan.segments):
            a = code.at(word["adjoints"], code.multiply_int(hidden, number))
            if segment.input_map is not None:
                x = code.at(word["x"], code.multiply_int(start, word["x_step"]))
                right = (x, word["x_step"], word["x_row"])
                self._sum("dw_ih", segment.input_map, (a, *adjoints), right, steps, "I")
            if segment.recurrent_map is None:
                continue
            group = next(g for g in self._kernel.plan.groups if segment.recurrent_map in g.maps)
            node = self._kernel.graph.nodes[group.argument]
            if node.operation != "state":
                place = next(
                    i for i, s in enumerate(self._kernel.plan.segments) if self._holds(s, group.argument)
                )
                b = code.at(word["adjoints"], code.multiply_int(hidden, place))
                self._sum("dw_hh", segment.recurrent_map, (a, *adjoints), (b, *adjoints), steps, "H")
                continue
            state = self._kernel.graph.state_index(node.name)
            width = self._kernel.width(state)
            batch = code.multiply_int(word["B"], word[width])
            with code.when(begins):
                right = (word[f"first_{state}"], batch, word[width])
                self._sum("dw_hh", segment.recurrent_map, (a, *adjoints), right, "1", width)
            before = code.subtract_int(code.add_int(start, skipped), 1)
            history = self._kernel.history(state, before).base
            step = word["y_step"] if state == self._kernel.output else batch
            shifted = code.at(a, code.multiply_int(skipped, self._slot))
            right = (history, step, word[width])
            self._sum("dw_hh", segment.recurrent_map, (shifted, *adjoints), right, rest, width)
        if self._kernel.projected:
            left = (word["projected"], code.multiply_int(word["B"], word["P"]), word["P"])
            right = (self._kernel.kept("hidden", start).base, code.multiply_int(word["B"], hidden), hidden)
            self._sum("dw_hr", 0, left, right, steps, "H", "P")
        self._column_sums(steps)

    @staticmethod
    def _holds(segment: Segment, argument: int) -> bool:
        return segment.group is not None and segment.node == argument

    def _sum(
        self,
        target: str,
        row: int,
        left: tuple[str, str, str],
        right: tuple[str, str, str],
        steps: str,
        columns: str,
        rows: str = "H",
    ) -> None:
        """Add the products of adjoints and what they belong to, over the tokens of some steps.

        Args:
            target: the gradient they are added to.
            row: the map's place in it.
            left: the adjoints: pointer, stride of a step, of a row of the batch.
            right: what they belong to, likewise.
            steps: how many.
            columns: the argument that says how many columns the gradient has.
            rows: the argument that says how many rows a map has.
        """
        code, word = self._kernel.code, self._kernel.word
        (a, a_step, a_row), (b, b_step, b_row) = left, right
        own, batch = self._tokens
        a, b = (code.at(p, code.multiply_int(own, stride)) for p, stride in ((a, a_row), (b, b_row)))
        first, stop = self._slice(rows)
        few = code.compare_int("slt", batch, steps)
        outer, inner = (code.choose(few, "i64", x, y) for x, y in ((batch, steps), (steps, batch)))
        a_outer, a_inner = (code.choose(few, "i64", x, y) for x, y in ((a_row, a_step), (a_step, a_row)))
        b_outer, b_inner = (code.choose(few, "i64", x, y) for x, y in ((b_row, b_step), (b_step, b_row)))
        size = code.multiply_int(word[rows], word[columns])
        c = code.at(word[target], code.multiply_int(size, row))
        code.do(
            f"call void @token_sum(ptr {a}, i64 {a_outer}, i64 {a_inner}, ptr {b}, i64 {b_outer}, "
            f"i64 {b_inner}, ptr {c}, i64 {word[columns]}, i64 {outer}, i64 {inner}, i64 {first}, "
            f"i64 {stop}, i64 {word[columns]})"
        )

    def _sum_targets(self) -> list[tuple[int, str]]:
        """For each segment whose sum over tokens is a gradient: its number and where the sum goes."""
        code, word, hidden = self._kernel.code, self._kernel.word, self._kernel.word["H"]
        targets = []
        for number, segment in enumerate(self._kernel.plan.segments):
            if segment.recurrent_map is not None:
                pointer = code.at(word["db_hh"], code.multiply_int(hidden, segment.recurrent_map))
            elif segment.input_map is not None:
                pointer = code.at(word["db_ih"], code.multiply_int(hidden, segment.input_map))
            elif segment.vector is not None:
                pointer = word[f"dvector_{segment.vector}"]
            else:
                continue
            targets.append((number, pointer))
        return targets

    def _column_sums(self, steps: str) -> None:
        code, word = self._kernel.code, self._kernel.word
        first, stop = self._slice()
        row, rows = self._tokens
        for number, target in self._sum_targets():
            a = code.at(word["adjoints"], code.multiply_int(word["H"], number))

            def add(a: str, tokens: str, target: str = target) -> None:
                code.do(
                    f"call void @column_sum(ptr {a}, i64 {self._row}, i64 {tokens}, ptr {target}, "
                    f"i64 {first}, i64 {stop})"
                )

            if not self._kernel.ragged:
                add(a, code.multiply_int(steps, rows))
                continue
            a = code.at(a, code.multiply_int(row, self._row))
            with code.loop("0", steps) as loop:
                add(code.at(a, code.multiply_int(loop.index, self._slot)), rows)

    def finish(self) -> None:
        """Where an input map and a recurrent map have one adjoint, their biases have one gradient."""
        code, word = self._kernel.code, self._kernel.word
        first, stop = self._slice()
        size = code.multiply_int(code.subtract_int(stop, first), self._kernel.vectors.bytes)
        self._kernel.declarations.add("declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
        for segment in self._kernel.plan.segments:
            if segment.input_map is None or segment.recurrent_map is None:
                continue
            source = code.at(
                word["db_hh"], code.add_int(code.multiply_int(word["H"], segment.recurrent_map), first)
            )
            target = code.at(
                word["db_ih"], code.add_int(code.multiply_int(word["H"], segment.input_map), first)
            )
            code.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {size}, i1 false)")
