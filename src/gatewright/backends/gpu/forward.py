"""The forward pass as Triton source: the steps, stage by stage."""

from __future__ import annotations

from gatewright.backends.gpu.blocks import Blocks
from gatewright.backends.gpu.kernel import Format, Loop, Rows
from gatewright.backends.gpu.source import identifier, shifted
from gatewright.compiler.graph import MASKS
from gatewright.compiler.schedule import Schedule, Stage


def forward_pointers(plan: Schedule) -> tuple[str, ...]:
    """What the forward kernels are given, in order.

    ``maps`` are the input maps ``[T, B, maps, H]``, ``y`` the output, ``saved_k`` a node kept for the
    gradient ``[T, B, H]``, ``first_i`` and ``final_i`` states in float32, ``history_i`` a state that is no
    output ``[T, B, H]`` in float32, ``rows_i`` what products read of a state and ``turn_i`` a state between
    two launches, both for two steps in turn; ``argument_g`` what the products of a group read,
    ``summed_k`` what a mean reads and ``work_k`` what crosses from one launch to the next, of one step.
    """
    graph = plan.graph
    states = range(len(graph.states))
    return (
        "maps", "w_hh", "b_hh", "y", "counters",
        *(f"vector_{number}" for number in range(len(graph.vector_weights))),
        *(f"mask_{number}" for number in range(len(graph.masks))),
        *(f"{name}_{i}" for i in states for name in ("first", "final", "history", "rows", "turn")),
        *(f"argument_{number}" for number in range(len(plan.groups))),
        *(f"saved_{number}" for number in range(len(plan.saved))),
        *(f"summed_{node}" for stage in plan.forward for node in stage.means),
        *(f"work_{node}" for node in sorted({n for stage in plan.forward for n in stage.crossing})),
    )  # fmt: skip


def forward_source(plan: Schedule, blocks: Blocks, format: Format, reverse: bool, training: bool) -> str:  # noqa: A002
    """The module with the forward kernels of a cell.

    Args:
        plan: of the cell.
        blocks: of a program.
        format: of numbers.
        reverse: whether the sequence is run from its last step to its first.
        training: whether what the gradient needs is stored.

    Returns:
        Python source with the function ``forward``, or ``forward_0``, ``forward_1``, … where each stage is
        a launch of its own.
    """
    return _Forward(plan, blocks, format, reverse, training).text()


