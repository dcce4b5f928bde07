"""Tensors as arguments of a kernel: addresses and strides at their places in its array of words."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from torch import Tensor

from gatewright.backends.sequence import Operands
from gatewright.compiler.graph import Graph
from gatewright.compiler.schedule import Schedule

WEIGHTS = ("w_ih", "w_hh", "b_ih", "b_hh", "w_hr")


def history_names(graph: Graph) -> list[str]:
    """The arguments that are all values of the states that are no output."""
    return [f"history_{i}" for i, state in enumerate(graph.states) if state != graph.output]


def set_kept(words: array[int], place: dict[str, int], plan: Schedule, kept: Sequence[Tensor]) -> None:
    """What a forward pass keeps, as arguments of a kernel."""
    histories = list(kept)
    if plan.saved:
        words[place["saved"]] = histories.pop(0).data_ptr()
    for name, history in zip([*history_names(plan.graph), "hidden"], histories, strict=False):
        words[place[name]] = history.data_ptr()


def set_sequence(words: array[int], place: dict[str, int], name: str, tensor: Tensor, reverse: bool) -> None:
    """A sequence ``[T, B, ·]`` as pointer and strides, beginning with the step that is run first."""
    step, row = tensor.stride()[:2]
    pointer = tensor.data_ptr()
    if reverse:
        pointer += step * (tensor.shape[0] - 1) * tensor.element_size()
        step = -step
    words[place[name]] = pointer
    words[place[f"{name}_step"]] = step
    if f"{name}_row" in place:
        words[place[f"{name}_row"]] = row


def set_weights(words: array[int], place: dict[str, int], operands: Operands) -> None:
    """Weights and vector weights as arguments of a forward kernel."""
    for name, weight in zip(WEIGHTS, operands.weights, strict=True):
        words[place[name]] = weight.data_ptr()
    for number, vector in enumerate(operands.vectors):
        words[place[f"vector_{number}"]] = vector.data_ptr()


def set_masks(
    words: array[int], place: dict[str, int], plan: Schedule, masks: Sequence[Tensor], reverse: bool
) -> None:
    """Masks as arguments of a kernel."""
    for number, ((kind, _), mask) in enumerate(zip(plan.graph.masks, masks, strict=True)):
        set_sequence(words, place, f"mask_{number}", mask, reverse and kind != "unit_mask")
