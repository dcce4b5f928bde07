"""Streams: every step once and in order, marked where a sequence begins; balance; going on in mid-epoch."""

from __future__ import annotations

import io
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import gatewright as gw

MOST = 100  # no sequence here is longer, so that a value says which one it is of, and where it stands in it


def make(lengths: list[int], *, pairs: bool = False) -> list:
    """Sequences ``[T_i, 2]`` of the values 100·i + t + 1, never 0; in pairs their negatives are targets."""
    values = [MOST * i + torch.arange(1, length + 1) for i, length in enumerate(lengths)]
    inputs = [v.unsqueeze(1).repeat(1, 2).float() for v in values]
    return [(x, -v) for x, v in zip(inputs, values, strict=True)] if pairs else inputs


def joined(chunks: list) -> list[torch.Tensor]:
    """Inputs (their first feature), resets and valid of all chunks, ``[T, B]`` each."""
    return [
        torch.cat([chunk.inputs[..., 0] for chunk in chunks]),
        torch.cat([chunk.resets for chunk in chunks]),
        torch.cat([chunk.valid for chunk in chunks]),
    ]


def same(chunks: list, others: list) -> bool:
    def plain(chunk):
        return [part.tolist() if isinstance(part, torch.Tensor) else part for part in chunk]

    return list(map(plain, chunks)) == list(map(plain, others))


@st.composite
def settings(draw: st.DrawFn) -> tuple[list[int], dict]:
    """Lengths of sequences, and arguments that suit them."""
    cut, next_step = draw(st.booleans()), draw(st.booleans())
    lengths = draw(st.lists(st.integers(1 + next_step, 25), min_size=1, max_size=12))
    most = min(sum(lengths) - next_step * len(lengths), 6) if cut else min(len(lengths), 6)
    arguments = {"streams": draw(st.integers(1, most)), "steps": draw(st.integers(1, 9))}
    return lengths, arguments | {"cut": cut, "next_step": next_step, "shuffle": draw(st.booleans())}


@given(settings())
def test_every_step_is_seen_once_in_order_and_marked_where_a_sequence_begins(setting):
    lengths, arguments = setting
    streams = gw.Streams(make(lengths), **arguments)
    given_steps = [
        MOST * i + t for i, n in enumerate(lengths) for t in range(1, n + 1 - arguments["next_step"])
    ]
    for _ in range(2):
        chunks = list(streams)
        assert len(chunks) == len(streams)
        assert [chunk.first for chunk in chunks] == [True] + [False] * (len(chunks) - 1)
        assert {chunk.inputs.shape for chunk in chunks} == {(arguments["steps"], arguments["streams"], 2)}
        values, resets, valid = joined(chunks)
        assert sorted(values[valid].tolist()) == given_steps
        # a stream that has run out has nothing more, and nothing begins there
        assert not (valid[1:] & ~valid[:-1]).any()
        assert not values[~valid].any()
        assert not (resets & ~valid).any()
        assert valid[0].all()
        assert resets[0].all()
        goes_on = values[1:] == values[:-1] + 1
        assert torch.equal((valid & ~resets)[1:], goes_on & valid[1:])
        if not arguments["cut"]:
            assert (values[resets] % MOST == 1).all()
        assert (values[1:][resets[1:]] % MOST == 1).all()
        assert valid[-arguments["steps"] :].any()


@given(settings())
def test_targets_are_the_next_inputs_or_those_given(setting):
    lengths, arguments = setting
    for chunk in gw.Streams(make(lengths), **arguments):
        if arguments["next_step"]:
            assert torch.equal(chunk.targets[chunk.valid], chunk.inputs[chunk.valid] + 1)
            assert not chunk.targets[~chunk.valid].any()
        else:
            assert chunk.targets is None
    for chunk in gw.Streams(make(lengths, pairs=True), **arguments | {"next_step": False, "streams": 1}):
        assert chunk.targets.shape == chunk.valid.shape
        assert torch.equal(chunk.targets, -chunk.inputs[..., 0].long())


@given(settings())
def test_streams_are_balanced(setting):
    lengths, arguments = setting
    loads = joined(list(gw.Streams(make(lengths), **arguments)))[2].sum(0).tolist()
    steps = [length - arguments["next_step"] for length in lengths]
    if arguments["cut"]:
        assert max(loads) - min(loads) <= 1
    else:
        # when the longest stream got its last sequence it was the shortest of all
        assert max(loads) - min(loads) <= max(steps)
        assert max(loads) <= sum(steps) / len(loads) + max(steps) * (1 - 1 / len(loads))


