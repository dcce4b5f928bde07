"""Small training tasks of known difficulty, for the calibration of a diagnosis.

A task draws its batches once from a seed and says with which settings a plain torch model learns it.
"""

from __future__ import annotations

import csv
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pydoc_data import topics

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from gatewright.data.bundled import bundled_path

Batch = tuple[Tensor, Tensor]
"""Input and target, time first unless the task says otherwise."""

VALIDATION = 4
"""Held-out batches of a task."""

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz.,()"
"""Characters that are told apart; all others are one more."""


@dataclass(frozen=True)
class Task:
    """What is to be learnt, and the settings with which it is.

    Attributes:
        draw: a batch of rows; the flag says that it is held out.
        inputs: features of a step, or the size of the alphabet.
        outputs: numbers, or classes.
        classes: the target is a class, the loss cross-entropy; else mean squared error.
        last: only the last step has a target.
        batch_first: rows come before steps.
        hidden: units.
        batches: for training.
        rows: of a batch.
        span: steps that must be remembered, if the weights of torch forget sooner; 0 leaves them.
        learning_rate: with which it is learnt.
        steps: of training within which it is clearly learnt.
        persistent: the last input is a trivial forecast.
        horizon: steps that the model runs on its own outputs; 0 for none.
    """

    draw: Callable[[int, Generator, bool], Batch]
    inputs: int
    outputs: int
    classes: bool = False
    last: bool = False
    batch_first: bool = False
    hidden: int = 24
    batches: int = 20
    rows: int = 32
    span: int = 0
    learning_rate: float = 3e-3
    steps: int = 300
    persistent: bool = False
    horizon: int = 0


def normal(generator: Generator, *size: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(*size, generator=generator)


def _adding(rows: int, generator: Generator, held_out: bool) -> Batch:
    """The sum of the two marked values, told at the last step."""
    steps = 40
    x = torch.zeros(steps, rows, 2)
    x[..., 0] = torch.rand(steps, rows, generator=generator) * 2 - 1
    first = torch.randint(0, 8, (rows,), generator=generator)
    second = torch.randint(8, 16, (rows,), generator=generator)
    each = torch.arange(rows)
    x[first, each, 1] = x[second, each, 1] = 1
    return x, (x[first, each, 0] + x[second, each, 0]).unsqueeze(-1)


def _recall(rows: int, generator: Generator, held_out: bool) -> Batch:
    """The first of many symbols, asked for at the last step; a flag marks it."""
    steps, symbols = 40, 4
    shown = torch.randint(symbols, (steps, rows), generator=generator)
    flag = torch.zeros(steps, rows, 1)
    flag[0] = 1
    return torch.cat([F.one_hot(shown, symbols).float(), flag], -1), shown[0]


def _echo(rows: int, generator: Generator, held_out: bool) -> Batch:
    """Eight numbers of the first step, all asked for at the last."""
    x = 0.1 * normal(generator, 20, rows, 8)
    x[0] = normal(generator, rows, 8)
    return x, x[0].clone()


def _memory_values(rows: int, generator: Generator, held_out: bool) -> Batch:
    """At every step the last eight inputs before it."""
    steps, back = 40, 8
    x = normal(generator, steps + back, rows)
    y = torch.stack([x[back - k : back - k + steps] for k in range(1, back + 1)], -1)
    return x[back:].unsqueeze(-1), y


def _scales(rows: int, generator: Generator, held_out: bool) -> Batch:
    """At every step means of noise that fade within 1 to 64 steps, each of variance one."""
    steps = 64
    x = normal(generator, steps, rows)
    means = []
    for tau in (1, 4, 16, 64):
        keep, mean, rows_of = math.exp(-1 / tau), torch.zeros(rows), []
        for x_t in x:
            mean = keep * mean + math.sqrt(1 - keep * keep) * x_t
            rows_of.append(mean)
        means.append(torch.stack(rows_of))
    return x.unsqueeze(-1), torch.stack(means, -1)


def _seasonal(rows: int, generator: Generator, held_out: bool) -> Batch:
    """The next value of a season of twelve steps with two harmonics, a level and noise."""
    t = torch.arange(49.0).unsqueeze(-1)
    phase, second = (2 * math.pi * torch.rand(rows, generator=generator) for _ in range(2))
    wave = torch.sin(2 * math.pi * t / 12 + phase) + 0.6 * torch.sin(2 * math.pi * t / 6 + second)
    series = 0.3 * normal(generator, rows) + wave + 0.15 * normal(generator, 49, rows)
    return series[:-1].unsqueeze(-1), series[1:].unsqueeze(-1)


@lru_cache
def _hours() -> Tensor:
    """Bikes rented in every hour: the logarithm, standardised."""
    with bundled_path("bike_rentals").open(newline="") as file:
        values = torch.tensor([float(row["rentals"]) for row in csv.DictReader(file)]).log1p()
    return (values - values.mean()) / values.std()


@lru_cache
def _letters() -> Tensor:
    """Python's help as numbers of characters."""
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics)).lower()
    text = " ".join(part for part in text.split(" ") if part)
    return torch.tensor([ALPHABET.find(letter) % (len(ALPHABET) + 1) for letter in text[:200_000]])


