"""Our own layers on one of our backends."""

from __future__ import annotations

from benchmarks.cases import CELLS, MODES, Problem
from benchmarks.peers.peer import Peer, Prepared
from benchmarks.peers.torch_layers import prepare_layer

import gatewright as gw


class GatewrightPeer(Peer):
    """A layer of ours; named cells and a user's own go the same way.

    Args:
        name: in tables.
        backend: what ``layer.backend`` is set to.
    """

    package = module = "gatewright"
    offers = {mode: tuple(CELLS) for mode in MODES}  # noqa: RUF012 - never changed

    def __init__(self, name: str, backend: str) -> None:
        self.name = name
        self.backend = backend

    def prepare(self, problem: Problem, threads: int) -> Prepared:
        """A layer with the problem's weights, on the backend."""
        H = problem.case.size.H
        layer = gw.Recurrent(CELLS[problem.case.cell].cell, H, H)
        layer.load_state_dict({f"{name}_l0": tensor for name, tensor in problem.weights.items()})
        layer.backend = self.backend
        taken = gw.explain(layer, problem.x).partition(":")[0]
        return prepare_layer(layer, problem, f"backend {taken}")
