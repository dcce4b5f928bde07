"""The state of a training run on disk: enough to go on as if nothing had happened."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gatewright.errors import InputError
from gatewright.files import read_tensors, write_tensors

_FORMAT = 1


@dataclass
class Progress:
    """How far training is.

    Attributes:
        epoch: finished epochs.
        best_epoch: the epoch with the lowest validation loss, counted from 1; 0 before the first.
        best_loss: that loss.
        seconds: spent training, over all parts of a run.
        history: one record an epoch: ``epoch``, ``train_loss``, ``validation_loss``, ``learning_rate``,
            ``gradient_norm``.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Checkpoint:
    """A training run between two epochs.

    Attributes:
        progress: how far it is.
        weights: the network's current state.
        best_weights: the state at the best epoch.
        optimizer: the optimizer's ``state_dict``.
        scheduler: the scheduler's ``state_dict``.
        random_state: of torch's generator.
        fingerprint: identifies settings and data; a run goes on only with the same.
    """

    progress: Progress
    weights: dict[str, Tensor]
    best_weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    random_state: Tensor
    fingerprint: str


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's state."""
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint whole.

    Args:
        path: of the file.
        checkpoint: what to write.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    tensors = {"random_state": checkpoint.random_state}
    tensors |= {f"weights.{name}": tensor for name, tensor in checkpoint.weights.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in checkpoint.best_weights.items()}
    for index, entries in checkpoint.optimizer["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in entries.items()}
    description = {
        "format": _FORMAT,
        "fingerprint": checkpoint.fingerprint,
        "progress": _without_infinity(asdict(checkpoint.progress)),
        "groups": checkpoint.optimizer["param_groups"],
        "scheduler": _without_infinity(checkpoint.scheduler),
    }
    write_tensors(path, tensors, description)


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint:
    """Read a checkpoint of the same settings and data.

    Args:
        path: of the file.
        fingerprint: of the settings and data at hand.

    Returns:
        The checkpoint.

    Raises:
        InputError: the file is missing or damaged, of another version, or of other settings or data.
    """
    tensors, description = read_tensors(path)
    if description.get("format") != _FORMAT:
        hint = "resume with the version that began the run, or start again with --overwrite"
        raise InputError(f"{path} has format {description.get('format')}, this version reads {_FORMAT}", hint)
    if description.get("fingerprint") != fingerprint:
        hint = "give the same table and settings, or start again with --overwrite"
        raise InputError(f"{path} belongs to other data or other settings", hint)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, entry = name.split(".", 2)
            state.setdefault(int(index), {})[entry] = tensor
    return Checkpoint(
        progress=Progress(**_with_infinity(description["progress"])),
        weights=_part(tensors, "weights."),
        best_weights=_part(tensors, "best."),
        optimizer={"state": state, "param_groups": description["groups"]},
        scheduler=_with_infinity(description["scheduler"]),
        random_state=tensors["random_state"],
        fingerprint=fingerprint,
    )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _without_infinity(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity."""
    return {key: "inf" if value == float("inf") else value for key, value in values.items()}


def _with_infinity(values: dict[str, Any]) -> dict[str, Any]:
    return {key: float("inf") if value == "inf" else value for key, value in values.items()}