def _windows(
    series: Tensor, steps: int, rows: int, generator: Generator, held_out: bool
) -> tuple[Tensor, Tensor]:
    """Windows of a series and what follows each step; the last fifth is held out."""
    border = len(series) * 4 // 5
    low, high = (border, len(series)) if held_out else (0, border)
    starts = torch.randint(low, high - steps, (rows, 1), generator=generator)
    taken = series[starts + torch.arange(steps + 1)]
    return taken[:, :-1], taken[:, 1:]


def _bikes(rows: int, generator: Generator, held_out: bool) -> Batch:
    """The next hour of real rentals."""
    x, y = _windows(_hours(), 48, rows, generator, held_out)
    return x.unsqueeze(-1), y.unsqueeze(-1)


def _characters(rows: int, generator: Generator, held_out: bool) -> Batch:
    """The next character of Python's help."""
    return _windows(_letters(), 40, rows, generator, held_out)


def _parity(rows: int, generator: Generator, held_out: bool) -> Batch:
    """Whether the ones so far are odd in number, at every step."""
    x = torch.randint(2, (20, rows), generator=generator)
    return x.unsqueeze(-1).float(), x.cumsum(0) % 2


def _permutations(rows: int, generator: Generator, held_out: bool) -> Batch:
    """Which of six orders three things are in, after swaps and turns, at every step."""
    steps = 16
    # an element of S3 is turn + 3·mirrored: a turn adds one, or takes one off behind a mirror
    moves = torch.randint(2, (steps, rows), generator=generator)
    turn, mirrored = torch.zeros(2, rows, dtype=torch.long)
    orders = []
    for move in moves:
        turn = torch.where(move == 0, (turn + 1 - 2 * mirrored) % 3, turn)
        mirrored = torch.where(move == 1, 1 - mirrored, mirrored)
        orders.append(turn + 3 * mirrored)
    return F.one_hot(moves, 2).float(), torch.stack(orders)


def _logistic(rows: int, generator: Generator, held_out: bool) -> Batch:
    """The logistic map in its chaotic range, centred."""
    value = torch.rand(rows, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    values = []
    for _ in range(150):
        value = 3.9 * value * (1 - value)
        values.append(value)
    series = (torch.stack(values[-49:]).float().unsqueeze(-1) - 0.59) * 3.4
    return series[:-1], series[1:]


def _henon(rows: int, generator: Generator, held_out: bool) -> Batch:
    """The Hénon map."""
    a, b = torch.rand(2, rows, generator=generator, dtype=torch.float64) * 0.2 - 0.1
    values = []
    for _ in range(150):
        a, b = 1 - 1.4 * a * a + b, 0.3 * a
        values.append(a)
    series = (torch.stack(values[-49:]).float().unsqueeze(-1) - 0.26) * 1.4
    return series[:-1], series[1:]


TASKS: dict[str, Task] = {
    "adding": Task(_adding, 2, 1, last=True, span=40, learning_rate=1e-2),
    "recall": Task(_recall, 5, 4, classes=True, last=True, span=40, learning_rate=1e-2),
    "echo": Task(_echo, 8, 8, last=True, span=20, learning_rate=1e-2),
    "memory_values": Task(_memory_values, 1, 8, hidden=32),
    "scales": Task(_scales, 1, 4),
    "seasonal": Task(_seasonal, 1, 1, persistent=True),
    "bikes": Task(_bikes, 1, 1, batch_first=True, persistent=True),
    "characters": Task(
        _characters, len(ALPHABET) + 1, len(ALPHABET) + 1, classes=True, batch_first=True, hidden=32
    ),
    "parity": Task(_parity, 1, 2, classes=True, learning_rate=1e-2),
    "permutations": Task(_permutations, 2, 6, classes=True, hidden=32),
    "logistic": Task(_logistic, 1, 1, persistent=True, horizon=40),
    "henon": Task(_henon, 1, 1, persistent=True, horizon=40),
}
"""Every task by its name."""


def number_of(*words: object) -> int:
    """A seed from words, the same in every process."""
    return zlib.crc32(" ".join(map(str, words)).encode())


def data(name: str, seed: int) -> tuple[list[Batch], list[Batch]]:
    """Batches for training and held-out ones, the same for the same seed."""
    task, generator = TASKS[name], Generator().manual_seed(number_of("data", name, seed))
    batches = [task.draw(task.rows, generator, False) for _ in range(task.batches)]
    return batches, [task.draw(32, generator, True) for _ in range(VALIDATION)]


def first_rows(name: str, batch: Batch, rows: int) -> Batch:
    """The first rows of a batch, as copies."""
    task, (x, y) = TASKS[name], batch
    if task.batch_first:
        return x[:rows].clone(), y[:rows].clone()
    return x[:, :rows].clone(), (y[:rows] if task.last else y[:, :rows]).clone()


def trivial_loss(name: str, seed: int) -> float:
    """Held-out loss of what needs no memory: the mean target, the frequencies, or the last input."""
    batches, held_out = data(name, seed)
    targets, truth = (
        torch.cat([y.flatten(0, -2) if y.is_floating_point() else y.flatten() for _, y in batches]),
        [],
    )
    for x, y in held_out:
        if TASKS[name].classes:
            counts = torch.bincount(targets, minlength=TASKS[name].outputs).float() + 1
            truth.append(F.cross_entropy(counts.log().expand(y.numel(), -1), y.flatten()).item())
        else:
            constant = F.mse_loss(targets.mean(0).expand_as(y), y).item()
            last = F.mse_loss(x, y).item() if TASKS[name].persistent else constant
            truth.append(min(constant, last))
    return sum(truth) / len(truth)