@given(settings(), st.data())
def test_a_saved_epoch_goes_on_with_the_very_next_chunk(setting, data):
    lengths, arguments = setting
    seeds = iter((1, 2))

    def fresh():
        return gw.Streams(make(lengths), **arguments, generator=torch.Generator().manual_seed(next(seeds)))

    streams = fresh()
    done = data.draw(st.integers(0, 2 * len(streams)), label="chunks before saving")
    chunks = itertools.chain(*itertools.repeat(streams, 4))
    for _ in range(done):
        next(chunks)
    file = io.BytesIO()
    torch.save(streams.state_dict(), file)
    rest = list(chunks)

    file.seek(0)
    other = fresh()
    other.load_state_dict(torch.load(file, weights_only=True))
    begun = other.epoch
    again = list(itertools.chain(*itertools.repeat(other, 4 - begun)))
    assert same(again, rest)
    assert other.epoch == streams.epoch == 4


def test_a_state_that_was_loaded_is_the_one_that_is_saved():
    streams = gw.Streams(make([5, 6, 7]), streams=2, steps=2, shuffle=True)
    passing = iter(streams)
    next(passing)
    state = streams.state_dict()
    other = gw.Streams(make([5, 6, 7]), streams=2, steps=2, shuffle=True)
    other.load_state_dict(state)
    saved = other.state_dict()
    assert torch.equal(saved.pop("generator"), state.pop("generator"))
    assert saved == state


def test_an_epoch_that_was_broken_off_does_not_count_and_the_next_pass_begins_anew():
    streams = gw.Streams(make([9, 4]), streams=2, steps=2)
    whole = list(streams)
    for chunk in streams:
        if not chunk.first:
            break
    assert streams.epoch == 1
    assert same(list(streams), whole)
    assert streams.epoch == 2


def test_shuffled_orders_follow_from_the_seed_and_differ_between_epochs():
    lengths = [3, 5, 2, 7, 4, 6] * 5

    def epochs(seed: int) -> list[list]:
        generator = torch.Generator().manual_seed(seed)
        streams = gw.Streams(make(lengths), streams=2, steps=8, shuffle=True, generator=generator)
        return [list(streams) for _ in range(3)]

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert all(map(same, first, again))
    assert not any(map(same, first, other))
    assert not same(first[0], first[1])
    assert not same(first[1], first[2])


@pytest.mark.parametrize("cut", [False, True])
def test_without_a_generator_orders_follow_from_torchs_seed(cut):
    def epoch() -> list:
        torch.manual_seed(3)
        return list(gw.Streams(make([4] * 20), streams=3, steps=8, cut=cut, shuffle=True))

    assert same(epoch(), epoch())


def test_whole_sequences_stand_in_a_stream_in_the_order_given():
    values, resets, _ = joined(list(gw.Streams(make([2, 5, 3, 4]), streams=2, steps=7)))
    assert (values[resets] // MOST).tolist() == [0, 2, 1, 3]
    # 5 + 2 and 4 + 3 steps
    assert [column.tolist() for column in (values[:, 0] // MOST, values[:, 1] // MOST)] == [
        [0, 0, 1, 1, 1, 1, 1],
        [2, 2, 2, 3, 3, 3, 3],
    ]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x]], ids=["tensor", "list of one"])
def test_one_sequence_is_cut_into_equal_parts_without_losing_a_target(wrap):
    chunks = list(gw.Streams(wrap(torch.arange(13)), streams=3, steps=4, next_step=True))
    (chunk,) = chunks
    assert chunk.inputs.T.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert chunk.targets.T.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert chunk.resets.T.tolist() == [[True, False, False, False]] * 3
    (pair,) = gw.Streams((torch.arange(12), torch.arange(12.0)), streams=3, steps=4)
    assert torch.equal(pair.inputs, chunk.inputs)
    assert torch.equal(pair.targets, pair.inputs.float())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8, torch.bool, torch.complex64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_dtype_and_device_stay(dtype, device):
    x, y = torch.ones(7, 3, dtype=dtype, device=device), torch.ones(7, dtype=torch.int32, device=device)
    chunk = next(iter(gw.Streams((x, y), streams=2, steps=4)))
    assert (chunk.inputs.dtype, chunk.targets.dtype) == (dtype, torch.int32)
    assert (chunk.resets.dtype, chunk.valid.dtype) == (torch.bool, torch.bool)
    assert {tensor.device.type for tensor in chunk[:4]} == {device}


