"""Whether a run fits into memory: refused before any work rather than killed by the system in the middle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gatewright.errors import InputError
from gatewright.tasks.forecast.network import ForecastNetwork, Shape

_REMEDY = "lower --hidden-sizes, --context or --batch-size"
_FLOAT = 4
_COPIES_OF_WEIGHTS = 6  # weights, gradients, Adam's two moments, the best so far, and what is being saved
_NUMBERS_A_STATE = 4  # an autograd graph keeps at least the gates beside the state
_ORIGINS = 8


def check_memory(shape: Shape, context: int, batch_size: int, rows: int) -> None:
    """Refuse a run that needs more memory than the machine has.

    Args:
        shape: of the network.
        context: ``W``.
        batch_size: ``B`` of a gradient step.
        rows: of all series, with room for a window before and a horizon behind each.

    Raises:
        InputError: the least that it needs is more than there is.
    """
    available = _physical_memory()
    if available is None:
        return
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in ForecastNetwork(shape).parameters())
    states = context * (shape.inputs + _NUMBERS_A_STATE * sum(shape.hidden_sizes))
    ahead = min(context, _ORIGINS) * shape.horizon * (shape.known + 2 * shape.anchors + len(shape.quantiles))
    numbers = _COPIES_OF_WEIGHTS * weights + batch_size * (states + ahead) + rows * shape.inputs
    if numbers * _FLOAT > available:
        message = f"the run needs at least {_size(numbers * _FLOAT)} of memory"
        raise InputError(f"{message}, this machine has {_size(available)}", _REMEDY)


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turn a lack of memory into an ``InputError`` that says what to do."""
    try:
        yield
    except MemoryError as error:
        raise InputError(f"not enough memory: {error}".removesuffix(": "), _REMEDY) from error
    except RuntimeError as error:
        # torch has no class of its own for it
        _, found, amount = str(error).partition("you tried to allocate ")
        if not found:
            raise
        message = f"not enough memory: {amount.splitlines()[0].rstrip('.')} more were needed"
        raise InputError(message, _REMEDY) from error


def _physical_memory() -> int | None:
    """Bytes, None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _size(count: int) -> str:
    return f"{count / 1e12:,.1f} TB" if count >= 1e12 else f"{count / 1e9:,.1f} GB"
