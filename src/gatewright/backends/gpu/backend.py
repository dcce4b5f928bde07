"""The GPU backend: what it refuses."""

from __future__ import annotations

import torch

from gatewright.backends.call import Call
from gatewright.backends.generated import GeneratedBackend, operator
from gatewright.backends.gpu import engine, passes


class GpuBackend(GeneratedBackend):
    """Fused kernels in Triton."""

    name = "gpu"
    devices: tuple[str, ...] = ("cuda",)
    comment = "#"
    elements = passes.ELEMENTS
    passes = passes

    def unavailable(self, device: torch.device, compiling: bool) -> str | None:
        """Not without Triton, nor without a GPU outside its interpreter."""
        return operator().device_refusal(device) if compiling else engine.refusal(device)

    def projection_refusal(self, call: Call) -> str | None:
        """Not yet."""
        return "its kernels do not project the output"
