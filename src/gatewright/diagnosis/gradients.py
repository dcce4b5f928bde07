"""The gradient of a loss by every state of every layer: of all steps together, and of single steps.

The adjoint is δ_t = ∂ℓ/∂h_t + Jᵀ_{t+1} δ_{t+1}. What a step contributes itself, e_t = δ_t − Jᵀ_{t+1} δ_{t+1},
is found for the uppermost layer; sent back alone from one step s, it shows how far back that step is heard.
States of a cell stand side by side: an LSTM's is (h, c), since its memory is in c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from gatewright.diagnosis.tokens import Tokens
from gatewright.diagnosis.twin import Recording, Trace

_HEARD = 1e-4
"""A step whose own gradient is a smaller share of the largest one counts as contributing none."""


@dataclass(eq=False)
class Sent:
    """The gradient of one step's own contribution.

    Attributes:
        chain: the uppermost layer and direction in which the step is.
        step: its place in the order of the steps that are run.
        states: chain → ``[step + 1, B, S]`` by the states; the step itself, then one step back each.
        maps: chain → ``[step + 1, B, ·]`` by the input maps, likewise.
        inputs: chain → ``[step + 1, B, I]`` what the input maps were made from.
    """

    chain: str
    step: int
    states: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class Gradients:
    """What flows back from one evaluation of a loss.

    Attributes:
        total: chain → ``[T, B, S]`` by the states, in the order of the steps that are run.
        own: uppermost chains → ``[T, B, S]``, what each step contributes itself.
        sent: from single steps.
        parameters: name → gradient by a parameter; zeros where none arrived.
    """

    total: dict[str, Tensor]
    own: dict[str, Tensor]
    sent: list[Sent]
    parameters: dict[str, Tensor]


def gradients_of(recording: Recording, model: nn.Module, origins: int = 3) -> Gradients:
    """Gradients of a recorded loss.

    Costs one backward pass, and one more for each origin.

    Args:
        recording: with its graph.
        model: that was recorded.
        origins: from how many single steps gradients are sent back.

    Returns:
        The gradients.
    """
    chains = {name: trace.sequence() for name, trace in recording.chains().items() if trace.steps}
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    leaves = list(parameters.values())
    states = {name: [s for trace in traces for s in trace.states] for name, traces in chains.items()}
    flat = [state for steps in states.values() for step in steps for state in step]
    found = _grads(recording.loss, None, [*flat, *leaves])
    total = _by_chain(states, found)
    named = dict(zip(parameters, found[len(flat) :], strict=True))
    own = {name: _own(chains[name], total[name]) for name in _uppermost(recording, list(chains))}
    sent = []
    for name, gradient in own.items():
        for step in _origins(gradient, origins):
            sent.append(_send(name, step, gradient[step], chains, states))
    return Gradients(
        total, own, sent, {n: torch.zeros_like(parameters[n]) if g is None else g for n, g in named.items()}
    )


def _grads(
    output: Tensor | Sequence[Tensor], given: Sequence[Tensor] | None, inputs: Sequence[Tensor]
) -> list[Tensor | None]:
    with_graph = [tensor for tensor in inputs if tensor.requires_grad]
    outputs = [output] if isinstance(output, Tensor) else list(output)
    if not with_graph or not any(o.requires_grad for o in outputs):
        return [None] * len(inputs)
    found = iter(torch.autograd.grad(outputs, with_graph, given, retain_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def _by_chain(
    states: dict[str, list[tuple[Tensor, ...]]], found: Sequence[Tensor | None]
) -> dict[str, Tensor]:
    """The gradients of each chain's steps, its states side by side."""
    rest, result = iter(found), {}
    for name, steps in states.items():
        rows = []
        for step in steps:
            pairs = [(state, next(rest)) for state in step]
            rows.append(torch.cat([torch.zeros_like(s) if g is None else g for s, g in pairs], -1))
        result[name] = torch.stack(rows).detach()
    return result


