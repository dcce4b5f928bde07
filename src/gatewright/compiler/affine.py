"""Values that are affine in some others, as coefficients and a constant: what a scan over time is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gatewright.compiler.derive import Simplified
from gatewright.compiler.graph import Node, reachable
from gatewright.compiler.schedule import Schedule


@dataclass(frozen=True)
class Affine:
    """results[i] = Σ_j coefficients[i][j] · variables[j] + constants[i], element by element.

    Attributes:
        nodes: those that were given, at the same indices, then those of coefficients and constants.
        coefficients: for each result, one node a variable.
        constants: one node a result.
    """

    nodes: tuple[Node, ...]
    coefficients: tuple[tuple[int, ...], ...]
    constants: tuple[int, ...]


def affine(nodes: Sequence[Node], variables: Sequence[int], results: Sequence[int]) -> Affine | None:
    """Take results apart.

    Args:
        nodes: of a graph or its derivative.
        variables: nodes that the results are to be affine in.
        results: nodes.

    Returns:
        Coefficients that contain no variable, or None where there are none such.
    """
    expressions = Simplified(nodes)
    parts: dict[int, list[int]] = {}
    zero, one = expressions.constant(0.0), expressions.constant(1.0)
    count = len(variables)
    for index in sorted(reachable(nodes, results)):
        node = nodes[index]
        if index in variables:
            parts[index] = [one if variable == index else zero for variable in variables] + [zero]
            continue
        if not any(operand in parts for operand in node.inputs):
            continue
        operands = [parts.get(operand, [zero] * count + [operand]) for operand in node.inputs]
        found = _parts(expressions, node, operands, [operand in parts for operand in node.inputs])
        if found is None:
            return None
        parts[index] = found
    rows = [parts.get(result, [zero] * count + [result]) for result in results]
    return Affine(
        tuple(expressions.nodes), tuple(tuple(row[:count]) for row in rows), tuple(row[count] for row in rows)
    )


def scans(plan: Schedule) -> bool:
    """Whether a cell can be run as a scan, and its gradient too."""
    if plan.kind != "affine" or any(node.operation == "mean" for node in plan.nodes):
        return False
    if forward_parts(plan) is None or backward_parts(plan) is None:
        return False
    # what is kept is computed beside the scan, where the old states are not known
    return not any(plan.nodes[index].operation == "state" for index in reachable(plan.nodes, plan.saved))


def forward_parts(plan: Schedule) -> Affine | None:
    """The new states in the old ones, or None where a scan cannot be made."""
    return affine(
        plan.graph.nodes, [place_of(plan, "state", s) for s in plan.graph.states], plan.graph.results
    )


def backward_parts(plan: Schedule) -> Affine | None:
    """The adjoints of the old states in those of the new ones, or None where a scan cannot be made."""
    nodes = plan.nodes
    adjoints = [place_of(plan, "adjoint", state) for state in plan.graph.states]
    return affine(nodes, adjoints, [d for d in plan.derivative.states if d is not None])


def place_of(plan: Schedule, operation: str, name: str) -> int:
    """The node that is a state or its adjoint; -1 for one that nothing reads."""
    places = (i for i, node in enumerate(plan.nodes) if (node.operation, node.name) == (operation, name))
    return next(places, -1)


def _parts(
    expressions: Simplified, node: Node, operands: list[list[int]], varying: list[bool]
) -> list[int] | None:
    """Coefficients, then the constant, of an operation of which some operands contain a variable."""
    apply = expressions.apply
    match node.operation:
        case "add" | "subtract":
            return [apply(node.operation, a, b) for a, b in zip(*operands, strict=True)]
        case "negate":
            return [apply("negate", a) for a in operands[0]]
        case "multiply" if not all(varying):
            left, right = operands if varying[0] else operands[::-1]
            return [apply("multiply", a, right[-1]) for a in left]
        case "divide" if not varying[1]:
            return [apply("divide", a, operands[1][-1]) for a in operands[0]]
        case "where" if not varying[0]:
            return [apply("where", operands[0][-1], a, b) for a, b in zip(*operands[1:], strict=True)]
    return None
