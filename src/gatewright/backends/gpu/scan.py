"""Cells that are elementwise and affine in their states, as a scan: many steps at once.

A step is h' = A h + b with A and b free of h, and two steps are again such a step, so that a tile of steps
becomes a product of steps by an associative scan. The adjoints of the states follow the same rule backwards.
"""

from __future__ import annotations

from gatewright.backends.gpu.backward import backward_pointers
from gatewright.backends.gpu.blocks import Blocks
from gatewright.backends.gpu.forward import forward_pointers
from gatewright.backends.gpu.kernel import HEAD, kernel_function
from gatewright.backends.gpu.source import Source, Values, identifier, shifted
from gatewright.compiler.affine import Affine, backward_parts, forward_parts, place_of
from gatewright.compiler.graph import MASKS, Node
from gatewright.compiler.schedule import Schedule


def forward_scan(plan: Schedule, blocks: Blocks, reverse: bool, training: bool) -> str:
    """The module with the forward kernel; arguments as in ``forward_source``."""
    return _Scan(plan, blocks, reverse, f"Forward pass of the cell {plan.graph.name}, as a scan.").forward(
        training
    )


def backward_scan(plan: Schedule, blocks: Blocks, reverse: bool, by_steps: tuple[int, ...]) -> str:
    """The module with the backward kernel; arguments as in ``backward_source``."""
    return _Scan(plan, blocks, reverse, f"Backward pass of the cell {plan.graph.name}, as a scan.").backward(
        by_steps
    )


