"""The backward pass as Triton source: the steps from the last to the first."""

from __future__ import annotations

from gatewright.backends.gpu.blocks import Blocks
from gatewright.backends.gpu.kernel import Format, Loop, Rows
from gatewright.backends.gpu.source import identifier, shifted
from gatewright.compiler.graph import MASKS
from gatewright.compiler.schedule import Schedule, Stage


def backward_pointers(plan: Schedule) -> tuple[str, ...]:
    """What the backward kernels are given, in order.

    ``adjoints`` is what they find, the segments of the schedule side by side, ``[T, B, segments, H]``;
    ``dy_i`` the gradient by the values of a state at every step; ``carry_i`` goes in as the gradient by a
    final state and comes out as that by the initial one, but for what its products give, in float32. The
    others are as in the forward pass.
    """
    graph = plan.graph
    states = range(len(graph.states))
    return (
        "w_hh", "y", "adjoints", "counters",
        *(f"vector_{number}" for number in range(len(graph.vector_weights))),
        *(f"mask_{number}" for number in range(len(graph.masks))),
        *(f"{name}_{i}" for i in states for name in ("first", "history", "carry", "dy")),
        *(f"saved_{number}" for number in range(len(plan.saved))),
        *(f"summed_{node}" for stage in plan.backward for node in stage.means),
        *(f"work_{node}" for node in sorted({n for stage in plan.backward for n in stage.crossing})),
    )  # fmt: skip


def backward_source(
    plan: Schedule,
    blocks: Blocks,
    format: Format,  # noqa: A002
    reverse: bool,
    by_steps: tuple[int, ...],
) -> str:
    """The module with the backward kernels of a cell.

    Args:
        plan: of the cell.
        blocks: of a program.
        format: of numbers.
        reverse: as in the forward pass.
        by_steps: states by whose values at every step there is a gradient: the output or none, mostly.

    Returns:
        Python source with the function ``backward``, or ``backward_0``, ``backward_1``, … where each stage is
        a launch of its own.
    """
    return _Backward(plan, blocks, format, reverse, by_steps).text()


