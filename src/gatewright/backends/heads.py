"""Block-diagonal recurrent weights: a layer of several heads, each a cell of its own on part of the units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gatewright.backends.call import Call, Result, Weights


def count(call: Call) -> int:
    """The heads of a call: how often the columns of ``weight_hh`` go into the hidden units."""
    weights = call.weights
    if weights.weight_hh is None or weights.weight_hr is not None:
        return 1
    if weights.weight_hh.shape[1] == call.states[0].shape[-1]:
        return 1
    hidden = weights.weight_ih.shape[0] // len(call.cell.graph.input_maps)
    return fit(hidden, weights.weight_hh.shape[1])


def fit(hidden: int, width: int) -> int:
    """How often a width goes into the hidden units; once where it does not."""
    return hidden // width if hidden and width and hidden % width == 0 else 1


def apart(call: Call, run: Callable[[Call], Result]) -> Result:
    """Run each head as a call of its own, whose results stand side by side.

    A head reads the whole input and its own part of everything else; a mean over ``H`` is one over its part.

    Args:
        call: with heads or without.
        run: runs a call without heads.

    Returns:
        What the call gives.
    """
    heads = count(call)
    if heads == 1:
        return run(call)
    outputs, finals = zip(*(run(part(call, head)) for head in range(heads)), strict=True)
    states = zip(*finals, strict=True)
    return torch.cat(outputs, -1), tuple(torch.cat(parts, -1) for parts in states)


def dense(call: Call) -> Call:
    """The same call with zeros between the blocks; a mean over ``H`` would no longer be one of a head."""
    weight, heads = call.weights.weight_hh, count(call)
    assert weight is not None
    blocks = weight.unflatten(0, (len(call.cell.graph.recurrent_maps), heads, -1)).unsqueeze(3)
    spread = torch.eye(heads, dtype=weight.dtype, device=weight.device).view(1, heads, 1, heads, 1)
    whole = (blocks * spread).flatten(3).flatten(0, 2)
    return replace(call, weights=replace(call.weights, weight_hh=whole))


def part(call: Call, head: int) -> Call:
    """The call of one head."""
    weights, graph, heads = call.weights, call.cell.graph, count(call)

    def rows(tensor: Tensor | None, maps: int) -> Tensor | None:
        """The head's rows of every map."""
        if tensor is None:
            return None
        split = tensor.unflatten(0, (maps, heads, -1))
        return split[:, head].flatten(0, 1)

    def units(tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (heads, -1))[..., head, :].contiguous()

    inputs, recurrent = len(graph.input_maps), len(graph.recurrent_maps)
    weight_ih, bias_ih = rows(weights.weight_ih, inputs), rows(weights.bias_ih, inputs)
    assert weight_ih is not None
    kinds = (kind for kind, _ in graph.masks)
    return replace(
        call,
        weights=Weights(
            weight_ih,
            rows(weights.weight_hh, recurrent),
            bias_ih,
            rows(weights.bias_hh, recurrent),
            vectors={name: units(vector) for name, vector in weights.vectors.items()},
        ),
        states=tuple(units(state) for state in call.states),
        masks=tuple(m if kind == "row_mask" else units(m) for kind, m in zip(kinds, call.masks, strict=True)),
    )
