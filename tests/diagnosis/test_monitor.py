"""The monitor records while a model trains, and stops at the first number that is not finite."""

import copy
import json
import math
import threading

import pytest
import torch
from problems import Loop, Net, recall, squared
from torch import nn

import gatewright as gw
from gatewright.errors import InputError


def trained(model, batches, monitor, steps):
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        loss = squared(model, batches[step % len(batches)])
        loss.backward()
        monitor.step(loss)
        optimizer.step()


@pytest.mark.parametrize("make", [lambda: Net(nn.GRU), lambda: Net(gw.LSTM, batch_first=False), Loop])
def test_what_is_recorded(make, tmp_path):
    torch.manual_seed(0)
    model = make()
    expected = [p.clone() for p in model.parameters()]
    with gw.Monitor(model, every=3) as monitor:
        trained(model, recall(8, 2), monitor, 7)
        assert [record["step"] for record in monitor.records] == [0, 3, 6]
        monitor.save(tmp_path / "records.json")
    name = "cell" if isinstance(model, Loop) else "rnn"
    for record in monitor.records:
        assert math.isfinite(record["loss"])
        assert 0 < record[f"{name}.gradient_norm"] <= record["gradient_norm"] * (1 + 1e-5)
        assert record[f"{name}.weight_norm"] > 0
        assert 0 <= record[f"{name}.saturated"] <= 1
    assert json.loads((tmp_path / "records.json").read_text())["steps"] == 7
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert any(not torch.equal(a, b) for a, b in zip(expected, model.parameters(), strict=True))


def test_training_is_the_same_with_it():
    found = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = Net(nn.GRU, dropout=0.2, num_layers=2)
        monitor = gw.Monitor(model, every=1)
        if not watched:
            monitor.step = lambda loss: None
        trained(model, recall(8, 2), monitor, 5)
        found.append([p.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_an_input_that_is_not_finite():
    model, batches = Net(nn.GRU), recall(8, 2)
    batches[1][0][4, 3, 0] = math.inf
    batches[1][0][4, 3, 1] = math.nan
    monitor = gw.Monitor(model)
    with pytest.raises(InputError, match=r"step 1: .*input of rnn is not finite at step 4 of row 3"):
        trained(model, batches, monitor, 5)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_an_operation_that_is_not_finite():
    @gw.cell
    def root(x, U, h):
        return gw.sqrt(x.a + U.a(h))

    torch.manual_seed(0)
    model = Net(lambda i, h: gw.Recurrent(root, i, h))
    with pytest.raises(InputError, match=r"rnn: .*comes from 'sqrt' at step 0"):
        trained(model, recall(8, 2), gw.Monitor(model), 2)


def test_a_gradient_that_is_not_finite():
    torch.manual_seed(0)
    model, (x, y) = Net(nn.GRU), recall(8, 2, count=1)[0]
    monitor = gw.Monitor(model)
    loss = squared(model, (x, y))
    loss.backward()
    assert model.head.weight.grad is not None
    model.head.weight.grad[0, 0] = math.nan
    with pytest.raises(InputError, match=r"gradient by head\.weight is not finite"):
        monitor.step(loss)


def test_states_that_are_handed_on_and_several_calls_in_a_step():
    torch.manual_seed(0)
    cell, x = nn.GRUCell(2, 4), torch.randn(3, 2)
    monitor = gw.Monitor(cell)
    state = cell(x * math.nan)
    loss = cell(x, state).sum()
    loss.backward()
    with pytest.raises(InputError, match="step 0: the loss is nan; the input of grucell is not finite"):
        monitor.step(loss)
    copy.deepcopy(cell)(x)
    assert len(monitor._given) == 2


def test_a_model_that_cannot_be_copied_still_hears_that_the_loss_is_not_finite():
    model, (x, y) = Net(), recall(8, 2, count=1)[0]
    setattr(model, "lock", threading.Lock())  # noqa: B010 - what a type checker would not allow
    monitor = gw.Monitor(model)
    loss = squared(model, (x * math.nan, y))
    loss.backward()
    with pytest.raises(InputError, match=r"the loss is nan; where it arose could not be found"):
        monitor.step(loss)


@pytest.mark.parametrize("loss", [None, "nan", torch.ones(3)])
def test_a_loss_that_is_no_number(loss):
    with pytest.raises(InputError, match="the loss as one number"):
        gw.Monitor(Net()).step(loss)


def test_what_is_refused():
    with pytest.raises(InputError, match="no recurrent layer in Linear"):
        gw.Monitor(nn.Linear(2, 2))
    for every in (0, 2.5, True):
        with pytest.raises(InputError, match="every as a whole number"):
            gw.Monitor(Net(), every=every)  # pyright: ignore[reportArgumentType]
