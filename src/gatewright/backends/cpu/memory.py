"""Memory that is used again: fresh pages cost more than the arithmetic done in them.

A block goes back to the pool when the last tensor that lies in it is gone, so that a pooled tensor is like
any other: it may be kept, viewed, saved for the gradient and dropped on any thread.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
from collections import OrderedDict, deque
from contextlib import suppress
from functools import lru_cache

import torch
from torch import Tensor

SMALLEST = 1 << 16
"""Bytes of the smallest block."""

POOLED = 1 << 17
"""Bytes from which a tensor lies in the pool: below it the allocator of the C library keeps its pages."""

HUGE = 1 << 22
"""Bytes from which a block asks for large pages: a fresh one is ready four times as soon."""

LIMIT = 1 << 30
"""Bytes that the pool keeps for later at most."""

SPARE = 1.5
"""Bytes of all blocks, in use or kept, for each byte that was in use at once."""

ROOM = 2
"""A block may be so many times as large as what it is taken for.

With these two, steps of one shape need no fresh block after the first, and steps whose lengths are drawn from
20 to 120 one in thirty; with 1 and 1 every second block was fresh."""


class Block:
    """A piece of memory of the system's.

    Args:
        size: in bytes.

    Attributes:
        size: in bytes.
        address: of the first byte.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        if sys.platform == "win32":
            self._memory = mmap.mmap(-1, size)
        else:
            # private: what a forked child does in its copy is its own affair
            self._memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
            # a system that has none says so
            with suppress(OSError):
                self._memory.madvise(mmap.MADV_HUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))


class Pool:
    """Blocks that are free.

    It keeps no more than its limit, and in proportion to what was in use at once; what was not used for
    longest goes first.

    Args:
        limit: bytes that it keeps at most.

    Attributes:
        used_bytes: of blocks that are in use.
        free_bytes: of blocks that are kept for later.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.lock = threading.Lock()
        self.used_bytes = self.free_bytes = 0
        self._limit = limit
        self._peak = 0
        # by size, the one that was not used for longest first; of a size the last one back is the next taken
        self._free: OrderedDict[int, list[Block]] = OrderedDict()
        self._returned: deque[Block] = deque()

    def take(self, size: int) -> Block:
        """A block of at least so many bytes; what is in it is left over from before.

        Args:
            size: in bytes.

        Returns:
            A block that is the caller's until it is given back.

        Raises:
            MemoryError: the system has none left.
        """
        size = rounded(size)
        with self.lock:
            self._sort()
            block = self._found(size)
            self.used_bytes += size if block is None else block.size
            self._peak = max(self._peak, self.used_bytes)
        if block is not None:
            return block
        try:
            return self._made(size)
        except BaseException:
            with self.lock:
                self.used_bytes -= size
            raise

    def give_back(self, block: Block) -> None:
        """Keep a block for later.

        Garbage collection may call this at any place, in the middle of a method of this class too, so it
        waits for nothing: what cannot be sorted in now is sorted in by the next call.
        """
        self._returned.append(block)
        if self.lock.acquire(blocking=False):
            try:
                self._sort()
            finally:
                self.lock.release()

    def release(self) -> int:
        """Give all free blocks back to the system; returns how many bytes."""
        with self.lock:
            self._sort()
            freed, self.free_bytes = self.free_bytes, 0
            self._peak = self.used_bytes
            self._free.clear()
        return freed

    def _found(self, size: int) -> Block | None:
        """A free block of the size, else the smallest one that is not much larger."""
        if size not in self._free:
            size = min((s for s in self._free if size < s <= ROOM * size), default=0)
        if not size:
            return None
        blocks = self._free[size]
        block = blocks.pop()
        if not blocks:
            del self._free[size]
        self.free_bytes -= block.size
        return block

    def _sort(self) -> None:
        """Sort in what came back, then drop what is too much."""
        while self._returned:
            block = self._returned.popleft()
            self._free.setdefault(block.size, []).append(block)
            self._free.move_to_end(block.size)
            self.used_bytes -= block.size
            self.free_bytes += block.size
        while self.free_bytes > self._limit or (
            self.free_bytes and self.used_bytes + self.free_bytes > SPARE * self._peak
        ):
            size, blocks = next(iter(self._free.items()))
            blocks.pop(0)
            if not blocks:
                del self._free[size]
            self.free_bytes -= size

    def _made(self, size: int) -> Block:
        """A fresh block; where memory is short, what is free makes room for it."""
        try:
            return Block(size)
        except OSError:
            self.release()
        try:
            return Block(size)
        except OSError as error:
            raise MemoryError(f"no memory for {size} bytes: {error.strerror}") from error


POOL = Pool()

if hasattr(os, "register_at_fork"):
    # no fork in the middle of a method: the child would wait for its end for ever
    os.register_at_fork(
        before=POOL.lock.acquire, after_in_parent=POOL.lock.release, after_in_child=POOL.lock.release
    )


def rounded(size: int) -> int:
    """The size of the block for so many bytes: eight sizes from one power of two to the next."""
    if size <= SMALLEST:
        return SMALLEST
    step = 1 << ((size - 1).bit_length() - 4)
    return -(-size // step) * step


class Lease:
    """A block taken from the pool for as long as this object lives.

    Args:
        size: in bytes.

    Attributes:
        address: of the first byte.
        size: of the block.
    """

    __slots__ = ("_block", "_pool", "address", "size")

    def __init__(self, size: int) -> None:
        self._pool = POOL
        self._block = self._pool.take(size)
        self.address, self.size = self._block.address, self._block.size

    def __del__(self) -> None:
        # nothing was taken when memory was short
        if hasattr(self, "_block"):
            self._pool.give_back(self._block)


@lru_cache(maxsize=1024)
def _window(size: int) -> type[ctypes.Array[ctypes.c_char]]:
    """A type of ctypes arrays that may hold on to a lease."""
    return type("Window", (ctypes.c_char * size,), {})


def tensor(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor; a large one lies in the pool."""
    count = math.prod(shape)
    size = count * dtype.itemsize
    if size < POOLED:
        return torch.empty(shape, dtype=dtype, device="cpu")
    lease = Lease(size)
    window = _window(lease.size).from_address(lease.address)
    window.lease = lease  # pyright: ignore[reportAttributeAccessIssue]
    # not a view: autograd lets no view that a function returns be changed in place
    return torch.frombuffer(window, dtype=dtype, count=count).resize_(shape)


def like(tensor_: Tensor) -> Tensor:
    """An uninitialised tensor of the same shape and dtype, on the CPU as ``tensor`` gives one."""
    if tensor_.device.type != "cpu":
        return torch.empty_like(tensor_, memory_format=torch.contiguous_format)
    return tensor(tuple(tensor_.shape), tensor_.dtype)


def release_memory() -> int:
    """Give back to the system the memory that the CPU kernels keep for their next calls.

    Returns:
        The number of bytes.
    """
    return POOL.release()
