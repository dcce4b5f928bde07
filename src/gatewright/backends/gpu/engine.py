"""From a kernel's source to functions that can be launched; what the machine has."""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import os
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import lru_cache
from typing import Any

import torch

from gatewright.backends.gpu.blocks import Device

INTERPRETED_DEVICE = Device("Triton's interpreter", 132, 227 << 10)
"""What the interpreter plays: an H100."""

MOST_GRAPHS = 256
"""How many sequences of launches are remembered: two passes of each layer of a deep network, and spare."""

_graphs: dict[Hashable, tuple[Any, Sequence[Any]]] = {}
"""The CUDA graph of launches by their key, None where they ran once, and its kernels; the latest last."""


@lru_cache(maxsize=1)
def interpreted() -> bool:
    """Whether Triton runs its kernels step by step on the processor; it decides so when it is imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "on", "true", "yes")


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def refusal(device: torch.device) -> str | None:
    """Why no kernel can run on a device, or None."""
    if not has_triton():
        return "its kernels are compiled by triton, which is not installed"
    if device.type == "cuda":
        return None
    if device.type == "cpu" and interpreted():
        return None
    hint = ", or on the CPU where TRITON_INTERPRET=1 was set before the start" if device.type == "cpu" else ""
    return f"its kernels run on CUDA devices{hint}; the input is on {device}"


@lru_cache(maxsize=16)
def device_of(device: torch.device) -> Device:
    """What counts of a device."""
    if device.type != "cuda":
        return INTERPRETED_DEVICE
    found = torch.cuda.get_device_properties(device)
    return Device(found.name, found.multi_processor_count, found.shared_memory_per_block_optin)


@lru_cache(maxsize=1024)
def functions(text: str) -> dict[str, Any]:
    """The kernels of a module, by name in their order.

    Triton reads the source of a function, and so finds it where Python looks for that of any module. What it
    compiles it keeps on the disk itself.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    name = f"gatewright.backends.gpu.generated_{digest}"
    filename = f"<{name}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {"__name__": name}
    exec(compile(text, filename, "exec"), scope)
    return {key: value for key, value in scope.items() if key.startswith(("forward", "backward"))}


def too_large() -> type[Exception]:
    """What Triton raises where a kernel needs more of a multiprocessor than it has."""
    from triton.runtime.errors import OutOfResources

    return OutOfResources


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Where Triton launches: on the current device, whatever the tensors are on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def repeated(key: Hashable, kernels: Sequence[Any], launches: Callable[[], None]) -> None:
    """Run many launches; from the third time on as one, a CUDA graph captured the second time.

    Args:
        key: of all that the launches read: code, sizes and addresses. torch's allocator gives a training loop
            the same addresses in every step, and where it does not, nothing is captured.
        kernels: that are launched; kept with their graph, as Triton unloads a kernel that is gone.
        launches: makes them.
    """
    if interpreted() or torch.cuda.is_current_stream_capturing():
        launches()
        return
    known = key in _graphs
    graph, _ = _graphs.pop(key, (None, ()))
    if not known:
        launches()
    else:
        graph = _captured(launches) if graph is None else graph
        graph.replay()
    _graphs[key] = graph, kernels
    while len(_graphs) > MOST_GRAPHS:
        _graphs.pop(next(iter(_graphs)))


def _captured(launches: Callable[[], None]) -> Any:
    """A CUDA graph of some launches, none of which runs yet."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # other threads may allocate meanwhile
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launches()
        except BaseException:
            # ending a capture that failed may raise too, and would hide why
            with suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


def launch(
    kernel: Any, programs: tuple[int, int], given: dict[str, Any], warps: int, *, together: bool = False
) -> None:
    """Launch a kernel.

    Args:
        kernel: one of ``functions``.
        programs: over rows and columns.
        given: its arguments by name; more may be given than it takes.
        warps: of a program.
        together: whether all programs must run at the same time.
    """
    arguments = [given[name] for name in kernel.arg_names]
    options: dict[str, Any] = {"num_warps": warps, "num_stages": 1}
    if together and not interpreted():
        options["launch_cooperative_grid"] = True
    run: Callable[..., Any] = kernel[programs]
    run(*arguments, **options)
