"""The CPU backend: what it refuses."""

from __future__ import annotations

import torch

from gatewright.backends.call import Call, Result
from gatewright.backends.cpu import engine, launch, passes, ragged
from gatewright.backends.generated import GeneratedBackend, operator


class CpuBackend(GeneratedBackend):
    """Fused kernels in LLVM."""

    name = "cpu"
    devices: tuple[str, ...] = ("cpu",)
    comment = ";"
    elements = launch.ELEMENTS
    passes = passes
    filled = 96

    def run_kernels(self, call: Call) -> Result:
        """Run the kernels, and leave out what is behind the ends of rows where that saves time."""
        if not call.recompute and ragged.is_worth(call):
            return ragged.run(call)
        return super().run_kernels(call)

    def unavailable(self, device: torch.device, compiling: bool) -> str | None:
        """Not for another device, nor on a machine that LLVM makes no code for."""
        if device.type != "cpu":
            return f"its kernels run on the CPU, the input is on {device}"
        return operator().machine_refusal() if compiling else engine.refusal()

    def projection_refusal(self, call: Call) -> str | None:
        """Between two steps, where nothing but products may read the output."""
        if call.cell.graph.projectable:
            return None
        return "its kernels project an output that only recurrent maps read"
