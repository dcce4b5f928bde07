"""One kernel on several threads: torch's own OpenMP team where there is one, else threads of our own.

How many threads there are changes no bit of a result: they share out rows and columns, never a sum.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from array import array
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue

import torch

from gatewright.backends.cpu.engine import Library


class OpenMP:
    """The entry points of an OpenMP library.

    Args:
        library: one that it can be reached through.

    Attributes:
        parallel: runs a function on a team of threads.
        thread_number: address of the function that gives the calling thread's number in its team.
        thread_count: address of the function that gives the size of the team.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.parallel = library.GOMP_parallel
        self.parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        self.parallel.restype = None
        self.thread_number = _address(library.omp_get_thread_num)
        self.thread_count = _address(library.omp_get_num_threads)


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # pyright: ignore[reportArgumentType]


@lru_cache(maxsize=1)
def openmp() -> OpenMP | None:
    """The OpenMP library that torch runs on, or None: a second one would be a second set of threads."""
    if not sys.platform.startswith("linux"):
        return None
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # a name is looked up in what a library was linked to as well
        return OpenMP(ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY))
    except (OSError, AttributeError):
        return None


@lru_cache(maxsize=1)
def yield_address() -> int:
    """The function by which a waiting thread leaves its core to others."""
    if sys.platform == "win32":
        return _address(ctypes.windll.kernel32.SwitchToThread)
    return _address(ctypes.CDLL(None).sched_yield)


CROWDED = 20
"""Long waits in one call, a millisecond together, that tell that a thread has no core of its own.

A few are nothing: a thread that slept is woken on a busy core now and then, and moved away from it soon."""

SHORTEST_RETREAT, LONGEST_RETREAT = 0.05, 0.5
"""Seconds in which no threads wait for each other after that; doubled when the next call is no better."""


class _Team:
    """Threads of our own. They wait for each other inside a kernel, so one kernel at a time has them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: SimpleQueue[tuple[Callable[[int, int], None], int, int]] = SimpleQueue()
        self._finished: SimpleQueue[None] = SimpleQueue()
        self._size = 0

    def run(self, kernel: Callable[[int, int], None], arguments: int, threads: int) -> bool:
        """Run a kernel on the calling thread and others; False when there are not as many to be had."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if not self._grown(threads - 1):
                return False
            try:
                # one task, which each thread hands on: an interrupt finds all of them called or none
                self._tasks.put((kernel, arguments, threads - 1))
            finally:
                try:
                    kernel(arguments, 0)
                finally:
                    for _ in range(threads - 1):
                        self._finished.get()
            return True
        finally:
            self._lock.release()

    def _grown(self, size: int) -> bool:
        """Start what is missing of so many threads, if that is possible."""
        while self._size < size:
            try:
                threading.Thread(target=self._work, name="gatewright", daemon=True).start()
            except RuntimeError:
                return False
            self._size += 1
        # a process that ends lets no other thread run any more
        return not sys.is_finalizing()

    def _work(self) -> None:
        while True:
            kernel, arguments, number = self._tasks.get()
            if number > 1:
                self._tasks.put((kernel, arguments, number - 1))
            kernel(arguments, number)
            self._finished.put(None)


class _State:
    """What a forked child must not take over from its parent."""

    def __init__(self) -> None:
        self.forked = False
        self.team = _Team()
        self.crowded_until = 0.0
        self.retreat = SHORTEST_RETREAT

    def after_fork(self) -> None:
        """A child has none of its parent's threads: OpenMP would wait for them for ever."""
        self.forked = True
        self.team = _Team()


_state = _State()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_state.after_fork)


def available() -> int:
    """Threads that a kernel may use: as many as torch, and one in a forked process."""
    return 1 if _state.forked else torch.get_num_threads()


def crowded() -> bool:
    """Whether others have the cores at present, so that threads that wait for each other would be slow."""
    return _state.crowded_until > 0.0 and time.monotonic() < _state.crowded_until


def note_waits(waits: int) -> None:
    """Learn from the long waits of a kernel whether its threads all had a core.

    Args:
        waits: how often a thread waited long for its group.
    """
    if waits < CROWDED:
        _state.retreat = SHORTEST_RETREAT
        return
    _state.crowded_until = time.monotonic() + _state.retreat
    _state.retreat = min(2 * _state.retreat, LONGEST_RETREAT)


def launch(library: Library, words: array[int], threads: int) -> bool:
    """Run a kernel.

    Args:
        library: the kernel.
        words: its arguments.
        threads: how many its grid has.

    Returns:
        False when there were not as many threads: nothing was done. A team of OpenMP that was too small says
        so in the kernel's status instead.
    """
    arguments, _ = words.buffer_info()
    if threads == 1:
        library.run(arguments, 0)
        return True
    team = openmp()
    if team is None:
        return _state.team.run(library.run, arguments, threads)
    team.parallel(library.enter_address, arguments, threads, 0)
    return True
