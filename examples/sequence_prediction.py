"""Continue a sequence: two stacked GRUs learn the next value from a window, then predict far ahead.

    python examples/sequence_prediction.py [--seed 0] [--epochs 15] [--plot continuation.png]

The series is made here: two waves whose periods have no common multiple, and noise. Its end is held out. The
network trains one step ahead on what comes before, then predicts the whole held-out end from its own
predictions; the error stands beside two forecasts that need no training. ``--plot`` needs matplotlib.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gatewright as gw

LENGTH = 2000
VALIDATION, HELD_OUT = 200, 200  # the last values, in this order; all before them is for training
SEASON = 24  # period of the stronger wave
WINDOW = 72  # values the network sees before a prediction
WARM_UP = 24  # the first predictions of a window have seen too little to be asked for


class SequencePredictor(nn.Module):
    """GRU(64) → GRU(32) → Linear(1): after each value of a window ``[B, T]``, the next one ``[B, T]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = gw.GRU(1, 64, batch_first=True)
        self.second = gw.GRU(64, 32, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Predict the value after every position; the last column is what follows the window."""
        hidden, _ = self.first(windows.unsqueeze(-1))
        hidden, _ = self.second(hidden)
        return self.head(hidden).squeeze(-1)


def make_series(length: int, seed: int) -> np.ndarray:
    """Two waves, of periods 24 and 24·φ² ≈ 62.8, with noise of standard deviation 0.2."""
    t = np.arange(length)
    slow = SEASON * ((1 + math.sqrt(5)) / 2) ** 2
    waves = 10 + 3 * np.sin(2 * np.pi * t / SEASON) + 1.5 * np.sin(2 * np.pi * t / slow)
    return waves + np.random.default_rng(seed).normal(0, 0.2, length)


def make_windows(values: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Every window ``[N, window]`` with a value after it, and its targets: the same, one step later."""
    rows = values.unfold(0, window + 1, 1)
    return rows[:, :-1], rows[:, 1:]


def train(model: nn.Module, training: Tensor, validation: Tensor, epochs: int) -> list[dict[str, float]]:
    """Adam on the mean squared error; the weights of the best validation epoch are kept.

    Args:
        model: maps windows to the next values.
        training: ``[T]``, scaled.
        validation: ``[WINDOW + V]``, scaled: the V values after the training part, and the window before.
        epochs: passes over the training windows.

    Returns:
        One row an epoch.
    """
    windows, targets = make_windows(training, WINDOW)
    validation_windows, validation_targets = make_windows(validation, WINDOW)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    best, best_weights, history = math.inf, copy.deepcopy(model.state_dict()), []
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(windows)).split(32):
            # errors at many positions, not only the last, are what makes the waves' phase precise
            loss = F.mse_loss(model(windows[rows])[:, WARM_UP:], targets[rows, WARM_UP:])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * len(rows)
        schedule.step()
        with torch.no_grad():  # the last position only: the others are targets of the training part
            held_back = F.mse_loss(model(validation_windows)[:, -1], validation_targets[:, -1]).item()
        history.append({"epoch": epoch, "training": total / len(windows), "validation": held_back})
        if held_back < best:
            best, best_weights = held_back, copy.deepcopy(model.state_dict())
        print(
            f"epoch {epoch:3d}  training {total / len(windows):.4f}  validation {held_back:.4f}", flush=True
        )
    model.load_state_dict(best_weights)
    return history


@torch.no_grad()
def continue_series(model: nn.Module, window: Tensor, steps: int) -> Tensor:
    """Predict ``steps`` values after a window ``[T]``; each prediction becomes part of the next window."""
    values = window.clone()
    for _ in range(steps):
        values = torch.cat([values, model(values[-len(window) :].unsqueeze(0))[:, -1]])
    return values[len(window) :]


def plot(path: str, past: np.ndarray, truth: np.ndarray, forecasts: dict[str, np.ndarray]) -> None:
    """Draw the continuations over the truth."""
    from matplotlib.figure import Figure  # here, because only --plot needs it

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    ahead = np.arange(1, len(truth) + 1)
    axes.plot(np.arange(1 - len(past), 1), past, color="0.7", label="past")
    axes.plot(ahead, truth, color="0.2", linewidth=1, label="truth")
    for (name, values), style in zip(forecasts.items(), ("-", "--", ":"), strict=True):
        axes.plot(ahead, values, style, label=name, linewidth=2 if style == "-" else 1)
    axes.axvline(0.5, color="0.7", linewidth=0.8)
    axes.set(xlabel="steps after the last known value", ylabel="value")
    axes.margins(y=0.2)  # room for the legend
    axes.legend(loc="upper left", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Train, continue the series, print the errors.

    Args:
        arguments: of the command line.

    Returns:
        The training history, and the root mean squared error of every forecast by name.
    """
    parser = argparse.ArgumentParser(description="Continue a sequence with stacked GRUs.")
    parser.add_argument("--seed", type=int, default=0, help="of the noise and of the network")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--plot", metavar="FILE", help="write a figure of the continuation")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    series = make_series(LENGTH, options.seed)
    training_end, known_end = LENGTH - VALIDATION - HELD_OUT, LENGTH - HELD_OUT
    mean, scale = series[:training_end].mean(), series[:training_end].std()  # of the training part alone
    known = torch.tensor((series[:known_end] - mean) / scale, dtype=torch.float32)

    model = SequencePredictor()
    history = train(model, known[:training_end], known[training_end - WINDOW :], options.epochs)
    continuation = continue_series(model, known[-WINDOW:], HELD_OUT).double().numpy() * scale + mean

    past, truth = series[:known_end], series[known_end:]
    forecasts = {
        "GRU": continuation,
        "seasonal naive": np.resize(past[-SEASON:], HELD_OUT),  # the last season, again and again
        "last value": np.full(HELD_OUT, past[-1]),
    }
    errors = {name: float(np.sqrt(np.mean((f - truth) ** 2))) for name, f in forecasts.items()}
    print(f"\nRoot mean squared error over the next {HELD_OUT} values (the noise alone has 0.2):")
    for name, error in errors.items():
        print(f"  {name:15s} {error:.3f}")
    if options.plot:
        plot(options.plot, past[-WINDOW:], truth, forecasts)
        print(f"Wrote {options.plot}")
    return history, errors


if __name__ == "__main__":
    main()
