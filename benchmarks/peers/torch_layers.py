"""``torch.nn.GRU`` and ``torch.nn.LSTM``, and how any torch layer is run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from benchmarks.cases import CELLS, Problem
from benchmarks.peers.peer import Peer, Prepared
from torch import Tensor, nn

LAYERS = {"gru": nn.GRU, "lstm": nn.LSTM}
"""torch's layer for a cell."""


class TorchPeer(Peer):
    """torch's own layers; the LSTM runs on oneDNN where torch takes it."""

    name = package = module = "torch"
    offers = {"training": tuple(LAYERS), "inference": tuple(LAYERS)}  # noqa: RUF012 - never changed

    def prepare(self, problem: Problem, threads: int) -> Prepared:
        """A layer with the problem's weights."""
        H = problem.case.size.H
        layer = LAYERS[problem.case.cell](H, H)
        layer.load_state_dict({f"{name}_l0": tensor for name, tensor in problem.weights.items()})
        return prepare_layer(layer, problem, "torch.nn")


def prepare_layer(layer: nn.Module, problem: Problem, settings: str) -> Prepared:
    """A layer that gives outputs and final states, ``[1, B, H]`` each, made ready for a problem.

    Args:
        layer: with parameters in the order of the problem's weights.
        problem: what it is run on.
        settings: for the record.

    Returns:
        It, made ready. Gradients are asked for and returned, not added to ``.grad``.
    """
    states = CELLS[problem.case.cell].cell.graph.states
    if problem.case.mode == "inference":
        layer.eval()

        def infer() -> tuple[Tensor, Any, tuple[Tensor, ...]]:
            with torch.inference_mode():
                return *layer(problem.x), ()

        return Prepared(infer, lambda result: _named(result, states, ()), settings)
    leaves = [problem.x.clone().requires_grad_(), *layer.parameters()]
    names = tuple(f"d{name}" for name in ("x", *problem.weights))

    def train() -> tuple[Tensor, Any, tuple[Tensor, ...]]:
        y, final = layer(leaves[0])
        return y, final, torch.autograd.grad(y, leaves, problem.dy)

    return Prepared(train, lambda result: _named(result, states, names), settings)


def _named(
    result: tuple[Tensor, Any, tuple[Tensor, ...]], states: Sequence[str], gradients: Sequence[str]
) -> dict[str, Tensor]:
    y, final, given = result
    values = final if isinstance(final, tuple) else (final,)
    named = {"y": y, **{name: value.squeeze(0) for name, value in zip(states, values, strict=True)}}
    named |= dict(zip(gradients, given, strict=True))
    return {name: tensor.detach() for name, tensor in named.items()}
