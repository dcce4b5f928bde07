"""The backend: what it refuses, and how a call takes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatewright.backends.call import Call, Result
from gatewright.backends.cpu import engine, launch, sequence

_PLAIN = (torch.Tensor, torch.nn.Parameter)


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
        if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore
            return "transforms of torch.func go through the equations"
        return None

    def describe(self, call: Call) -> tuple[str, ...]:
        """Instruction set, threads, tiles, and what is kept for the gradient."""
        if 0 in call.x.shape[:2]:
            return ("nothing to compute",)
        return sequence.describe(call)

    def kernel_source(self, call: Call) -> str:
        """LLVM's text."""
        return "" if 0 in call.x.shape[:2] else sequence.kernel_source(call)

    def run(self, call: Call) -> Result:
        """Run the kernels, as a registered operator where torch traces."""
        return _operator().run(call) if torch.compiler.is_compiling() else sequence.run(call)


def _unfit(call: Call) -> str | None:
    """What a kernel could not read as memory of the right size: it would not notice."""
    graph, weights, x = call.cell.graph, call.weights, call.x
    hidden = weights.weight_ih.shape[0] // len(graph.input_maps)
    output = graph.state_index(graph.output)
    width = hidden if weights.weight_hr is None else weights.weight_hr.shape[0]
    inputs, recurrent = len(graph.input_maps) * hidden, len(graph.recurrent_maps) * hidden
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("x", x, x.shape),
        ("weight_ih", weights.weight_ih, (inputs, x.shape[-1])),
        ("weight_hh", weights.weight_hh, (recurrent, width)),
        ("bias_ih", weights.bias_ih, (inputs,)),
        ("bias_hh", weights.bias_hh, (recurrent,)),
        ("weight_hr", weights.weight_hr, (width, hidden)),
        *((f"vector_{name}", vector, (hidden,)) for name, vector in weights.vectors.items()),
        *(
            (f"state {graph.states[i]}", state, (x.shape[1], width if i == output else hidden))
            for i, state in enumerate(call.states)
        ),
    ]
    for name, tensor, shape in expected:
        if tensor is None:
            continue
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
            return f"its kernels read plain tensors, {name} is a {type(tensor).__name__}, {tensor.layout}"
        if tensor.shape != shape or tensor.dtype is not x.dtype or tensor.device.type != "cpu":
            received = f"{list(tensor.shape)} of {tensor.dtype} on {tensor.device}"
            return f"expected {name} as {list(shape)} of {x.dtype} on cpu, received {received}"
    return None


def _operator() -> Any:
    """The operators, loaded when torch traces: they need its compiler, which takes a second to load."""
    from gatewright.backends.cpu import operator

    return operator
