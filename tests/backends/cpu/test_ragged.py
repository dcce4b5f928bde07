"""Rows that end at different steps: the kernels leave out what the masks would hold."""

from dataclasses import replace

import pytest
import torch
from benchmarks.kernel_parity import compare, make_call, results
from benchmarks.parity import TOLERANCES, Sizes
from hypothesis import given, settings
from hypothesis import strategies as st
from rewritten import rewritten

import gatewright as gw
from gatewright.backends.cpu import launch, ragged, threads
from gatewright.backends.cpu.sections import row_order, running_rows
from gatewright.backends.sequence import Ends

pytestmark = pytest.mark.usefixtures("poison")

CELLS = ("gru", "gru_reset_before", "lstm", "rnn_tanh")


def ragged_call(cell, sizes, lengths, dtype=torch.float64, **options):
    """A call whose rows end at these steps; behind them nothing is said of the input."""
    call = make_call(rewritten("masked", gw.CATALOGUE[cell].graph), sizes, dtype, **options)
    valid = torch.arange(sizes.T).unsqueeze(1) < torch.tensor(lengths)
    return replace(call, masks=(valid.to(dtype),), lengths=tuple(lengths))


def assert_parity(call):
    assert ragged.is_worth(call)
    assert compare(call).worst <= TOLERANCES[call.x.dtype]


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell_in_both_directions(cell, reverse, every):
    lengths = [20, 0, 3, 17, 1, 20, 11, 8, 2, 5, 9]
    call = ragged_call(cell, Sizes(T=20, B=11, I=3, H=7), lengths, reverse=reverse)
    assert_parity(replace(call, every=every))


@pytest.mark.parametrize("reverse", [False, True])
def test_several_chunks_and_tiles(reverse):
    """More rows than a tile, and steps than a chunk, in both dtypes."""
    lengths = [(7 * row) % 131 for row in range(37)]
    for dtype in TOLERANCES:
        call = ragged_call("lstm", Sizes(T=131, B=37, I=9, H=33), lengths, dtype, reverse=reverse)
        assert_parity(call)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_lengths(data):
    steps, batch = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 20))
    lengths = data.draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    hidden, reverse = data.draw(st.integers(1, 20)), data.draw(st.booleans())
    cell = data.draw(st.sampled_from(CELLS))
    call = ragged_call(cell, Sizes(T=steps, B=batch, I=2, H=hidden), lengths, reverse=reverse)
    call = replace(call, every=data.draw(st.booleans()))
    assert compare(call).worst <= TOLERANCES[torch.float64]


@pytest.mark.parametrize("count", [2, 3])
def test_rows_are_dealt_out_to_threads(monkeypatch, count):
    """Two passes need not agree on how many threads there are."""
    monkeypatch.setattr(threads, "available", lambda: count)
    launch.forward.cache_clear()
    launch.backward.cache_clear()
    lengths = [(5 * row) % 65 for row in range(24)]
    call = ragged_call("gru", Sizes(T=64, B=24, I=16, H=64), lengths, torch.float32)
    assert_parity(call)
    asked = iter([count, count, 1, 1, 1, 1])
    monkeypatch.setattr(threads, "available", lambda: next(asked, 1))
    assert_parity(call)
    launch.forward.cache_clear()
    launch.backward.cache_clear()


def test_rows_within_a_group_fall_and_groups_do_as_much():
    lengths = (3, 9, 1, 7, 5, 8, 2)
    order = row_order(lengths, 2)
    assert sorted(order) == list(range(7))
    groups = [[lengths[row] for row in rows] for rows in (order[:3], order[3:])]
    assert groups == [[9, 7, 3], [8, 5, 2, 1]]
    ends = Ends(tuple(lengths[row] for row in order), 2)
    running = running_rows(ends, 9, False)
    assert running.tolist() == [[3, 3, 3, 2, 2, 2, 2, 1, 1], [4, 3, 2, 2, 2, 1, 1, 1, 0]]
    # in reverse a row is run one step before its last one, in the order of the steps that are run
    assert running_rows(Ends((2, 0), 1), 4, True).tolist() == [[0, 1, 1, 1]]


def test_what_stands_behind_a_row_is_not_read():
    call = ragged_call("gru", Sizes(T=9, B=4, I=3, H=5), [9, 2, 4, 1], torch.float32)
    expected = results(call, "cpu")
    x = call.x.detach().clone()
    x[4:, 2] = 1e30
    found = results(replace(call, x=x.requires_grad_()), "cpu")
    for name, gradient in expected.gradients.items():
        assert torch.equal(found.gradients[name], gradient), name


def test_full_rows_are_not_dealt_out():
    call = ragged_call("gru", Sizes(T=9, B=4, I=3, H=5), [9, 9, 9, 9])
    assert not ragged.is_worth(call)


def test_second_gradients():
    call = ragged_call("rnn_tanh", Sizes(T=4, B=3, I=2, H=3), [4, 1, 2])
    weight = call.weights.weight_hh
    assert weight is not None

    def second(backend):
        from gatewright.backends.dispatch import run

        y, _ = run(call, backend)
        (first,) = torch.autograd.grad(y.square().sum(), call.x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), weight)[0]

    torch.testing.assert_close(second("cpu"), second("eager"))
