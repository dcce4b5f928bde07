"""Ways to break a training problem: its first weights, its readout, its data, its loss or its settings.

Each function takes cell, task and seed and gives a problem; ``healthy`` is what all of them start from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from benchmarks.fault_models import FreeRun, Network, error, free_run_loss, plain_loss, train
from benchmarks.fault_tasks import TASKS, Batch, data, first_rows, normal, number_of
from torch import Generator, Tensor, nn

import gatewright as gw
from gatewright import sigmoid
from gatewright.diagnosis.problem import Problem


@gw.cell(source="Feng et al. 2024, arXiv:2410.01201")
def min_gru(x, h):
    """A minGRU: affine in its state."""
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.n


@gw.cell(source="after Feng et al. 2024, arXiv:2410.01201")
def min_lstm(x, h):
    """A minLSTM with gates that are not normalised: affine in its state."""
    return sigmoid(x.f) * h + sigmoid(x.i) * x.n


def healthy(
    cell: str,
    name: str,
    seed: int,
    *,
    hidden: int = 0,
    layers: int = 1,
    features: int = 0,
    kind: type[Network] = Network,
) -> Problem:
    """The task with the settings that learn it.

    Args:
        cell: gru or lstm.
        name: of the task.
        seed: of weights and data.
        hidden: units; 0 for those of the task.
        layers: on top of each other.
        features: of the input beyond those of the task.
        kind: of the model.

    Returns:
        A freshly initialised problem.
    """
    task = TASKS[name]
    batches, held_out = data(name, seed)
    number = number_of(cell, name, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        model = kind(replace(task, inputs=task.inputs + features), cell, hidden or task.hidden, layers)
        if task.span:
            keep = torch.empty(model.rnn.hidden_size).uniform_(1, task.span - 1).log()
            set_gates(model, cell, keep)
    return Problem(
        model, batches, plain_loss, held_out, learning_rate=task.learning_rate, gradient_clip=1.0, seed=number
    )


def learnt(problem: Problem, steps: int) -> Problem:
    """The same problem after so many steps of training."""
    train(problem, steps)
    return problem


@torch.no_grad()
def set_gates(model: nn.Module, cell: str, keep: Tensor | float, *, coupled: bool = True) -> None:
    """Set the bias of every gate that keeps the state; the input gate of an LSTM gets its negative."""
    for name, parameter in model.named_parameters():
        if "rnn.bias" in name:
            size = len(parameter) // (3 if cell == "gru" else 4)
            first = "bias_ih" in name
            parameter[size : 2 * size] = keep if first else 0
            if cell == "lstm" and coupled:
                parameter[:size] = -keep if first else 0


def _recurrent(model: nn.Module) -> list[nn.Parameter]:
    """The recurrent weights."""
    return [p for name, p in model.named_parameters() if "weight_hh" in name]


# --- what is broken at the start ---


def fresh(cell: str, name: str, seed: int) -> Problem:
    """Nothing is broken, nothing learnt yet."""
    return healthy(cell, name, seed)


def trained(cell: str, name: str, seed: int) -> Problem:
    """Nothing is broken, two hundred steps are behind."""
    return learnt(healthy(cell, name, seed), 200)


def vanishing_bias(cell: str, name: str, seed: int) -> Problem:
    """Gates that keep less than a hundredth of the state."""
    problem = healthy(cell, name, seed)
    set_gates(problem.model, cell, -5.0, coupled=False)
    return problem


def vanishing_gain(cell: str, name: str, seed: int) -> Problem:
    """The weights of torch, the recurrent ones times 0.3."""
    problem = vanishing_default(cell, name, seed)
    with torch.no_grad():
        for weight in _recurrent(problem.model):
            weight *= 0.3
    return problem


def vanishing_default(cell: str, name: str, seed: int) -> Problem:
    """The weights of torch where the healthy problem has gates that keep."""
    problem = healthy(cell, name, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(problem.seed)
        model = Network(TASKS[name], cell, TASKS[name].hidden)
    return replace(problem, model=model)


def capacity(cell: str, name: str, seed: int) -> Problem:
    """Two units for eight numbers."""
    return healthy(cell, name, seed, hidden=2)


def stuck(cell: str, name: str, seed: int) -> Problem:
    """Gates that keep all and let in nothing, where their derivative is next to nothing."""
    problem = healthy(cell, name, seed)
    set_gates(problem.model, cell, 7.0)
    return problem


def one_scale(cell: str, name: str, seed: int, *, keep: float) -> Problem:
    """All gates at one time constant, and hardly moved by what they read."""
    problem = healthy(cell, name, seed)
    set_gates(problem.model, cell, keep)
    with torch.no_grad():
        for key, parameter in problem.model.named_parameters():
            if "rnn.weight" in key:
                size = len(parameter) // (3 if cell == "gru" else 4)
                parameter[size : 2 * size] *= 0.01
                if cell == "lstm":
                    parameter[:size] *= 0.01
    return problem


def exploding(cell: str, name: str, seed: int, *, gain: float, plain: bool) -> Problem:
    """Recurrent weights far too large; with open gates, so that the cell is nearly a plain tanh network."""
    problem = healthy(cell, name, seed)
    generator = Generator().manual_seed(problem.seed)
    with torch.no_grad():
        for weight in _recurrent(problem.model):
            size = weight.shape[1]
            for index, block in enumerate(weight.split(size)):
                candidate = index == 2
                scale = 1.0 if plain and not candidate else gain
                block.copy_(scale * torch.linalg.qr(normal(generator, size, size))[0])
        if plain:
            set_gates(problem.model, cell, -3.0)
            for key, parameter in problem.model.named_parameters():
                if "rnn.bias_ih" in key:
                    size = len(parameter) // (3 if cell == "gru" else 4)
                    # the reset gate of a GRU, the output gate of an LSTM
                    (parameter[:size] if cell == "gru" else parameter[3 * size :]).fill_(3.0)
    return replace(problem, gradient_clip=None)


def depth(cell: str, name: str, seed: int) -> Problem:
    """Ten layers, one behind the other."""
    return healthy(cell, name, seed, hidden=16, layers=10)


@torch.no_grad()
def constant(cell: str, name: str, seed: int) -> Problem:
    """All units the same, and so are their gradients."""
    problem = healthy(cell, name, seed)
    for key, parameter in problem.model.named_parameters():
        if "rnn" in key or "head" in key:
            parameter.fill_(0.1)
    return problem


# --- the readout ---


def frozen(cell: str, name: str, seed: int, *, steps: int, rank: int) -> Problem:
    """A frozen output layer behind a state that has learnt: tiny, or of a rank too low."""
    problem = learnt(healthy(cell, name, seed), steps)
    head = problem.model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        if rank:
            u, s, v = torch.linalg.svd(head.weight)
            head.weight.copy_(u[:, :rank] * s[:rank] @ v[:rank])
        else:
            head.weight.mul_(1e-3)
            head.bias.mul_(1e-3)
    head.requires_grad_(False)
    return problem


# --- the data ---


def _change(problem: Problem, index: int, change: Callable[[Tensor, Tensor], Batch]) -> Problem:
    """The problem with one batch for training changed."""
    batches = [(x.clone(), y.clone()) for x, y in problem.batches]
    batches[index] = change(*batches[index])
    return replace(problem, batches=batches)


def spikes(cell: str, name: str, seed: int) -> Problem:
    """Every third batch has two values that are off by a thousand and more; nothing is clipped.

    The value of a series is a target first and the next input then.
    """
    task, problem = TASKS[name], healthy(cell, name, seed)
    generator = Generator().manual_seed(problem.seed)

    def spike(x: Tensor, y: Tensor) -> Batch:
        for _ in range(2):
            share, sign, step, row = torch.rand(4, generator=generator).tolist()
            value = math.copysign(1000 / max(share, 0.02), sign - 0.5)
            # views with the time first
            inputs, targets = (x.transpose(0, 1), y.transpose(0, 1)) if task.batch_first else (x, y)
            at, which = int(step * (len(x if task.last else targets) - 1)), int(row * task.rows)
            if task.last:
                targets[which, 0] = value
                continue
            targets[at, which, 0] = value
            if task.persistent:
                inputs[at + 1, which, 0] = value
        return x, y

    for index in range(0, len(problem.batches), 3):
        problem = _change(problem, index, spike)
    return replace(problem, gradient_clip=None)


def noise(cell: str, name: str, seed: int) -> Problem:
    """Targets under noise of ten times their own size, eight rows a batch, in both sets."""
    problem = healthy(cell, name, seed)
    generator = Generator().manual_seed(problem.seed)

    def drown(batch: Batch) -> Batch:
        x, y = first_rows(name, batch, 8)
        if y.is_floating_point():
            return x, y + 10 * y.std() * normal(generator, *y.shape)
        wrong = torch.randint(TASKS[name].outputs, y.shape, generator=generator)
        return x, torch.where(torch.rand(y.shape, generator=generator) < 0.95, wrong, y)

    return replace(
        problem,
        batches=[drown(batch) for batch in problem.batches],
        validation=[drown(batch) for batch in problem.validation],
    )


def non_finite(cell: str, name: str, seed: int, *, value: float) -> Problem:
    """One input of one batch is not a finite number."""
    problem = healthy(cell, name, seed)

    def spoil(x: Tensor, y: Tensor) -> Batch:
        x[3, 3, 0] = value
        return x, y

    return _change(problem, 2, spoil)


def overflow(cell: str, name: str, seed: int) -> Problem:
    """One target is close to the largest number there is, so its square is not finite."""
    problem = healthy(cell, name, seed)

    def spoil(x: Tensor, y: Tensor) -> Batch:
        y.view(-1)[-1] = 1e38
        return x, y

    return replace(_change(problem, 2, spoil), gradient_clip=None)


def overfitting(cell: str, name: str, seed: int) -> Problem:
    """Learnt by heart: two batches of eight rows."""
    problem = healthy(cell, name, seed, hidden=48)
    few = [first_rows(name, batch, 8) for batch in problem.batches[:2]]
    return learnt(replace(problem, batches=few), 500)


def leak(cell: str, name: str, seed: int) -> Problem:
    """A feature that is the target in training, and noise in what is held out."""
    problem = healthy(cell, name, seed, features=1)
    generator = Generator().manual_seed(problem.seed)

    def with_feature(x: Tensor, feature: Tensor) -> Tensor:
        return torch.cat([x, feature.expand(*x.shape[:-1], 1)], -1)

    batches = [(with_feature(x, y), y) for x, y in problem.batches]
    held_out = [(with_feature(x, normal(generator, *y.shape)), y) for x, y in problem.validation]
    return learnt(replace(problem, batches=batches, validation=held_out), 200)


# --- the loss and the settings ---


def _truncated_loss(model: nn.Module, batch: Batch, *, steps: int = 8) -> Tensor:
    """The error of a sequence that is run in chunks; no gradient passes from one to the next."""
    x, y = batch
    assert isinstance(model, Network)
    state, states = None, []
    for chunk in x.split(steps):
        values, state = model.rnn(chunk, state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        states.append(values)
    all_states = torch.cat(states)
    return error(model.head(all_states[-1] if model.last else all_states), y)


def truncation(cell: str, name: str, seed: int) -> Problem:
    """Chunks of eight steps, where forty must be remembered."""
    return replace(healthy(cell, name, seed), loss=_truncated_loss)


def rate(cell: str, name: str, seed: int, *, value: float) -> Problem:
    """Another learning rate."""
    return replace(healthy(cell, name, seed), learning_rate=value)


def chaos(cell: str, name: str, seed: int) -> Problem:
    """Trained on its own outputs for forty steps, after it has learnt to look one step ahead."""
    problem = learnt(healthy(cell, name, seed), 400)
    return replace(problem, model=FreeRun(problem.model, TASKS[name].horizon), loss=free_run_loss)


def affine(cell: str, name: str, seed: int) -> Problem:
    """A cell that is affine in its state, on a task that asks for more."""
    problem = healthy(cell, name, seed)
    task = TASKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(problem.seed)
        layer = gw.Recurrent(min_gru if cell == "gru" else min_lstm, task.inputs, task.hidden)
    problem.model.add_module("rnn", layer)
    return problem
