"""What backends have in common whose kernels are generated from a cell's schedule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from gatewright.backends import heads, sequence
from gatewright.backends.call import Call, Result, following_refusal
from gatewright.backends.fit import misfit
from gatewright.backends.sequence import Passes


class GeneratedBackend(ABC):
    """Kernels made from the cell's equations.

    Attributes:
        name: by which it is asked for.
        devices: types of those that it is for.
        comment: what begins a comment in its code.
        elements: the dtypes it computes in, as its code names them.
        passes: what runs the kernels.
        filled: the hidden units up to which heads that are not run at once are one product with zeros in it.
    """

    name: str
    devices: tuple[str, ...]
    comment: str
    elements: Mapping[torch.dtype, str]
    passes: Passes
    filled: int = 0

    @abstractmethod
    def unavailable(self, device: torch.device, compiling: bool) -> str | None:
        """Why no kernel can be made or run for a device, or None; ``compiling`` where torch traces."""

    @abstractmethod
    def projection_refusal(self, call: Call) -> str | None:
        """Why the projection of a call cannot be done, or None."""

    def refusal(self, call: Call) -> str | None:
        """What the kernels do not do: other devices and dtypes, packed sequences, transforms."""
        x, compiling = call.x, torch.compiler.is_compiling()
        reason = self.unavailable(x.device, compiling)
        if reason is not None:
            return reason
        if x.dtype not in self.elements:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in self.elements)
            return f"its kernels compute in {known}, the input is {str(x.dtype).removeprefix('torch.')}"
        if call.batch_sizes is not None:
            return "its kernels take dense sequences, the input is packed"
        if call.weights.weight_hr is not None:
            reason = self.projection_refusal(call)
        reason = reason or misfit(call, compiling)
        if compiling or reason is not None:
            return reason
        return following_refusal()

    def takes_heads(self, call: Call) -> bool:
        """Whether the kernels run all heads of a call at once; else they run one after the other."""
        return False

    def describe(self, call: Call) -> tuple[str, ...]:
        """How the kernels run a call."""
        if 0 in call.x.shape[:2]:
            return ("nothing to compute",)
        count = heads.count(call)
        if count == 1 or self.takes_heads(call):
            return self.passes.describe(call)
        if self._fills_heads(call):
            return (f"{count} heads, zeros between their weights", *self.passes.describe(heads.dense(call)))
        return (f"{count} heads, one after the other", *self.passes.describe(heads.part(call, 0)))

    def kernel_source(self, call: Call) -> str:
        """The code of the kernels."""
        if 0 in call.x.shape[:2]:
            return ""
        if heads.count(call) > 1 and not self.takes_heads(call):
            call = heads.dense(call) if self._fills_heads(call) else heads.part(call, 0)
        return self.passes.kernel_source(call)

    def run(self, call: Call) -> Result:
        """Run the kernels, as a registered operator where torch traces."""
        if heads.count(call) > 1 and not self.takes_heads(call):
            if not self._fills_heads(call):
                return heads.apart(call, self._run_together)
            call = heads.dense(call)
        return self._run_together(call)

    def _fills_heads(self, call: Call) -> bool:
        """Whether one product with zeros in it takes less than a call for each head."""
        nodes = call.cell.graph.nodes
        norms = any(node.operation in ("layer_norm", "mean") for node in nodes)
        return call.states[0].shape[1] <= self.filled and not norms

    def _run_together(self, call: Call) -> Result:
        if torch.compiler.is_compiling():
            return operator().run(call, self.name)
        return self.run_kernels(call)

    def run_kernels(self, call: Call) -> Result:
        """Run the kernels of one call as a function that autograd knows."""
        return sequence.run(call, self.passes)


def operator() -> Any:
    """The operators, loaded when torch traces: they need its compiler, which takes a second to load."""
    from gatewright.backends import operator

    return operator
