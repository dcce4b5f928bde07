"""The twin computes what the model computes, and sees every state on the way."""

import copy
import random

import numpy as np
import pytest
import torch
from problems import Chunked, Loop, Net, recall, squared
from torch import nn

import gatewright as gw
from gatewright.diagnosis.gradients import gradients_of
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.records import record
from gatewright.diagnosis.tokens import Tokens
from gatewright.diagnosis.twin import Twin, check

MODELS = {
    "gru": lambda: Net(nn.GRU),
    "lstm": lambda: Net(nn.LSTM),
    "rnn relu": lambda: Net(nn.RNN, nonlinearity="relu"),
    "stacked": lambda: Net(nn.GRU, num_layers=3),
    "both directions": lambda: Net(nn.LSTM, num_layers=2, bidirectional=True, last=False),
    "batch first": lambda: Net(nn.GRU, batch_first=True, last=False),
    "projection": lambda: Net(nn.LSTM, proj_size=3),
    "no bias": lambda: Net(nn.GRU, bias=False),
    "cell": lambda: Loop(nn.GRUCell),
    "lstm cell": lambda: Loop(nn.LSTMCell),
    "rnn cell": lambda: Loop(nn.RNNCell),
    "own layer": lambda: Net(gw.GRU, layer_norm=True, zoneout=0.1, residual=True, num_layers=2),
    "heads": lambda: Net(gw.LSTM, heads=2),
    "learned state": lambda: Net(gw.GRU, train_initial_state=True),
    "chunks": lambda: Chunked(nn.GRU),
}


def batch_for(model, steps=13, rows=5):
    torch.manual_seed(1)
    x = torch.randn(steps, rows, 2, dtype=torch.float64)
    with torch.no_grad():
        first = x.transpose(0, 1) if getattr(getattr(model, "rnn", None), "batch_first", False) else x
        y = model(first)
    return first, torch.randn_like(y)


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_every_gradient_are_the_models(name):
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    batch = batch_for(model)
    twin = Twin(model)
    assert check(twin, model, squared, batch) < 1e-12
    recording = twin.run(squared, batch)
    found = gradients_of(recording, twin.model).parameters
    expected = torch.autograd.grad(squared(model, batch), list(model.parameters()))
    assert len(found) == len(expected)
    for (key, gradient), right in zip(found.items(), expected, strict=True):
        scale = max(right.abs().max().item(), 1e-8)
        assert (gradient - right).abs().max().item() <= 1e-10 * scale, key


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_what_a_step_sends_back_is_the_product_of_jacobians(kind):
    torch.manual_seed(0)
    model = Net(kind).double()
    twin = Twin(model)
    recording = twin.run(squared, batch_for(model))
    gradients = gradients_of(recording, twin.model)
    (sent,) = gradients.sent
    jacobians = Tokens(recording.traces[-1]).jacobians()
    expected = gradients.own[sent.chain][sent.step]
    for lag, found in enumerate(sent.states["rnn"]):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)
        expected = torch.einsum("bij,bi->bj", jacobians[sent.step - lag], expected)


def test_jacobians_are_those_of_the_equations():
    torch.manual_seed(0)
    model = Net(nn.LSTM).double()
    twin = Twin(model)
    trace = twin.run(squared, batch_for(model)).traces[-1]
    tokens = Tokens(trace)
    found = tokens.jacobians()[4, 2]
    previous = tuple(s[4 * tokens.batch + 2].clone() for s in tokens.previous)

    def step(h, c):
        _, (h2, c2) = model.rnn(trace.call.x[4, 2].view(1, 1, -1), (h.view(1, 1, -1), c.view(1, 1, -1)))
        return torch.cat([h2.flatten(), c2.flatten()])

    expected = torch.cat(torch.autograd.functional.jacobian(step, previous), -1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_what_each_step_contributes_itself(kind):
    torch.manual_seed(0)
    model = Net(kind, last=False, num_layers=2).double()
    batch = batch_for(model)
    weights = torch.randn(13, 5, 1, dtype=torch.float64)
    weights[3:6] = 0

    def loss(model, batch):
        return (model(batch[0]) * weights).sum()

    twin = Twin(model)
    gradients = gradients_of(twin.run(loss, batch), twin.model)
    (own,) = gradients.own.values()
    expected = weights * model.head.weight[0]
    torch.testing.assert_close(own[..., :8], expected.detach(), rtol=1e-8, atol=1e-10)
    assert not own[3:6].any()
    assert own[..., 8:].abs().max() < 1e-12 if kind is nn.LSTM else own.shape[-1] == 8


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_cuts_are_seen_and_bridged(kind):
    torch.manual_seed(0)
    model = Chunked(kind).double()
    batch = batch_for(model)
    whole = copy.deepcopy(model)
    whole.cut = False
    expected = torch.autograd.grad(squared(whole, batch), list(whole.parameters()))
    twin = Twin(model)
    assert [trace.cut for trace in twin.run(squared, batch).traces] == [False, True, True]
    twin.bridged = True
    found = gradients_of(twin.run(squared, batch), twin.model).parameters
    for gradient, right in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-13)


def test_a_state_that_goes_on_from_batch_to_batch_is_a_cut():
    class Stateful(Net):
        state = None

        def forward(self, x):
            y, state = self.rnn(x, self.state)
            self.state = state.detach()
            return self.head(y[-1])

    problem = Problem(Stateful(), recall(6, 2, count=3), squared)
    records = record(Twin(problem.model), problem, seconds=60)
    assert [batch.cuts for batch in records.batches] == [[], [6], [6]]


def test_the_model_and_all_random_numbers_are_left_alone():
    torch.manual_seed(3)
    net = Net(nn.GRU, dropout=0.3, num_layers=2)
    model = nn.Sequential(nn.BatchNorm1d(5), net)
    batches = recall(8, 2, batch=5)
    squared(model, batches[0]).backward()
    before = copy.deepcopy(model.state_dict())
    gradients = {name: torch.clone(p.grad) for name, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    random.seed(5)
    np.random.seed(5)
    states = (
        torch.get_rng_state(),
        repr(np.random.get_state()),
        random.getstate(),
        torch.get_num_threads(),
    )
    net.rnn.eval()
    gw.diagnose(model, batches, squared, seconds=3)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert repr(np.random.get_state()) == states[1]
    assert random.getstate() == states[2]
    assert torch.get_num_threads() == states[3]
    assert model.training
    assert not net.rnn.training
    assert type(net.rnn) is nn.GRU
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradients[name]), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
