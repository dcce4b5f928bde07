"""Models and losses of the fault cases, as a user writes them, and their training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from benchmarks.fault_tasks import ALPHABET, Batch, Task
from torch import Generator, Tensor, nn

from gatewright.diagnosis.problem import Loss, Problem

LAYERS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
"""The recurrent layer of each cell."""


class Network(nn.Module):
    """A recurrent layer and a linear one.

    Args:
        task: gives the sizes.
        cell: gru or lstm.
        hidden: units.
        layers: on top of each other.
    """

    def __init__(self, task: Task, cell: str, hidden: int, layers: int = 1) -> None:
        super().__init__()
        letters = task.inputs == len(ALPHABET) + 1
        self.embedding = nn.Embedding(task.inputs, 16) if letters else None
        self.rnn: nn.GRU | nn.LSTM = LAYERS[cell](
            16 if letters else task.inputs, hidden, num_layers=layers, batch_first=task.batch_first
        )
        self.head = nn.Linear(hidden, task.outputs)
        self.last, self.classes = task.last, task.classes

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of every step, or of the last one."""
        if self.embedding is not None:
            x = self.embedding(x)
        states = self.rnn(x)[0]
        return self.head(states[-1] if self.last else states)


class FreeRun(nn.Module):
    """A network that reads some true values and then its own outputs.

    Args:
        network: one step ahead.
        steps: on its own outputs.
    """

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__()
        assert isinstance(network, Network)
        self.rnn, self.head, self.steps = network.rnn, network.head, steps

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of the last steps, from the inputs before them."""
        states, state = self.rnn(x[: len(x) - self.steps])
        value = self.head(states[-1:])
        outputs = [value]
        for _ in range(self.steps):
            states, state = self.rnn(value, state)
            value = self.head(states)
            outputs.append(value)
        return torch.cat(outputs)


def free_run_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The error of the steps on own outputs."""
    output = model(batch[0])
    return error(output, batch[1][-len(output) :])


def error(output: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of classes, mean squared error of numbers."""
    if target.is_floating_point():
        return F.mse_loss(output, target)
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


def plain_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The error of what the model gives for a batch."""
    x, y = batch
    return error(model(x), y)


def train(problem: Problem, steps: int) -> None:
    """Train the model of a problem in place, as it says; batches come in random order."""
    optimizer = torch.optim.AdamW(
        [p for p in problem.model.parameters() if p.requires_grad],
        lr=problem.learning_rate,
        weight_decay=problem.weight_decay,
    )
    generator = Generator().manual_seed(problem.seed)
    order: list[int] = []
    for _ in range(steps):
        order = order or torch.randperm(len(problem.batches), generator=generator).tolist()
        optimizer.zero_grad()
        problem.loss(problem.model, problem.batches[order.pop()]).backward()
        if problem.gradient_clip is not None:
            nn.utils.clip_grad_norm_(problem.model.parameters(), problem.gradient_clip)
        optimizer.step()


def mean_loss(model: nn.Module, batches: Sequence[Batch], loss: Loss = plain_loss) -> float:
    """The mean loss over batches, without a gradient."""
    with torch.no_grad():
        return sum(loss(model, batch).item() for batch in batches) / len(batches)
