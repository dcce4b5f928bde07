"""The forecasting network: stacked recurrent layers, and a head for the quantiles of the whole horizon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewright.layers.recurrent import Recurrent

_CONTEXT_SIZE = 16
_HEAD_SIZE = 32


@dataclass(frozen=True)
class Shape:
    """What decides the sizes of the weights.

    Attributes:
        cell: name of a catalogued cell.
        hidden_sizes: of the recurrent layers.
        dropout: between layers.
        inputs: features of a time step, ``I``.
        known: features that are known for the future, ``K``.
        anchors: values a forecast may lean on, ``A``.
        horizon: time steps to forecast, ``N``.
        quantiles: ascending, ``Q`` of them.
    """

    cell: str
    hidden_sizes: tuple[int, ...]
    dropout: float
    inputs: int
    known: int
    anchors: int
    horizon: int
    quantiles: tuple[float, ...]


class ForecastNetwork(nn.Module):
    """Reads a window of a series and forecasts from any of its steps.

    The layers run once over the window; from the top state of each origin (a step to forecast from) a
    linear map makes one context for every step ahead, and a small network, the same for all steps ahead,
    turns context, known features and anchors into quantiles. Many origins share one pass over the window
    (the forking sequences of Wen et al. 2017, arXiv:1711.11053).

    Anchors are past values that a forecast may lean on: the last one and those of earlier seasons. Their
    learned weights add up to one, so the forecast follows the level of the series wherever it goes:
    quantile = Σ_a softmax(α)_a · anchor_a + head(context, known, anchors − Σ).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        sizes = (shape.inputs, *shape.hidden_sizes)
        self.layers = nn.ModuleList(Recurrent(shape.cell, size, hidden) for size, hidden in pairwise(sizes))
        self.context = nn.Linear(sizes[-1], shape.horizon * _CONTEXT_SIZE)
        self.head = nn.Linear(_CONTEXT_SIZE + shape.known + 2 * shape.anchors, _HEAD_SIZE)
        self.quantiles = nn.Linear(_HEAD_SIZE, len(shape.quantiles))
        self.anchor_logits = nn.Parameter(torch.zeros(shape.horizon, shape.anchors))
        # the first forecast is the anchors' mean, with bands that open evenly
        nn.init.normal_(self.quantiles.weight, std=0.01)
        with torch.no_grad():
            self.quantiles.bias.copy_(torch.logit(torch.tensor(shape.quantiles)) / 4)

    def encode(self, x: Tensor) -> Tensor:
        """Top states ``[W, B, H]`` of a window ``[W, B, I]``."""
        for index, layer in enumerate(self.layers):
            if index:
                x = F.dropout(x, self.shape.dropout, self.training)
            x, _ = layer(x)
        return x

    def decode(self, states: Tensor, known: Tensor, anchors: Tensor) -> Tensor:
        """Quantiles of the horizon from some origins.

        Args:
            states: ``[P, B, H]`` top states at the origins.
            known: ``[P, B, N, K]`` features of the steps ahead.
            anchors: ``[P, B, N, A]`` scaled values, NaN where missing.

        Returns:
            ``[P, B, N, Q]`` in scaled units; not yet sorted.
        """
        present = anchors.isfinite()
        values = anchors.nan_to_num(0.0, 0.0, 0.0)
        logits = self.anchor_logits.masked_fill(~present, -1e9)
        base = (logits.softmax(-1) * values * present).sum(-1, keepdim=True)
        context = self.context(states).unflatten(-1, (self.shape.horizon, _CONTEXT_SIZE))
        apart = torch.where(present, values - base, 0.0)
        features = torch.cat([context, known, apart, present.to(values.dtype)], dim=-1)
        return base + self.quantiles(F.relu(self.head(features)))

    def forward(self, x: Tensor, origins: Sequence[int], known: Tensor, anchors: Tensor) -> Tensor:
        """Quantiles ``[P, B, N, Q]`` from the steps ``origins`` of the window ``[W, B, I]``."""
        states = self.encode(x)
        return self.decode(states[list(origins)], known, anchors)


def quantile_loss(forecast: Tensor, target: Tensor, quantiles: Sequence[float]) -> Tensor:
    """Mean pinball loss over observed targets, max(q·e, (q − 1)·e) with e = target − forecast, times two.

    Koenker & Bassett 1978. Times two makes the median's part the absolute error.

    Args:
        forecast: ``[..., Q]``.
        target: ``[...]``, NaN where missing; those are left out.
        quantiles: ``Q`` of them.

    Returns:
        A scalar; 0 when nothing was observed.
    """
    observed = target.isfinite()
    error = torch.where(observed, target, 0.0).unsqueeze(-1) - forecast
    q = torch.tensor(quantiles, dtype=forecast.dtype, device=forecast.device)
    loss = 2 * torch.maximum(q * error, (q - 1) * error).mean(-1)
    return (loss * observed).sum() / observed.sum().clamp(min=1)
