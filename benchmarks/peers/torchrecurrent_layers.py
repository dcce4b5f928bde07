"""torchrecurrent: custom cells as torch modules, one step at a time."""

from __future__ import annotations

import warnings
from contextlib import suppress

import torch
from benchmarks.cases import MODES, Problem
from benchmarks.peers.peer import Peer, Prepared, quickest
from benchmarks.peers.torch_layers import prepare_layer


class TorchRecurrentPeer(Peer):
    """Its MGU, plain or scripted, whichever is faster; it has no plain GRU or LSTM."""

    name = package = module = "torchrecurrent"
    offers = dict.fromkeys(MODES, ("mgu",))

    def prepare(self, problem: Problem, threads: int) -> Prepared:
        """A layer with the problem's weights."""
        import torchrecurrent

        H = problem.case.size.H
        layer = torchrecurrent.MGU(H, H)
        own = dict(layer.named_parameters())
        with torch.no_grad():
            for name, tensor in problem.weights.items():
                (match,) = (parameter for key, parameter in own.items() if key.endswith(name))
                match.copy_(tensor)
        variants = {"plain": prepare_layer(layer, problem, "")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(Exception):  # whatever scripting raises, the plain layer remains
                variants["scripted"] = prepare_layer(torch.jit.script(layer), problem, "")
            return quickest(variants)