class CountCopies(TorchDispatchMode):
    """Counts the elements of the data, which is never bool, that are copied from one tensor to another."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._overloadpacket is torch.ops.aten.copy_ and args[0].dtype != torch.bool:
            self.elements += args[0].numel()
        assert func._overloadpacket not in (torch.ops.aten.clone, torch.ops.aten.cat, torch.ops.aten.stack)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("cut", [False, True])
def test_data_is_copied_once_and_only_into_chunks(cut):
    sequences = make([9, 4, 7, 1], pairs=True)
    with CountCopies() as copies:
        streams = gw.Streams(sequences, streams=2, steps=4, cut=cut)
        assert copies.elements == 0
        chunks = list(streams)
    assert copies.elements == 21 * (2 + 1)
    chunks[0].inputs.zero_()
    assert all(x.all() for x, _ in sequences)


X = torch.zeros(6, 2)


@pytest.mark.parametrize(
    ("sequences", "arguments", "message"),
    [
        ([], {}, "at least one sequence, received none"),
        (None, {}, "received NoneType"),
        ((X for _ in range(3)), {}, "received generator"),
        ((), {}, "expected a tensor or a pair"),
        ([X, [1, 2, 3]], {}, "sequence 1: expected a tensor or a pair of tensors, received list"),
        ((X, X, X), {}, "expected a tensor or a pair of tensors, received Tensor, Tensor, Tensor"),
        ([X, X[0, 0]], {}, r"sequence 1: expected \[T, \.\.\.\] with T of at least 1, received shape \[\]"),
        ([X, X[:0]], {}, r"at least 1, received shape \[0, 2\]"),
        ([X, X[:1]], {"next_step": True}, r"at least 2, received shape \[1, 2\]"),
        ([X, torch.zeros(6, 3)], {}, r"expected inputs \[T, 2\] of torch.float32 on cpu .* \[T, 3\]"),
        ([X, X.double()], {}, r"received \[T, 2\] of torch.float64"),
        ([X, X.to("meta")], {}, "on meta"),
        ([(X, X), (X, X[:, 0])], {}, r"expected targets \[T, 2\] .* received \[T\]"),
        ([(X, X), X], {}, "sequence 1: expected a pair as sequence 0 is, received a tensor"),
        ([X, (X, X)], {}, "sequence 1: expected a tensor as sequence 0 is, received a pair"),
        ([(X, X[:4])], {}, "as many targets as inputs, received 6 inputs and 4 targets"),
        ([(X, X.to("meta"))], {}, "a pair on one device, received cpu and meta"),
        ([(X, X)], {"next_step": True}, "next_step makes the targets"),
        ([X, X], {"streams": 3}, "at least 3 sequences for as many streams, received 2"),
        (X, {"streams": 7}, "at least 7 steps to cut into as many streams, received 6"),
        (X, {"streams": 6, "next_step": True}, "received 5"),
        (X, {"cut": False}, "at least 2 sequences"),
        (X, {"streams": 0}, "streams as an integer of at least 1, received 0"),
        (X, {"streams": True}, "received True"),
        (X, {"steps": 0}, "steps as an integer of at least 1, received 0"),
        (X, {"steps": 2.0}, "received 2.0"),
        (X, {"shuffle": torch.Generator()}, "shuffle as True or False"),
        (X, {"cut": 2}, "cut as True or False, received 2"),
        (X, {"next_step": 1}, "next_step as True or False, received 1"),
    ],
)
def test_what_does_not_fit_is_refused(sequences, arguments, message):
    with pytest.raises(gw.InputError, match=message) as caught:
        gw.Streams(sequences, **{"streams": 2, "steps": 3} | arguments)
    assert caught.value.message.startswith("Streams: ")
    assert caught.value.hint


def test_a_state_of_something_else_is_refused():
    streams = gw.Streams([X, X], streams=2, steps=3)
    bad: Any
    for bad in (None, {}, {"epoch": 1}):
        with pytest.raises(gw.InputError, match="expected a state of chunk, epoch"):
            streams.load_state_dict(bad)
    others = {
        "steps=3": gw.Streams([X, X], streams=2, steps=2),
        "streams=2": gw.Streams([X, X], streams=1, steps=3),
        "elements=12": gw.Streams([X, X[:5]], streams=2, steps=3),
        "sequences=2": gw.Streams([X, X[:4], X[:2]], streams=2, steps=3),
        "shuffle=False": gw.Streams([X, X], streams=2, steps=3, shuffle=True),
        "cut=False": gw.Streams([X, X], streams=2, steps=3, cut=True),
    }
    for name, other in others.items():
        with pytest.raises(gw.InputError, match=f"of streams with {name}, received"):
            streams.load_state_dict(other.state_dict())
