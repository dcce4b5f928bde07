"""What a kernel could not read as memory of the right size is never given to one."""

import pytest
import torch
from benchmarks.parity import relative_error
from torch import nn

import gatewright as gw
from gatewright import tanh


@gw.cell
def scaled(x, U, w, h):
    return tanh(x.a + w.g * U.a(h))


REPLACED = {
    "another dtype": ("weight_hh_l0", torch.randn(21, 7, dtype=torch.float64)),
    "fewer columns": ("weight_hh_l0", torch.randn(21, 6)),
    "fewer rows": ("weight_hh_l0", torch.randn(2, 7)),
    "more rows": ("weight_hh_l0", torch.randn(28, 7)),
    "other rows of the input": ("weight_ih_l0", torch.randn(18, 5)),
    "other columns of the input": ("weight_ih_l0", torch.randn(21, 4)),
    "a short bias": ("bias_hh_l0", torch.randn(1)),
    "a bias of another dtype": ("bias_hh_l0", torch.randn(21, dtype=torch.bfloat16)),
    "another device": ("bias_ih_l0", torch.randn(21, device="meta")),
    "a sparse weight": ("weight_hh_l0", torch.eye(21, 7).to_sparse()),
}


@pytest.mark.parametrize("case", REPLACED)
def test_a_replaced_weight_is_refused_by_its_name(case):
    name, value = REPLACED[case]
    layer = gw.GRU(5, 7)
    setattr(layer, name, nn.Parameter(value))
    layer.backend = "cpu"
    with pytest.raises(gw.InputError, match=r"cannot run this call: (expected|its kernels read)"):
        layer(torch.randn(9, 3, 5))


def test_a_vector_weight_of_another_dtype_is_refused():
    layer = gw.Recurrent(scaled, 5, 7)
    layer.vector_g_l0 = nn.Parameter(torch.randn(7, dtype=torch.float64))
    layer.backend = "cpu"
    with pytest.raises(gw.InputError, match="expected vector_g as"):
        layer(torch.randn(2, 3, 5))


def test_a_view_that_is_negated_when_it_is_read():
    layer, x, h = gw.GRU(5, 7), torch.randn(4, 3, 5), torch.randn(1, 3, 7)
    gradient = torch.randn(4, 3, 7)
    results = []
    for make in (torch.neg, torch._neg_view):  # pyright: ignore[reportPrivateImportUsage]
        y, _ = layer(make(x), make(h))
        results.append([y, *torch.autograd.grad(y, list(layer.parameters()), make(gradient))])
    for actual, expected in zip(*reversed(results), strict=True):
        assert relative_error(actual, expected) == 0


def test_a_change_in_place_is_noticed_where_gates_are_computed_again():
    for backend in ("cpu", "eager"):
        layer = gw.LSTM(5, 7, recompute=True)
        layer.backend = backend
        x = torch.randn(4, 3, 5)
        y, _ = layer(x)
        x.mul_(2)
        with pytest.raises(RuntimeError, match=r"changed in place|modified by an inplace operation"):
            y.sum().backward()
