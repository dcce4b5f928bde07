"""Every remedy changes a model so that it still trains, and changes what it says."""

import math
from dataclasses import replace

import pytest
import torch
from problems import Chunked, Loop, Net, recall, squared
from torch import nn

import gatewright as gw
from gatewright.diagnosis.practice import cloned, fast_copy, practise
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.rebuilt import Wider, bridged, cut_every, layers_of, remade, widened
from gatewright.diagnosis.remedies import REMEDIES, changes_for
from gatewright.errors import InputError

VALUES = {
    "needed_lag": 20.0, "needed_reach": 24.0, "sequence": 24.0, "rate_best": 1e-2, "norm_median": 0.5,
    "data_exponent": 0.7, "cut": 5.0, "lyapunov": 0.3, "time_growth": 10.0,
}  # fmt: skip

MODELS = {
    "gru": lambda: Net(nn.GRU, num_layers=2),
    "lstm": lambda: Net(nn.LSTM, num_layers=2, bidirectional=True, batch_first=False),
    "rnn": lambda: Net(nn.RNN),
    "cell": lambda: Loop(nn.LSTMCell),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("finding", REMEDIES)
def test_a_changed_model_still_trains(finding, model):
    torch.manual_seed(0)
    problem = Problem(MODELS[model](), recall(8, 2, count=4), squared)
    problem = replace(problem, model=fast_copy(problem.model))
    names, refused = [], []
    for change in changes_for(finding, problem, VALUES):
        names.append(change.remedy.name)
        assert change.remedy.text
        copy = cloned(problem.model)
        try:
            changed = change.apply(copy)
        except InputError as error:
            # what cannot be tried says what to do by hand
            assert error.hint  # noqa: PT017
            refused.append(change.remedy.name)
            continue
        with change.around(changed):
            done = practise(changed, problem, problem.batches, steps=3)
        assert done.stopped == -1
        assert len(done.losses) == 3
    assert len(set(names)) == len(names)
    assert bool(names) == (finding not in ("healthy", "unknown"))
    # nothing is frozen here, a step of a loop has the width it has, and a pair of states is no GRU's
    assert set(refused) <= {"train-readout"} | ({"wider"} if model == "cell" else set()) | (
        {"gru"} if model in ("cell", "lstm") else set()
    )


def test_chrono_reaches_the_needed_lag_and_needs_gates():
    problem = Problem(fast_copy(Net(nn.GRU, hidden=64)), [], squared)
    (change,) = [c for c in changes_for("vanishing", problem, VALUES) if c.remedy.name == "chrono"]
    torch.manual_seed(0)
    (layer,) = layers_of(change.apply(cloned(problem.model)))
    bias = dict(layer.named_parameters())["bias_ih_l0"][64:128].detach()
    assert 0 <= float(bias.min()) < float(bias.max()) <= math.log(23.0) + 1e-6
    plain = Problem(fast_copy(Net(nn.RNN)), [], squared)
    assert "chrono" not in [c.remedy.name for c in changes_for("vanishing", plain, VALUES)]


def test_wider_layers_keep_the_width_that_the_model_knows():
    torch.manual_seed(0)
    for kind in (nn.GRU, nn.LSTM):
        model = widened(fast_copy(Net(kind, num_layers=2, bidirectional=True)), 3)
        (layer,) = [module for module in model.modules() if isinstance(module, Wider)]
        y, state = layer(torch.randn(5, 4, 2))
        assert y.shape == (5, 4, 16)
        first = state[0] if isinstance(state, tuple) else state
        assert first.shape == (4, 4, 8)
        again, _ = layer(torch.randn(5, 4, 2), state)
        assert again.shape == y.shape
    with pytest.raises(InputError, match="cannot be widened"):
        widened(fast_copy(Loop()), 2)


def test_a_layer_made_anew_keeps_what_fits():
    torch.manual_seed(0)
    layer = gw.GRU(3, 5, num_layers=2)
    x = torch.randn(6, 2, 3)
    same = remade(layer)
    torch.testing.assert_close(same(x)[0], layer(x)[0])
    normed = remade(layer, layer_norm=True)
    torch.testing.assert_close(normed.weight_ih_l0, layer.weight_ih_l0)
    assert remade(layer, hidden_size=10).hidden_size == 10
    assert remade(gw.RNN(3, 5), cell="gru").cell.name == "gru"


def test_bridged_gradients_are_those_without_cuts():
    torch.manual_seed(0)
    model = fast_copy(Chunked(nn.LSTM).double())
    x, y = recall(13, 9, count=1, dtype=torch.float64)[0]
    with bridged(model):
        found = torch.autograd.grad(squared(model, (x, y)), list(model.parameters()))
    cut = torch.autograd.grad(squared(model, (x, y)), list(model.parameters()))
    assert isinstance(model, Chunked)
    model.cut = False
    expected = torch.autograd.grad(squared(model, (x, y)), list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    assert not torch.allclose(cut[0], expected[0])


def test_gradients_are_cut_at_every_other_step():
    torch.manual_seed(0)
    model = fast_copy(Loop().double())
    x = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    with cut_every(model, 2):
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
    # what the fourth call reads, and the state in front of it, are cut off
    assert not gradient[:4].any()
    assert gradient[4].any()
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert gradient.any(-1).all()
