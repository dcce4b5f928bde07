"""One kernel on several threads: torch's own OpenMP team where there is one, else a pool of Python threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from gatewright.backends.cpu.engine import Library

_OPENMP = ("libgomp", "libiomp5", "libomp")


class _OpenMP:
    """The entry points of an OpenMP library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.parallel = library.GOMP_parallel
        self.parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        self.parallel.restype = None
        self.thread_number = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p).value or 0
        self.thread_count = ctypes.cast(library.omp_get_num_threads, ctypes.c_void_p).value or 0


@lru_cache(maxsize=1)
def openmp() -> _OpenMP | None:
    """The OpenMP library that torch has loaded, or None."""
    if not sys.platform.startswith("linux"):
        return None
    package = Path(torch.__file__).parent
    for folder in (package / "lib", package.parent / "torch.libs"):
        for name in _OPENMP:
            for path in sorted(folder.glob(f"{name}*.so*")):
                # only what is loaded already: a second OpenMP would be a second set of threads
                with contextlib.suppress(OSError, AttributeError):
                    return _OpenMP(ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY))
    return None


@lru_cache(maxsize=1)
def yield_address() -> int:
    """The function by which a waiting thread leaves its core to others."""
    if sys.platform == "win32":
        return ctypes.cast(ctypes.windll.kernel32.SwitchToThread, ctypes.c_void_p).value or 0
    return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0


class _State:
    """What a forked child must not take over from its parent."""

    def __init__(self) -> None:
        self.forked = False
        self.lock = threading.Lock()
        self.pool: ThreadPoolExecutor | None = None
        self.size = 0

    def after_fork(self) -> None:
        """A child has none of its parent's threads: OpenMP would wait for them for ever."""
        self.__init__()
        self.forked = True


_state = _State()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_state.after_fork)


def available() -> int:
    """Threads that a kernel may use: as many as torch, and one in a forked process."""
    return 1 if _state.forked else torch.get_num_threads()


def launch(library: Library, words: Any, threads: int) -> bool:
    """Run a kernel.

    Args:
        library: of the kernel.
        words: its arguments.
        threads: how many its grid has.

    Returns:
        False when there were not as many threads: nothing was done.
    """
    if threads == 1:
        library.run(ctypes.addressof(words), 0)
        return True
    team = openmp()
    if team is not None:
        team.parallel(library.enter_address, ctypes.addressof(words), threads, 0)
        return True
    return _launch_on_pool(library, words, threads)


def _launch_on_pool(library: Library, words: Any, threads: int) -> bool:
    """Threads wait for each other, so a launch needs all of them: when another one has them, there are none."""
    if not _state.lock.acquire(blocking=False):
        return False
    try:
        if _state.pool is None or _state.size < threads - 1:
            _state.pool = ThreadPoolExecutor(threads - 1, thread_name_prefix="gatewright")
            _state.size = threads - 1
        address = ctypes.addressof(words)
        others = [_state.pool.submit(library.run, address, number) for number in range(1, threads)]
        library.run(address, 0)
        for other in others:
            other.result()
        return True
    finally:
        _state.lock.release()
