"""The forward kernel: input products in chunks of time steps, then the steps, stage by stage."""

from __future__ import annotations

from gatewright.backends.cpu.kernel import Elements, Kernel, Place
from gatewright.backends.cpu.layout import Form, Tiles, forward_layout
from gatewright.backends.cpu.products import (
    Term,
    pack_columns_function,
    pack_rows_function,
    panel_size,
    product_function,
)
from gatewright.backends.cpu.vectors import Vectors
from gatewright.compiler.graph import MASKS
from gatewright.compiler.schedule import Schedule, Stage


def forward_module(plan: Schedule, vectors: Vectors, tiles: Tiles, form: Form, pause: str) -> str:
    """The LLVM module of the forward kernel."""
    return _Forward(plan, vectors, tiles, form).emitted(pause)


class _Forward(Kernel):
    def __init__(self, plan: Schedule, vectors: Vectors, tiles: Tiles, form: Form) -> None:
        self.layout = forward_layout(plan, form.training)
        super().__init__(plan, vectors, tiles, form, self.layout)

    def emitted(self, pause: str) -> str:
        code, word = self.code, self.word
        with code.when(code.compare_int("eq", word["ready"], 0)):
            self._pack()
            self.barrier("all")
        with code.loop("0", word["T"], word["chunk"]) as chunks:
            steps = code.minimum_int(code.subtract_int(word["T"], chunks.index), word["chunk"])
            with self.own_rows(self.running_in(chunks.index, steps)):
                self._input_maps(chunks.index, steps)
            self.barrier("group")
            with code.loop("0", steps) as slots:
                self._step(code.add_int(chunks.index, slots.index), slots.index)
        last = code.subtract_int(word["T"], 1)
        for state in range(len(self.graph.states)):
            width = self.width(state)
            self.copy(self.history(state, last), Place(word[f"final_{state}"], word[width]), width)
        functions = [
            product_function(
                self.vectors, self.declarations, self.tiles.product, self.aligned, self.form.short
            ),
            pack_columns_function(self.vectors, self.declarations, self.aligned),
            pack_rows_function(self.vectors, self.declarations, self.aligned),
        ]
        return self.module(functions, pause)

    def _pack(self) -> None:
        code, word = self.code, self.word
        for number in range(len(self.graph.input_maps)):
            packed = code.at(word["packed_ih"], code.multiply_int(self._packed_map(), number))
            self.pack_map(word["w_ih"], word["b_ih"], number, packed, self.tiles.product, 0, word["I"])
        for stage, tile in zip(self.plan.forward, self.tiles.stages, strict=True):
            for number in stage.groups:
                group = self.plan.groups[number]
                shape = tile.with_maps(len(group.maps))
                for place, row in enumerate(group.maps):
                    packed = word[f"packed_{number}"]
                    self.pack_map(word["w_hh"], word["b_hh"], row, packed, shape, place, word["P"])
        if self.projected:
            packed, tile = word["packed_hr"], self.tiles.projection
            self.pack_map(word["w_hr"], word["zeros"], 0, packed, tile, 0, word["H"], "P")

    def _packed_map(self) -> str:
        """Elements of the packed weights of one input map."""
        tile = self.tiles.product
        count = self.panels(self.word["H"], tile.width(self.vectors))
        return self.code.multiply_int(count, panel_size(self.code, tile, self.word["I"]))

    def _input_maps(self, start: str, steps: str) -> None:
        """The input maps of a chunk: ``maps[slot, row, map, column]``."""
        code, word = self.code, self.word
        count = len(self.graph.input_maps)
        token = code.multiply_int(word["H"], count)
        panels = self.panels(word["H"], self.tiles.product.width(self.vectors))
        first, stop = self.share(panels, self.column_group, word["column_groups"])
        x = code.at(word["x"], code.multiply_int(start, word["x_step"]))
        size = self._packed_map()

        def call(a: str, a_row: str, rows: str, c: str, c_row: str) -> None:
            with code.loop("0", count) as maps:
                packed = code.weight_at(word["packed_ih"], code.multiply_int(maps.index, size))
                target = code.at(c, code.multiply_int(maps.index, word["H"]))
                code.do(
                    f"call void @product(ptr {a}, i64 {a_row}, i64 {rows}, ptr {packed}, i64 {word['I']}, "
                    f"i64 {first}, i64 {stop}, ptr {target}, i64 {c_row}, i64 {word['H']})"
                )

        left = (x, word["x_step"], word["x_row"])
        right = (word["maps"], code.multiply_int(word["B"], token), token)
        self.over_sequence(left, right, steps, call)

    def kept(self, name: str, step: str) -> Place:
        """A value of a step where all are kept, or where each second one overwrites the first."""
        code, word = self.code, self.word
        turn = code.value(f"and i64 {step}, {word['history_mask']}")
        size = code.multiply_int(word["B"], word["H"])
        return Place(code.at(word[name], code.multiply_int(turn, size)), word["H"])

    def _step(self, step: str, slot: str) -> None:
        code, word, hidden = self.code, self.word, self.word["H"]
        self.step = step
        begins = code.compare_int("eq", step, 0)
        before = code.subtract_int(step, 1)
        self.old: list[Place] = []
        for state in range(len(self.graph.states)):
            base = code.choose(begins, "ptr", word[f"first_{state}"], self.history(state, before).base)
            self.old.append(Place(base, word[self.width(state)]))
        self.new = [self.history(state, step) for state in range(len(self.graph.states))]
        projection = self.new[self.output]
        if self.projected:
            self.new[self.output] = self.kept("hidden", step)
        token = code.multiply_int(hidden, len(self.graph.input_maps))
        start = code.multiply_int(code.multiply_int(word["B"], token), slot)
        self.maps = [
            Place(code.at(word["maps"], start), token, code.multiply_int(hidden, number))
            for number in range(len(self.graph.input_maps))
        ]
        self.places = self._places(step)
        odd = code.value(f"and i64 {step}, 1")
        if self.ragged:
            with self.own_rows(self.held_at(step)):
                self._hold()
        for number, stage in enumerate(self.plan.forward):
            with self.own_rows(self.running_at(step)):
                self._stage(number, stage, odd)
            self.barrier("group")
        if self.projected:
            self._project(self.new[self.output], projection)
            self.barrier("group")

    def _hold(self) -> None:
        """States of rows that have ended, or have not begun."""
        for state, (old, new) in enumerate(zip(self.old, self.new, strict=True)):
            self.copy(old, new, self.width(state))

    def _project(self, hidden: Place, target: Place) -> None:
        """Project the output: y = W_hr · hidden."""
        code, word, tile = self.code, self.word, self.tiles.projection

        def terms(panel: str, row: str) -> list[Term]:
            offset = code.multiply_int(panel, panel_size(code, tile, word["H"]))
            packed = code.weight_at(word["packed_hr"], offset)
            return [Term(self.left_rows(hidden, row, tile), packed, word["H"], 0, 1)]

        def element(row: str, column: str, mask: str, room: str) -> None:
            code.store(code.load(room), target.at(code, row, column), mask)

        self.over_tiles(tile, terms, element, "0", "P")

    def _places(self, step: str) -> dict[int, Place]:
        """Where nodes stand that one stage writes and another reads, or that are kept."""
        code, word, hidden = self.code, self.word, self.word["H"]
        places = {}
        row = code.multiply_int(hidden, len(self.layout.work))
        for number, node in enumerate(self.layout.work):
            places[node] = Place(word["work"], row, code.multiply_int(hidden, number))
        places.update(zip(self.graph.results, self.new, strict=True))
        row = code.multiply_int(hidden, len(self.layout.saved))
        start = code.multiply_int(code.multiply_int(word["B"], row), step)
        base = code.at(word["saved"], start)
        for number, node in enumerate(self.layout.saved):
            places[node] = Place(base, row, code.multiply_int(hidden, number))
        return places

    def _in_memory(self, index: int) -> Place:
        node = self.graph.nodes[index]
        if node.operation == "state":
            return self.old[self.graph.state_index(node.name)]
        if node.operation == "input":
            return self.maps[self.graph.input_maps.index(node.name)]
        return self.places[index]

    def _stage(self, number: int, stage: Stage, odd: str) -> None:
        code, word, tile = self.code, self.word, self.tiles.stages[number]
        for node in stage.means:
            self.row_means(self._in_memory(self.graph.nodes[node].inputs[0]), self.means(node))
        sums: dict[int, int] = {}
        for group in stage.groups:
            for node in self.plan.groups[group].nodes:
                sums[node] = len(sums)

        def terms(panel: str, row: str) -> list[Term]:
            found, first = [], 0
            for group_number in stage.groups:
                group = self.plan.groups[group_number]
                size = panel_size(code, tile.with_maps(len(group.maps)), word["P"])
                packed = code.weight_at(word[f"packed_{group_number}"], code.multiply_int(panel, size))
                left = self.left_rows(self._in_memory(group.argument), row, tile)
                found.append(Term(left, packed, word["P"], first, len(group.maps)))
                first += len(group.maps)
            return found

        def element(row: str, column: str, mask: str, room: str) -> None:
            values = Elements(
                code, self.graph.nodes, lambda index: self._leaf(index, stage, sums, row, column, mask, room)
            )
            for node in dict.fromkeys((*stage.crossing, *stage.kept)):
                if node in self.layout.saved or node in self.layout.work:
                    code.store(values.value(node), self.places[node].at(code, row, column), mask)
            for state, node in enumerate(self.graph.results):
                if node in stage.kept:
                    code.store(values.value(node), self.new[state].at(code, row, column), mask)

        self.over_tiles(tile, terms, element, odd)

    def _leaf(
        self, index: int, stage: Stage, sums: dict[int, int], row: str, column: str, mask: str, room: str
    ) -> str | None:
        """What a stage does not compute: it was summed, lies in memory, or is a number."""
        code, node = self.code, self.graph.nodes[index]
        if index in sums:
            return code.load(code.at(room, sums[index] * self.vectors.lanes))
        if node.operation == "vector":
            number = self.graph.vector_weights.index(node.name)
            return code.load(code.at(self.word[f"vector_{number}"], column), mask)
        if node.operation in MASKS:
            return self.mask_value(node, self.step, row, column, mask)
        if node.operation == "mean":
            return code.broadcast(code.at(self.means(index), row))
        if node.operation == "constant" or index in stage.nodes or self.graph.is_logical(index):
            return None
        return code.load(self._in_memory(index).at(code, row, column), mask)