class _Backward(Loop):
    def __init__(
        self,
        plan: Schedule,
        blocks: Blocks,
        format: Format,  # noqa: A002
        reverse: bool,
        by_steps: tuple[int, ...],
    ) -> None:
        super().__init__(plan, blocks, format, reverse, f"Backward pass of the cell {plan.graph.name}.")
        self.by_steps = by_steps
        self.crossing = self.crossings(plan.backward)
        self.segment_of = {
            s.recurrent_map: i for i, s in enumerate(plan.segments) if s.recurrent_map is not None
        }
        names = self.graph.recurrent_maps
        self.opening = {
            i: [names.index(name) for name in maps]
            for i, maps in enumerate(plan.derivative.state_maps)
            if maps
        }
        self.adjoint_names = [identifier("d", self.graph.states, i) for i in range(len(self.graph.states))]

    def text(self) -> str:
        """The module."""
        return self.module("backward", backward_pointers(self.plan), self.plan.backward)

    def after(self) -> None:
        """Behind the loop: what the first step hands on to the initial states."""
        for i in range(len(self.states)):
            self.store(f"carry_{i} + place", f"carry{i}")

    def before(self) -> None:
        """In front of the loop: what stays, and what the last step is handed."""
        self.indices()
        self.constants()
        self.weights(transposed=True)
        if self.by_launch:
            return
        for i in range(len(self.states)):
            self.load(f"carry{i}", f"carry_{i} + place")
        if self.blocks.whole:
            for maps in self.opening.values():
                for number in maps:
                    self.write(f"behind_{number} = zero")

    def at(self) -> None:
        """The step, the one before it and the one behind it in the order of the forward pass."""
        self.write("run = tl.cast(T - 1 - step, tl.int64)")
        self.write(f"at = {'T - 1 - run' if self.reverse else 'run'}")
        self.write(f"before = at {'+' if self.reverse else '-'} 1")
        self.write(f"behind = at {'-' if self.reverse else '+'} 1")
        # as numbers of rows: Triton's interpreter cannot combine a mask with a single condition
        self.write("earlier = tl.where(run > 0, B, 0)")
        self.write("later = tl.where(run < T - 1, B, 0)")

    def stage(self, number: int, stage: Stage) -> None:
        """A stage of a step."""
        self.write(f"# stage {number + 1}")
        for node in stage.means:
            self._mean(node, stage)
        if number == 0:
            self._adjoints()
        for group in stage.groups:
            self._products(group, stage)
        kept = [segment.node for segment in self.plan.segments if segment.node in stage.kept]
        states = {i: node for i, node in enumerate(self.plan.derivative.states) if node in stage.kept}
        self.values.begin([*stage.crossing, *stage.kept], lambda index: self._leaf(index, stage))
        for node in stage.crossing:
            self._cross(node)
        for place, segment in enumerate(self.plan.segments):
            if segment.node in kept:
                count = len(self.plan.segments)
                offset = f"(at * size + row * H) * {count} + {shifted(place, 'column')}"
                self.store(f"adjoints + {offset}", self.values.name(segment.node))
        # all are computed before one is overwritten: a state may hand its adjoint on to another
        names = {i: self.values.name(node) for i, node in states.items() if node is not None}
        if self.by_launch:
            for i, name in names.items():
                self.store(f"carry_{i} + place", name)
            if number == 0:
                for i, node in enumerate(self.plan.derivative.states):
                    if node is None:
                        self.store(f"carry_{i} + place", "zero")
        self.wait(number, len(self.plan.backward))

    def _leaf(self, index: int, stage: Stage) -> str | None:
        """The name of what a stage does not compute."""
        node, plan = self.plan.nodes[index], self.plan
        if node.operation == "state":
            return self._old(self.graph.state_index(node.name))
        if node.operation == "vector":
            return self.vector(self.graph.vector_weights.index(node.name))
        if node.operation in MASKS:
            return self.mask(node)
        if index in stage.nodes:
            return None
        if index in self.crossing and (index >= len(self.graph.nodes) or node.operation == "adjoint"):
            return self.load(f"c{index}", f"work_{index} + place")
        if index in self.graph.results:
            i = self.graph.results.index(index)
            base = "y" if i == self.output else f"history_{i}"
            return self.load(f"new_{i}", f"{base} + at * size + place")
        if index in plan.saved:
            place = plan.saved.index(index)
            return self.load(f"s{place}", f"saved_{place} + at * size + place")
        return None

    def _old(self, i: int) -> str:
        """A state before the step."""
        name = self.states[i]
        base = "y" if i == self.output else f"history_{i}"
        self.load(name, f"{base} + before * size + place", "(row < earlier) & (column < H)")
        first = "(row < B - earlier) & (column < H)"
        self.write(f"{name} += tl.load(first_{i} + place, mask={first}, other=0.0).to(tl.float32)")
        return name

    def _adjoints(self) -> None:
        """The adjoints of the new states: from behind, through products, and from the output."""
        for i, name in enumerate(self.adjoint_names):
            if self.by_launch:
                self.load(name, f"carry_{i} + place")
            else:
                self.write(f"{name} = carry{i}")
            for number in self.opening.get(i, ()):
                if self.blocks.whole:
                    self.product_of_registers([(name, number)], f"behind_{number}")
                else:
                    rows = self._adjoint_rows("behind", number, "later")
                    self.product_of_rows([(name, number)], rows, transposed=True)
            if i in self.by_steps:
                loaded = f"tl.load(dy_{i} + at * size + place, mask=here, other=0.0)"
                self.write(f"{name} += {loaded}.to(tl.float32)")
        for index, node in enumerate(self.plan.nodes):
            if node.operation == "adjoint":
                self.values.give(index, self.adjoint_names[self.graph.state_index(node.name)])

    def _adjoint_rows(self, step: str, number: int, count: str = "B") -> Rows:
        """Whole rows of the adjoint of a recurrent map."""
        segments = len(self.plan.segments)
        base = f"adjoints + {step} * size * {segments} + {self.segment_of[number]} * H"
        return Rows(base, f"({segments} * H)", count)

    def _products(self, number: int, stage: Stage) -> None:
        """The transposed products of a group whose argument is computed in the step."""
        group = self.plan.groups[number]
        total = f"p{number}"
        self.write(f"{total} = zero")
        for place in group.maps:
            if self.blocks.whole:
                node = self.plan.derivative.recurrent[place]
                self.values.begin([node], lambda index: self._leaf(index, stage))
                self.product_of_registers([(total, place)], self.values.name(node))
            else:
                self.product_of_rows([(total, place)], self._adjoint_rows("at", place), transposed=True)
        for index, node in enumerate(self.plan.nodes):
            if node.operation == "transposed" and self.group_of(node.name) == number:
                self.values.give(index, total)

    def _mean(self, node: int, stage: Stage) -> None:
        operand = self.plan.nodes[node].inputs[0]
        if self.blocks.whole:
            self.values.begin([operand], lambda index: self._leaf(index, stage))
            self.mean_of_registers(f"m{node}", self.values.tile(operand))
        else:
            self.mean_of_rows(f"m{node}", Rows(f"summed_{node}"))
        self.values.give(node, f"m{node}")

    def _cross(self, node: int) -> None:
        """What a later stage reads."""
        value = self.values.name(node)
        if self.blocks.whole:
            return
        for stage in self.plan.backward:
            for mean in stage.means:
                if self.plan.nodes[mean].inputs[0] == node:
                    self.store(f"summed_{mean} + place", value)
        if self.by_launch:
            self.store(f"work_{node} + place", value)

    def turn(self) -> None:
        """What the step hands on to the one before it."""
        for i, node in enumerate(self.plan.derivative.states):
            self.write(f"next_{i} = {'zero' if node is None else self.values.tile(node)}")
        if self.blocks.whole:
            for maps in self.opening.values():
                for number in maps:
                    self.write(
                        f"behind_{number} = {self.values.tile(self.plan.derivative.recurrent[number])}"
                    )
        for i in range(len(self.states)):
            self.write(f"carry{i} = next_{i}")
