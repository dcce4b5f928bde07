"""A layer that is fed step by step, with as little as possible between the steps."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gatewright.backends import dispatch
from gatewright.backends.call import Call
from gatewright.backends.cpu.steady import Steady
from gatewright.errors import InputError
from gatewright.layers.state import State

if TYPE_CHECKING:
    from gatewright.layers.recurrent import Recurrent


class Stream:
    """The steps of a layer, one after the other: ``y = stream(x)``.

    The state stays in the stream and no gradient is recorded. On the CPU all memory is made and all weights
    are packed beforehand: they are those of the moment, ``refresh`` takes them over anew. Elsewhere, and for
    stacks with residual connections, norms between layers or heads, each step is ``layer.step``; ``fused``
    says which.

    Args:
        layer: of one direction; it runs as in evaluation.
        batch: how many rows.
        weights: torch.bfloat16 to keep packed weights and biases in half the memory, each right to 2⁻⁹ of
            itself.

    Attributes:
        fused: whether steps run without the layer around them.
    """

    def __init__(self, layer: Recurrent, batch: int = 1, weights: torch.dtype | None = None) -> None:
        layer.check_forwards("stream")
        self._layer, self._name = layer, type(layer).__name__
        # the same weights in evaluation, whatever the layer itself is in meanwhile
        self._evaluated = copy.copy(layer)
        self._evaluated.training = False
        self._state = layer.make_state(batch).detach()
        self._shape = torch.Size((batch, layer.input_size))
        expected = layer.expectation()
        self._dtype, self._device = expected.dtype, expected.device
        if weights not in (None, torch.bfloat16, self._dtype):
            hint = "leave it out, or give torch.bfloat16"
            raise InputError(
                f"{self._name}: expected weights of the stream as None, received {weights}", hint
            )
        self._weights = weights
        short = weights is torch.bfloat16 and self._dtype is torch.float32
        self._steps = self._steady(short)
        self.fused = bool(self._steps)
        if weights is torch.bfloat16 and not (self.fused and short):
            hint = "leave out weights; heads, residual connections and norms between layers have no such step"
            raise InputError(f"{self._name}: bfloat16 weights need the CPU kernels in float32", hint)
        if self.fused:
            first, *others = self._steps
            self._words, self._place = first.words, first.x
            for before, step in zip(self._steps, others, strict=False):
                step.words[step.x] = before.y.data_ptr()
            self._kernels = [(step.enter, step.address) for step in self._steps]
            self._y = self._steps[-1].y[0]

    def _steady(self, short: bool) -> list[Steady]:
        """The step of each layer, none where the kernels do not run them."""
        layer, options = self._evaluated, self._layer.options
        if options.residual or options.pre_norm or options.heads > 1 or layer.backend not in ("auto", "cpu"):
            return []
        steps: list[Steady] = []
        if not self._shape[0]:
            return steps
        # what is made here is changed later, which inference mode would forbid outside of it
        with torch.inference_mode(False), torch.no_grad():
            for call in layer.step_calls(self._state):
                if not _is_fused(call):
                    return []
                steps.append(Steady(call, short))
        return steps

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is a stream of its own: addresses are none of another one's."""
        return _restored, (self._layer, self._shape[0], self._weights, self.state)

    def __call__(self, x: Tensor) -> Tensor:
        """One step.

        Args:
            x: ``[B, I]``.

        Returns:
            The output, ``[B, H]``; in a fused stream the same tensor every time, so clone what is to stay.

        Raises:
            InputError: another shape, dtype or device.
        """
        if (
            not isinstance(x, Tensor)
            or x.shape != self._shape
            or x.dtype is not self._dtype
            or x.device != self._device
        ):
            self._refuse(x)
        if not self.fused:
            return self._unfused(x)
        if not x.is_contiguous() or x.is_neg():
            x = x.resolve_neg().contiguous()
        self._words[self._place] = x.data_ptr()
        for enter, address in self._kernels:
            enter(address, 0)
        return self._y

    def _unfused(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y, self._state = self._evaluated.step(x, self._state)
        return y

    def _refuse(self, x: Tensor) -> None:
        received = type(x).__name__
        if isinstance(x, Tensor):
            received = f"{list(x.shape)} of {x.dtype} on {x.device}"
        expected = f"{list(self._shape)} of {self._dtype} on {self._device}"
        message = f"{self._name}: a stream expected {expected}, received {received}"
        raise InputError(message, "make a stream for another batch with layer.stream(batch)")

    @property
    def state(self) -> State:
        """A copy of the state behind the last step; may be set."""
        if not self.fused:
            return self._state.clone()
        names = tuple(self._state)
        values = [torch.stack(parts) for parts in zip(*(s.states for s in self._steps), strict=True)]
        return State(dict(zip(names, values, strict=True)), self._state.cell)

    @state.setter
    def state(self, state: State) -> None:
        self._state.check_same(state, rows_too=True)
        state = state.to(self._dtype)
        if not self.fused:
            self._state = state.detach().clone()
            return
        for layer, step in enumerate(self._steps):
            for own, value in zip(step.states, state.tensors, strict=True):
                own.copy_(value[layer].detach())

    def reset(self) -> None:
        """Begin anew, with the state that the layer begins with."""
        self.state = self._layer.make_state(self._shape[0]).detach()

    def refresh(self) -> None:
        """Take over the layer's weights as they are now; the state stays."""
        state = self.state
        self.__init__(self._layer, self._shape[0], self._weights)
        self.state = state


def _restored(layer: Recurrent, batch: int, weights: torch.dtype | None, state: State) -> Stream:
    stream = Stream(layer, batch, weights)
    stream.state = state
    return stream


def _is_fused(call: Call) -> bool:
    return dispatch.route(call).backend.name == "cpu"
