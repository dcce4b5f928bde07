"""GRU, LSTM and RNN with the signatures and state dicts of torch.nn, and the way back to torch.nn."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import nn

from gatewright.cells.gru import gru, gru_reset_before
from gatewright.cells.lstm import lstm
from gatewright.cells.rnn import rnn_relu, rnn_tanh
from gatewright.errors import InputError
from gatewright.layers.options import LayerOptions
from gatewright.layers.recurrent import Recurrent

_OPTIONS = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")


class GRU(Recurrent):
    """Gated recurrent unit, in place of ``torch.nn.GRU``.

    r = σ(W_r x + U_r h), z = σ(W_z x + U_z h), n = tanh(W_n x + r ⊙ U_n h), h' = (1 − z) ⊙ n + z ⊙ h
    (Cho et al. 2014, arXiv:1406.1078, in the form of cuDNN). With ``reset="before"`` the paper's own
    n = tanh(W_n x + U_n(r ⊙ h)). Rows of the weights are r, z, n. Arguments and shapes as in ``Recurrent``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        reset: str = "after",
        **options: Unpack[LayerOptions],
    ) -> None:
        if reset not in ("after", "before"):
            hint = "'after' is torch's form and the default, 'before' the paper's"
            raise InputError(f"GRU: expected reset as 'after' or 'before', received {reset!r}", hint)
        self.reset = reset
        super().__init__(
            gru if reset == "after" else gru_reset_before,
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype, **options,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """As torch's, and ``reset`` when it differs from torch's form."""
        return super().extra_repr() + ("" if self.reset == "after" else f", reset={self.reset!r}")

    def to_torch(self) -> nn.GRU:
        """The same layer as ``torch.nn.GRU``, sharing its parameters.

        Returns:
            A ``torch.nn.GRU``.

        Raises:
            InputError: ``reset="before"``, which torch.nn.GRU does not have.
        """
        if self.reset != "after":
            hint = "export the layer itself, or train with reset='after'"
            raise InputError("GRU: torch.nn.GRU has no reset='before'", hint)
        return share_parameters(self, nn.GRU(self.input_size, self.hidden_size, **_torch_options(self)))


class LSTM(Recurrent):
    """Long short-term memory, in place of ``torch.nn.LSTM``.

    i, f, o = σ(W x + U h), g = tanh(W_g x + U_g h), c' = f ⊙ c + i ⊙ g, h' = o ⊙ tanh(c')
    (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000). With ``proj_size``
    h' = W_hr (o ⊙ tanh(c')). Rows of the weights are i, f, g, o; the state is ``(h, c)``. Arguments and
    shapes as in ``Recurrent``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        super().__init__(
            lstm, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype, **options,
        )  # fmt: skip

    def to_torch(self) -> nn.LSTM:
        """The same layer as ``torch.nn.LSTM``, sharing its parameters."""
        options = _torch_options(self) | {"proj_size": self.proj_size}
        return share_parameters(self, nn.LSTM(self.input_size, self.hidden_size, **options))


class RNN(Recurrent):
    """Plain recurrent network, in place of ``torch.nn.RNN``: h' = tanh(W x + U h), or relu.

    Arguments and shapes as in ``Recurrent``, with ``nonlinearity`` ``"tanh"`` or ``"relu"``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            hint = "as in torch.nn it is RNN's fourth argument, before bias; pass options by name"
            raise InputError(
                f"RNN: expected nonlinearity as 'tanh' or 'relu', received {nonlinearity!r}", hint
            )
        self.nonlinearity = nonlinearity
        super().__init__(
            rnn_tanh if nonlinearity == "tanh" else rnn_relu,
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype, **options,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """As torch's, and ``nonlinearity`` when it is not tanh."""
        return super().extra_repr() + (
            "" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}"
        )

    def to_torch(self) -> nn.RNN:
        """The same layer as ``torch.nn.RNN``, sharing its parameters."""
        options = _torch_options(self) | {"nonlinearity": self.nonlinearity}
        return share_parameters(self, nn.RNN(self.input_size, self.hidden_size, **options))


def _torch_options(layer: Recurrent) -> dict[str, Any]:
    """Keyword arguments for torch.nn, on the meta device so that nothing is allocated or drawn.

    Args:
        layer: that is to become one of torch.nn.

    Returns:
        The arguments by name.

    Raises:
        InputError: the layer has an option that torch.nn does not have.
    """
    other = [name for name in layer.options.changed() if name != "recompute"]
    if other:
        kind = type(layer).__name__
        raise InputError(f"{kind}: torch.nn.{kind} has no {other[0]}", "export the layer itself")
    return {name: getattr(layer, name) for name in _OPTIONS} | {"device": "meta"}


def share_parameters(source: nn.Module, target: Any) -> Any:
    """Give the target the source's own parameters, mode and all, so that an optimizer keeps working.

    Args:
        source: the layer that holds the parameters.
        target: a layer with parameters of the same names and shapes.

    Returns:
        The target.

    Raises:
        InputError: the source's parameters have other names, as after a weight norm or pruning.
    """
    # tied parameters stand under each of their names
    parameters = dict(source.named_parameters(remove_duplicate=False))
    other = sorted(parameters.keys() ^ dict(target.named_parameters()).keys())
    if other:
        kind, hint = type(source).__name__, "take off weight norm, pruning and the like first"
        raise InputError(f"{kind}: expected the parameters of a plain layer; {', '.join(other)} differ", hint)
    for name, parameter in parameters.items():
        setattr(target, name, parameter)
    return target.train(source.training)
