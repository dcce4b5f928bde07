"""Whether a cell can follow a state at all: one that is affine in its state, element by element, cannot.

A cell whose step is h' = a(x) ⊙ h + b(x), with gates 0 ≤ a ≤ 1 as such cells have them, forgets or keeps, but
never turns a state over. Parity and permutations are out of reach of one such layer at every length (Merrill
et al. 2024, arXiv:2404.08819; Grazzi et al. 2025, arXiv:2411.12537). Read from the graph; costs nothing.
"""

from __future__ import annotations

from gatewright.compiler.affine import affine
from gatewright.compiler.lower import lower
from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records


def algebra(records: Records) -> Measured:
    """Whether every layer is affine in its states, element by element.

    Args:
        records: of some batches.

    Returns:
        ``affine``: the share of layers that are.
    """
    result, found = Measured(), {}
    for name, trace in records.chains.items():
        graph = lower(trace.module.cell.graph).graph
        variables = [i for i, node in enumerate(graph.nodes) if node.operation == "state"]
        diagonal = not graph.recurrent_maps
        found[name] = float(diagonal and affine(graph.nodes, variables, graph.results) is not None)
    result.add(
        "affine",
        sum(found.values()) / max(1, len(found)),
        "share of the layers that are affine in their state",
    )
    return result
