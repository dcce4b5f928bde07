"""A schedule as text: every stage as the equations that it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from gatewright.compiler.graph import equations, expression, reachable
from gatewright.compiler.lower import Lowered

if TYPE_CHECKING:
    from gatewright.compiler.schedule import Schedule, Stage


def schedule_lines(plan: Schedule) -> list[str]:
    """The printed form of a schedule, line by line."""
    return _Text(plan).lines()


class _Text:
    """A schedule that is being written.

    A value has a name when it lies in memory or is used more than once, the same one in every stage: what it
    is for the cell (``h'``, ``dx.z``) if it is that, else a number in order of appearance.
    """

    def __init__(self, plan: Schedule) -> None:
        self._plan, self._graph, self._derivative = plan, plan.graph, plan.derivative
        self._results = _labels([("", plan.graph.states, plan.graph.results)], "'")
        self._gradients = _labels(
            [
                ("dx.", plan.graph.input_maps, plan.derivative.inputs),
                ("dU.", plan.graph.recurrent_maps, plan.derivative.recurrent),
                ("dw.", plan.graph.vector_weights, plan.derivative.vectors),
                ("carry.", plan.graph.states, plan.derivative.states),
            ]
        )
        labels = self._results | self._gradients
        uses = Counter(i for index in reachable(plan.nodes, labels) for i in plan.nodes[index].inputs)
        self._named = {index for index, count in uses.items() if count > 1}.union(
            labels,
            plan.saved,
            (segment.node for segment in plan.segments),
            *((*stage.crossing, *stage.means) for stage in (*plan.forward, *plan.backward)),
        )
        self._names: dict[int, str] = {}
        self._numbered = 0

    def lines(self) -> list[str]:
        """The whole text."""
        plan, graph = self._plan, self._graph
        stages = f"{_counted(plan.forward)} forward, {_counted(plan.backward)} backward"
        lines = [f"schedule of cell {graph.name}: {plan.kind}, {stages}", *_hoisted(plan.lowered)]
        lines.append(f"  before the steps: {_product('x.', graph.input_maps)}")
        in_memory: set[int] = set()
        for number, stage in enumerate(plan.forward, start=1):
            products = [
                _product("U.", self._maps(group), f" with {self._text(plan.groups[group].argument)}")
                for group in stage.groups
            ]
            lines.append(f"  forward, stage {number}: {'; '.join(products) or 'no product'}")
            lines += self._stage(stage, self._results, in_memory)
        lines.append(f"  kept for the gradient, beside the states: {self._row(plan.saved) or 'nothing'}")
        in_memory = {*plan.saved, *graph.results}
        for number, stage in enumerate(plan.backward, start=1):
            behind = [maps for maps in self._derivative.state_maps if maps and number == 1]
            products = [_product("Uᵀ.", maps, " of the step behind") for maps in behind]
            products += [_product("Uᵀ.", self._maps(group)) for group in stage.groups]
            lines.append(f"  backward, stage {number}: {'; '.join(products) or 'no product'}")
            lines += self._adjoints() if number == 1 else []
            lines += self._stage(stage, self._gradients, in_memory)
        return lines + self._sums()

    def _stage(self, stage: Stage, labels: Mapping[int, list[str]], in_memory: set[int]) -> list[str]:
        """What a stage computes, and what it leaves for later ones; adds that to what is in memory."""
        first = 0 if labels is self._results else len(self._graph.nodes)
        stored = {*stage.means, *stage.crossing, *stage.kept}
        lines = []
        for index in sorted(self._computed(stored, in_memory)):
            is_leaf = not self._plan.nodes[index].inputs
            if index in labels or (index in self._named and not is_leaf):
                again = "" if index >= first or is_leaf else "again "
                left = " = ".join(labels.get(index) or [self._text(index)])
                lines.append(f"    {again}{left} = {self._expression(index)[0]}")
        crossing = self._row(i for i in stage.crossing if self._plan.nodes[i].operation != "constant")
        if crossing:
            lines.append(f"    for later stages: {crossing}")
        # a forward value is computed again in each backward stage that uses it
        in_memory.update(i for i in stored if i >= first or not self._plan.nodes[i].inputs)
        return lines

    def _computed(self, stored: set[int], in_memory: set[int]) -> set[int]:
        """What is computed, element by element, from what is in memory to what is stored."""
        found: set[int] = set()
        waiting = list(stored - in_memory)
        while waiting:
            index = waiting.pop()
            found.add(index)
            if self._plan.nodes[index].operation not in ("recurrent", "transposed", "mean"):
                waiting.extend(i for i in self._plan.nodes[index].inputs if i not in in_memory | found)
        return found

    def _adjoints(self) -> list[str]:
        """The adjoints of the new states, with which a backward step begins."""
        lines = []
        for state, direct, maps in zip(
            self._graph.states, self._derivative.states, self._derivative.state_maps, strict=True
        ):
            terms = ["doutput"] if state == self._graph.output else []
            terms += [] if direct is None else [f"carry.{state}"]
            terms += [f"Uᵀ.{name}(dU.{name})" for name in maps]
            lines.append(f"    d{state}' = {' + '.join(terms) or '0'}")
        return lines

    def _sums(self) -> list[str]:
        """The products over all steps, and what they read."""
        graph = self._graph
        columns = []
        for segment in self._plan.segments:
            places = (
                ("dx.", graph.input_maps, segment.input_map),
                ("dU.", graph.recurrent_maps, segment.recurrent_map),
                ("dw.", graph.vector_weights, segment.vector),
            )
            labels = [prefix + names[place] for prefix, names, place in places if place is not None]
            columns.append(" = ".join(labels) or self._text(segment.node))
        inputs = " ".join(f"dx.{name}" for name in graph.input_maps)
        recurrent = [
            f"{' '.join(f'dU.{name}' for name in self._maps(number))} with {self._text(group.argument)}"
            for number, group in enumerate(self._plan.groups)
        ]
        biases = ["dbias_ih", "dbias_hh"] if recurrent else ["dbias_ih"]
        sums = [*biases, *(f"dw.{name}" for name in graph.vector_weights)]
        return [
            f"  written by a backward step, side by side: {' | '.join(columns)}",
            "  after the steps, for all of them at once",
            f"    dx = {inputs} with weight_ih",
            f"    dweight_ih = {inputs} with x",
            *([f"    dweight_hh = {'; '.join(recurrent)}"] if recurrent else []),
            f"    {' '.join(sums)} = sums of these columns",
        ]

    def _maps(self, group: int) -> tuple[str, ...]:
        return tuple(self._graph.recurrent_maps[place] for place in self._plan.groups[group].maps)

    def _row(self, indices: Iterable[int]) -> str:
        return " ".join(map(self._text, indices))

    def _text(self, index: int) -> str:
        """What stands where a value is used."""
        return self._operand(index)[0]

    def _operand(self, index: int) -> tuple[str, int]:
        """The name of a value, or the expression that it is, with the precedence of its outermost sign."""
        if index not in self._named or not self._plan.nodes[index].inputs:
            return self._expression(index)
        if index not in self._names:
            labels = self._results.get(index) or self._gradients.get(index)
            self._numbered += labels is None
            self._names[index] = labels[0] if labels else f"t{self._numbered}"
        return self._names[index], 100

    def _expression(self, index: int) -> tuple[str, int]:
        """What stands on the right of the equals sign."""
        node = self._plan.nodes[index]
        if node.operation == "transposed":
            # the operands are the adjoints of these maps, whatever else they are
            return expression(node, [(f"dU.{name}", 100) for name in node.name.split()])
        return expression(node, [self._operand(operand) for operand in node.inputs])


def _labels(
    rows: Iterable[tuple[str, Sequence[str], Sequence[int | None]]], suffix: str = ""
) -> dict[int, list[str]]:
    """What a value is for the cell, by node: it may be several things."""
    labels: dict[int, list[str]] = {}
    for prefix, names, indices in rows:
        for name, index in zip(names, indices, strict=True):
            if index is not None:
                labels.setdefault(index, []).append(f"{prefix}{name}{suffix}")
    return labels


def _hoisted(lowered: Lowered) -> list[str]:
    """The vector weights that are made of vector weights."""
    leaves = zip(lowered.graph.vector_weights, lowered.leaves, strict=True)
    made = [(f"w.{name}", leaf) for name, leaf in leaves if lowered.hoisted[leaf].inputs]
    return ["  once a sequence", *equations(lowered.hoisted, made)] if made else []


def _counted(stages: Sequence[Stage]) -> str:
    return f"{len(stages)} stage{'s' if len(stages) > 1 else ''}"


def _product(prefix: str, maps: Sequence[str], operand: str = "") -> str:
    return " ".join(prefix + name for name in maps) + operand + (", one product" if len(maps) > 1 else "")
