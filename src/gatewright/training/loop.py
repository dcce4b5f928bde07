"""The training loop: Adam, clipping, early stopping, best weights kept, interruptible and resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from gatewright.errors import InputError
from gatewright.training.checkpoint import (
    Checkpoint,
    Progress,
    copy_weights,
    load_checkpoint,
    save_checkpoint,
)

Status = Literal["finished", "stopped early", "interrupted", "diverged"]


@dataclass(frozen=True)
class LoopOptions:
    """How to train.

    Attributes:
        max_epochs: epochs at most.
        steps_per_epoch: gradient steps between two validations.
        learning_rate: of Adam; halved after ``patience // 3`` epochs without improvement.
        gradient_clip: largest norm of the whole gradient (Pascanu et al. 2013, arXiv:1211.5063).
        patience: epochs without improvement after which training stops.
    """

    max_epochs: int
    steps_per_epoch: int
    learning_rate: float
    gradient_clip: float
    patience: int


class Objective(Protocol):
    """What is trained; the losses must depend on their arguments and torch's generator alone."""

    @property
    def network(self) -> nn.Module:
        """The network."""
        ...

    def training_loss(self, epoch: int, step: int) -> Tensor:
        """Loss of one batch."""
        ...

    def validation_loss(self) -> float:
        """Loss by which epochs are compared."""
        ...


class Watcher:
    """Follows training; the base class does nothing. ``stop`` is asked after every step."""

    def begin(self, epoch: int, options: LoopOptions) -> None:
        """Training begins, or goes on, after so many epochs."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """A gradient step is done; both are counted from 1."""

    def epoch(self, record: dict[str, float]) -> None:
        """An epoch is done."""

    def stop(self) -> bool:
        """Whether to stop after this step."""
        return False

    def end(self) -> None:
        """Training is over, whatever the reason."""


@dataclass(frozen=True)
class Outcome:
    """What training came to: the network holds the best weights."""

    status: Status
    progress: Progress


class _Training:
    """The state of one run of the loop."""

    def __init__(self, objective: Objective, options: LoopOptions, fingerprint: str) -> None:
        self.objective, self.options, self.fingerprint = objective, options, fingerprint
        self.network = objective.network
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=options.learning_rate)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=0.5, patience=max(options.patience // 3, 1)
        )
        self.progress = Progress()
        self.best = copy_weights(self.network)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(
            self.progress,
            copy_weights(self.network),
            self.best,
            self.optimizer.state_dict(),
            self.scheduler.state_dict(),
            torch.get_rng_state(),
            self.fingerprint,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        self.progress = checkpoint.progress
        self.network.load_state_dict(checkpoint.weights)
        self.best = checkpoint.best_weights
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.scheduler.load_state_dict(checkpoint.scheduler)
        torch.set_rng_state(checkpoint.random_state)

    def finished(self) -> Status | None:
        """Why training is over, or None."""
        if self.progress.epoch - self.progress.best_epoch >= self.options.patience:
            return "stopped early"
        return "finished" if self.progress.epoch >= self.options.max_epochs else None

    def gradient_step(self, epoch: int, step: int) -> tuple[float, float]:
        """Loss and gradient norm of one step; the weights stay as they are where either is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective.training_loss(epoch, step)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.options.gradient_clip).item()
        if math.isfinite(norm) and math.isfinite(loss.item()):
            self.optimizer.step()
        return loss.item(), norm

    def end_epoch(self, losses: list[float], norms: list[float]) -> dict[str, float]:
        """Validate, keep the weights if they are the best, and record."""
        self.network.eval()
        with torch.no_grad():
            validation = self.objective.validation_loss()
        progress = self.progress
        progress.epoch += 1
        if validation < progress.best_loss:
            progress.best_epoch, progress.best_loss = progress.epoch, validation
            self.best = copy_weights(self.network)
        record = {
            "epoch": progress.epoch,
            "train_loss": sum(losses) / len(losses),
            "validation_loss": validation,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": sum(norms) / len(norms),
        }
        progress.history.append(record)
        self.scheduler.step(validation)
        return record


def train(
    objective: Objective,
    options: LoopOptions,
    *,
    watcher: Watcher | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    fingerprint: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Train a network and leave its best weights in it.

    Before the first epoch and after every one the whole state goes to the checkpoint. A run that is resumed
    from there ends with the same weights, bit for bit, as one that was never broken: an interrupted epoch
    is done again.

    Args:
        objective: the network and its losses.
        options: how to train.
        watcher: is told of every step, and may ask to stop.
        checkpoint: file of the state between two epochs; None keeps none.
        resume: go on from the checkpoint where there is one.
        fingerprint: identifies settings and data in the checkpoint.
        clock: seconds, for the time spent.

    Returns:
        How it ended, and the history.

    Raises:
        InputError: no epoch ended with a finite loss, or the checkpoint does not fit.
    """
    watcher = watcher or Watcher()
    training = _Training(objective, options, fingerprint)
    if resume and checkpoint is not None and checkpoint.exists():
        training.restore(load_checkpoint(checkpoint, fingerprint))
    elif checkpoint is not None:
        save_checkpoint(checkpoint, training.checkpoint())
    before, began = training.progress.seconds, clock()
    watcher.begin(training.progress.epoch, options)
    try:
        status = training.finished()
        while status is None:
            status = _epoch(training, watcher)
            if status is None:
                training.progress.seconds = before + clock() - began
                if checkpoint is not None:
                    save_checkpoint(checkpoint, training.checkpoint())
                status = training.finished()
    finally:
        watcher.end()
    training.progress.seconds = before + clock() - began
    if training.progress.best_epoch:
        training.network.load_state_dict(training.best)
    elif status == "diverged":
        if checkpoint is not None:
            checkpoint.unlink(missing_ok=True)
        hint = "lower the learning rate (--learning-rate), or look for extreme values in the table"
        raise InputError("training diverged: no epoch ended with a finite loss", hint)
    training.network.eval()
    return Outcome(status, training.progress)


def _epoch(training: _Training, watcher: Watcher) -> Status | None:
    """One epoch; a status when training cannot go on."""
    training.network.train()
    losses: list[float] = []
    norms: list[float] = []
    epoch = training.progress.epoch + 1
    for step in range(1, training.options.steps_per_epoch + 1):
        loss, norm = training.gradient_step(epoch, step)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "diverged"
        losses.append(loss)
        norms.append(norm)
        watcher.step(epoch, step, loss)
        if watcher.stop():
            return "interrupted"
    record = training.end_epoch(losses, norms)
    if not math.isfinite(record["validation_loss"]):
        return "diverged"
    watcher.epoch(record)
    return None
