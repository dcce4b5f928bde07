"""The generated code, as a user gets to see it."""

import pytest
import torch

import gatewright as gw

llvm = pytest.importorskip("llvmlite.binding", reason="the CPU backend is compiled by llvmlite")


def functions(text):
    """The functions of every module of a text, after LLVM has checked it."""
    modules = text.split("; backward kernel\n")
    return [[f.name for f in llvm.parse_assembly(m).functions if not f.is_declaration] for m in modules]


def test_the_source_of_a_layer_is_what_llvm_takes():
    text = gw.kernel_source(gw.GRU(16, 16), torch.zeros(4, 2, 16))
    assert text.startswith("; l0\n; forward kernel\n")
    for names in functions(text):
        assert {"run", "enter", "product"} <= set(names)


def test_without_gradients_there_is_no_backward_kernel():
    with torch.no_grad():
        text = gw.kernel_source(gw.GRU(16, 16), torch.zeros(4, 2, 16))
    assert "; backward kernel" not in text
    assert len(functions(text)) == 1


def test_layers_and_directions_with_the_same_code_are_named_together():
    layer = gw.GRU(16, 16, 2, bidirectional=True)
    with torch.no_grad():
        text = gw.kernel_source(layer, torch.zeros(4, 2, 16))
    # the second layer reads twice as many features: that is an argument of the kernel
    assert text.startswith("; l0, l0_reverse, l1, l1_reverse\n")
    assert text.count("; forward kernel") == 1


def test_a_call_without_generated_code_is_refused():
    layer = gw.GRU(3, 5)
    with pytest.raises(gw.InputError, match="l0 runs on the backend 'cpu', without generated code"):
        gw.kernel_source(layer, torch.zeros(0, 2, 3))
    layer.backend = "eager"
    with pytest.raises(gw.InputError) as caught:
        gw.kernel_source(layer, torch.zeros(4, 2, 3))
    assert caught.value.message == "kernel_source: l0 runs on the backend 'eager', without generated code"
    assert "explain" in caught.value.hint
