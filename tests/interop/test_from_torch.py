"""Layers of torch.nn become layers of this library and back, with the very same parameters."""

import copy
import warnings

import pytest
import torch
from benchmarks.parity import KINDS, Options, relative_error, tensors_of
from torch import nn

import gatewright as gw

# torch says so of its own LSTM with projections, every time it is made or run
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

ALL_KINDS = pytest.mark.parametrize("kind", KINDS)


def torch_layer(kind, **more):
    theirs = KINDS[kind][1]
    arguments = Options(kind, 2, batch_first=True, bidirectional=True).arguments() | more
    return theirs(3, 5, **arguments, dtype=torch.float64)


def assert_same_results(actual, expected, x):
    for a, b in zip(actual(x), expected(x), strict=True):
        for one, other in zip(tensors_of(a), tensors_of(b), strict=True):
            assert relative_error(one, other) <= 1e-10


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 3), nn.GRU(3, 5, batch_first=True))
        self.layers = nn.ModuleDict({"lstm": nn.LSTM(5, 5, bidirectional=True)})
        self.head = nn.Linear(10, 1)

    def forward(self, x):
        y, _ = self.encoder(x)
        y, _ = self.layers["lstm"](y)
        return self.head(y)


@ALL_KINDS
def test_a_layer_becomes_ours_with_its_own_parameters(kind):
    reference = torch_layer(kind, dropout=0.3).eval()
    layer = gw.from_torch(reference)
    assert type(layer) is KINDS[kind][0]
    assert not layer.training
    assert layer.dropout == 0.3
    assert [name for name, _ in layer.named_parameters()] == [
        name for name, _ in reference.named_parameters()
    ]
    assert all(a is b for a, b in zip(layer.parameters(), reference.parameters(), strict=True))
    assert_same_results(layer, reference, torch.randn(2, 6, 3, dtype=torch.float64))


@ALL_KINDS
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_there_and_back_again(kind, bias):
    reference = torch_layer(kind, bias=bias)
    expected = copy.deepcopy(reference)
    back = gw.from_torch(reference).to_torch()  # type: ignore[operator]  # one of ours
    assert type(back) is type(reference)
    assert repr(back) == repr(expected)
    assert all(a is b for a, b in zip(back.parameters(), reference.parameters(), strict=True))
    assert_same_results(back, expected, torch.randn(2, 6, 3, dtype=torch.float64))


@ALL_KINDS
def test_a_layer_exported_to_torch_trains_the_same_parameters(kind):
    ours, _, _ = KINDS[kind]
    layer = ours(3, 5, **Options(kind, 2).arguments())
    exported = layer.to_torch()
    exported(torch.randn(4, 2, 3))[0].sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(0.5)
    x = torch.randn(4, 2, 3)
    assert relative_error(exported(x)[0], layer(x)[0]) <= 2e-5


def test_exporting_draws_no_random_numbers():
    layer = gw.GRU(3, 5)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    layer.to_torch()
    gw.from_torch(nn.GRU(3, 5, device="meta"))
    assert torch.equal(torch.rand(1), expected)


def test_every_layer_of_a_model_is_replaced_in_place():
    torch.manual_seed(0)
    model = Model()
    reference = copy.deepcopy(model)
    names = list(model.state_dict())
    assert gw.from_torch(model) is model
    assert type(model.encoder[1]) is gw.GRU
    assert type(model.layers["lstm"]) is gw.LSTM
    assert list(model.state_dict()) == names
    x = torch.randn(2, 6, 4)
    assert relative_error(model(x), reference(x)) <= 2e-5
    model.load_state_dict(reference.state_dict())


def test_an_optimizer_made_before_keeps_training():
    torch.manual_seed(0)
    x, target = torch.randn(2, 6, 4), torch.randn(2, 6, 1)

    def train(model, convert):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        if convert:
            gw.from_torch(model)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = ((model(x) - target) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    model = Model()
    expected = train(copy.deepcopy(model), convert=False)
    actual = train(model, convert=True)
    assert expected[-1] < expected[0]
    assert actual == pytest.approx(expected, rel=1e-5)


def test_the_mode_of_each_layer_is_kept():
    model = Model()
    model.layers.eval()
    gw.from_torch(model)
    assert model.encoder[1].training
    assert not model.layers["lstm"].training


def test_a_frozen_parameter_stays_frozen():
    reference = nn.GRU(3, 5)
    reference.weight_hh_l0.requires_grad_(False)
    layer = gw.from_torch(reference)
    assert [p.requires_grad for p in layer.parameters()] == [True, False, True, True]


class TwoPlaces(nn.Module):
    def __init__(self):
        super().__init__()
        shared = nn.GRU(3, 3)
        self.first = shared
        self.second = shared
        self.deep = nn.ModuleList([nn.Sequential(shared), nn.GRU(3, 3)])


def test_a_layer_in_several_places_stays_one():
    model = TwoPlaces()
    gw.from_torch(model)
    assert type(model.first) is gw.GRU
    assert model.first is model.second
    assert model.deep[0].get_submodule("0") is model.first
    assert type(model.deep[1]) is gw.GRU
    assert model.deep[1] is not model.first


def test_a_part_that_stands_in_several_places_is_converted_once():
    part = nn.Sequential(nn.GRU(3, 3))
    model = nn.ModuleList([part, part])
    gw.from_torch(model)
    assert type(part[0]) is gw.GRU
    assert model[0] is model[1]


def test_parameters_tied_inside_a_layer_stay_tied():
    reference = nn.GRU(3, 3, 2)
    reference.weight_hh_l1 = reference.weight_hh_l0
    expected = copy.deepcopy(reference)
    layer = gw.from_torch(reference)
    assert layer.get_parameter("weight_hh_l1") is layer.get_parameter("weight_hh_l0")
    x = torch.randn(4, 2, 3)
    assert relative_error(layer(x)[0], expected(x)[0]) <= 2e-5
    assert relative_error(layer.to_torch()(x)[0], expected(x)[0]) <= 2e-5  # type: ignore[operator]  # one of ours


class CarefulGRU(nn.GRU):
    """A subclass: it may do more than its weights say."""


def test_a_subclass_is_left_as_it_is():
    model = nn.ModuleList([CarefulGRU(3, 5), nn.GRU(3, 5)])
    gw.from_torch(model)
    assert type(model[0]) is CarefulGRU
    assert type(model[1]) is gw.GRU


@pytest.mark.parametrize(
    "module",
    [nn.Linear(3, 5), nn.Sequential(nn.Linear(3, 5)), CarefulGRU(3, 5), gw.GRU(3, 5)],
    ids=lambda m: type(m).__name__,
)
def test_a_module_without_such_a_layer_is_refused(module):
    with pytest.raises(gw.InputError) as caught:
        gw.from_torch(module)
    assert caught.value.message == f"from_torch: no recurrent layer of torch.nn in {type(module).__name__}"
    assert caught.value.hint == "give a torch.nn.GRU, LSTM or RNN, or a model that holds one"


def test_weights_computed_from_others_are_refused_and_nothing_is_replaced():
    normed = nn.GRU(3, 5)
    with warnings.catch_warnings():
        # deprecated, and in use
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(normed, "weight_hh_l0")
    model = nn.ModuleList([nn.LSTM(3, 5), normed])
    with pytest.raises(gw.InputError, match="expected the parameters of a plain layer") as caught:
        gw.from_torch(model)
    assert "weight_hh_l0" in caught.value.message
    assert caught.value.hint == "take off weight norm, pruning and the like first"
    assert type(model[0]) is nn.LSTM
