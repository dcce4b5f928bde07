"""torch's own kernels for the cells that torch has: the same equations, the same rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatewright.backends import heads
from gatewright.backends.call import Call, Result, transform_refusal


class NativeBackend:
    """``torch.gru``, ``torch.lstm`` and ``torch.rnn_*``, for cells that name one of them."""

    name = "torch"
    devices: tuple[str, ...] = ()
    comment = ""

    def refusal(self, call: Call) -> str | None:
        """Cells torch does not have, and the few shapes its kernels do not take."""
        if not call.cell.torch_function:
            return f"torch has no kernel for the cell {call.cell.name!r}"
        if call.weights.weight_hr is not None and call.cell.torch_function != "lstm":
            return "torch projects the output of an LSTM only"
        if call.batch_sizes is not None and call.reverse:
            return "torch's kernels run a packed sequence in reverse only as part of a bidirectional layer"
        if call.recompute:
            return "torch's kernels keep what they need for the gradient"
        if call.every and len(call.states) > 1:
            return "torch's kernels give no state of every step but the output"
        if call.x.numel() == 0:
            return "torch's kernels take no empty sequences"
        if torch.compiler.is_compiling():
            return None
        return transform_refusal()

    def describe(self, call: Call) -> tuple[str, ...]:
        """The function that runs."""
        return (f"torch.{call.cell.torch_function}",)

    def kernel_source(self, call: Call) -> str:
        """Nothing: the kernels are torch's."""
        return ""

    def run(self, call: Call) -> Result:
        """Run torch's kernel for one layer of one direction."""
        return heads.apart(call, self._run_dense)

    def _run_dense(self, call: Call) -> Result:
        function: Any = getattr(torch, call.cell.torch_function)
        states = tuple(state.unsqueeze(0) for state in call.states)
        given = states[0] if len(states) == 1 else states
        parameters = _parameters(call)
        # has_biases, num_layers, dropout, train, bidirectional; the dense form adds batch_first
        options = (call.weights.bias_ih is not None, 1, 0.0, False, False)
        if call.batch_sizes is not None:
            sizes = torch.tensor(call.batch_sizes, dtype=torch.int64)
            output, *final = function(call.x, sizes, given, parameters, *options)
        else:
            x = call.x.flip(0) if call.reverse else call.x
            output, *final = function(x, given, parameters, *options, False)
            output = output.flip(0) if call.reverse else output
        return output, (output,) if call.every else tuple(state.squeeze(0) for state in final)


def _parameters(call: Call) -> list[Tensor]:
    """The weights in torch's flat order."""
    return [weight for weight in call.weights.maps if weight is not None]
