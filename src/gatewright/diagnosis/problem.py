"""What is to be diagnosed: a model, its batches, its loss, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Loss = Callable[[nn.Module, Any], Tensor]
"""From a model and a batch to the scalar that is minimised; it must run the model it is given."""


@dataclass(frozen=True)
class Problem:
    """A model that is trained on batches.

    Attributes:
        model: holds recurrent layers; never changed, work is done on copies.
        batches: for training.
        loss: of a batch.
        validation: held out; never trained on.
        learning_rate: of Adam, as the model is trained.
        gradient_clip: largest norm of the whole gradient; None for no clipping.
        weight_decay: of AdamW; 0 is Adam.
        seed: of everything that is drawn.
    """

    model: nn.Module
    batches: Sequence[Any]
    loss: Loss
    validation: Sequence[Any] = field(default=())
    learning_rate: float = 1e-3
    gradient_clip: float | None = None
    weight_decay: float = 0.0
    seed: int = 0
