"""The GPU backend: what it refuses."""

from __future__ import annotations

import torch

from gatewright.backends import sequence
from gatewright.backends.call import Call, Result
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

    def takes_heads(self, call: Call) -> bool:
        """Where the weights of a head stay in a program, with room to spare."""
        return not torch.compiler.is_compiling() and passes.takes_heads(call)

    def run(self, call: Call) -> Result:
        """Run the kernels; a call that does not fit says what would."""
        try:
            return super().run(call)
        except torch.OutOfMemoryError as error:
            keeps = sequence.records_gradient(sequence.operands_of(call)) and not call.recompute
            hint = "set recompute=True, which keeps outputs only, or take " if keeps else "take "
            error.add_note(f"gatewright: {hint}a smaller batch or shorter sequences")
            raise

    def projection_refusal(self, call: Call) -> str | None:
        """Not yet."""
        return "its kernels do not project the output"