def _uppermost(recording: Recording, names: Sequence[str]) -> list[str]:
    """The last layer of the module that was run last, both directions of it."""
    last = recording.traces[-1]
    stem = last.chain.removesuffix(", reverse")
    return [name for name in names if name.removesuffix(", reverse") == stem]


def _own(traces: Sequence[Trace], total: Tensor) -> Tensor:
    """What each step contributes to the gradient itself, beside what comes back through the next one."""
    own, at = total.clone(), 0
    for place, trace in enumerate(traces):
        tokens = Tokens(trace)
        back = tokens.vjp(total[at : at + trace.steps].flatten(0, 1)).view(trace.steps, tokens.batch, -1)
        own[at : at + trace.steps - 1] -= back[1:]
        if place and not (trace.cut and not trace.call.states[0].requires_grad):
            own[at - 1] -= back[0]
        at += trace.steps
    norms = own.norm(dim=-1)
    # the difference of two equal numbers is rounding
    own[norms <= _HEARD * total.norm(dim=-1).clamp(min=torch.finfo(total.dtype).tiny)] = 0
    return own


def _origins(own: Tensor, most: int) -> list[int]:
    """Steps that contribute, late ones, from which much can lie behind."""
    norms = own.norm(dim=-1).mean(-1)
    if not bool(torch.isfinite(norms).all()) or not bool((norms > 0).any()):
        return []
    steps = torch.nonzero(norms > _HEARD * norms.max()).flatten().tolist()
    late = [step for step in steps if step >= 2 * (len(norms) - 1) // 3] or steps
    places = np.unique(np.linspace(len(late) - 1, 0, min(most, len(late))).round().astype(int))
    return [late[place] for place in places[::-1]]


def _send(
    chain: str,
    step: int,
    gradient: Tensor,
    chains: dict[str, list[Trace]],
    states: dict[str, list[tuple[Tensor, ...]]],
) -> Sent:
    """Send one step's own gradient back through all layers of its direction."""
    origin = states[chain][step]
    parts = gradient.split([state.shape[-1] for state in origin], -1)
    reverse = chain.endswith(", reverse")
    length = len(states[chain])
    result, inputs, spans = Sent(chain, step), [], {}
    for name, steps in states.items():
        if name.endswith(", reverse") != reverse:
            continue
        # a layer that ran over another number of steps, such as an encoder, is looked at from its end
        last = step if len(steps) == length else len(steps) - 1
        spans[name] = last + 1
        inputs += [state for at in range(last, -1, -1) for state in steps[at]]
    maps = [trace.maps for name in spans for trace in chains[name]]
    with_graph = [(o, p) for o, p in zip(origin, parts, strict=True) if o.requires_grad]
    if not with_graph:
        return result
    found = _grads([o for o, _ in with_graph], [p for _, p in with_graph], [*inputs, *maps])
    rest = iter(found[: len(inputs)])
    of_maps = iter(found[len(inputs) :])
    for name, count in spans.items():
        rows = []
        for at in range(count - 1, -1, -1):
            pairs = [(state, next(rest)) for state in states[name][at]]
            rows.append(torch.cat([torch.zeros_like(s) if g is None else g for s, g in pairs], -1))
        result.states[name] = torch.stack(rows).detach()
        pieces = [(trace, next(of_maps)) for trace in chains[name]]
        ordered = [_run_order(trace, torch.zeros_like(trace.maps) if g is None else g) for trace, g in pieces]
        given = [_run_order(trace, trace.call.x) for trace, _ in pieces]
        result.maps[name] = torch.cat(ordered)[:count].flip(0).detach()
        result.inputs[name] = torch.cat(given)[:count].flip(0).detach()
    return result


def _run_order(trace: Trace, values: Tensor) -> Tensor:
    """``[T, B, ·]`` in the order in which the steps are run."""
    return values.flip(0) if trace.call.reverse else values
