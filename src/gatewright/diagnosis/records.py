"""What is kept of each batch that the twin ran: small enough to hold many batches at once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from gatewright.diagnosis.gradients import Gradients, gradients_of
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.twin import Recording, Trace, Twin
from gatewright.errors import InputError
from gatewright.layers.recurrent import Recurrent

_PLACES = 4
"""Steps of a row whose rest error is compared with inputs and state."""


@dataclass(eq=False)
class BatchRecord:
    """One batch.

    Attributes:
        loss: its value.
        by_lag: chain → ``[K]`` mean ‖∂ℓ_s/∂h_{s−k}‖ over rows and origins s; NaN where no row reaches so far.
        by_step: chain → ``[T]`` mean ‖∂ℓ/∂h_t‖ of the whole loss, in the order of the steps that are run.
        maps_by_lag: chain → bins of lags ``[1, 2), [2, 4) …`` → gradient ``[·, I]`` by the input weights.
        parameters: name → gradient.
        own: ``[n, S]`` what single steps of the uppermost layer contribute to the gradient, one a row.
        state: ``[n, S]`` the states at those steps.
        steps: ``[n]`` those steps, in the order of the inputs.
        rows: ``[n]`` their rows in ``inputs``.
        inputs: ``[T, B, I]`` of the lowest layer.
        cuts: where the model takes the state out of the graph: lengths of the pieces.
    """

    loss: float
    by_lag: dict[str, np.ndarray]
    by_step: dict[str, np.ndarray]
    maps_by_lag: dict[str, list[np.ndarray]]
    parameters: dict[str, Tensor]
    own: Tensor
    state: Tensor
    steps: Tensor
    rows: Tensor
    inputs: Tensor
    cuts: list[int]


@dataclass(eq=False)
class Records:
    """Some batches, and the last recording with its graph.

    Attributes:
        batches: one record each.
        last: the recording of the last batch, whose traces hold states of every step.
        gradients: of that.
        top: the uppermost chain that runs forward.
        low: the chain that was run first.
    """

    batches: list[BatchRecord]
    last: Recording
    gradients: Gradients
    top: str
    low: str

    @property
    def chains(self) -> dict[str, Trace]:
        """The last call of each layer and direction."""
        return self.last.chains()


def record(
    twin: Twin, problem: Problem, *, seconds: float, origins: int = 3, most: int = 16, least: int = 2
) -> Records:
    """Run the twin over batches and keep what the measures need.

    Args:
        twin: of the model.
        problem: with the loss and the batches.
        seconds: no further batch is begun behind so much time.
        origins: as in ``gradients_of``.
        most: batches at most.
        least: batches at least, as far as there are some.

    Returns:
        The records.
    """
    began, found = time.perf_counter(), []
    last: tuple[Recording, Gradients] | None = None
    twin.forget()
    for index, batch in enumerate(problem.batches[:most]):
        if index >= least and time.perf_counter() - began > seconds:
            break
        with torch.enable_grad():
            recording = twin.run(problem.loss, batch)
            _check_gradient(recording, twin)
            gradients = gradients_of(recording, twin.model, origins)
        found.append(_record(recording, gradients))
        last = recording, gradients
    assert last is not None
    names = list(last[0].chains())
    top = next(iter(last[1].own), names[-1])
    return Records(found, *last, top=top, low=names[0])


def _check_gradient(recording: Recording, twin: Twin) -> None:
    """Refuse a loss that nothing can be learned from."""
    if not any(parameter.requires_grad for parameter in twin.model.parameters()):
        raise InputError("every parameter of the model is frozen", "call model.requires_grad_(True)")
    if not recording.loss.requires_grad:
        hint = "leave out detach(), item() and torch.no_grad() between the model and the loss"
        raise InputError("the loss has no gradient by any parameter of the model", hint)


def _record(recording: Recording, gradients: Gradients) -> BatchRecord:
    chains = recording.chains()
    by_lag = {name: _by_lag(name, gradients) for name in chains}
    by_step = {name: _norms(total) for name, total in gradients.total.items()}
    bins = {name: _binned(name, gradients) for name in chains}
    top = next(iter(gradients.own))
    low = next(iter(chains))
    own, state, steps, rows = _places(gradients.own[top], recording, top)
    traces = chains[low].sequence()
    inputs = torch.cat([trace.call.x.detach() for trace in traces])
    pieces, cuts = 0, []
    for trace in chains[top].sequence():
        if trace.cut and pieces:
            cuts.append(pieces)
            pieces = 0
        pieces += trace.steps
    if cuts or any(trace.carried for trace in chains[top].sequence()):
        cuts.append(pieces)
    return BatchRecord(
        recording.loss.item(), by_lag, by_step, bins,
        {name: g.detach() for name, g in gradients.parameters.items()},
        own, state, steps, rows, inputs, cuts,
    )  # fmt: skip


def _norms(values: Tensor) -> np.ndarray:
    """Mean norm over the batch: ``[T, B, S]`` → ``[T]`` of float64."""
    return values.double().norm(dim=-1).mean(-1).cpu().numpy()


def _by_lag(name: str, gradients: Gradients) -> np.ndarray:
    rows = [_norms(sent.states[name]) for sent in gradients.sent if name in sent.states]
    longest = max((len(row) for row in rows), default=0)
    table = np.full((max(1, len(rows)), longest), np.nan)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    with np.errstate(invalid="ignore"):
        return np.array([np.mean(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in table.T])


def _binned(name: str, gradients: Gradients) -> list[np.ndarray]:
    """The gradient by the input weights that each bin of lags contributes, over all origins."""
    result: list[np.ndarray] = []
    for sent in gradients.sent:
        if name not in sent.maps:
            continue
        maps, inputs = sent.maps[name], sent.inputs[name]
        edges = [0] + [2**n for n in range(32) if 2**n < len(maps)] + [len(maps)]
        for place, (begin, end) in enumerate(pairwise(edges)):
            part = torch.einsum("tbg,tbi->gi", maps[begin:end], inputs[begin:end]).double().cpu().numpy()
            if place == len(result):
                result.append(np.zeros_like(part))
            result[place] += part
    return result


def _places(own: Tensor, recording: Recording, top: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of steps that contribute to the loss: gradient, state, step, row."""
    norms = own.norm(dim=-1).mean(-1)
    steps = torch.nonzero(norms > 1e-4 * norms.max()).flatten()
    late = steps[steps >= len(own) // 2]
    steps = late if len(late) else steps
    if not len(steps):
        empty = own.new_zeros(0, own.shape[-1])
        return empty, empty, steps, steps
    chosen = steps[torch.linspace(0, len(steps) - 1, min(_PLACES, len(steps))).round().long().unique()]
    traces = recording.chains()[top].sequence()
    states = [torch.cat(s, -1).detach() for trace in traces for s in trace.states]
    picked = torch.cat([states[step] for step in chosen.tolist()])
    batch = own.shape[1]
    return (
        own[chosen].flatten(0, 1).detach(),
        picked,
        chosen.repeat_interleave(batch),
        torch.arange(batch, device=own.device).repeat(len(chosen)),
    )


def recurrent_parameters(model: nn.Module) -> list[str]:
    """The names of the parameters of recurrent layers."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, Recurrent):
            found += [
                f"{path}.{name}" if path else name for name, _ in module.named_parameters(recurse=False)
            ]
    return found
