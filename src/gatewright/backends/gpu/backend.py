"""The GPU backend: what it refuses, and how a call takes it."""

from __future__ import annotations

import torch

from gatewright.backends import sequence
from gatewright.backends.call import Call, Result, following_refusal
from gatewright.backends.fit import misfit
from gatewright.backends.gpu import engine, passes
from gatewright.backends.traced import operator


class GpuBackend:
    """Kernels in Triton, made from the cell's equations."""

    name = "gpu"
    devices: tuple[str, ...] = ("cuda",)
    comment = "#"

    def refusal(self, call: Call) -> str | None:
        """What the kernels do not do: other devices and dtypes, packed sequences, projections, transforms."""
        x = call.x
        compiling = torch.compiler.is_compiling()
        reason = operator().device_refusal(x.device) if compiling else engine.refusal(x.device)
        if reason is not None:
            return reason
        if x.dtype not in passes.ELEMENTS:
            known = ", ".join(passes.ELEMENTS.values())
            return f"its kernels compute in {known}, the input is {str(x.dtype).removeprefix('torch.')}"
        if call.batch_sizes is not None:
            return "its kernels take dense sequences, the input is packed"
        if call.weights.weight_hr is not None:
            return "its kernels do not project the output"
        if compiling:
            return None
        reason = misfit(call)
        if reason is not None:
            return reason
        return following_refusal()

    def describe(self, call: Call) -> tuple[str, ...]:
        """Device, where the weights are, programs."""
        return ("nothing to compute",) if 0 in call.x.shape[:2] else passes.describe(call)

    def kernel_source(self, call: Call) -> str:
        """Triton's source."""
        return "" if 0 in call.x.shape[:2] else passes.kernel_source(call)

    def run(self, call: Call) -> Result:
        """Run the kernels."""
        if torch.compiler.is_compiling():
            return operator().run(call, self.name)
        return sequence.run(call, passes)
