"""The graph of a cell: its equations in single-assignment form, validated and printable.

A node is a leaf (an input map, a vector weight, a state, a mask, a constant), a recurrent map applied to
an earlier node, or an operation on earlier nodes. Every value is ``[B, H]`` or broadcasts to it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gatewright.compiler.operations import OPERATIONS

MASKS = ("row_mask", "unit_mask", "step_mask")
"""What rewrites give a step from outside: ``[T, B]`` one number a row, ``[B, H]`` the same at every step, and
``[T, B, H]``. Nothing is derived by them."""

LEAVES = ("input", "vector", "state", "constant", *MASKS)


@dataclass(frozen=True)
class Node:
    """One value of a graph.

    Attributes:
        operation: a leaf kind, ``"recurrent"``, or a name in ``OPERATIONS``; in a derivative also
            ``"adjoint"`` and ``"transposed"``.
        inputs: indices of earlier nodes.
        name: of the map, vector weight or state.
        value: of a constant.
    """

    operation: str
    inputs: tuple[int, ...] = ()
    name: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Graph:
    """The equations of one time step.

    Two graphs are equal when they compute the same in the same way, whatever they are called.

    Attributes:
        nodes: in an order in which each uses only earlier ones.
        states: state names in argument order.
        results: for each state, the node that becomes its next value.
        output: which state is the layer's output.
        input_maps: names in the row order of ``weight_ih``.
        recurrent_maps: names in the row order of ``weight_hh``.
        vector_weights: names in order of first use.
        masks: kind and name of each mask, in the order in which a call gives them.
        name: the cell's name.
        source: where the equations come from.
    """

    nodes: tuple[Node, ...]
    states: tuple[str, ...]
    results: tuple[int, ...]
    output: str
    input_maps: tuple[str, ...]
    recurrent_maps: tuple[str, ...]
    vector_weights: tuple[str, ...]
    masks: tuple[tuple[str, str], ...] = ()
    name: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for index, node in enumerate(self.nodes):
            self._validate_node(index, node)
        if len(self.results) != len(self.states):
            raise ValueError(
                f"expected {len(self.states)} results, one per state, received {len(self.results)}"
            )
        if self.output not in self.states:
            raise ValueError(f"output {self.output!r} is not one of the states {self.states}")
        for result in self.results:
            if not 0 <= result < len(self.nodes) or self.is_logical(result):
                raise ValueError(f"result {result} is not a value of the graph")
        for operation, names in self._declared().items():
            found = [node.name for node in self.nodes if node.operation == operation]
            if sorted(found) != sorted(names):
                raise ValueError(f"{operation} nodes {found} do not match the declared names {names}")
        masks = {(node.operation, node.name) for node in self.nodes if node.operation in MASKS}
        if not masks <= set(self.masks):
            raise ValueError(f"mask nodes {sorted(masks)} are not among the declared ones {self.masks}")
        for kind, names in (("state", self.states), ("mask", self.masks)):
            if len(set(names)) < len(names):
                raise ValueError(f"a {kind} is there twice: {names}")

        # asked for at every call of a layer, and slow to compute
        object.__setattr__(self, "_hash", hash((self.nodes, self.states, self.results, self.output)))

    def __reduce__(self) -> Any:
        # the hash of text differs from process to process
        return Graph.from_json, (self.to_json(),)

    def __hash__(self) -> int:
        return self._hash  # pyright: ignore[reportAttributeAccessIssue]

    def _declared(self) -> dict[str, tuple[str, ...]]:
        return {"input": self.input_maps, "recurrent": self.recurrent_maps, "vector": self.vector_weights}

    def _validate_node(self, index: int, node: Node) -> None:
        if any(not 0 <= operand < index for operand in node.inputs):
            raise ValueError(f"node {index} uses a node that does not come before it")
        arity = {"recurrent": 1}.get(node.operation, 0)
        if node.operation in OPERATIONS:
            arity = OPERATIONS[node.operation].arity
        elif node.operation not in (*LEAVES, "recurrent"):
            raise ValueError(f"node {index} has the unknown operation {node.operation!r}")
        if len(node.inputs) != arity:
            raise ValueError(
                f"node {index}: {node.operation} takes {arity} operands, received {len(node.inputs)}"
            )
        for place, operand in enumerate(node.inputs):
            if self.is_logical(operand) != (node.operation == "where" and place == 0):
                raise ValueError(
                    f"node {index}: a comparison belongs in the first place of where, nowhere else"
                )

    def is_logical(self, index: int) -> bool:
        """Whether a node is true or false."""
        operation = OPERATIONS.get(self.nodes[index].operation)
        return operation is not None and operation.logical

    def state_index(self, name: str) -> int:
        """The place of a state among the states."""
        return self.states.index(name)

    @property
    def recurrent_groups(self) -> tuple[tuple[str, ...], ...]:
        """Recurrent maps that are applied to the same value and can share one product, in row order."""
        argument = {node.name: node.inputs[0] for node in self.nodes if node.operation == "recurrent"}
        groups: dict[int, list[str]] = {}
        for name in self.recurrent_maps:
            groups.setdefault(argument[name], []).append(name)
        return tuple(tuple(names) for names in groups.values())

    @property
    def projectable(self) -> bool:
        """Whether the output may be projected to another size between two steps.

        True when every recurrent map is applied to the output state itself and nothing else reads it.
        """
        output = next(
            (i for i, n in enumerate(self.nodes) if (n.operation, n.name) == ("state", self.output)), None
        )
        readers = {node.operation for node in self.nodes if output in node.inputs}
        arguments = {node.inputs for node in self.nodes if node.operation == "recurrent"}
        return output not in self.results and readers == {"recurrent"} and arguments == {(output,)}

    def layer_norm_vectors(self) -> tuple[set[str], set[str]]:
        """The vector weights used as gain and as bias of a layer norm: they begin at 1 and at 0."""
        gains: set[str] = set()
        biases: set[str] = set()
        for node in self.nodes:
            if node.operation == "layer_norm":
                for operand, names in zip(node.inputs[1:], (gains, biases), strict=True):
                    if self.nodes[operand].operation == "vector":
                        names.add(self.nodes[operand].name)
        return gains, biases

    def to_json(self) -> str:
        """The graph as text, for where only text can go."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Graph:
        """The graph of a text that ``to_json`` made."""
        given: dict[str, Any] = json.loads(text)
        nodes = tuple(Node(**{**node, "inputs": tuple(node["inputs"])}) for node in given.pop("nodes"))
        masks = tuple((kind, name) for kind, name in given.pop("masks"))
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        return cls(nodes, masks=masks, **fields)

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def reachable(nodes: Sequence[Node], results: Iterable[int]) -> set[int]:
    """Indices of the nodes that the results depend on."""
    found: set[int] = set()
    waiting = list(results)
    while waiting:
        index = waiting.pop()
        if index not in found:
            found.add(index)
            waiting.extend(nodes[index].inputs)
    return found


