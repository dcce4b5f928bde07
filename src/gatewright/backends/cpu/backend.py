"""The backend: what it refuses, and how a call takes it."""

from __future__ import annotations

from typing import Any

import torch

from gatewright.backends.call import Call, Result
from gatewright.backends.cpu import engine, launch, sequence


class CpuBackend:
    """Fused kernels made from the cell's equations."""

    name = "cpu"

    def refusal(self, call: Call) -> str | None:
        """What the kernels do not do: other devices and dtypes, packed sequences, projections, transforms."""
        x = call.x
        if x.device.type != "cpu":
            return f"its kernels run on the CPU, the input is on {x.device}"
        if x.dtype not in launch.ELEMENTS:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in launch.ELEMENTS)
            return f"its kernels compute in {known}, the input is {str(x.dtype).removeprefix('torch.')}"
        if call.batch_sizes is not None:
            return "its kernels take dense sequences, the input is packed"
        if torch.compiler.is_compiling():
            return _operator().machine_refusal()
        reason = engine.refusal()
        if reason is not None:
            return reason
        kinds = {type(tensor) for tensor in (x, call.weights.weight_ih, *call.states)}
        if kinds - {torch.Tensor, torch.nn.Parameter}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            return f"its kernels read plain tensors, these are of the types {names}"
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


def _operator() -> Any:
    """The operators, loaded when torch traces: they need its compiler, which takes a second to load."""
    from gatewright.backends.cpu import operator

    return operator
