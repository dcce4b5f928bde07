"""The pool: blocks go back when their last tensor is gone, and what is left in them changes nothing."""

import ctypes
import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import torch
from benchmarks.kernel_parity import make_call
from benchmarks.parity import TOLERANCES, Sizes
from test_expressive_cells import CELLS

import gatewright as gw
from gatewright.backends.cpu import memory
from gatewright.backends.cpu.memory import POOL, SMALLEST, SPARE, Lease, Pool, rounded
from gatewright.backends.dispatch import run

LARGE = Sizes(T=40, B=32, I=3, H=48)
"""Sizes at which outputs, and what is kept for the gradient, lie in the pool."""

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def empty_pool():
    """Nothing in use by what an earlier test left behind, and nothing kept."""
    gc.collect()
    memory.release_memory()
    yield
    gc.collect()
    memory.release_memory()


def used():
    """Bytes in use, once what has come back is sorted in."""
    POOL.give_back(POOL.take(1))
    return POOL.used_bytes


# -------------------------------------------------------------------- the pool by itself


def test_sizes_grow_in_eighths_of_a_power_of_two():
    assert [rounded(size) for size in (0, 1, SMALLEST)] == [SMALLEST] * 3
    for power in (17, 20, 30):
        sizes = {rounded(size) for size in range((1 << power) + 1, 1 << (power + 1), 1 << (power - 6))}
        assert sorted(sizes) == [(1 << power) * (8 + eighth) // 8 for eighth in range(1, 9)]
    for size in (SMALLEST + 1, 3 * SMALLEST - 1, 3 * SMALLEST, 12345678):
        assert size <= rounded(size) <= size * 9 / 8
        assert rounded(rounded(size)) == rounded(size)


def test_a_block_that_came_back_is_taken_again():
    pool = Pool()
    block = pool.take(100_000)
    pool.give_back(block)
    assert pool.take(rounded(100_000)) is block
    assert pool.take(100_000) is not block


def test_a_block_is_not_much_larger_than_what_it_is_taken_for():
    pool = Pool()
    block = pool.take(4 * MEGABYTE)
    pool.give_back(block)
    assert pool.take(MEGABYTE * 7 // 4) is not block
    assert pool.take(2 * MEGABYTE) is block


def test_of_the_larger_blocks_the_smallest_is_taken():
    pool = Pool()
    blocks = [pool.take(size * MEGABYTE) for size in (5, 4, 6)]
    for block in blocks:
        pool.give_back(block)
    assert pool.take(3 * MEGABYTE) is blocks[1]
    assert pool.take(3 * MEGABYTE) is blocks[0]


def test_what_is_kept_is_in_proportion_to_what_was_in_use_at_once():
    pool = Pool()
    for size in range(1, 40):
        pool.give_back(pool.take(size * MEGABYTE))
        assert pool.used_bytes == 0
        assert pool.free_bytes <= SPARE * rounded(size * MEGABYTE)
    assert pool.free_bytes > 30 * MEGABYTE


def test_no_more_is_kept_than_the_limit_and_the_oldest_goes_first():
    pool = Pool(limit=10 * MEGABYTE)
    blocks = [pool.take(size * MEGABYTE) for size in (4, 1, 5, 3)]
    addresses = [block.address for block in blocks]
    gone = weakref.ref(blocks[0])
    while blocks:
        pool.give_back(blocks.pop(0))
    assert gone() is None
    assert pool.free_bytes == 9 * MEGABYTE
    assert [pool.take(size * MEGABYTE).address for size in (1, 5, 3)] == addresses[1:]


def test_released_blocks_are_counted_and_gone():
    pool = Pool()
    kept, given = pool.take(3 * MEGABYTE), pool.take(2 * MEGABYTE)
    gone = weakref.ref(given)
    pool.give_back(given)
    del given
    assert pool.release() == 2 * MEGABYTE
    assert gone() is None
    assert (pool.used_bytes, pool.free_bytes) == (3 * MEGABYTE, 0)
    assert pool.release() == 0
    pool.give_back(kept)
    assert pool.release() == 3 * MEGABYTE


def test_a_block_that_comes_back_in_the_middle_of_a_method_waits():
    """Garbage collection runs finalizers wherever it likes, also where this thread holds the pool's lock."""
    pool = Pool()
    block = pool.take(MEGABYTE)
    with pool.lock:
        pool.give_back(block)
        assert pool.used_bytes == MEGABYTE
    other = pool.take(2 * MEGABYTE)
    assert (pool.used_bytes, pool.free_bytes) == (2 * MEGABYTE, MEGABYTE)
    pool.give_back(other)


def test_memory_that_is_short_is_made_room_for(monkeypatch):
    pool = Pool()
    pool.give_back(pool.take(8 * MEGABYTE))
    made, block = [], memory.Block

    def short(size):
        made.append(size)
        if pool.free_bytes:
            raise OSError(12, "Cannot allocate memory")
        return block(size)

    monkeypatch.setattr(memory, "Block", short)
    assert pool.take(32 * MEGABYTE).size == 32 * MEGABYTE
    assert made == [32 * MEGABYTE] * 2


def test_no_memory_is_an_error_of_its_own(monkeypatch):
    def none_left(size):
        raise OSError(12, "Cannot allocate memory")

    pool = Pool()
    monkeypatch.setattr(memory, "Block", none_left)
    with pytest.raises(MemoryError, match="no memory for 33554432 bytes: Cannot allocate memory"):
        pool.take(32 * MEGABYTE)
    assert pool.used_bytes == 0
    monkeypatch.setattr(memory, "POOL", pool)
    with pytest.raises(MemoryError):
        Lease(32 * MEGABYTE)
    assert pool.used_bytes == 0


def test_threads_get_different_blocks():
    pool, failures = Pool(), []

    def work(number):
        for _ in range(50):
            blocks = [pool.take(SMALLEST * size) for size in (1, 2, 3)]
            for block in blocks:
                ctypes.memset(block.address, number, block.size)
            for block in blocks:
                if ctypes.string_at(block.address, block.size) != bytes([number]) * block.size:
                    failures.append(number)
                pool.give_back(block)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    pool.give_back(pool.take(1))
    assert pool.used_bytes == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_blocks_of_its_own():
    tensor = memory.tensor((1 << 20,), torch.float32)
    tensor.fill_(1)
    child = os.fork()
    if child == 0:
        tensor.fill_(2)
        os._exit(0 if tensor.eq(2).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert tensor.eq(1).all()


# -------------------------------------------------------------------- tensors


def test_small_tensors_lie_outside():
    assert memory.tensor((10, 10), torch.float64).shape == (10, 10)
    assert memory.tensor((0, 5), torch.float32).shape == (0, 5)
    assert used() == 0


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_pooled_tensor_is_like_any_other(dtype, tmp_path):
    tensor = memory.tensor((30, 20, 300), dtype)
    assert (tensor.shape, tensor.dtype) == ((30, 20, 300), dtype)
    assert tensor.is_contiguous()
    assert not tensor._is_view()
    assert tensor.data_ptr() % 64 == 0
    tensor.copy_(torch.arange(tensor.numel(), dtype=dtype).view(30, 20, 300))
    torch.save(tensor, tmp_path / "tensor.pt")
    assert torch.equal(torch.load(tmp_path / "tensor.pt"), tensor)
    assert torch.equal(torch.from_numpy(tensor.numpy()), tensor)
    tensor.add_(1)[0].zero_()
    assert tensor[0].sum() == 0


def numbers(kept):
    """The numbers of a tensor, an array or a storage, where they lie."""
    if isinstance(kept, torch.UntypedStorage):
        return torch.empty(0).set_(kept)
    return torch.as_tensor(kept)


@pytest.mark.parametrize(
    "keep",
    [
        lambda y: y[3, 2],
        lambda y: y.detach(),
        lambda y: y.detach().numpy(),
        lambda y: y.detach().T,
        lambda y: y.untyped_storage(),
    ],
    ids=["row", "detached", "numpy", "transposed", "storage"],
)
@pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors")
def test_whatever_shares_an_output_keeps_its_block(keep):
    layer = gw.GRU(LARGE.I, LARGE.H)
    with torch.no_grad():
        y, _ = layer(torch.randn(LARGE.T, LARGE.B, LARGE.I))
        assert used() == rounded(y.nbytes)
        kept = keep(y)
        before = numbers(kept).clone()
        del y
        assert used() > 0
        for _ in range(3):
            layer(torch.randn(LARGE.T, LARGE.B, LARGE.I))
    assert torch.equal(numbers(kept), before)
    del kept
    assert used() == 0


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_every_block_is_back_after_a_step(name):
    layer = gw.Recurrent(name, LARGE.I, LARGE.H, 2)
    x = torch.randn(LARGE.T, LARGE.B, LARGE.I, requires_grad=True)
    free = 0
    for _ in range(3):
        y, _ = layer(x)
        loss = y.square().mean()
        assert used() > 0
        loss.backward()
        # a loss that is kept for a log keeps nothing else
        del y
        x.grad = None
        assert used() == 0
        # what the first step took is enough for all others
        free = free or POOL.free_bytes
        assert POOL.free_bytes == free


def test_a_graph_that_is_dropped_gives_its_blocks_back():
    layer = gw.LSTM(LARGE.I, LARGE.H)
    y, state = layer(torch.randn(LARGE.T, LARGE.B, LARGE.I))
    assert used() > 0
    del y
    assert used() > 0
    del state
    assert used() == 0
    assert memory.release_memory() > 0
    assert POOL.free_bytes == 0


def test_a_gradient_may_be_taken_twice():
    call = make_call(CELLS["peephole_lstm"][0], LARGE)
    y, final = run(call, "cpu")
    leaves = [call.x, call.weights.weight_hh, call.states[1]]
    loss = y.square().sum() + final[1].sum()
    once = torch.autograd.grad(loss, leaves, retain_graph=True)
    for a, b in zip(once, torch.autograd.grad(loss, leaves), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, leaves)


def test_the_memory_is_released_by_a_function_of_the_package():
    layer = gw.GRU(LARGE.I, LARGE.H)
    layer(torch.randn(LARGE.T, LARGE.B, LARGE.I))[0].sum().backward()
    kept = POOL.free_bytes
    assert kept > 0
    assert gw.release_memory() == kept
    assert gw.release_memory() == 0


# -------------------------------------------------------------------- over many calls

STATISTICS = Path("/proc/self/statm")

SCRIPT = """
import torch
import gatewright as gw

torch.set_num_threads(1)
layers = [gw.GRU(3, 8), gw.LSTM(3, 5, 2), gw.GRU(3, 64)]
xs = [torch.randn(4, 2, 3), torch.randn(3, 1, 3), torch.randn(20, 32, 3, requires_grad=True)]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def work(count):
    for number in range(count):
        # one in fifty is large enough for the pool, and its size changes
        place = number % 2 if number % 50 else 2
        x = xs[place] if place < 2 else xs[2][: 5 + number // 50 % 15]
        y, _ = layers[place](x)
        y.sum().backward()
        with torch.no_grad():
            layers[place](x)

work(1000)
before = resident()
work(3400)
print(resident() - before)
"""


@pytest.mark.skipif(not STATISTICS.exists(), reason="the system does not say what is resident")
def test_ten_thousand_calls_take_no_memory():
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) < 2 * MEGABYTE