def _lines(graph: Graph) -> list[str]:
    header = [f"cell {graph.name}: state {', '.join(graph.states)}, output {graph.output}"]
    for label, names in (
        ("input maps", graph.input_maps),
        ("recurrent maps", graph.recurrent_maps),
        ("vector weights", graph.vector_weights),
    ):
        if names:
            header.append(f"  {label}: {' '.join(names)}")
    results = [(f"{state}'", index) for state, index in zip(graph.states, graph.results, strict=True)]
    return header + equations(graph.nodes, results)


def equations(nodes: Sequence[Node], results: Sequence[tuple[str, int]]) -> list[str]:
    """Results as a person would write them: a value used more than once gets a name of its own.

    Args:
        nodes: of a graph or of its derivative.
        results: what stands on the left of the equals sign, and the node that stands on the right.

    Returns:
        One line for each name and for each result.
    """
    kept = sorted(reachable(nodes, [index for _, index in results]))
    uses = Counter(operand for index in kept for operand in nodes[index].inputs)
    uses.update(index for _, index in results)
    text: dict[int, tuple[str, int]] = {}
    lines = []
    for index in kept:
        text[index] = expression(nodes[index], [text[operand] for operand in nodes[index].inputs])
        if uses[index] > 1 and nodes[index].inputs:
            name = f"t{len(lines) + 1}"
            lines.append(f"    {name} = {text[index][0]}")
            text[index] = (name, 100)
    return lines + [f"    {label} = {text[index][0]}" for label, index in results]


def expression(node: Node, operands: list[tuple[str, int]]) -> tuple[str, int]:
    """A node as text, with the precedence of its outermost sign."""
    if node.operation == "constant":
        assert node.value is not None
        return f"{node.value:g}" if node.value >= 0 else f"({node.value:g})", 100
    prefix = {"input": "x.", "vector": "w.", "state": "", **dict.fromkeys(MASKS, "m.")}.get(node.operation)
    if prefix is not None:
        return prefix + node.name, 100
    if node.operation == "adjoint":
        return f"d{node.name}'", 100
    if node.operation == "recurrent":
        return f"U.{node.name}({operands[0][0]})", 100
    if node.operation == "transposed":
        parts = [f"Uᵀ.{name}({text})" for name, (text, _) in zip(node.name.split(), operands, strict=True)]
        return " + ".join(parts), 100 if len(parts) == 1 else OPERATIONS["add"].precedence
    operation = OPERATIONS[node.operation]
    if not operation.infix:
        return f"{node.operation}({', '.join(text for text, _ in operands)})", 100
    here = operation.precedence
    if operation.arity == 1:
        return operation.infix + _bracketed(operands[0], here), here
    # a - (b - c) needs its brackets, (a - b) - c does not; for ** it is the other way round
    left, right = (here + 1, here) if node.operation == "power" else (here, here + 1)
    return f"{_bracketed(operands[0], left)} {operation.infix} {_bracketed(operands[1], right)}", here


def _bracketed(operand: tuple[str, int], least: int) -> str:
    text, precedence = operand
    return text if precedence >= least else f"({text})"
