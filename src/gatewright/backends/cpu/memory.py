"""Memory that is used again: fresh pages cost more than the arithmetic done in them.

A block goes back to the pool when the last tensor that lies in it is gone, so that a pooled tensor is like any
other: it may be kept, viewed, saved for the gradient and dropped on any thread.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from functools import lru_cache

import torch
from torch import Tensor

SMALLEST = 1 << 16
"""Bytes of the smallest block."""

POOLED = 1 << 17
"""Bytes from which an output lies in the pool: below it the allocator of the C library keeps its pages."""

LIMIT = 1 << 30
"""Bytes that the pool keeps for later at most."""


class _Block:
    """A piece of memory of the system's."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = mmap.mmap(-1, size)
        view = ctypes.c_char.from_buffer(self.memory)
        self.address = ctypes.addressof(view)


class Pool:
    """Blocks that are free, by size."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, list[_Block]] = {}
        self._limit = limit
        self.free_bytes = 0

    def take(self, size: int) -> _Block:
        """A block of at least so many bytes."""
        size = rounded(size)
        with self._lock:
            blocks = self._free.get(size)
            if blocks:
                self.free_bytes -= size
                return blocks.pop()
        return _Block(size)

    def give_back(self, block: _Block) -> None:
        """Keep a block for later, unless the pool is full."""
        with self._lock:
            if self.free_bytes + block.size <= self._limit:
                self._free.setdefault(block.size, []).append(block)
                self.free_bytes += block.size

    def release(self) -> int:
        """Give all free blocks back to the system; returns how many bytes."""
        with self._lock:
            freed, self.free_bytes = self.free_bytes, 0
            self._free.clear()
        return freed


POOL = Pool()


def rounded(size: int) -> int:
    """The size of the block for so many bytes: eight sizes from one power of two to the next."""
    if size <= SMALLEST:
        return SMALLEST
    step = 1 << ((size - 1).bit_length() - 4)
    return -(-size // step) * step


class Lease:
    """A block taken from the pool for as long as this object lives."""

    __slots__ = ("address", "block")

    def __init__(self, size: int) -> None:
        self.block = POOL.take(size)
        self.address = self.block.address

    def __del__(self) -> None:
        block = getattr(self, "block", None)
        if block is not None:
            POOL.give_back(block)


@lru_cache(maxsize=1024)
def _window(size: int) -> type[ctypes.Array[ctypes.c_char]]:
    """A type of ctypes arrays that may hold on to a lease."""
    return type("Window", (ctypes.c_char * size,), {})


def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor; a large one lies in the pool."""
    count = 1
    for length in shape:
        count *= length
    size = count * dtype.itemsize
    if size < POOLED:
        return torch.empty(shape, dtype=dtype)
    lease = Lease(size)
    window = _window(size).from_address(lease.address)
    window.lease = lease  # pyright: ignore[reportAttributeAccessIssue]
    return torch.frombuffer(window, dtype=dtype, count=count).view(shape)


def release_memory() -> int:
    """Give back to the system what the layers keep for their next calls.

    Returns:
        The number of bytes.
    """
    return POOL.release()
