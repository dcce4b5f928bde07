"""For the tests of the kernels: memory that is full of NaN before it is written."""

import ctypes

import numpy as np
import pytest
import torch

from gatewright.backends.cpu.memory import Pool


@pytest.fixture
def poison(monkeypatch):
    """Fill every block of the pool and every empty tensor with NaN when it is taken."""
    take = Pool.take

    def poisoned(pool, size):
        block = take(pool, size)
        ctypes.memset(block.address, 0xFF, block.size)
        return block

    monkeypatch.setattr(Pool, "take", poisoned)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def numpy_is_silent():
    """Triton's interpreter computes with numpy, which warns of an infinity where torch and a GPU do not."""
    with np.errstate(all="ignore"):
        yield
