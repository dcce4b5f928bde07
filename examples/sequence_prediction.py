"""Continue a sequence: two stacked GRUs learn the next value from a window, then predict far ahead.

    python examples/sequence_prediction.py [--seed 0] [--epochs 20] [--plot continuation.png]

The series is made here: two waves whose periods have no short common multiple, and noise. Its last part is
held out. The network trains on what comes before, one step ahead, and then predicts the whole held-out part
from its own predictions. The error stands beside two forecasts that need no training. Needs matplotlib for
``--plot``.
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

WINDOW = 64  # values the network sees before each prediction
LENGTH = 2000
VALIDATION, HELD_OUT = 200, 200  # the last values, in this order; all before them is for training


class SequencePredictor(nn.Module):
    """GRU(64) → GRU(32) → Linear(1): from a window ``[B, T]`` to the next value ``[B]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = gw.GRU(1, 64, batch_first=True)
        self.second = gw.GRU(64, 32, batch_first=True)
        self.head = nn.Linear(32, 1)

    def forward(self, windows: Tensor) -> Tensor:
        """Predict the value that follows each window."""
        hidden, _ = self.first(windows.unsqueeze(-1))
        hidden, _ = self.second(hidden)
        return self.head(hidden[:, -1]).squeeze(-1)


def make_series(length: int, seed: int) -> np.ndarray:
    """Two waves, of periods 24 and 24·φ ≈ 38.8, with noise."""
    t = np.arange(length)
    golden = (1 + math.sqrt(5)) / 2
    waves = 10 + 3 * np.sin(2 * np.pi * t / 24) + 2 * np.sin(2 * np.pi * t / (24 * golden))
    return waves + np.random.default_rng(seed).normal(0, 0.3, length)


def make_windows(values: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Every window ``[N, window]`` that has a value after it, and that value ``[N]``."""
    rows = values.unfold(0, window + 1, 1)
    return rows[:, :-1], rows[:, -1]


def train(model: nn.Module, training: Tensor, validation: Tensor, epochs: int) -> list[dict[str, float]]:
    """Adam on the mean squared error; the weights of the best validation epoch are kept.

    Args:
        model: maps windows to next values.
        training: ``[T]``, scaled.
        validation: ``[WINDOW + V]``, scaled; the values right after the training part, with the last window
            before them, so that every target is one of the V.
        epochs: passes over the training windows.

    Returns:
        One row an epoch.
    """
    windows, targets = make_windows(training, WINDOW)
    validation_windows, validation_targets = make_windows(validation, WINDOW)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    best, best_weights, history = math.inf, copy.deepcopy(model.state_dict()), []
    for epoch in range(1, epochs + 1):
        model.train()
        total = 0.0
        for rows in torch.randperm(len(windows)).split(64):
            loss = F.mse_loss(model(windows[rows]), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * len(rows)
        model.eval()
        with torch.no_grad():
            held_back = F.mse_loss(model(validation_windows), validation_targets).item()
        history.append({"epoch": epoch, "training": total / len(windows), "validation": held_back})
        if held_back < best:
            best, best_weights = held_back, copy.deepcopy(model.state_dict())
        print(f"epoch {epoch:3d}  training {total / len(windows):.4f}  validation {held_back:.4f}")
    model.load_state_dict(best_weights)
    return history


@torch.no_grad()
def continue_series(model: nn.Module, window: Tensor, steps: int) -> Tensor:
    """Predict ``steps`` values after a window ``[T]``; each prediction becomes part of the next window."""
    values = window.clone()
    for _ in range(steps):
        values = torch.cat([values, model(values[-len(window) :].unsqueeze(0))])
    return values[len(window) :]


def best_season(values: np.ndarray, longest: int) -> int:
    """The lag, from 2 to ``longest``, at which the values repeat themselves best."""
    return min(range(2, longest + 1), key=lambda lag: np.mean((values[lag:] - values[:-lag]) ** 2))


def plot(path: str, past: np.ndarray, truth: np.ndarray, forecasts: dict[str, np.ndarray]) -> None:
    """Draw the continuations over the truth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    ahead = np.arange(1, len(truth) + 1)
    axes.plot(np.arange(1 - len(past), 1), past, color="0.6", label="past")
    axes.plot(ahead, truth, color="0.2", label="truth")
    for (name, values), style in zip(forecasts.items(), ("-", "--", ":"), strict=True):
        axes.plot(ahead, values, style, label=name, linewidth=2 if style == "-" else 1)
    axes.axvline(0.5, color="0.6", linewidth=0.8)
    axes.set(xlabel="steps after the last known value", ylabel="value")
    axes.legend(loc="upper left", ncols=5, frameon=False)
    axes.margins(y=0.2)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train, continue the series, print the errors.

    Args:
        arguments: of the command line.

    Returns:
        The root mean squared error of every forecast over the held-out part, by name.
    """
    parser = argparse.ArgumentParser(description="Continue a sequence with stacked GRUs.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--plot", metavar="FILE", help="write a figure of the continuation")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)

    series = make_series(LENGTH, options.seed)
    training_end, known_end = LENGTH - VALIDATION - HELD_OUT, LENGTH - HELD_OUT
    mean, scale = series[:training_end].mean(), series[:training_end].std()  # of nothing later
    known = torch.tensor((series[:known_end] - mean) / scale, dtype=torch.float32)

    model = SequencePredictor()
    train(model, known[:training_end], known[training_end - WINDOW :], options.epochs)
    continued = continue_series(model, known[-WINDOW:], HELD_OUT).double().numpy() * scale + mean

    past, truth = series[:known_end], series[known_end:]
    season = best_season(series[:training_end], WINDOW)
    forecasts = {
        "GRU": continued,
        f"seasonal naive ({season})": np.resize(past[-season:], HELD_OUT),
        "last value": np.full(HELD_OUT, past[-1]),
    }
    errors = {name: float(np.sqrt(np.mean((f - truth) ** 2))) for name, f in forecasts.items()}
    print(f"\nroot mean squared error over the next {HELD_OUT} values (the noise alone is 0.3):")
    for name, error in errors.items():
        print(f"  {name:20s} {error:.3f}")
    if options.plot:
        plot(options.plot, past[-WINDOW:], truth, forecasts)
        print(f"wrote {options.plot}")
    return errors


if __name__ == "__main__":
    main()
