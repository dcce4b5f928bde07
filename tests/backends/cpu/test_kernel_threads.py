"""Kernels on several threads: the same bits as on one, whoever calls them, and after a fork."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from benchmarks.kernel_parity import make_call, results
from benchmarks.parity import Sizes
from test_expressive_cells import CELLS as EXPRESSIVE

import gatewright as gw
from gatewright.backends.cpu import launch, threads, tiling
from gatewright.backends.cpu.tiling import Grid

CELLS = {**gw.CATALOGUE, **{name: row[0] for name, row in EXPRESSIVE.items()}}

SIZES = Sizes(T=20, B=16, I=8, H=48)


@pytest.fixture(autouse=True)
def two_threads():
    """Two threads, and nothing made ready for other ones."""

    def forget():
        launch.forward.cache_clear()
        launch.backward.cache_clear()

    forget()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)
    forget()


@pytest.fixture
def force_grid(monkeypatch):
    """Says how threads share rows and columns, whatever would be fastest."""

    def force(grid):
        monkeypatch.setattr(tiling, "choose_grid", lambda *arguments: grid)
        launch.forward.cache_clear()
        launch.backward.cache_clear()

    return force


@pytest.fixture(params=["openmp", "own_threads"])
def team(request, monkeypatch):
    """Torch's OpenMP, and the threads that stand in for it."""
    if request.param == "own_threads":
        monkeypatch.setattr(threads, "openmp", lambda: None)
        monkeypatch.setattr(threads._state, "team", threads._Team())
    elif threads.openmp() is None:
        pytest.skip("torch has no OpenMP here that can be entered")
    return request.param


def assert_same_bits(found, expected):
    for part in ("outputs", "states", "gradients"):
        for name, tensor in getattr(expected, part).items():
            assert torch.equal(getattr(found, part)[name], tensor), name


def on_one_thread(call):
    torch.set_num_threads(1)
    expected = results(call, "cpu")
    torch.set_num_threads(2)
    return expected


# -------------------------------------------------------------------- bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["gru", "lstm", "gru_reset_before", "layer_norm_gru"])
def test_two_threads_give_the_bits_of_one_every_time(team, force_grid, name, dtype):
    call = make_call(CELLS[name], SIZES, dtype)
    expected = on_one_thread(call)
    for grid in (Grid(2, 1), Grid(1, 2)):
        force_grid(grid)
        for _ in range(3):
            assert_same_bits(results(call, "cpu"), expected)


@pytest.mark.parametrize("name", CELLS)
def test_no_way_to_share_the_work_changes_a_bit(force_grid, name):
    call = make_call(CELLS[name], Sizes(T=4, B=3, I=3, H=18))
    force_grid(Grid(1, 1))
    expected = results(call, "cpu")
    # the last: more threads than there are vectors of columns
    for grid in (Grid(2, 2), Grid(1, 4)) if name in ("gru", "layer_norm_gru", "highway") else (Grid(2, 2),):
        force_grid(grid)
        assert_same_bits(results(call, "cpu"), expected)


def test_a_projection_is_shared_as_well(team, force_grid):
    call = make_call(CELLS["lstm"], SIZES, projected=21)
    expected = on_one_thread(call)
    for grid in (Grid(2, 1), Grid(1, 2)):
        force_grid(grid)
        assert_same_bits(results(call, "cpu"), expected)


def test_a_large_call_is_shared_and_a_small_one_is_not():
    assert "threads: 2" in gw.explain(gw.GRU(64, 128), torch.randn(100, 64, 64))
    assert "threads: 1" in gw.explain(gw.GRU(8, 8), torch.randn(2, 1, 8))


# -------------------------------------------------------------------- callers


