"""The backend: what it refuses, and how a call takes it."""

from __future__ import annotations

from typing import Any

import torch

from gatewright.backends import sequence
from gatewright.backends.call import Call, Result, transform_refusal
from gatewright.backends.cpu import engine, launch, passes

_PLAIN = (torch.Tensor, torch.nn.Parameter)

_NAMES = ("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


class CpuBackend:
    """Fused kernels made from the cell's equations."""

    name = "cpu"

    def refusal(self, call: Call) -> str | None:
        """What the kernels do not do: other devices and dtypes, packed sequences, transforms."""
        x = call.x
        if x.device.type != "cpu":
            return f"its kernels run on the CPU, the input is on {x.device}"
        if x.dtype not in launch.ELEMENTS:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in launch.ELEMENTS)
            return f"its kernels compute in {known}, the input is {str(x.dtype).removeprefix('torch.')}"
        if call.batch_sizes is not None:
            return "its kernels take dense sequences, the input is packed"
        if call.weights.weight_hr is not None and not call.cell.graph.projectable:
            return "its kernels project an output that only recurrent maps read"
        if torch.compiler.is_compiling():
            return _operator().machine_refusal()
        reason = engine.refusal()
        if reason is not None:
            return reason
        reason = _unfit(call)
        if reason is not None:
            return reason
        if torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack():
            return "what is traced or followed operation by operation goes through the equations"
        if torch.autograd.forward_ad._current_level >= 0:
            return "forward-mode differentiation goes through the equations"
        return transform_refusal()

    def describe(self, call: Call) -> tuple[str, ...]:
        """Instruction set, threads, tiles, and what is kept for the gradient."""
        if 0 in call.x.shape[:2]:
            return ("nothing to compute",)
        return passes.describe(call)

    def kernel_source(self, call: Call) -> str:
        """LLVM's text."""
        return "" if 0 in call.x.shape[:2] else passes.kernel_source(call)

    def run(self, call: Call) -> Result:
        """Run the kernels, as a registered operator where torch traces."""
        return _operator().run(call) if torch.compiler.is_compiling() else sequence.run(call, passes)


def _unfit(call: Call) -> str | None:
    """What a kernel could not read as memory of the right size: it would not notice."""
    x, weights = call.x, call.weights
    tensors = (
        x, weights.weight_ih, weights.weight_hh, weights.bias_ih, weights.bias_hh, weights.weight_hr,
        *weights.vectors.values(), *call.states,
    )  # fmt: skip
    shapes = _shapes(call)
    for place, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        if tensor is None:
            continue
        plain = type(tensor) in _PLAIN and tensor.layout is torch.strided
        if plain and tensor.shape == shape and tensor.dtype is x.dtype and tensor.is_cpu:
            continue
        name = [
            *_NAMES,
            *(f"vector_{v}" for v in weights.vectors),
            *(f"state {s}" for s in call.cell.graph.states),
        ]
        if not plain:
            kind = f"{type(tensor).__name__}, {tensor.layout}"
            return f"its kernels read plain tensors, {name[place]} is a {kind}"
        received = f"{list(tensor.shape)} of {tensor.dtype} on {tensor.device}"
        return f"expected {name[place]} as {list(shape)} of {x.dtype} on cpu, received {received}"
    return None


def _shapes(call: Call) -> list[tuple[int, ...]]:
    """The shape that each tensor of a call should have, as its first weight and its input have it."""
    graph, weights, x = call.cell.graph, call.weights, call.x
    inputs, features = weights.weight_ih.shape[0], x.shape[2]
    hidden = inputs // len(graph.input_maps)
    inputs, recurrent = len(graph.input_maps) * hidden, len(graph.recurrent_maps) * hidden
    width = hidden if weights.weight_hr is None else weights.weight_hr.shape[0]
    shapes: list[tuple[int, ...]] = [
        x.shape, (inputs, features), (recurrent, width), (inputs,), (recurrent,), (width, hidden),
    ]  # fmt: skip
    shapes += [(hidden,)] * len(weights.vectors)
    return shapes + [(x.shape[1], width if state == graph.output else hidden) for state in graph.states]


def _operator() -> Any:
    """The operators, loaded when torch traces: they need its compiler, which takes a second to load."""
    from gatewright.backends.cpu import operator

    return operator
