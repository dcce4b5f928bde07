"""Whether the tensors of a call are what a kernel may read."""

from __future__ import annotations

import torch

from gatewright.backends import heads
from gatewright.backends.call import Call

_PLAIN = (torch.Tensor, torch.nn.Parameter)

_NAMES = ("x", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def misfit(call: Call, compiling: bool = False) -> str | None:
    """What a kernel could not read as memory of the right size: it would not notice.

    Args:
        call: what is to run.
        compiling: whether torch traces, so that tensors only stand for others.

    Returns:
        A sentence that names the tensor, or None.
    """
    x, weights = call.x, call.weights
    device = x.device
    tensors = call.tensors()
    shapes = _shapes(call)
    if len(tensors) != len(shapes):
        expected, received = len(call.cell.graph.masks), len(call.masks)
        return f"expected {expected} masks as the cell's graph has, received {received}"
    for place, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        if tensor is None:
            continue
        plain = (compiling or type(tensor) in _PLAIN) and tensor.layout is torch.strided
        if plain and tensor.shape == shape and tensor.dtype is x.dtype and tensor.device == device:
            continue
        name = [
            *_NAMES,
            *(f"vector_{v}" for v in weights.vectors),
            *(f"state {s}" for s in call.cell.graph.states),
            *(f"mask {m}" for _, m in call.cell.graph.masks),
        ]
        if not plain:
            kind = f"{type(tensor).__name__}, {tensor.layout}"
            return f"its kernels read plain tensors, {name[place]} is a {kind}"
        received = f"{list(tensor.shape)} of {tensor.dtype} on {tensor.device}"
        return f"expected {name[place]} as {list(shape)} of {x.dtype} on {device}, received {received}"
    return None


def _shapes(call: Call) -> list[tuple[int, ...]]:
    """The shape that each tensor of a call should have, as its first weight and its input have it."""
    graph, weights, x = call.cell.graph, call.weights, call.x
    inputs, features = weights.weight_ih.shape[0], x.shape[2]
    hidden = inputs // len(graph.input_maps)
    inputs, recurrent = len(graph.input_maps) * hidden, len(graph.recurrent_maps) * hidden
    width = hidden if weights.weight_hr is None else weights.weight_hr.shape[0]
    shapes: list[tuple[int, ...]] = [
        x.shape, (inputs, features), (recurrent, width // heads.count(call)), (inputs,), (recurrent,),
        (width, hidden),
    ]  # fmt: skip
    shapes += [(hidden,)] * len(weights.vectors)
    shapes += [(x.shape[1], width if state == graph.output else hidden) for state in graph.states]
    if not graph.masks:
        return shapes
    steps, batch = x.shape[:2]
    of_mask = {"row_mask": (steps, batch), "unit_mask": (batch, hidden), "step_mask": (steps, batch, hidden)}
    return shapes + [of_mask[kind] for kind, _ in graph.masks]
