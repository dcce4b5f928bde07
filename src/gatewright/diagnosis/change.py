"""What a remedy changes: the model, or how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import nn

from gatewright.reports.diagnosis_contents import Remedy


def _unchanged(model: nn.Module) -> nn.Module:
    return model


@dataclass(frozen=True)
class Change:
    """A remedy as a trial applies it.

    Attributes:
        remedy: what it is to the reader.
        apply: changes a copy of the model and returns it; draws from torch's generator.
        learning_rate: in place of the problem's; None leaves it.
        gradient_clip: in place of the problem's; None leaves it.
        weight_decay: in place of the problem's; None leaves it.
        batches_per_step: gradients of so many batches are averaged before a step.
        skip_non_finite: leave out steps whose loss or gradient is not finite.
        around: makes a context around the training of a model, such as one that lets gradients pass cuts.
    """

    remedy: Remedy
    apply: Callable[[nn.Module], nn.Module] = _unchanged
    learning_rate: float | None = None
    gradient_clip: float | None = None
    weight_decay: float | None = None
    batches_per_step: int = 1
    skip_non_finite: bool = False
    around: Callable[[nn.Module], AbstractContextManager[object]] = lambda model: nullcontext()
