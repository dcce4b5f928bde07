"""The backend: what it refuses, and how a call takes it."""

from __future__ import annotations

import torch

from gatewright.backends import sequence
from gatewright.backends.call import Call, Result, following_refusal
from gatewright.backends.cpu import engine, launch, passes
from gatewright.backends.fit import misfit
from gatewright.backends.traced import operator


class CpuBackend:
    """Fused kernels made from the cell's equations."""

    name = "cpu"
    devices: tuple[str, ...] = ("cpu",)
    comment = ";"

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
            return operator().machine_refusal()
        reason = engine.refusal()
        if reason is not None:
            return reason
        reason = misfit(call)
        if reason is not None:
            return reason
        return following_refusal()

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
        if torch.compiler.is_compiling():
            return operator().run(call, self.name)
        return sequence.run(call, passes)
