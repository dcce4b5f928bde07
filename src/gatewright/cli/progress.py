"""Training as it is seen on a terminal, and the interrupt key."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gatewright.cli.output import unimportant
from gatewright.training.loop import LoopOptions, Watcher


class TerminalWatcher(Watcher):
    """A progress bar with the losses and the time left; quiet when the console is not a terminal.

    The first interrupt asks training to stop after the current step; the second one ends the program.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet or not console.is_terminal
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._steps = 1
        self._interrupted = False
        self._previous: Any = None
        self._losses = ""

    def begin(self, epoch: int, options: LoopOptions) -> None:
        """Show the bar and watch for the interrupt key."""
        self._previous = signal.signal(signal.SIGINT, self._interrupt)
        self._steps = options.steps_per_epoch
        if self._quiet:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("left at most"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        total = options.max_epochs * options.steps_per_epoch
        self._task = self._bar.add_task("training", total=total, completed=epoch * self._steps, losses="")
        with unimportant():
            self._bar.start()

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Move the bar."""
        if self._bar is not None:
            with unimportant():
                self._bar.update(
                    self._task,
                    completed=(epoch - 1) * self._steps + step,
                    description=f"epoch {epoch}",
                    losses=f"loss {loss:.4f}{self._losses}",
                )

    def epoch(self, record: dict[str, float]) -> None:
        """Show the validation loss beside the training loss from now on."""
        self._losses = f", validation {record['validation_loss']:.4f}"

    def stop(self) -> bool:
        """Whether the interrupt key was pressed."""
        return self._interrupted

    def end(self) -> None:
        """Take the bar away and give the interrupt key back."""
        if self._bar is not None:
            with unimportant():
                self._bar.stop()
            self._bar = None
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        with unimportant():
            self._console.print("stopping after this step; interrupt again to stop at once", highlight=False)
