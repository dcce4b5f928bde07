"""The gradient by lag against a plain loop of torch's own cells."""

import numpy as np
import torch
from torch import nn

import gatewright as gw
from gatewright.diagnosis.gradient_memory import gradient_by_lag


def test_norms_equal_autograd_through_a_plain_loop():
    torch.manual_seed(0)
    steps, batch = 9, 4
    lower, upper = gw.GRU(3, 6, dtype=torch.float64), gw.LSTM(6, 5, dtype=torch.float64)
    x = torch.randn(steps, batch, 3, dtype=torch.float64)
    readout = torch.randn(5, dtype=torch.float64)

    def loss(top):
        return (top @ readout).tanh().sum()

    found = gradient_by_lag([lower, upper], x, loss)
    first, second = nn.GRUCell(3, 6, dtype=torch.float64), nn.LSTMCell(6, 5, dtype=torch.float64)
    first.load_state_dict({n.removesuffix("_l0"): p for n, p in lower.state_dict().items()})
    second.load_state_dict({n.removesuffix("_l0"): p for n, p in upper.state_dict().items()})
    h = torch.zeros(batch, 6, dtype=torch.float64)
    g, c = torch.zeros(2, batch, 5, dtype=torch.float64)
    low, high = [], []
    for x_t in x:
        h = first(x_t, h)
        g, c = second(h, (g, c))
        low.append(h)
        high.append(g)
    gradients = torch.autograd.grad(loss(g), [*low, *high])
    norms = [gradient.norm(dim=-1).mean().item() for gradient in gradients]
    np.testing.assert_allclose(found[0], norms[:steps][::-1], rtol=1e-10)
    np.testing.assert_allclose(found[1], norms[steps:][::-1], rtol=1e-10)
