"""The long short-term memory."""

from __future__ import annotations

from gatewright.compiler.language import cell, sigmoid, tanh


@cell(
    source="Hochreiter & Schmidhuber 1997; forget gate of Gers et al. 2000",
    rows="ifgo",
    torch_function="lstm",
    keep={"f": 1, "i": -1},
)
def lstm(x, U, h, c):
    """LSTM with a forget gate and no peepholes, as in cuDNN, PyTorch and Keras.

    i, f, o = σ(x + U h), g = tanh(x.g + U.g h), c' = f ⊙ c + i ⊙ g, h' = o ⊙ tanh(c')
    """
    i = sigmoid(x.i + U.i(h))  # input gate
    f = sigmoid(x.f + U.f(h))  # forget gate
    g = tanh(x.g + U.g(h))  # candidate
    o = sigmoid(x.o + U.o(h))  # output gate
    c = f * c + i * g
    return o * tanh(c), c
