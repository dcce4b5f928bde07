"""The backward kernel: steps from the last to the first, and by chunks the gradients of the weights."""

from __future__ import annotations

from collections.abc import Callable

from gatewright.backends.cpu.kernel import Elements, Kernel, Place, Section
from gatewright.backends.cpu.layout import Form, Tile, Tiles, backward_layout, gradient_names
from gatewright.backends.cpu.products import (
    Term,
    column_sum_function,
    pack_rows_function,
    panel_size,
    product_function,
    token_sum_function,
)
from gatewright.backends.cpu.vectors import Vectors
from gatewright.backends.cpu.weight_gradients import WeightGradients
from gatewright.compiler.graph import MASKS
from gatewright.compiler.schedule import Schedule, Stage


def backward_module(plan: Schedule, vectors: Vectors, tiles: Tiles, form: Form, pause: str) -> str:
    """The LLVM module of the backward kernel."""
    return _Backward(plan, vectors, tiles, form).emitted(pause)


class _Backward(Kernel):
    def __init__(self, plan: Schedule, vectors: Vectors, tiles: Tiles, form: Form) -> None:
        self.layout = backward_layout(plan, form.every)
        super().__init__(plan, vectors, tiles, form, self.layout)
        self.forward_nodes = len(plan.graph.nodes)
        self.row = self.code.multiply_int(self.word["H"], len(plan.segments))
        self.slot = self.code.multiply_int(self.row, self.word["B"])
        self.input_segments = [s for s in plan.segments if s.input_map is not None]
        # groups whose argument is a state, by that state
        self.state_groups = {
            graph_state: number
            for number, group in enumerate(plan.groups)
            for graph_state, name in enumerate(self.graph.states)
            if self._is_state(group.argument, name)
        }

    def _is_state(self, index: int, name: str) -> bool:
        node = self.graph.nodes[index]
        return node.operation == "state" and node.name == name

    def emitted(self, pause: str) -> str:
        code, word = self.code, self.word
        self._pack()
        gradients = WeightGradients(self, self.row, self.slot)
        gradients.clear()
        self.barrier("all")
        chunks = self._chunk_count()
        with code.loop("0", chunks) as loop:
            number = code.subtract_int(code.subtract_int(chunks, 1), loop.index)
            start = code.multiply_int(number, word["chunk"])
            steps = code.minimum_int(code.subtract_int(word["T"], start), word["chunk"])
            with code.loop("0", steps) as slots:
                slot = code.subtract_int(code.subtract_int(steps, 1), slots.index)
                self._step(code.add_int(start, slot), slot, start, steps)
            self.barrier("all")
            with self.own_rows(self.running_in(start, steps)):
                self._input_gradient(start, steps)
            gradients.add(start, steps)
            self.barrier("all")
        self._first_states()
        gradients.finish()
        functions = [
            product_function(self.vectors, self.declarations, self.tiles.product, self.aligned),
            token_sum_function(self.vectors, self.declarations, self.tiles.sums, self.aligned),
            column_sum_function(self.vectors, self.declarations),
            pack_rows_function(self.vectors, self.declarations, self.aligned),
        ]
        return self.module(functions, pause)

    def _read_at(self, step: str, start: str, steps: str) -> Callable[[Section], tuple[str, str]]:
        """The rows that hold their states at a step, but whose adjoints there are read.

        By the sums of a chunk, by the step before it, and at the first step for the initial states.
        """
        code = self.code
        begins = code.compare_int("eq", start, 0)
        before = code.subtract_int(start, code.choose(begins, "i64", "0", "1"))

        def chosen(section: Section) -> tuple[str, str]:
            _, stop = self.running_in(start, steps)(section)
            stop = code.maximum_int(stop, self.running_at(before)(section)[1])
            return self.held_at(step)(section)[0], code.choose(begins, "i64", section.last, stop)

        return chosen

    def _chunk_count(self) -> str:
        """How many chunks the steps make."""
        code, word = self.code, self.word
        return code.divide_int(code.subtract_int(code.add_int(word["T"], word["chunk"]), 1), word["chunk"])

    # ---------------------------------------------------------------- before the loop

    def _pack(self) -> None:
        word = self.word
        rows = [s.input_map for s in self.input_segments if s.input_map is not None]
        with self.code.when(self.code.compare_int("ne", word["need_dx"], 0)):
            self.pack_transposed(word["w_ih"], rows, word["packed_ih"], self.tiles.product, word["I"])
        for number, tile in self._group_tiles().items():
            for run in self.layout.runs[number]:
                columns = word["P" if self.projected else "H"]
                self.pack_transposed(word["w_hh"], run.maps, word[run.name], tile.with_maps(1), columns)
        if self.projected:
            tile = self.tiles.stages[0]
            self.pack_transposed(word["w_hr"], (0,), word["packed_hr"], tile.with_maps(1), word["H"], "P")

    def _group_tiles(self) -> dict[int, Tile]:
        """The tile in which the transposed product of each group is summed."""
        first = self.tiles.projection if self.projected else self.tiles.stages[0]
        tiles = dict.fromkeys(self.state_groups.values(), first)
        for stage, tile in zip(self.plan.backward, self.tiles.stages, strict=True):
            tiles.update(dict.fromkeys(stage.groups, tile))
        return tiles

    # ---------------------------------------------------------------- a step

    def kept(self, name: str, step: str) -> Place:
        """A value ``[B, H]`` of a step that the forward pass has kept."""
        code, word = self.code, self.word
        size = code.multiply_int(word["B"], word["H"])
        return Place(code.at(word[name], code.multiply_int(step, size)), word["H"])

    def _step(self, step: str, slot: str, start: str, steps: str) -> None:
        code, word = self.code, self.word
        self.step = step
        begins = code.compare_int("eq", step, 0)
        # the first step that is run is the last in time: no adjoint comes from behind it
        self.last = code.compare_int("eq", step, code.subtract_int(word["T"], 1))
        states = range(len(self.graph.states))
        self.old = []
        for state in states:
            before = self.history(state, code.subtract_int(step, 1)).base
            first = code.choose(begins, "ptr", word[f"first_{state}"], before)
            self.old.append(Place(first, word[self.width(state)]))
        self.new = [self.history(state, step) for state in states]
        if self.projected:
            self.new[self.output] = self.kept("hidden", step)
        self.adjoints = code.at(word["adjoints"], code.multiply_int(slot, self.slot))
        following = code.add_int(slot, 1)
        # behind the last slot of a chunk stands the first one of the chunk that was run before
        wrapped = code.choose(code.compare_int("eq", following, steps), "i64", "0", following)
        self.behind = code.at(word["adjoints"], code.multiply_int(wrapped, self.slot))
        self.by_steps = {self.output: self._by_steps("dy", step)}
        if self.form.every:
            others = (i for i in states if i != self.output)
            names = gradient_names(self.graph)
            self.by_steps |= {i: self._by_steps(n, step) for i, n in zip(others, names, strict=True)}
        self.carry = [self._carry(state) for state in states]
        self.places = self._places(step)
        odd = code.value(f"and i64 {step}, 1")
        size = code.multiply_int(word["B"], word["P"])
        self.projection = Place(code.at(word["projected"], code.multiply_int(slot, size)), word["P"])
        if self.projected:
            self._projection_adjoint(odd)
            self.barrier("group")
        if self.ragged:
            with self.own_rows(self.held_at(step)):
                self._hold()
            with self.own_rows(self._read_at(step, start, steps)):
                self._clear()
        for number, stage in enumerate(self.plan.backward):
            with self.own_rows(self.running_at(step)):
                self._stage(number, stage, odd)
            self.barrier("group")

    def _hold(self) -> None:
        """The adjoints of states that a row held: handed on, with what their own values add."""
        code, word, tile = self.code, self.word, Tile(1, 1, 0)
        for state, carry in enumerate(self.carry):
            place = Place(word[f"carry_{state}"], word["H"])

            def element(
                row: str,
                column: str,
                mask: str,
                _: str,
                state: int = state,
                carry: Place = carry,
                place: Place = place,
            ) -> None:
                total = code.load(carry.at(code, row, column), mask)
                if state in self.by_steps:
                    own = code.load(self.by_steps[state].at(code, row, column), mask)
                    total = code.arithmetic("fadd", total, own)
                code.store(total, place.at(code, row, column), mask)

            self.over_tiles(tile, lambda _panel, _row: (), element, "0")

    def _clear(self) -> None:
        """Adjoints of maps that nothing was computed for: none."""

        def element(row: str, column: str, mask: str, _: str) -> None:
            for place in self.segment_places:
                self.code.store("zeroinitializer", place.at(self.code, row, column), mask)

        self.over_tiles(Tile(1, 1, 0), lambda _panel, _row: (), element, "0")

    def _by_steps(self, name: str, step: str) -> Place:
        """A gradient that each step has one of."""
        base = self.code.at(self.word[name], self.code.multiply_int(step, self.word[f"{name}_step"]))
        return Place(base, self.word[f"{name}_row"])

    def _carry(self, state: int) -> Place:
        """Where the part of a state's adjoint that passes through no product stands."""
        code, word = self.code, self.word
        if self.plan.derivative.states[state] is not None:
            return Place(
                code.choose(self.last, "ptr", word[f"dfinal_{state}"], word[f"carry_{state}"]), word["H"]
            )
        base = code.choose(self.last, "ptr", word[f"dfinal_{state}"], word["zeros"])
        return Place(base, code.choose(self.last, "i64", word[self.width(state)], "0"))

    def _projection_adjoint(self, odd: str) -> None:
        """The adjoint of a projected output, kept for the gradient of the projection."""
        code, tile = self.code, self.tiles.projection
        sums = {number: place for place, number in enumerate(self.state_groups.values())}

        def element(row: str, column: str, mask: str, room: str) -> None:
            total = code.load(self.carry[self.output].at(code, row, column), mask)
            total = code.arithmetic("fadd", total, code.load(room))
            total = code.arithmetic(
                "fadd", total, code.load(self.by_steps[self.output].at(code, row, column), mask)
            )
            code.store(total, self.projection.at(code, row, column), mask)

        def terms(panel: str, row: str) -> list[Term]:
            return self._group_terms(sums, self.behind, tile, panel, row, self.last)

        self.over_tiles(tile, terms, element, odd, "P")

    def _group_terms(
        self, sums: dict[int, int], base: str, tile: Tile, panel: str, row: str, none: str
    ) -> list[Term]:
        """The transposed products of groups.

        Args:
            sums: the tile's map for each group.
            base: of the adjoints of a step.
            tile: that sums them.
            panel: its number.
            row: the first of the tile.
            none: a condition under which there is nothing to multiply, or empty.

        Returns:
            One term for each run of each group.
        """
        code, word, found = self.code, self.word, []
        for group, place in sums.items():
            for run in self.layout.runs[group]:
                inner = code.multiply_int(word["H"], len(run.maps))
                size = panel_size(code, tile.with_maps(1), inner)
                packed = code.at(word[run.name], code.multiply_int(panel, size))
                offset = code.multiply_int(word["H"], run.segment)
                left = self.left_rows(Place(base, self.row, offset), row, tile)
                if none:
                    inner = code.choose(none, "i64", "0", inner)
                found.append(Term(left, packed, inner, place, 1))
        return found

    def _places(self, step: str) -> dict[int, Place]:
        code, word, hidden = self.code, self.word, self.word["H"]
        places: dict[int, Place] = {}
        row = code.multiply_int(hidden, len(self.layout.work))
        for number, node in enumerate(self.layout.work):
            places[node] = Place(word["work"], row, code.multiply_int(hidden, number))
        for node, new in zip(self.graph.results, self.new, strict=True):
            places[node] = new
        row = code.multiply_int(hidden, len(self.plan.saved))
        base = code.at(word["saved"], code.multiply_int(code.multiply_int(word["B"], row), step))
        for number, node in enumerate(self.plan.saved):
            places[node] = Place(base, row, code.multiply_int(hidden, number))
        self.segment_places = [
            Place(self.adjoints, self.row, code.multiply_int(hidden, number))
            for number in range(len(self.plan.segments))
        ]
        for segment, place in zip(self.plan.segments, self.segment_places, strict=True):
            # an argument of a group is a forward node: it is computed again, not read back
            if segment.node >= self.forward_nodes:
                places[segment.node] = place
        return places

    def _stage(self, number: int, stage: Stage, odd: str) -> None:
        code, word, tile = self.code, self.word, self.tiles.stages[number]
        for node in stage.means:
            self.row_means(self.places[self.plan.nodes[node].inputs[0]], self.means(node))
        opening = list(self.state_groups.values()) if number == 0 else []
        sums = {group: place for place, group in enumerate([*opening, *stage.groups])}

        def terms(panel: str, row: str) -> list[Term]:
            if number == 0 and self.projected:
                size = panel_size(code, tile.with_maps(1), word["P"])
                packed = code.at(word["packed_hr"], code.multiply_int(panel, size))
                return [Term(self.left_rows(self.projection, row, tile), packed, word["P"], 0, 1)]
            behind = {group: sums[group] for group in opening}
            here = {group: sums[group] for group in stage.groups}
            return [
                *self._group_terms(behind, self.behind, tile, panel, row, self.last),
                *self._group_terms(here, self.adjoints, tile, panel, row, ""),
            ]

        def element(row: str, column: str, mask: str, room: str) -> None:
            def leaf(index: int) -> str | None:
                return self._leaf(index, number, stage, sums, (row, column, mask, room))

            values = Elements(code, self.plan.nodes, leaf)
            for node in stage.crossing:
                if node in self.layout.work:
                    code.store(values.value(node), self.places[node].at(code, row, column), mask)
            for segment, place in zip(self.plan.segments, self.segment_places, strict=True):
                if segment.node in stage.kept:
                    code.store(values.value(segment.node), place.at(code, row, column), mask)
            # all are read before one is overwritten: a state may hand its adjoint on to another
            carried = {
                state: values.value(node)
                for state, node in enumerate(self.plan.derivative.states)
                if node is not None and node in stage.kept
            }
            for state, value in carried.items():
                place = Place(word[f"carry_{state}"], word["H"])
                code.store(value, place.at(code, row, column), mask)

        self.over_tiles(tile, terms, element, odd)

    def _leaf(
        self, index: int, number: int, stage: Stage, sums: dict[int, int], at: tuple[str, str, str, str]
    ) -> str | None:
        """What a stage does not compute: it was summed, lies in memory, or is a number."""
        code, node = self.code, self.plan.nodes[index]
        row, column, mask, room = at

        def summed(group: int) -> str:
            return code.load(code.at(room, sums[group] * self.vectors.lanes))

        if node.operation == "adjoint" and number == 0:
            return self._adjoint(self.graph.states.index(node.name), at, summed)
        if node.operation == "transposed" and self._group_of(node.name) in stage.groups:
            return summed(self._group_of(node.name))
        if node.operation == "state":
            place = self.old[self.graph.state_index(node.name)]
            return code.load(place.at(code, row, column), mask)
        if node.operation == "vector":
            place = self.graph.vector_weights.index(node.name)
            return code.load(code.at(self.word[f"vector_{place}"], column), mask)
        if node.operation in MASKS:
            return self.mask_value(node, self.step, row, column, mask)
        if node.operation == "mean" and index in self.layout.means:
            return code.broadcast(code.at(self.means(index), row))
        if node.operation == "constant" or index in stage.nodes or index not in self.places:
            return None
        return code.load(self.places[index].at(code, row, column), mask)

    def _adjoint(self, state: int, at: tuple[str, str, str, str], summed: Callable[[int], str]) -> str:
        """The adjoint of a new state: from behind, through products, and from the output."""
        code = self.code
        row, column, mask, room = at
        if self.projected and state == self.output:
            return code.load(room)
        total = code.load(self.carry[state].at(code, row, column), mask)
        if state in self.state_groups:
            total = code.arithmetic("fadd", total, summed(self.state_groups[state]))
        if state in self.by_steps:
            place = self.by_steps[state]
            total = code.arithmetic("fadd", total, code.load(place.at(code, row, column), mask))
        return total

    def _group_of(self, names: str) -> int:
        maps = {self.graph.recurrent_maps.index(name) for name in names.split()}
        return next(number for number, group in enumerate(self.plan.groups) if set(group.maps) == maps)

    # ---------------------------------------------------------------- behind a chunk

    def _input_gradient(self, start: str, steps: str) -> None:
        code, word = self.code, self.word
        width = self.tiles.product.width(self.vectors)
        first, stop = self.share(self.panels(word["I"], width), self.column_group, word["column_groups"])
        inner = code.multiply_int(word["H"], len(self.input_segments))

        def call(a: str, a_row: str, rows: str, c: str, c_row: str) -> None:
            code.do(
                f"call void @product(ptr {a}, i64 {a_row}, i64 {rows}, ptr {word['packed_ih']}, i64 {inner}, "
                f"i64 {first}, i64 {stop}, ptr {c}, i64 {c_row}, i64 {word['I']})"
            )

        with code.when(code.compare_int("ne", word["need_dx"], 0)):
            dx = code.at(word["dx"], code.multiply_int(start, word["dx_step"]))
            left = (word["adjoints"], self.slot, self.row)
            self.over_sequence(left, (dx, word["dx_step"], word["I"]), steps, call)

    # ---------------------------------------------------------------- behind the loop

    def _first_states(self) -> None:
        """The adjoints of the initial states: what the first step hands back."""
        for width in ("P", "H") if self.projected else ("H",):
            states = [
                state
                for state in range(len(self.graph.states))
                if not self.projected or self.width(state) == width
            ]
            self._first_states_of(states, width)

    def _first_states_of(self, states: list[int], width: str) -> None:
        code, word = self.code, self.word
        groups = {state: self.state_groups[state] for state in states if state in self.state_groups}
        tile = self.tiles.projection if width == "P" else self.tiles.stages[0]
        tile = tile.with_maps(len(groups))
        sums = {number: place for place, number in enumerate(groups.values())}

        def terms(panel: str, row: str) -> list[Term]:
            return self._group_terms(sums, word["adjoints"], tile, panel, row, "")

        def element(row: str, column: str, mask: str, room: str) -> None:
            for state in states:
                total = "zeroinitializer"
                if self.plan.derivative.states[state] is not None:
                    carry = Place(word[f"carry_{state}"], word[width])
                    total = code.load(carry.at(code, row, column), mask)
                if state in groups:
                    summed = code.load(code.at(room, sums[groups[state]] * self.vectors.lanes))
                    total = code.arithmetic("fadd", total, summed)
                code.store(total, Place(word[f"dfirst_{state}"], word[width]).at(code, row, column), mask)

        self.over_tiles(tile, terms, element, "0", width)
