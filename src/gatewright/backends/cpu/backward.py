"""The backward kernel: the steps from the last to the first, and chunk by chunk the gradients of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from gatewright.backends.cpu.kernel import Elements, Kernel, Place, Tiles
from gatewright.backends.cpu.products import (
    Term,
    Tile,
    column_sum_function,
    pack_rows_function,
    panel_size,
    product_function,
    token_sum_function,
)
from gatewright.backends.cpu.simd import Vectors
from gatewright.compiler.schedule import Schedule, Segment, Stage


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
class BackwardLayout:
    """What the kernel is given, and where values of a step stand.

    Attributes:
        pointers: names of its arguments that are pointers.
        numbers: names of its arguments that are numbers.
        work: nodes that cross from one stage to the next in work space.
        means: nodes that are means over ``H``.
        runs: of each group.
    """

    pointers: tuple[str, ...]
    numbers: tuple[str, ...]
    work: tuple[int, ...]
    means: tuple[int, ...]
    runs: tuple[tuple[Run, ...], ...]


def backward_layout(plan: Schedule) -> BackwardLayout:
    """The layout of the backward kernel of a cell."""
    graph = plan.graph
    segments = {segment.node for segment in plan.segments}
    crossing = {node for stage in plan.backward for node in stage.crossing}
    runs = tuple(_runs(plan, number) for number in range(len(plan.groups)))
    pointers = ["x", "y", "dy", "w_ih", "w_hh", "saved", "adjoints", "work", "means", "zeros"]
    pointers += ["dx", "dw_ih", "dw_hh", "db_ih", "db_hh", "packed_ih"]
    pointers += [run.name for group in runs for run in group]
    for vector in range(len(graph.vector_weights)):
        pointers += [f"vector_{vector}", f"dvector_{vector}"]
    for state in range(len(graph.states)):
        pointers += [
            f"first_{state}",
            f"history_{state}",
            f"dfinal_{state}",
            f"dfirst_{state}",
            f"carry_{state}",
        ]
    return BackwardLayout(
        pointers=tuple(pointers),
        numbers=("x_step", "x_row", "y_step", "dy_step", "dy_row", "dx_step", "need_dx"),
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


def backward_module(plan: Schedule, vectors: Vectors, tiles: Tiles, aligned: bool, pause: str) -> str:
    """The LLVM module of the backward kernel."""
    return _Backward(plan, vectors, tiles, aligned).emitted(pause)


class _Backward(Kernel):
    def __init__(self, plan: Schedule, vectors: Vectors, tiles: Tiles, aligned: bool) -> None:
        self.layout = backward_layout(plan)
        super().__init__(plan, vectors, tiles, aligned, self.layout.pointers, self.layout.numbers)
        self.graph = plan.graph
        self.forward_nodes = len(plan.graph.nodes)
        self.output = self.graph.state_index(self.graph.output)
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
        self._clear()
        self.barrier("all")
        chunks = self.panels_of_time()
        with code.loop("0", chunks) as loop:
            number = code.subtract_int(code.subtract_int(chunks, 1), loop.index)
            start = code.multiply_int(number, word["chunk"])
            steps = code.minimum_int(code.subtract_int(word["T"], start), word["chunk"])
            with code.loop("0", steps) as slots:
                slot = code.subtract_int(code.subtract_int(steps, 1), slots.index)
                self._step(code.add_int(start, slot), slot, steps)
            self.barrier("all")
            self._input_gradient(start, steps)
            self._weight_gradients(start, steps)
            self.barrier("all")
        self._first_states()
        self._shared_biases()
        functions = [
            product_function(self.vectors, self.declarations, self.tiles.product, self.aligned),
            token_sum_function(self.vectors, self.declarations, self.tiles.sums, self.aligned),
            column_sum_function(self.vectors, self.declarations),
            pack_rows_function(self.vectors, self.declarations, self.aligned),
        ]
        return self.module(functions, pause)

    def panels_of_time(self) -> str:
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
                self.pack_transposed(word["w_hh"], run.maps, word[run.name], _single(tile), word["H"])

    def _group_tiles(self) -> dict[int, Tile]:
        """The tile in which the transposed product of each group is summed."""
        tiles = dict.fromkeys(self.state_groups.values(), self.tiles.stages[0])
        for stage, tile in zip(self.plan.backward, self.tiles.stages, strict=True):
            tiles.update(dict.fromkeys(stage.groups, tile))
        return tiles

    def _slice(self) -> tuple[str, str]:
        """The rows of each map's weights whose gradients are this thread's."""
        code, rows, hidden = self.code, self.tiles.sums.rows, self.word["H"]
        first, stop = self.share(self.panels(hidden, rows), "%thread", self.threads)
        return (
            code.minimum_int(code.multiply_int(first, rows), hidden),
            code.minimum_int(code.multiply_int(stop, rows), hidden),
        )

    def _clear(self) -> None:
        """Gradients of weights begin at zero; each thread clears what it will sum."""
        code, word = self.code, self.word
        first, stop = self._slice()
        count = code.subtract_int(stop, first)
        for name, maps, columns in (
            ("dw_ih", len(self.graph.input_maps), word["I"]),
            ("dw_hh", len(self.graph.recurrent_maps), word["H"]),
            ("db_ih", len(self.graph.input_maps), "1"),
            ("db_hh", len(self.graph.recurrent_maps), "1"),
        ):
            for number in range(maps):
                row = code.add_int(code.multiply_int(word["H"], number), first)
                self._zero(
                    code.at(word[name], code.multiply_int(row, columns)), code.multiply_int(count, columns)
                )
        for vector in range(len(self.graph.vector_weights)):
            self._zero(code.at(word[f"dvector_{vector}"], first), count)

    def _zero(self, pointer: str, count: str) -> None:
        size = self.code.multiply_int(count, self.vectors.bytes)
        self.declarations.add("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        self.code.do(f"call void @llvm.memset.p0.i64(ptr {pointer}, i8 0, i64 {size}, i1 false)")

    # ---------------------------------------------------------------- a step

    def _history(self, state: int, step: str) -> Place:
        code, word = self.code, self.word
        if state == self.output:
            return Place(code.at(word["y"], code.multiply_int(step, word["y_step"])), word["H"])
        size = code.multiply_int(word["B"], word["H"])
        return Place(code.at(word[f"history_{state}"], code.multiply_int(step, size)), word["H"])

    def _step(self, step: str, slot: str, steps: str) -> None:
        code, word, hidden = self.code, self.word, self.word["H"]
        begins = code.compare_int("eq", step, 0)
        # the first step that is run is the last in time: no adjoint comes from behind it
        self.last = code.compare_int("eq", step, code.subtract_int(word["T"], 1))
        states = range(len(self.graph.states))
        self.old = []
        for state in states:
            before = self._history(state, code.subtract_int(step, 1)).base
            self.old.append(Place(code.choose(begins, "ptr", word[f"first_{state}"], before), hidden))
        self.new = [self._history(state, step) for state in states]
        self.adjoints = code.at(word["adjoints"], code.multiply_int(slot, self.slot))
        following = code.add_int(slot, 1)
        # behind the last slot of a chunk stands the first one of the chunk that was run before
        wrapped = code.choose(code.compare_int("eq", following, steps), "i64", "0", following)
        self.behind = code.at(word["adjoints"], code.multiply_int(wrapped, self.slot))
        self.dy = Place(code.at(word["dy"], code.multiply_int(step, word["dy_step"])), word["dy_row"])
        self.carry = [self._carry(state) for state in states]
        self.places = self._places(step)
        odd = code.value(f"and i64 {step}, 1")
        for number, stage in enumerate(self.plan.backward):
            self._stage(number, stage, odd)
            self.barrier("group")

    def _carry(self, state: int) -> Place:
        """Where the part of a state's adjoint that passes through no product stands."""
        code, word = self.code, self.word
        if self.plan.derivative.states[state] is not None:
            return Place(
                code.choose(self.last, "ptr", word[f"dfinal_{state}"], word[f"carry_{state}"]), word["H"]
            )
        base = code.choose(self.last, "ptr", word[f"dfinal_{state}"], word["zeros"])
        return Place(base, code.choose(self.last, "i64", word["H"], "0"))

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
            self.row_means(self.places[self.plan.nodes[node].inputs[0]], self._means(node))
        groups = dict(self.state_groups) if number == 0 else {}
        sums = {number: place for place, number in enumerate([*groups.values(), *stage.groups])}

        def terms(panel: str, row: str) -> list[Term]:
            found = []
            for group, place in sums.items():
                base = self.behind if group in groups.values() else self.adjoints
                for run in self.layout.runs[group]:
                    inner = code.multiply_int(word["H"], len(run.maps))
                    size = panel_size(code, _single(tile), inner)
                    packed = code.at(word[run.name], code.multiply_int(panel, size))
                    offset = code.multiply_int(word["H"], run.segment)
                    left = self.left_rows(Place(base, self.row, offset), row, tile)
                    if number == 0:
                        inner = code.choose(self.last, "i64", "0", inner)
                    found.append(Term(left, packed, inner, place, 1))
            return found

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

    def _means(self, node: int) -> str:
        place = self.layout.means.index(node)
        return self.code.at(self.word["means"], self.code.multiply_int(self.word["B"], place))

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
        if node.operation == "transposed" and index not in self.places:
            return summed(self._group_of(node.name))
        if node.operation == "transposed" and self._group_of(node.name) in stage.groups:
            return summed(self._group_of(node.name))
        if node.operation == "state":
            place = self.old[self.graph.state_index(node.name)]
            return code.load(place.at(code, row, column), mask)
        if node.operation == "vector":
            place = self.graph.vector_weights.index(node.name)
            return code.load(code.at(self.word[f"vector_{place}"], column), mask)
        if node.operation == "mean" and index in self.layout.means:
            return code.broadcast(code.at(self._means(index), row))
        if node.operation == "constant" or index in stage.nodes or index not in self.places:
            return None
        return code.load(self.places[index].at(code, row, column), mask)

    def _adjoint(self, state: int, at: tuple[str, str, str, str], summed) -> str:
        """The adjoint of a new state: from behind, through products, and from the output."""
        code = self.code
        row, column, mask, _ = at
        total = code.load(self.carry[state].at(code, row, column), mask)
        if state in self.state_groups:
            total = code.arithmetic("fadd", total, summed(self.state_groups[state]))
        if state == self.output:
            total = code.arithmetic("fadd", total, code.load(self.dy.at(code, row, column), mask))
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

    def _weight_gradients(self, start: str, steps: str) -> None:
        code, word, hidden = self.code, self.word, self.word["H"]
        begins = code.compare_int("eq", start, 0)
        skipped = code.choose(begins, "i64", "1", "0")
        rest = code.subtract_int(steps, skipped)
        batch = code.multiply_int(word["B"], hidden)
        for number, segment in enumerate(self.plan.segments):
            a = code.at(word["adjoints"], code.multiply_int(hidden, number))
            if segment.input_map is not None:
                x = code.at(word["x"], code.multiply_int(start, word["x_step"]))
                right = (x, word["x_step"], word["x_row"])
                self._sum("dw_ih", segment.input_map, a, right, steps, word["I"])
            if segment.recurrent_map is None:
                continue
            group = next(g for g in self.plan.groups if segment.recurrent_map in g.maps)
            node = self.graph.nodes[group.argument]
            if node.operation != "state":
                place = next(i for i, s in enumerate(self.plan.segments) if self._holds(s, group.argument))
                b = code.at(word["adjoints"], code.multiply_int(hidden, place))
                self._sum("dw_hh", segment.recurrent_map, a, (b, self.slot, self.row), steps, hidden)
                continue
            state = self.graph.state_index(node.name)
            with code.when(begins):
                right = (word[f"first_{state}"], batch, hidden)
                self._sum("dw_hh", segment.recurrent_map, a, right, "1", hidden)
            before = code.subtract_int(code.add_int(start, skipped), 1)
            history = self._history(state, before).base
            step = word["y_step"] if state == self.output else batch
            shifted = code.at(a, code.multiply_int(skipped, self.slot))
            self._sum("dw_hh", segment.recurrent_map, shifted, (history, step, hidden), rest, hidden)
        self._column_sums(steps)

    @staticmethod
    def _holds(segment: Segment, argument: int) -> bool:
        return segment.group is not None and segment.node == argument

    def _sum(
        self, target: str, row: int, a: str, right: tuple[str, str, str], steps: str, columns: str
    ) -> None:
        """Add the products of adjoints and what they belong to, over the tokens of some steps."""
        code, word = self.code, self.word
        b, b_step, b_row = right
        first, stop = self._slice()
        few = code.compare_int("slt", word["B"], steps)
        outer, inner = (code.choose(few, "i64", x, y) for x, y in ((word["B"], steps), (steps, word["B"])))
        a_outer, a_inner = (
            code.choose(few, "i64", x, y) for x, y in ((self.row, self.slot), (self.slot, self.row))
        )
        b_outer, b_inner = (code.choose(few, "i64", x, y) for x, y in ((b_row, b_step), (b_step, b_row)))
        size = code.multiply_int(word["H"], columns)
        c = code.at(word[target], code.multiply_int(size, row))
        code.do(
            f"call void @token_sum(ptr {a}, i64 {a_outer}, i64 {a_inner}, ptr {b}, i64 {b_outer}, i64 {b_inner}, "
            f"ptr {c}, i64 {columns}, i64 {outer}, i64 {inner}, i64 {first}, i64 {stop}, i64 {columns})"
        )

    def _sum_targets(self) -> list[tuple[int, str]]:
        """For each segment whose sum over tokens is a gradient: its number and where the sum goes."""
        code, word, hidden = self.code, self.word, self.word["H"]
        targets = []
        for number, segment in enumerate(self.plan.segments):
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
        code, word = self.code, self.word
        first, stop = self._slice()
        tokens = code.multiply_int(steps, word["B"])
        for number, target in self._sum_targets():
            a = code.at(word["adjoints"], code.multiply_int(word["H"], number))
            code.do(
                f"call void @column_sum(ptr {a}, i64 {self.row}, i64 {tokens}, ptr {target}, "
                f"i64 {first}, i64 {stop})"
            )

    # ---------------------------------------------------------------- behind the loop

    def _first_states(self) -> None:
        """The adjoints of the initial states: what the first step hands back."""
        code, word = self.code, self.word
        self.last = "false"
        tile = self.tiles.stages[0]
        sums = {number: place for place, number in enumerate(self.state_groups.values())}
        zero = code.multiply_int(word["H"], 0)
        carries = [
            Place(word[f"carry_{s}"], word["H"])
            if self.plan.derivative.states[s] is not None
            else Place(word["zeros"], zero)
            for s in range(len(self.graph.states))
        ]

        def terms(panel: str, row: str) -> list[Term]:
            found = []
            for group, place in sums.items():
                for run in self.layout.runs[group]:
                    inner = code.multiply_int(word["H"], len(run.maps))
                    packed = code.at(
                        word[run.name], code.multiply_int(panel, panel_size(code, _single(tile), inner))
                    )
                    offset = code.multiply_int(word["H"], run.segment)
                    left = self.left_rows(Place(word["adjoints"], self.row, offset), row, tile)
                    found.append(Term(left, packed, inner, place, 1))
            return found

        def element(row: str, column: str, mask: str, room: str) -> None:
            for state, carry in enumerate(carries):
                total = code.load(carry.at(code, row, column), mask)
                if state in self.state_groups:
                    place = sums[self.state_groups[state]]
                    total = code.arithmetic(
                        "fadd", total, code.load(code.at(room, place * self.vectors.lanes))
                    )
                target = Place(word[f"dfirst_{state}"], word["H"])
                code.store(total, target.at(code, row, column), mask)

        self.over_tiles(tile, terms, element, "0")

    def _shared_biases(self) -> None:
        """Where an input map and a recurrent map have one adjoint, their biases have one gradient."""
        code, word = self.code, self.word
        first, stop = self._slice()
        size = code.multiply_int(code.subtract_int(stop, first), self.vectors.bytes)
        self.declarations.add("declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
        for segment in self.plan.segments:
            if segment.input_map is None or segment.recurrent_map is None:
                continue
            source = code.at(
                word["db_hh"], code.add_int(code.multiply_int(word["H"], segment.recurrent_map), first)
            )
            target = code.at(
                word["db_ih"], code.add_int(code.multiply_int(word["H"], segment.input_map), first)
            )
            code.do(f"call void @llvm.memcpy.p0.p0.i64(ptr {target}, ptr {source}, i64 {size}, i1 false)")


def _single(tile: Tile) -> Tile:
    return Tile(tile.rows, tile.blocks, 1)
