"""The gated recurrent unit, in both forms of its reset gate."""

from __future__ import annotations

from gatewright.compiler.language import cell, sigmoid, tanh


@cell(
    source="Cho et al. 2014, arXiv:1406.1078; reset after the product as in cuDNN",
    rows="rzn",
    torch_function="gru",
    keep={"z": 1},
)
def gru(x, U, h):
    """GRU with the reset gate after the recurrent product, as in cuDNN, PyTorch and Keras.

    z = σ(x.z + U.z h), r = σ(x.r + U.r h), n = tanh(x.n + r ⊙ U.n h), h' = (1 − z) ⊙ n + z ⊙ h
    """
    z = sigmoid(x.z + U.z(h))  # update gate: how much of the past to keep
    r = sigmoid(x.r + U.r(h))  # reset gate: how much of the past the candidate sees
    n = tanh(x.n + r * U.n(h))  # candidate state
    return (1 - z) * n + z * h


@cell(source="Cho et al. 2014, arXiv:1406.1078", rows="rzn", keep={"z": 1})
def gru_reset_before(x, U, h):
    """GRU with the reset gate before the recurrent product, as in the original paper.

    z = σ(x.z + U.z h), r = σ(x.r + U.r h), n = tanh(x.n + U.n(r ⊙ h)), h' = (1 − z) ⊙ n + z ⊙ h
    """
    z = sigmoid(x.z + U.z(h))
    r = sigmoid(x.r + U.r(h))
    n = tanh(x.n + U.n(r * h))
    return (1 - z) * n + z * h
