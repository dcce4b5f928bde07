"""Layers against torch.nn over the whole matrix of options: outputs, final states and every gradient."""

import inspect
import math
import warnings

import pytest
import torch
from benchmarks.parity import (
    KINDS,
    LARGER,
    OPTIONS,
    TOLERANCES,
    USES,
    Options,
    Sizes,
    Use,
    compare,
    make_pair,
    relative_error,
)
from torch import nn

import gatewright as gw

DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=["float64", "float32"])


@DTYPES
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options_give_what_torch_gives_for_every_input_state_and_backend(options, dtype):
    failed = {}
    for seed, use in enumerate(USES):
        errors = compare(options, use, dtype, seed=seed)
        if not errors.worst <= TOLERANCES[dtype]:
            failed[use] = errors
    assert not failed


def test_the_matrix_is_the_whole_of_torchs_options():
    assert len(OPTIONS) == 5 * 3 * 2 * 2 * 2
    assert len(USES) == 4 * 2 * 2
    assert len(set(OPTIONS)) == len(OPTIONS)
    # nonlinearity is RNN's own
    taken = set(inspect.signature(nn.RNNBase.__init__).parameters) - {"self", "mode", "device", "dtype"}
    sizes = {"input_size", "hidden_size", "num_layers", "proj_size"}
    assert taken == sizes | {"bias", "batch_first", "dropout", "bidirectional"}


@DTYPES
@pytest.mark.parametrize("form", ["dense", "packed-unsorted"])
@pytest.mark.parametrize("kind", KINDS)
def test_larger_odd_sizes(kind, form, dtype):
    for backend in ("auto", "eager"):
        options = Options(kind, num_layers=2, bidirectional=True)
        errors = compare(options, Use(form, True, backend), dtype, LARGER, seed=3)
        assert errors.worst <= TOLERANCES[dtype]


@DTYPES
@pytest.mark.parametrize("form", ["dense", "unbatched", "packed", "packed-unsorted"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_draws_what_torch_draws(kind, batch_first, form, dtype):
    for backend in ("auto", "eager"):
        options = Options(kind, num_layers=3, batch_first=batch_first, bidirectional=True, dropout=0.4)
        errors = compare(options, Use(form, True, backend), dtype, seed=5)
        assert errors.worst <= TOLERANCES[dtype]


def test_dropout_acts_in_training_only():
    layer = gw.GRU(3, 5, 2, dropout=0.5, dtype=torch.float64)
    plain = gw.GRU(3, 5, 2, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    assert not torch.equal(layer(x)[0], plain(x)[0])
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])


def test_dropout_of_one_drops_everything_between_layers():
    layer = gw.GRU(3, 5, 2, dropout=1.0, dtype=torch.float64)
    reference = nn.GRU(3, 5, 2, dropout=1.0, dtype=torch.float64)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    for actual, expected in zip(layer(x), reference(x), strict=True):
        assert relative_error(actual, expected) <= 1e-10


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_seed_gives_the_same_initial_weights(options):
    ours, theirs, _ = KINDS[options.kind]
    with warnings.catch_warnings():
        # torch says of its own LSTM that projections are slow on this machine
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        torch.manual_seed(2)
        reference = theirs(3, 5, **options.arguments())
    torch.manual_seed(2)
    layer = ours(3, 5, **options.arguments())
    assert [name for name, _ in layer.named_parameters()] == [
        name for name, _ in reference.named_parameters()
    ]
    for (name, actual), expected in zip(layer.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(actual, expected), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_backend_asked_for_by_name_gives_what_torch_gives(kind):
    for form in ("dense", "unbatched"):
        options = Options(kind, num_layers=2, bidirectional=True)
        assert compare(options, Use(form, True, "torch"), torch.float64).worst <= 1e-10
    options = Options(kind, num_layers=2)
    assert compare(options, Use("packed-unsorted", True, "torch"), torch.float64).worst <= 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_packed_output_carries_torchs_order(kind):
    layer, reference = make_pair(Options(kind), torch.float64, Sizes())
    x = nn.utils.rnn.pack_sequence(
        [torch.randn(n, 3, dtype=torch.float64) for n in (2, 5, 3)], enforce_sorted=False
    )
    actual, expected = layer(x)[0], reference(x)[0]
    assert isinstance(actual, nn.utils.rnn.PackedSequence)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(actual, name), getattr(expected, name))


# the comparison itself: an error that it cannot see would make all of the above worthless


def test_the_error_is_relative_to_the_largest_entry():
    expected = torch.tensor([1e-3, -4.0], dtype=torch.float64)
    assert relative_error(expected + torch.tensor([1e-9, 0.0]), expected) == pytest.approx(0.25e-9, rel=1e-6)
    assert relative_error(expected, expected) == 0


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (torch.tensor([math.nan]), torch.tensor([1.0])),
        (torch.tensor([math.nan]), torch.tensor([math.nan])),
        (torch.tensor([math.inf]), torch.tensor([math.inf])),
        (torch.tensor([1.0]), torch.tensor([math.nan])),
        (torch.tensor([1e-30]), torch.tensor([0.0])),
        (torch.tensor([1.0]), torch.tensor([[1.0]])),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64)),
    ],
    ids=["nan", "two_nans", "two_infinities", "nan_expected", "not_zero", "shape", "dtype"],
)
def test_nothing_else_passes(actual, expected):
    assert not relative_error(actual, expected) <= 1


@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l1_reverse", "bias_ih_l1"])
def test_a_slightly_wrong_weight_is_seen(name, monkeypatch):
    def make_wrong_pair(*arguments):
        layer, reference = make_pair(*arguments)
        with torch.no_grad():
            layer.get_parameter(name)[0] += 1e-6
        return layer, reference

    monkeypatch.setattr("benchmarks.parity.make_pair", make_wrong_pair)
    errors = compare(Options("GRU", num_layers=2, bidirectional=True), Use(), torch.float64)
    assert min(errors.outputs, errors.states, errors.gradients) > 1e-10