class _Forward(Loop):
    def __init__(self, plan: Schedule, blocks: Blocks, format: Format, reverse: bool, training: bool) -> None:  # noqa: A002
        kind = "with what the gradient needs" if training else "for inference"
        title = f"Forward pass of the cell {plan.graph.name}, {kind}."
        super().__init__(plan, blocks, format, reverse, title)
        self.training = training
        self.crossing = self.crossings(plan.forward)
        # states whose whole rows another program reads
        read = {group.argument for group in plan.groups}
        read |= {plan.nodes[node].inputs[0] for stage in plan.forward for node in stage.means}
        self.exchanged = {
            self.graph.state_index(plan.nodes[index].name)
            for index in read
            if plan.nodes[index].operation == "state" and not blocks.whole
        }

    def text(self) -> str:
        """The module."""
        return self.module("forward", forward_pointers(self.plan), self.plan.forward)

    def after(self) -> None:
        """Behind the loop: the final states."""
        for i, name in enumerate(self.states):
            self.store(f"final_{i} + place", name)

    def before(self) -> None:
        """In front of the loop: what stays, and the first states."""
        self.indices()
        self.constants()
        for number in range(len(self.maps)):
            self.load(f"b_{number}", f"b_hh + {shifted(number, 'column')}", "column < H")
        self.weights(transposed=False)
        for i, name in enumerate(self.states):
            start = f"turn_{i} + ((step + 1) % 2) * size" if self.by_launch else f"first_{i}"
            self.load(name, f"{start} + place")

    def at(self) -> None:
        """The step."""
        self.write(f"at = tl.cast({'T - 1 - step' if self.reverse else 'step'}, tl.int64)")

    def _leaf(self, stage: Stage) -> None:
        """Make the values ready for a stage."""
        results = set(self.graph.results)
        wanted = [*stage.crossing, *stage.kept, *(i for i in results if i in stage.nodes)]

        def leaf(index: int) -> str | None:
            node = self.plan.nodes[index]
            if node.operation == "state":
                return self.states[self.graph.state_index(node.name)]
            if node.operation == "vector":
                return self.vector(self.graph.vector_weights.index(node.name))
            if node.operation == "input":
                return self._input(self.graph.input_maps.index(node.name))
            if node.operation in MASKS:
                return self.mask(node)
            if index not in stage.nodes and index in self.crossing:
                return self.load(f"c{index}", f"work_{index} + place")
            return None

        self.values.begin(wanted, leaf)

    def _input(self, number: int) -> str:
        """Load an input map."""
        count = len(self.graph.input_maps)
        pointer = f"maps + (at * size + row * H) * {count} + {shifted(number, 'column')}"
        return self.load(identifier("x", self.graph.input_maps, number), pointer)

    def stage(self, number: int, stage: Stage) -> None:
        """A stage of a step."""
        self.write(f"# stage {number + 1}")
        for node in stage.means:
            self._mean(node)
        for group in stage.groups:
            self._products(group)
        self._leaf(stage)
        for node in stage.crossing:
            self._cross(node)
        for place, node in enumerate(self.plan.saved):
            if self.training and node in stage.kept:
                self.store(f"saved_{place} + at * size + place", self.values.name(node))
        for i, node in enumerate(self.graph.results):
            # a state that is handed on unchanged belongs to the first stage
            if node in stage.kept:
                self._new_state(i, node)
        self.wait(number, len(self.plan.forward))

    def _mean(self, node: int) -> None:
        operand = self.plan.nodes[node].inputs[0]
        inner = self.plan.nodes[operand]
        if self.blocks.whole:
            self.values.begin([operand], self._mean_leaf)
            self.mean_of_registers(f"m{node}", self.values.tile(operand))
        elif inner.operation == "state":
            i = self.graph.state_index(inner.name)
            self.mean_of_rows(f"m{node}", self._old_rows(i))
        elif inner.operation == "input":
            count, number = len(self.graph.input_maps), self.graph.input_maps.index(inner.name)
            self.mean_of_rows(
                f"m{node}", Rows(f"maps + at * size * {count} + {number} * H", f"({count} * H)")
            )
        else:
            self.mean_of_rows(f"m{node}", Rows(f"summed_{node}"))
        self.values.give(node, f"m{node}")

    def _old_rows(self, i: int) -> Rows:
        """Whole rows of an old state."""
        return Rows(f"rows_{i} + ((step + 1) % 2) * size")

    def _mean_leaf(self, index: int) -> str | None:
        node = self.plan.nodes[index]
        if node.operation == "state":
            return self.states[self.graph.state_index(node.name)]
        if node.operation == "input":
            return self._input(self.graph.input_maps.index(node.name))
        if node.operation in MASKS:
            return self.mask(node)
        return None

    def _products(self, number: int) -> None:
        group = self.plan.groups[number]
        totals = [(self.maps[m], m) for m in group.maps]
        for total, m in totals:
            self.write(f"{total} = zero + b_{m}")
        if self.blocks.whole:
            self.values.begin([group.argument], self._mean_leaf)
            self.product_of_registers(totals, self.values.name(group.argument))
        elif self.is_state(group):
            i = self.graph.state_index(self.plan.nodes[group.argument].name)
            self.product_of_rows(totals, self._old_rows(i), transposed=False)
        else:
            self.product_of_rows(totals, Rows(f"argument_{number}"), transposed=False)
        for node, m in zip(group.nodes, group.maps, strict=True):
            self.values.give(node, self.maps[m])

    def _cross(self, node: int) -> None:
        """What a later stage reads."""
        if self.blocks.whole:
            self.values.name(node)
            return
        value = self.values.name(node)
        for number, group in enumerate(self.plan.groups):
            if group.argument == node:
                self.store(f"argument_{number} + place", value)
        for stage in self.plan.forward:
            for mean in stage.means:
                if self.plan.nodes[mean].inputs[0] == node:
                    self.store(f"summed_{mean} + place", value)
        if self.by_launch:
            self.store(f"work_{node} + place", value)

    def _new_state(self, i: int, node: int) -> None:
        new = f"new_{i}"
        self.write(f"{new} = {self.values.tile(node)}")
        if i == self.output:
            self.store("y + at * size + place", new)
        elif self.training:
            self.store(f"history_{i} + at * size + place", new)
        if i in self.exchanged:
            self.store(f"rows_{i} + (step % 2) * size + place", new)
        if self.by_launch:
            self.store(f"turn_{i} + (step % 2) * size + place", new)
            with self.block("if step == T - 1:"):
                self.store(f"final_{i} + place", new)

    def turn(self) -> None:
        """New states become old ones."""
        for i, name in enumerate(self.states):
            self.write(f"{name} = new_{i}")
