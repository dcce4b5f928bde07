"""Which backend runs a call, and why the faster ones do not."""

from __future__ import annotations

from typing import NamedTuple

import torch

from gatewright.backends import measured
from gatewright.backends.call import Backend, Call, Result
from gatewright.backends.cpu.backend import CpuBackend
from gatewright.backends.eager import EagerBackend
from gatewright.backends.gpu.backend import GpuBackend
from gatewright.backends.native import NativeBackend
from gatewright.errors import InputError

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (CpuBackend(), NativeBackend(), GpuBackend(), EagerBackend())
}
"""Every backend by name, the fastest first: ``"auto"`` takes the first of the device that does not refuse."""

CONTESTANTS = ("torch", "gpu")
"""Between torch's own kernels on a GPU, cuDNN's, and ours ``"auto"`` takes what measures faster."""

CHOICES = ("auto", *BACKENDS)
"""What ``layer.backend`` may be."""


class Route(NamedTuple):
    """The backend that a call takes.

    Attributes:
        backend: the one chosen.
        refusals: for each faster one that was passed over, the reason.
    """

    backend: Backend
    refusals: dict[str, str]


def check_choice(choice: str) -> str:
    """The choice itself, when there is such a backend.

    Args:
        choice: ``"auto"`` or the name of a backend.

    Returns:
        The choice.

    Raises:
        InputError: there is none of that name.
    """
    if choice not in CHOICES:
        raise InputError(f"backend: expected one of {', '.join(CHOICES)}, received {choice!r}", "use 'auto'")
    return choice


def route(call: Call, choice: str = "auto") -> Route:
    """The backend for a call.

    Args:
        call: what is to run.
        choice: ``"auto"`` or the name of a backend.

    Returns:
        The backend, and why faster ones were passed over.

    Raises:
        InputError: the backend asked for by name cannot run this call.
    """
    refusals: dict[str, str] = {}
    if choice == "auto" and call.x.device.type == "cuda":
        found = _faster(call)
        if found is not None:
            return found
    for name in BACKENDS if choice == "auto" else (choice,):
        devices = BACKENDS[name].devices
        if choice == "auto" and devices and call.x.device.type not in devices:
            continue
        reason = BACKENDS[name].refusal(call)
        if reason is None:
            return Route(BACKENDS[name], refusals)
        refusals[name] = reason
    reasons = "; ".join(refusals.values())
    raise InputError(f"backend {choice!r} cannot run this call: {reasons}", "set layer.backend = 'auto'")


def _faster(call: Call) -> Route | None:
    """Of torch's kernels and ours the faster one for a call, where both take it and it can be measured."""
    # under autocast cuDNN gives another dtype than ours, which no measurement may decide
    if torch.is_autocast_enabled(call.x.device.type):
        return None
    if any(BACKENDS[name].refusal(call) is not None for name in CONTESTANTS):
        return None
    seconds = measured.seconds(call, {name: BACKENDS[name] for name in CONTESTANTS})
    if seconds is None:
        return None
    best, other = sorted(CONTESTANTS, key=seconds.__getitem__)
    took = f"{1e3 * seconds[other]:.3g} ms against {1e3 * seconds[best]:.3g} ms"
    reason = f"measured slower here, {took} for {measured.MEASURED_STEPS} steps at most"
    if seconds[other] == float("inf"):
        reason = "it failed when it was measured"
    return Route(BACKENDS[best], {other: reason})


def run(call: Call, choice: str = "auto") -> Result:
    """Run a call on its backend."""
    return route(call, choice).backend.run(call)