def test_python_threads_may_call_one_layer_at_once(team, force_grid):
    force_grid(Grid(1, 2))
    layer = gw.GRU(SIZES.I, SIZES.H)
    x = torch.randn(SIZES.T, SIZES.B, SIZES.I)
    with torch.no_grad():
        expected, _ = layer(x)
    (parameter,) = (p for name, p in layer.named_parameters() if name == "weight_hh_l0")
    weight = torch.autograd.grad(layer(x)[0].sum(), parameter)[0]
    failures = []

    def work():
        try:
            for _ in range(40):
                y, _ = layer(x)
                found = torch.autograd.grad(y.sum(), parameter)[0]
                if not (torch.equal(y, expected) and torch.equal(found, weight)):
                    failures.append("other numbers")
        except Exception as error:
            failures.append(error)

    callers = [threading.Thread(target=work) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert not any(caller.is_alive() for caller in callers)
    assert not failures


def test_a_team_that_is_too_small_does_nothing_and_one_thread_does_it_all(monkeypatch, force_grid):
    team = threads.openmp()
    if team is None:
        pytest.skip("torch has no OpenMP here that can be entered")
    call = make_call(CELLS["lstm"], SIZES)
    expected, entered, parallel = on_one_thread(call), [], team.parallel
    force_grid(Grid(2, 1))

    def smaller(function, arguments, count, flags):
        entered.append(count)
        parallel(function, arguments, 1, flags)

    monkeypatch.setattr(team, "parallel", smaller)
    assert_same_bits(results(call, "cpu"), expected)
    assert entered == [2, 2]


LIMITED = """
import torch
import gatewright as gw
torch.set_num_threads(2)
torch.manual_seed(0)
layer, x = gw.GRU(64, 128), torch.randn(50, 64, 64)
assert "threads: 2" in gw.explain(layer, x)
with torch.no_grad():
    y, _ = layer(x)
    torch.set_num_threads(1)
    assert torch.equal(layer(x)[0], y)
print("done")
"""


def test_a_limit_of_openmp_is_no_error():
    assert ran(LIMITED, OMP_THREAD_LIMIT="1") == "done"


# -------------------------------------------------------------------- threads of our own


def test_own_threads_are_all_called_each_with_its_number():
    team, calls = threads._Team(), []
    for count in (2, 5, 3):
        calls.clear()
        together = threading.Barrier(count)

        def kernel(arguments, number, together=together):
            together.wait(30)
            calls.append((arguments, number))

        assert team.run(kernel, 42, count)
        assert sorted(calls) == [(42, number) for number in range(count)]


def test_own_threads_are_one_callers_at_a_time():
    team, inside, free = threads._Team(), threading.Event(), threading.Event()

    def kernel(arguments, number):
        inside.set()
        free.wait(30)

    caller = threading.Thread(target=team.run, args=(kernel, 0, 2))
    caller.start()
    inside.wait(30)
    assert not team.run(lambda arguments, number: None, 0, 2)
    free.set()
    caller.join(30)
    assert team.run(lambda arguments, number: None, 0, 2)


def test_an_interrupt_waits_for_the_other_threads():
    """Their kernel writes to memory that the caller gives back."""
    team, ended = threads._Team(), []

    def kernel(arguments, number):
        if number == 0:
            raise KeyboardInterrupt
        time.sleep(0.05)
        ended.append(number)

    with pytest.raises(KeyboardInterrupt):
        team.run(kernel, 0, 3)
    assert sorted(ended) == [1, 2]
    assert team.run(lambda arguments, number: ended.append(number), 0, 3)


def test_without_a_further_thread_one_does_it_all(monkeypatch, force_grid):
    def none_left(thread):
        raise RuntimeError("can't start new thread")

    call = make_call(CELLS["gru"], SIZES)
    expected = on_one_thread(call)
    force_grid(Grid(2, 1))
    monkeypatch.setattr(threads, "openmp", lambda: None)
    monkeypatch.setattr(threads._state, "team", threads._Team())
    monkeypatch.setattr(threading.Thread, "start", none_left)
    assert_same_bits(results(call, "cpu"), expected)


# -------------------------------------------------------------------- processes


def ran(script, **environment):
    """What a process prints; it has a minute."""
    command, environment = [sys.executable, "-c", script], os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FORKED = """
import multiprocessing, sys, warnings
import torch
import gatewright as gw

warnings.simplefilter("ignore", DeprecationWarning)  # later Pythons warn of a fork beside threads
torch.set_num_threads(2)
torch.manual_seed(0)
# torch's own operations must not be shared between threads: in a fork they would wait for ever
layer, x = gw.LSTM(64, 128), torch.randn(7, 32, 64)
assert "threads: 2" in gw.explain(layer, x)

if {own_threads}:
    from gatewright.backends.cpu import threads
    threads.openmp = lambda: None

def work():
    y, _ = layer(x)
    return y.detach(), torch.autograd.grad(y.sum(), layer.bias_hh_l0)[0]

expected = work()

class Set(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return all(torch.equal(a, b) for a, b in zip(work(), expected))

def child():
    sys.exit(0 if Set()[0] else 1)

if __name__ == "__main__":
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert Set()[0]
    process.join()
    assert process.exitcode == 0, process.exitcode
    loader = torch.utils.data.DataLoader(Set(), batch_size=2, num_workers=2, multiprocessing_context="fork")
    for same in loader:
        assert same.all()
        assert Set()[0]
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("own_threads", [False, True], ids=["openmp", "own_threads"])
def test_a_forked_process_runs_on_while_its_parent_does(own_threads):
    assert ran(FORKED.format(own_threads=own_threads)) == "done"


FORKED_WHILE_COMPILING = """
import os, threading, time
import torch
import gatewright as gw
from gatewright.backends.cpu import engine

torch.set_num_threads(1)
compiling, compile_text = threading.Event(), engine.compile_text

def slow(text):
    compiling.set()
    time.sleep(0.3)
    return compile_text(text)

engine.compile_text = slow
layer, x = gw.GRU(3, 5), torch.randn(4, 2, 3)
thread = threading.Thread(target=lambda: layer(x))
thread.start()
compiling.wait()
child = os.fork()
if child == 0:
    y, _ = layer(x)
    os._exit(0 if y.isfinite().all() else 1)
assert os.waitpid(child, 0)[1] == 0
thread.join()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_while_another_thread_compiles(tmp_path):
    assert ran(FORKED_WHILE_COMPILING, GATEWRIGHT_CACHE=str(tmp_path)) == "done"
