"""The schedule of a cell: the order of a step, what is one product, what is kept for the gradient.

A stage is what can be computed between two recurrent products: it sums its products, then computes its nodes
element by element, then stores what later stages need. The backward step is laid out so that the product that
gives the adjoint of a state opens the next step; a stage is then always products first, elements after.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from gatewright.compiler.derive import Derivative, derive
from gatewright.compiler.graph import LEAVES, MASKS, Graph, Node
from gatewright.compiler.lower import Lowered, lower
from gatewright.compiler.operations import OPERATIONS
from gatewright.compiler.schedule_text import schedule_lines


@dataclass(frozen=True)
class Group:
    """Recurrent maps that are applied to one value and share a product.

    Attributes:
        argument: the node they are applied to.
        maps: their places among the recurrent maps.
        nodes: the nodes of their results, in the same order.
    """

    argument: int
    maps: tuple[int, ...]
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """Part of a step: products, means over ``H``, elements, stores.

    Attributes:
        groups: those whose products open the stage; backward, whose transposed products do.
        means: nodes that are means over ``H`` of something in memory.
        nodes: what is computed element by element.
        crossing: what a later stage, product or mean of the same step reads.
        kept: what outlives the step: results, what the gradient needs, what the gradient is.
    """

    groups: tuple[int, ...]
    means: tuple[int, ...]
    nodes: tuple[int, ...]
    crossing: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Segment:
    """``H`` columns of what the backward step writes for the whole-sequence products.

    Attributes:
        node: the value.
        input_map: the input map whose adjoint it is, or None.
        recurrent_map: the recurrent map whose adjoint it is, or None.
        vector: the vector weight whose gradient is its sum, or None.
        group: the group whose argument it is, or None.
    """

    node: int
    input_map: int | None = None
    recurrent_map: int | None = None
    vector: int | None = None
    group: int | None = None


@dataclass(frozen=True)
class Schedule:
    """Everything a backend needs to know of a cell.

    Attributes:
        lowered: the graph without layer norms and without expressions of vector weights.
        derivative: of the lowered graph.
        kind: ``"affine"`` (elementwise and affine in its states), ``"elementwise"`` or ``"dense"``.
        groups: of recurrent maps.
        forward: the stages of a step.
        saved: forward nodes kept for the gradient, beside the states.
        backward: the stages of a step of the gradient.
        segments: what the backward step writes for the whole-sequence products; input maps come first.
    """

    lowered: Lowered
    derivative: Derivative
    kind: str
    groups: tuple[Group, ...]
    forward: tuple[Stage, ...]
    saved: tuple[int, ...]
    backward: tuple[Stage, ...]
    segments: tuple[Segment, ...]

    @property
    def graph(self) -> Graph:
        """The lowered graph."""
        return self.lowered.graph

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the forward step, then those of its derivative."""
        return self.derivative.nodes

    def __str__(self) -> str:
        return "\n".join(schedule_lines(self))


@lru_cache(maxsize=256)
def schedule(graph: Graph) -> Schedule:
    """The schedule of a graph.

    Args:
        graph: of a cell.

    Returns:
        The schedule.
    """
    lowered = lower(graph)
    derivative = derive(lowered.graph)
    groups = _groups(lowered.graph)
    needed = set(derivative.needs) | {g.argument for g in groups if not _is_state(lowered.graph, g.argument)}
    free = _always_in_memory(lowered.graph)
    saved = tuple(sorted(_fewest(lowered.graph, needed, free)))
    segments = _segments(derivative, groups)
    return Schedule(
        lowered=lowered,
        derivative=derivative,
        kind=classify(lowered.graph),
        groups=groups,
        forward=_forward_stages(lowered.graph, groups, saved),
        saved=saved,
        backward=_backward_stages(derivative, groups, segments),
        segments=segments,
    )


def classify(graph: Graph) -> str:
    """Whether a step is dense, elementwise, or elementwise and affine in its states."""
    if graph.recurrent_maps:
        return "dense"
    degrees: list[int] = []
    for node in graph.nodes:
        degrees.append(_degree(node, [degrees[operand] for operand in node.inputs]))
    return "affine" if all(degrees[result] <= 1 for result in graph.results) else "elementwise"


