"""Graphs with every kind of mask in them, made from cells by rewrites."""

from gatewright.compiler.graph import Graph
from gatewright.compiler.interpret import GraphCell
from gatewright.compiler.rewrite import (
    masked,
    normalised,
    with_recurrent_dropout,
    with_resets,
    with_zoneout,
)

REWRITES = {
    "normalised": normalised,
    "recurrent_dropout": with_recurrent_dropout,
    "zoneout": lambda graph: with_zoneout(graph, dict.fromkeys(graph.states, 0.3), True),
    "expected_zoneout": lambda graph: with_zoneout(graph, {graph.states[-1]: 0.3}, False),
    "masked": masked,
    "resets_to_zero": lambda graph: with_resets(graph, True),
    "resets_to_first": lambda graph: with_resets(graph, False),
}


def everything(graph: Graph) -> Graph:
    """All options at once, in their order."""
    if graph.recurrent_maps:
        graph = with_recurrent_dropout(normalised(graph))
    return with_resets(masked(with_zoneout(graph, {graph.output: 0.3}, True)), False)


REWRITES["everything"] = everything


def rewritten(name: str, graph: Graph) -> GraphCell:
    """A cell with an option."""
    return GraphCell(REWRITES[name](graph))
