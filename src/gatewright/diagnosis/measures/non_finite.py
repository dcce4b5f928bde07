"""Where the first number that is not finite arises: batch, layer, step, operation.

Every batch is evaluated; in one whose loss is not finite the twin's traces are searched in the order in
which they were run, the input first, then the nodes of the cell's graph. Costs one evaluation a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.tokens import Tokens
from gatewright.diagnosis.twin import Recording, Twin, check_loss


def non_finite(fast: nn.Module, twin: Twin, problem: Problem) -> Measured:
    """Look for numbers that are not finite.

    Args:
        fast: a fast copy of the model.
        twin: of the model.
        problem: as given.

    Returns:
        ``bad_batches`` (how many have a loss that is not finite) and a note that says where.
    """
    result = Measured()
    losses = []
    with torch.no_grad():
        for batch in problem.batches:
            value = problem.loss(fast, batch)
            check_loss(value)
            losses.append(float(value))
        held_out = [bool(torch.isfinite(problem.loss(fast, batch)).all()) for batch in problem.validation]
    if not all(held_out):
        result.notes.append(f"held-out batch {held_out.index(False)}: its loss is not finite")
    result.add("bad_held_out", held_out.count(False), "held-out batches whose loss is not finite")
    bad = [index for index, value in enumerate(losses) if not math.isfinite(value)]
    sizes = sorted(abs(value) for value in losses if math.isfinite(value))
    if sizes and sizes[len(sizes) // 2] > 0:
        outlier = sizes[-1] / sizes[len(sizes) // 2]
        result.add(
            "loss_outlier", outlier, "largest loss of a batch over the median one, as the model was given"
        )
    result.add("bad_batches", len(bad), "batches whose loss is not finite")
    spoilt = [index for index, batch in enumerate(problem.batches) if not finite(batch)]
    result.add("bad_inputs", len(spoilt), "batches that hold numbers that are not finite")
    if spoilt and not bad:
        result.notes.append(
            f"batch {spoilt[0]} holds numbers that are not finite, and yet its loss is finite"
        )
    if bad:
        twin.forget()
        with torch.no_grad():
            recording = twin.run(problem.loss, problem.batches[bad[0]])
        layer, text = locate(recording)
        result.layers["bad_batches"] = layer
        result.notes.append(f"batch {bad[0]}: {text}")
        twin.forget()
    return result


def finite(value: Any) -> bool:
    """Whether all tensors of a batch are finite."""
    return all(bool(torch.isfinite(t).all()) for t in tensors_in(value) if t.is_floating_point())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a batch of any shape.

    Args:
        value: tensors, sequences, mappings or objects that hold some.

    Yields:
        Each tensor.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def locate(recording: Recording) -> tuple[str, str]:
    """Where the first number that is not finite stands.

    Args:
        recording: of a loss that is not finite.

    Returns:
        The layer (empty where it is none of them), and a sentence.
    """
    for trace in recording.traces:
        given = torch.isfinite(trace.call.x).all(-1)
        if not bool(given.all()):
            step, row = (int(i) for i in torch.nonzero(~given)[0])
            return trace.chain, f"the input of {trace.chain} is not finite at step {step} of row {row}"
        if not all(bool(torch.isfinite(s).all()) for step in trace.states for s in step):
            return trace.chain, _operation(trace.chain, Tokens(trace))
    return "", "every recurrent layer is finite; the loss or what stands behind the layers is not"


def _operation(chain: str, tokens: Tokens) -> str:
    """The step and the operation of the cell at which a number stops being finite."""
    with torch.no_grad():
        values = tokens.values(tokens.previous)
    first: tuple[int, int] | None = None
    for node, value in enumerate(values):
        if value.dim() < 2 or len(value) != len(tokens.maps):
            continue
        wrong = torch.nonzero(~torch.isfinite(value).all(-1))
        if len(wrong):
            place = int(wrong[0]) // tokens.batch
            if first is None or place < first[0]:
                first = place, node
    if first is None:
        return f"the states of {chain} are not finite"
    node = tokens.graph.nodes[first[1]]
    what = f"{node.operation} {node.name}".strip()
    return f"{chain}: the first number that is not finite comes from '{what}' at step {first[0]}"