class _Scan:
    def __init__(self, plan: Schedule, blocks: Blocks, reverse: bool, title: str) -> None:
        self.plan, self.graph, self.blocks, self.reverse = plan, plan.graph, blocks, reverse
        self.source = Source()
        self.write, self.block = self.source.write, self.source.block
        self.count = len(self.graph.states)
        self.output = self.graph.state_index(self.graph.output)
        for line in HEAD.format(title=title).splitlines():
            self.write(line)
        self._chain()

    def _chain(self) -> None:
        """Two steps as one."""
        states = range(self.count)
        names = [[f"{side}_{i}{j}" for i in states for j in states] for side in "ac"]
        ends = [[f"{side}_{i}" for i in states] for side in "bd"]
        self.source.lines += ["", "", "@triton.jit"]
        with self.block(f"def one_after_another({', '.join(names[0] + ends[0] + names[1] + ends[1])}):"):
            self.write('"""The step a, b and then the step c, d."""')
            found = [" + ".join(f"c_{i}{k} * a_{k}{j}" for k in states) for i in states for j in states] + [
                " + ".join(f"c_{i}{k} * b_{k}" for k in states) + f" + d_{i}" for i in states
            ]
            self.write(f"return {', '.join(found)}")

    # ---------------------------------------------------------------- the frame

    def _before(self) -> None:
        columns = self.blocks.columns
        self.write("row = tl.program_id(0).to(tl.int64)")
        self.write(f"column = tl.program_id(1) * {columns} + tl.arange(0, {columns})[None, :]")
        self.write("own = row * H + column")
        self.write("size = B.to(tl.int64) * H")
        self.write(f"zero = tl.zeros(({self.blocks.rows}, {columns}), tl.float32)")
        for number in range(len(self.graph.vector_weights)):
            self._load(self._vector(number), f"vector_{number} + column", "column < H")
        for number, (kind, _) in enumerate(self.graph.masks):
            if kind == "unit_mask":
                self._load(f"mask{number}", f"mask_{number} + own", "column < H")

    def _at(self, run: str) -> None:
        """The steps of a tile; ``run`` counts them in the order of the forward pass."""
        self.write(f"run = {run}")
        self.write(f"at = tl.cast({'T - 1 - run' if self.reverse else 'run'}, tl.int64)")
        self.write("here = (run >= 0) & (run < T) & (column < H)")
        self.write("place = at * size + own")

    def _load(self, name: str, pointer: str, mask: str = "here") -> str:
        self.write(f"{name} = tl.load({pointer}, mask={mask}, other=0.0).to(tl.float32)")
        return name

    def _store(self, pointer: str, value: str, mask: str = "here") -> None:
        self.write(f"tl.store({pointer}, {value}, mask={mask})")

    def _mask(self, node: Node, prefix: str, at: str, mask: str) -> str:
        """A mask at the steps; ``prefix`` tells the step itself from the one behind it."""
        number = self.graph.masks.index((node.operation, node.name))
        if node.operation == "unit_mask":
            return f"mask{number}"
        offset = "B + row" if node.operation == "row_mask" else "size + own"
        return self._load(f"{prefix}_mask{number}", f"mask_{number} + {at} * {offset} + 0 * column", mask)

    def _vector(self, number: int) -> str:
        return identifier("v", [name.replace("#", "") for name in self.graph.vector_weights], number)

    def _scanned(self, values: Values, parts: Affine, inside: str) -> None:
        """Scan a tile; outside the sequence a step changes nothing."""
        states = range(self.count)
        for i in states:
            for j in states:
                value = values.tile(parts.coefficients[i][j])
                self.write(f"a_{i}{j} = tl.where({inside}, {value}, {float(i == j)})")
        names = [f"a_{i}{j}" for i in states for j in states] + [f"b_{i}" for i in states]
        self.write(f"scanned = tl.associative_scan(({', '.join(names)}), 0, one_after_another)")

    def _carried(self, i: int) -> str:
        """A state or an adjoint behind each step of the tile, from what went into the tile."""
        sums = [f"scanned[{i * self.count + j}] * carry_in_{j}" for j in range(self.count)]
        return " + ".join([*sums, f"scanned[{self.count * self.count + i}]"])

    def _last(self, i: int, name: str) -> None:
        """Behind the last step of the tile."""
        last = f"tl.arange(0, {self.blocks.rows})[:, None] == {self.blocks.rows - 1}"
        self.write(f"carry_in_{i} = tl.sum(tl.where({last}, {name}, 0.0), 0)[None, :]")

    # ---------------------------------------------------------------- forward

    def forward(self, training: bool) -> str:
        """The module."""
        parts = forward_parts(self.plan)
        assert parts is not None
        states = range(self.count)
        with kernel_function(self.source, "forward", forward_pointers(self.plan), ("T", "B", "H")):
            self._before()
            for i in states:
                self._load(f"carry_in_{i}", f"first_{i} + own", "column < H")
            with self.block(f"for begin in range(0, T, {self.blocks.rows}):"):
                self._at(f"begin + tl.arange(0, {self.blocks.rows})[:, None]")
                values = Values(self.source, parts.nodes, "zero")
                saved = self.plan.saved if training else ()
                wanted = [*(i for row in parts.coefficients for i in row), *parts.constants, *saved]
                values.begin(wanted, lambda index: self._input_or_vector(parts, index))
                for i in states:
                    self.write(f"b_{i} = tl.where(here, {values.tile(parts.constants[i])}, 0.0)")
                self._scanned(values, parts, "here")
                for i in states:
                    self.write(f"new_{i} = {self._carried(i)}")
                    if i == self.output:
                        self._store("y + place", f"new_{i}")
                    elif training:
                        self._store(f"history_{i} + place", f"new_{i}")
                for place, node in enumerate(saved):
                    self._store(f"saved_{place} + place", values.name(node))
                for i in states:
                    self._last(i, f"new_{i}")
            for i in states:
                self._store(f"final_{i} + own", f"carry_in_{i}", "column < H")
        return self.source.text()

    def _input_or_vector(self, parts: Affine, index: int) -> str | None:
        node = parts.nodes[index]
        if node.operation == "vector":
            return self._vector(self.graph.vector_weights.index(node.name))
        if node.operation in MASKS:
            return self._mask(node, "own", "at", "here")
        if node.operation != "input":
            return None
        number, count = self.graph.input_maps.index(node.name), len(self.graph.input_maps)
        pointer = f"maps + (at * size + row * H) * {count} + {shifted(number, 'column')}"
        return self._load(identifier("x", self.graph.input_maps, number), pointer)

    # ---------------------------------------------------------------- backward

    def backward(self, by_steps: tuple[int, ...]) -> str:
        """The module."""
        parts = self._complete(backward_parts(self.plan))
        with kernel_function(self.source, "backward", backward_pointers(self.plan), ("T", "B", "H")):
            self._before()
            for i in range(self.count):
                self._load(f"carry_in_{i}", f"carry_{i} + own", "column < H")
            with self.block(f"for begin in range(0, T, {self.blocks.rows}):"):
                self._at(f"T - 1 - begin - tl.arange(0, {self.blocks.rows})[:, None]")
                self._adjoints(parts, by_steps)
                self._found()
                for i in range(self.count):
                    self._last(i, f"d_{i}")
        return self.source.text()

    def _complete(self, parts: Affine | None) -> Affine:
        """The coefficients of every state: a state that hands nothing on has zeros."""
        assert parts is not None
        rows = iter(parts.coefficients)
        zero = next(i for i, node in enumerate(parts.nodes) if node.value == 0)
        coefficients = tuple(
            (zero,) * self.count if d is None else next(rows) for d in self.plan.derivative.states
        )
        return Affine(parts.nodes, coefficients, ())

    def _adjoints(self, parts: Affine, by_steps: tuple[int, ...]) -> None:
        """The adjoints of the new states: those of the step behind by its coefficients, and their own."""
        one = "- 1" if self.reverse else "+ 1"
        behind = f"(at {one})"
        self.write("handed = (run >= 0) & (run < T - 1) & (column < H)")
        values = Values(self.source, parts.nodes, "zero")
        values.begin(
            [i for row in parts.coefficients for i in row],
            lambda index: self._leaf(index, "behind", behind, "handed"),
        )
        for i in range(self.count):
            self.write(f"b_{i} = zero")
            if i in by_steps:
                self._load(f"b_{i}", f"dy_{i} + place")
        self._scanned(values, parts, "handed")
        for i in range(self.count):
            self.write(f"d_{i} = {self._carried(i)}")

    def _found(self) -> None:
        """What each step gives: the segments, and behind the first step what goes to the initial states."""
        plan = self.plan
        values = Values(self.source, plan.nodes, "zero")
        for i, state in enumerate(self.graph.states):
            values.give(place_of(plan, "adjoint", state), f"d_{i}")
        segments = [segment.node for segment in plan.segments]
        first = [d for d in plan.derivative.states if d is not None]
        values.begin([*segments, *first], lambda index: self._leaf(index, "own", "at", "here"))
        for place, node in enumerate(segments):
            offset = f"(at * size + row * H) * {len(segments)} + {shifted(place, 'column')}"
            self._store(f"adjoints + {offset}", values.name(node))
        for i, d in enumerate(plan.derivative.states):
            value = "zero" if d is None else values.tile(d)
            self._store(f"carry_{i} + own + 0 * run", value, "here & (run == 0)")

    def _leaf(self, index: int, prefix: str, at: str, mask: str) -> str | None:
        """What was given or kept, at a step; ``prefix`` tells the step itself from the one behind it."""
        plan = self.plan
        if index >= len(plan.nodes):
            return None
        node = plan.nodes[index]
        if node.operation == "state":
            i = self.graph.state_index(node.name)
            base = "y" if i == self.output else f"history_{i}"
            before = f"({at} {'+' if self.reverse else '-'} 1)"
            run = "(run + 1)" if prefix == "behind" else "run"
            name = self._load(f"{prefix}_old_{i}", f"{base} + {before} * size + own", f"{mask} & ({run} > 0)")
            first = f"tl.load(first_{i} + own + 0 * run, mask={mask} & ({run} == 0), other=0.0)"
            self.write(f"{name} += {first}.to(tl.float32)")
            return name
        if node.operation == "vector":
            return self._vector(self.graph.vector_weights.index(node.name))
        if node.operation in MASKS:
            return self._mask(node, prefix, at, mask)
        if index in self.graph.results:
            i = self.graph.results.index(index)
            base = "y" if i == self.output else f"history_{i}"
            return self._load(f"{prefix}_new_{i}", f"{base} + {at} * size + own", mask)
        if index in plan.saved:
            place = plan.saved.index(index)
            return self._load(f"{prefix}_s{place}", f"saved_{place} + {at} * size + own", mask)
        return None
