"""torch.nn's cells, which a user's own loop calls step by step, as layers of this library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gatewright.errors import InputError
from gatewright.layers.named import GRU, LSTM, RNN
from gatewright.layers.recurrent import Recurrent

_KINDS = (nn.GRUCell, nn.LSTMCell, nn.RNNCell)


def is_cell(module: nn.Module) -> bool:
    """Whether it is one of torch.nn's cells itself, no subclass."""
    return type(module) in _KINDS


class StepLayer(nn.Module):
    """A cell of torch.nn run by a layer of this library; it shares the cell's parameters.

    Args:
        cell: a ``torch.nn.GRUCell``, ``LSTMCell`` or ``RNNCell``.
    """

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        if not isinstance(cell, nn.RNNCellBase):
            raise InputError(f"expected a cell of torch.nn, received {type(cell).__name__}", "")
        sizes = cell.input_size, cell.hidden_size
        layer: Recurrent
        if isinstance(cell, nn.LSTMCell):
            layer = LSTM(*sizes, bias=cell.bias, device="meta")
        elif isinstance(cell, nn.RNNCell):
            layer = RNN(*sizes, nonlinearity=cell.nonlinearity, bias=cell.bias, device="meta")
        else:
            layer = GRU(*sizes, bias=cell.bias, device="meta")
        for name, parameter in cell.named_parameters():
            setattr(layer, f"{name}_l0", parameter)
        self.layer = layer.train(cell.training)
        self.train(cell.training)

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        """One step, as the cell of torch.nn: ``[B, I]`` or ``[I]`` to the next state."""
        pair = len(self.layer.cell.graph.states) > 1
        given = hx if hx is None or pair else (hx,)
        dense = x if x.dim() == 2 else x.unsqueeze(0)
        states = (
            None if given is None else tuple(h.unsqueeze(0) if x.dim() == 2 else h[None, None] for h in given)
        )
        _, after = self.layer(dense.unsqueeze(0), states if pair or states is None else states[0])
        found = after if pair else (after,)
        rows = tuple(torch.select(h, 0, 0) if x.dim() == 2 else h[0, 0] for h in found)
        return rows if pair else rows[0]
