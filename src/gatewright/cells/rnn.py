"""The plain recurrent network, with tanh or relu."""

from __future__ import annotations

from gatewright.compiler.language import cell, relu, tanh


@cell(source="Elman 1990", torch_function="rnn_tanh")
def rnn_tanh(x, U, h):
    """Plain recurrent network: h' = tanh(x.h + U.h h)."""
    return tanh(x.h + U.h(h))


@cell(source="Le et al. 2015, arXiv:1504.00941", torch_function="rnn_relu")
def rnn_relu(x, U, h):
    """Plain recurrent network with relu: h' = relu(x.h + U.h h)."""
    return relu(x.h + U.h(h))