def _degree(node: Node, operands: list[int]) -> int:
    """0 for free of the states, 1 for affine in them, 2 for anything else."""
    if node.operation == "state":
        return 1
    highest = max(operands, default=0)
    if highest == 0 or node.operation in ("add", "subtract", "negate", "mean"):
        return highest
    if node.operation == "multiply":
        return min(sum(operands), 2)
    if node.operation == "divide":
        return operands[0] if operands[1] == 0 else 2
    if node.operation == "where":
        return max(operands[1:]) if operands[0] == 0 else 2
    return 2


def _is_state(graph: Graph, index: int) -> bool:
    return graph.nodes[index].operation == "state"


def _groups(graph: Graph) -> tuple[Group, ...]:
    place = {node.name: index for index, node in enumerate(graph.nodes) if node.operation == "recurrent"}
    groups = []
    for names in graph.recurrent_groups:
        nodes = tuple(place[name] for name in names)
        maps = tuple(graph.recurrent_maps.index(name) for name in names)
        groups.append(Group(graph.nodes[nodes[0]].inputs[0], maps, nodes))
    return tuple(groups)


# ---------------------------------------------------------------------- what is kept for the gradient


def _always_in_memory(graph: Graph) -> set[int]:
    """Nodes the backward step finds without anything being kept for it: states, old and new, and leaves."""
    free = ("state", "vector", "constant", *MASKS)
    leaves = {i for i, node in enumerate(graph.nodes) if node.operation in free}
    return leaves | set(graph.results)


def _fewest(graph: Graph, needed: Iterable[int], free: set[int]) -> set[int]:
    """The fewest nodes from which all needed ones follow element by element.

    A least cut between the products and the needed nodes, every node of weight one: by Menger's theorem as
    many as there are paths without a common node. Of several least cuts the one nearest to the needed nodes
    is taken, so that least is computed again.
    """
    count = len(graph.nodes)
    # node i is split in two, i (in) and i + count (out), joined by an edge that carries one unit
    source, sink = 2 * count, 2 * count + 1
    capacity: dict[tuple[int, int], int] = {}
    neighbours: dict[int, set[int]] = {}

    def edge(a: int, b: int, units: int) -> None:
        capacity[a, b] = capacity.get((a, b), 0) + units
        capacity.setdefault((b, a), 0)
        neighbours.setdefault(a, set()).add(b)
        neighbours.setdefault(b, set()).add(a)

    unlimited = count + 1
    for index, node in enumerate(graph.nodes):
        if index in free:
            continue
        logical = graph.is_logical(index)
        edge(index, index + count, unlimited if logical else 1)
        if node.operation in ("input", "recurrent", "mean"):
            edge(source, index, unlimited)
            continue
        for operand in node.inputs:
            if operand not in free:
                edge(operand + count, index, unlimited)
    for index in needed:
        if index not in free:
            edge(index + count, sink, unlimited)

    def reached(start: int, forwards: bool) -> dict[int, int]:
        previous = {start: start}
        waiting = [start]
        while waiting:
            here = waiting.pop(0)
            for there in sorted(neighbours.get(here, ())):
                units = capacity[here, there] if forwards else capacity[there, here]
                if units > 0 and there not in previous:
                    previous[there] = here
                    waiting.append(there)
        return previous

    while sink in (previous := reached(source, True)):
        here = sink
        while here != source:
            before = previous[here]
            capacity[before, here] -= 1
            capacity[here, before] += 1
            here = before
    behind = reached(sink, False)
    return {index for index in range(count) if index + count in behind and index not in behind}


# ---------------------------------------------------------------------- stages


def _forward_stages(graph: Graph, groups: tuple[Group, ...], saved: tuple[int, ...]) -> tuple[Stage, ...]:
    levels = _levels(graph.nodes, range(len(graph.nodes)))
    group_of = {node: number for number, group in enumerate(groups) for node in group.nodes}
    arguments = {group.argument for group in groups if not _is_state(graph, group.argument)}
    kept = set(saved) | set(graph.results)
    return _stages(graph.nodes, levels, range(len(graph.nodes)), group_of, arguments, kept)


