"""On a GPU, torch's kernels or ours: whichever is faster there for calls of a kind, measured once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gatewright.backends.call import Backend, Call, transform_refusal

MEASURED_STEPS = 256
"""Steps of a call that is measured, at most: a step takes as long in a longer one."""

REPEATS = 3
"""Of them the fastest counts; one before them is for what is compiled and looked up."""

_seconds: dict[Hashable, dict[str, float]] = {}
"""What was measured, by kind of call."""


def seconds(call: Call, candidates: Mapping[str, Backend]) -> dict[str, float] | None:
    """How long each backend takes for calls like this one.

    Args:
        call: what is to run, on a CUDA device.
        candidates: backends that do not refuse it.

    Returns:
        Seconds by name, for ``MEASURED_STEPS`` of its steps at most; None where nothing can be measured now:
        torch is tracing, or a CUDA graph is being captured.
    """
    kind = _kind(call)
    if kind not in _seconds:
        if torch.compiler.is_compiling() or transform_refusal() or torch.cuda.is_current_stream_capturing():
            return None
        sample = _sample(call)
        plain = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
        with torch.cuda.device(call.x.device), plain:
            _seconds[kind] = {name: _tried(backend, sample) for name, backend in candidates.items()}
    return _seconds[kind]


def _kind(call: Call) -> Hashable:
    """What decides who is faster: all sizes, but rows and steps only roughly."""
    steps, batch, features = call.x.shape
    sizes = (min(steps, MEASURED_STEPS).bit_length(), batch.bit_length(), features)
    sizes += tuple(state.shape[1] for state in call.states)
    device = call.x.device
    weight_hh, bias = call.weights.weight_hh, call.weights.bias_ih is not None
    sizes += () if weight_hh is None else tuple(weight_hh.shape)
    return call.cell.graph, sizes, bias, call.x.dtype, device, call.reverse, _records_gradient(call)


def _records_gradient(call: Call) -> bool:
    return torch.is_grad_enabled() and bool(_wanted(call))


def _wanted(call: Call) -> list[Tensor]:
    """What a gradient is taken by."""
    return [tensor for tensor in call.tensors() if tensor is not None and tensor.requires_grad]


def _sample(call: Call) -> Call:
    """The same call with fewer steps and tensors of its own: no gradient of the caller is touched."""
    own = call.changed(lambda tensor: tensor.detach().requires_grad_(tensor.requires_grad))
    return replace(own, x=own.x[:MEASURED_STEPS].detach().requires_grad_(own.x.requires_grad))


def _tried(backend: Backend, call: Call) -> float:
    """Seconds of a call, infinitely many where the backend fails at it; its error comes up if it must run."""
    try:
        return _measured(backend, call)
    except Exception:  # whatever a driver, a compiler or too little memory brings up
        return float("inf")


def _measured(backend: Backend, call: Call) -> float:
    """Seconds of a call, with its gradient where one is recorded."""
    wanted = _wanted(call)
    best = float("inf")
    for repeat in range(1 + REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        y, _ = backend.run(call)
        if y.requires_grad:
            torch.autograd.grad(y, wanted, torch.ones_like(y), allow_unused=True)
        end.record()
        end.synchronize()
        if repeat:
            best = min(best, begin.elapsed_time(end) / 1000)
        # or the next output would have another address, and a CUDA graph would be captured anew
        del y
    return best
