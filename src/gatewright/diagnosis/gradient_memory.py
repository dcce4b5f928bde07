"""How far back a loss at the last step reaches: the norm of its gradient by each earlier state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from gatewright.layers.recurrent import Recurrent


def gradient_by_lag(
    layers: Sequence[Recurrent], x: Tensor, loss: Callable[[Tensor], Tensor]
) -> list[np.ndarray]:
    """Mean norm ‖∂ℓ/∂h_t‖ over a batch, by steps back, for each layer of a stack.

    The states are the recurrent ones, so a gradient holds every path to the loss: through time and through
    the layers above. (The gradient of a layer's output tensor would hold only the latter.) Costs one pass
    forward and backward, step by step. A norm that falls to 1 % within k steps says that training hears
    next to nothing from further back than k.

    Args:
        layers: one-directional layers of one layer each, the lowest first.
        x: ``[T, B, I]``, the input of the lowest.
        loss: from the top states at the last step ``[B, H]`` to the sum of the losses of the batch.

    Returns:
        For each layer ``[T]``; index 0 is the last step.
    """
    states: list[list[Tensor]] = [[] for _ in layers]
    carried: list[Tensor | tuple[Tensor, ...] | None] = [None] * len(layers)
    with torch.enable_grad():
        for x_t in x.unbind(0):
            value = x_t.unsqueeze(0)
            for index, layer in enumerate(layers):
                _, carried[index] = layer(value, carried[index])
                state = carried[index]
                graph = layer.cell.graph
                value = state[graph.state_index(graph.output)] if isinstance(state, tuple) else state
                assert value is not None
                states[index].append(value)
        total = loss(states[-1][-1].squeeze(0))
        gradients = torch.autograd.grad(
            total, [state for layer in states for state in layer], allow_unused=True
        )
    steps = len(x)
    norms = [0.0 if g is None else g.flatten(0, 1).norm(dim=-1).mean().item() for g in gradients]
    return [np.array(norms[i * steps : (i + 1) * steps][::-1]) for i in range(len(layers))]