def _backward_stages(
    derivative: Derivative, groups: tuple[Group, ...], segments: tuple[Segment, ...]
) -> tuple[Stage, ...]:
    nodes, forward = derivative.nodes, len(derivative.graph.nodes)
    adjoints = range(forward, len(nodes))
    levels = _levels(nodes, adjoints)
    by_maps = {frozenset(derivative.graph.recurrent_maps[m] for m in g.maps): i for i, g in enumerate(groups)}
    group_of = {
        index: by_maps[frozenset(nodes[index].name.split())]
        for index in adjoints
        if nodes[index].operation == "transposed"
    }
    kept = {segment.node for segment in segments} | {d for d in derivative.states if d is not None}
    arguments = {operand for index in group_of for operand in nodes[index].inputs}
    return _stages(nodes, levels, adjoints, group_of, arguments, kept)


def _levels(nodes: tuple[Node, ...], own: range) -> dict[int, int]:
    """The stage of each node: one behind its argument for a product or a mean of something computed."""
    levels: dict[int, int] = {}
    for index in own:
        node = nodes[index]
        level = max((levels.get(operand, 0) for operand in node.inputs), default=0)
        computed = bool(node.inputs) and nodes[node.inputs[0]].operation not in LEAVES
        products = ("recurrent", "mean") if computed else ()
        levels[index] = level + (node.operation in ("transposed", *products))
    return levels


def _stages(
    nodes: tuple[Node, ...],
    levels: dict[int, int],
    own: range,
    group_of: dict[int, int],
    arguments: set[int],
    kept: set[int],
) -> tuple[Stage, ...]:
    """Nodes by level; what a later stage, a product or a mean reads crosses from one stage to the next."""
    crossing = set(arguments)

    def cross(operand: int, level: int) -> None:
        node = nodes[operand]
        if levels.get(operand, level) >= level or node.operation in (*LEAVES, "mean"):
            return
        if node.operation in OPERATIONS and OPERATIONS[node.operation].logical:
            # a comparison is made again where it is used: memory holds numbers
            for earlier in node.inputs:
                cross(earlier, level)
        else:
            crossing.add(operand)

    for index in own:
        for operand in nodes[index].inputs:
            cross(operand, levels[index])
    stages = []
    for level in range(max(levels.values(), default=0) + 1):
        here = [index for index in own if levels[index] == level]
        stages.append(
            Stage(
                groups=tuple(sorted({group_of[index] for index in here if index in group_of})),
                means=tuple(index for index in here if nodes[index].operation == "mean"),
                nodes=tuple(
                    index
                    for index in here
                    if nodes[index].operation in OPERATIONS and nodes[index].operation != "mean"
                ),
                crossing=tuple(index for index in sorted(crossing) if levels.get(index, 0) == level),
                # forward nodes that the backward step keeps are there from its beginning
                kept=tuple(index for index in sorted(kept) if levels.get(index, 0) == level),
            )
        )
    return tuple(stages)


def _segments(derivative: Derivative, groups: tuple[Group, ...]) -> tuple[Segment, ...]:
    """Input maps first, shared with a recurrent map last among them, so that both sides are contiguous."""
    graph = derivative.graph
    group_of = {place: number for number, group in enumerate(groups) for place in group.maps}
    order = sorted(group_of, key=lambda place: (group_of[place], place))
    partner: dict[int, int] = {}
    for place in order:
        for input_map, node in enumerate(derivative.inputs):
            if node == derivative.recurrent[place] and input_map not in partner.values():
                partner[place] = input_map
                break
    alone = [i for i in range(len(derivative.inputs)) if i not in partner.values()]
    segments = [Segment(derivative.inputs[i], input_map=i) for i in alone]
    segments += [
        Segment(derivative.recurrent[place], input_map=partner[place], recurrent_map=place)
        for place in order
        if place in partner
    ]
    segments += [
        Segment(derivative.recurrent[place], recurrent_map=place) for place in order if place not in partner
    ]
    segments += [Segment(node, vector=number) for number, node in enumerate(derivative.vectors)]
    segments += [
        Segment(group.argument, group=number)
        for number, group in enumerate(groups)
        if not _is_state(graph, group.argument)
    ]
    return tuple(segments)
