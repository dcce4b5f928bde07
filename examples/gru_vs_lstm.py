"""GRU against LSTM on real data: gates, parameters, time and accuracy, as a table.

    python examples/gru_vs_lstm.py [--epochs 6] [--seeds 3]

The task: bike rentals of the next hour from those of the last 48, Washington, D.C., 2011. The last fifth of
the year is held out; scaling is fitted to what comes before. Needs gatewright[app] for reading the table.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gatewright as gw
from gatewright.data.bundled import bundled_path
from gatewright.data.tables import make_panel, read_table

WINDOW, HIDDEN, BATCH = 48, 32, 64
CELLS = ("gru", "gru_reset_before", "lstm", "rnn_tanh")


@dataclass(frozen=True)
class Task:
    """Windows ``[N, WINDOW]`` and the value after each ``[N]``, scaled; ``scale`` gives back the units."""

    training: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    scale: float


@dataclass(frozen=True)
class Row:
    """What was measured of one cell."""

    cell: str
    gates: int
    parameters: int
    seconds_per_epoch: float
    errors: tuple[float, ...]


def make_task(hours: int | None = None) -> Task:
    """Cut the bundled series into windows without a missing value, split in time order."""
    values = make_panel(read_table(bundled_path()), target="rentals", time="time").series[0].values[:hours]
    split = len(values) * 4 // 5
    mean, scale = np.nanmean(values[:split]), np.nanstd(values[:split])
    rows = torch.tensor((values - mean) / scale, dtype=torch.float32).unfold(0, WINDOW + 1, 1)
    complete = rows.isfinite().all(-1)
    # a row belongs to the training part only if its target does too
    before = torch.arange(len(rows)) + WINDOW < split
    training, held_out = rows[complete & before], rows[complete & ~before]
    return Task((training[:, :-1], training[:, -1]), (held_out[:, :-1], held_out[:, -1]), float(scale))


class NextValue(nn.Module):
    """One recurrent layer of a cell and a linear readout of its last output."""

    def __init__(self, cell: str) -> None:
        super().__init__()
        self.layer = gw.Recurrent(cell, 1, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Predict the value after each window ``[N, WINDOW]``."""
        outputs, _ = self.layer(windows.unsqueeze(-1))
        return self.head(outputs[:, -1]).squeeze(-1)


def train(cell: str, task: Task, epochs: int, seed: int) -> tuple[float, float]:
    """Train with Adam; mean absolute error on the held-out part in rentals, and seconds an epoch."""
    torch.manual_seed(seed)
    model = NextValue(cell)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    windows, targets = task.training
    began = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(len(windows)).split(BATCH):
            loss = F.mse_loss(model(windows[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    seconds = (time.perf_counter() - began) / epochs
    with torch.no_grad():
        error = (model(task.held_out[0]) - task.held_out[1]).abs().mean().item() * task.scale
    return error, seconds


def measure(cell: str, task: Task, epochs: int, seeds: int) -> Row:
    """Train one cell with several seeds."""
    runs = [train(cell, task, epochs, seed) for seed in range(seeds)]
    layer = gw.Recurrent(cell, 1, HIDDEN)
    return Row(
        cell=cell,
        gates=len(layer.cell.graph.input_maps),
        parameters=sum(p.numel() for p in layer.parameters()),
        seconds_per_epoch=float(np.median([seconds for _, seconds in runs])),
        errors=tuple(error for error, _ in runs),
    )


def naive_errors(task: Task) -> dict[str, float]:
    """Mean absolute errors in rentals of the last value, and of the value a day before the target."""
    windows, targets = task.held_out
    return {
        "last value": (windows[:, -1] - targets).abs().mean().item() * task.scale,
        "a day ago": (windows[:, -24] - targets).abs().mean().item() * task.scale,
    }


def main(arguments: list[str] | None = None) -> list[Row]:
    """Measure every cell and print the table.

    Args:
        arguments: of the command line; None for the program's own.

    Returns:
        The rows of the table.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hours", type=int, help="use only so many hours of the year")
    options = parser.parse_args(arguments)
    task = make_task(options.hours)
    print(f"{'cell':<18}{'maps':>5}{'parameters':>12}{'s/epoch':>9}{'error (rentals)':>18}")
    rows = []
    for cell in CELLS:
        row = measure(cell, task, options.epochs, options.seeds)
        rows.append(row)
        error = f"{np.mean(row.errors):.2f} ± {np.std(row.errors):.2f}"
        print(f"{cell:<18}{row.gates:>5}{row.parameters:>12,}{row.seconds_per_epoch:>9.2f}{error:>18}")
    for name, error in naive_errors(task).items():
        print(f"{name:<18}{'':>5}{'':>12}{'':>9}{error:>18.2f}")
    return rows


if __name__ == "__main__":
    main()
