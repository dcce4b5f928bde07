"""What to do about each finding, in the order in which it is proposed, and how a trial does it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

import gatewright.layers.initialise as first
from gatewright.diagnosis.change import Change
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.rebuilt import bridged, cut_every, layers_of, remade, replaced, widened
from gatewright.errors import InputError
from gatewright.layers.recurrent import Recurrent
from gatewright.reports.diagnosis_contents import Remedy

Maker = Callable[[Problem, Mapping[str, float]], Change]

_LAYER = "layer = gw.from_torch(model.rnn)  # shares the weights"
_AVERAGED = 8
_WIDER = 4


def changes_for(finding: str, problem: Problem, values: Mapping[str, float]) -> list[Change]:
    """The remedies of a finding, the prescription first.

    Args:
        finding: its name.
        problem: as given.
        values: what was measured.

    Returns:
        Changes to try; none for a healthy model.
    """
    makers = REMEDIES[finding]
    found = [make(problem, values) for make in (makers(values) if callable(makers) else makers)]
    return [change for change in found if _possible(change, problem)]


def _possible(change: Change, problem: Problem) -> bool:
    """Whether a change has anything to work on."""
    layers = layers_of(problem.model)
    gates = all(layer.cell.keep and layer.bias for layer in layers)
    return gates or change.remedy.name not in ("chrono", "chrono-norm", "uniform-gates")


# ---------------------------------------------------------------- the weights at the beginning


def _initialised(model: nn.Module, **options: object) -> nn.Module:
    for layer in layers_of(model):
        first.initialise(layer, **options)  # type: ignore[arg-type]
    return model


def _needed(values: Mapping[str, float]) -> int:
    return max(2, round(values.get("needed_reach", 0) or values.get("sequence", 2)))


def _chrono(problem: Problem, values: Mapping[str, float]) -> Change:
    longest = _needed(values)
    remedy = Remedy(
        "chrono",
        f"draw the biases of the gates so that units remember for 1 to {longest} steps (chrono)",
        f"{_LAYER}\ngw.initialise(layer, gates='chrono', longest={longest})",
        f"the gradient's horizon reaches {longest} steps, and the loss falls below its plateau",
        "arXiv:1804.11188",
    )
    return Change(remedy, partial(_initialised, gates="chrono", longest=longest))


def _chrono_norm(problem: Problem, values: Mapping[str, float]) -> Change:
    chrono, longest = _chrono(problem, values), _needed(values)
    remedy = Remedy(
        "chrono-norm",
        f"normalise the maps of the cell, and draw its gates so that units remember for 1 to {longest} steps",
        "layer = gw.GRU(..., layer_norm=True)  # or gw.LSTM, in place of torch.nn's\n"
        f"gw.initialise(layer, gates='chrono', longest={longest})",
        chrono.remedy.verify,
        "arXiv:1804.11188, arXiv:1607.06450",
    )

    def apply(model: nn.Module) -> nn.Module:
        return chrono.apply(replaced(model, lambda layer: remade(layer, layer_norm=True)))

    return Change(remedy, apply)


def _uniform(problem: Problem, values: Mapping[str, float]) -> Change:
    remedy = Remedy(
        "uniform-gates",
        "draw the biases of the gates so that they are uniform between shut and open",
        f"{_LAYER}\ngw.initialise(layer, gates='uniform')",
        "time constants spread over orders of magnitude, and the loss falls",
        "arXiv:1910.09890",
    )
    return Change(remedy, partial(_initialised, gates="uniform"))


def _redrawn(problem: Problem, values: Mapping[str, float]) -> Change:
    remedy = Remedy(
        "redraw",
        "draw the recurrent layers anew: orthogonal recurrent weights, Glorot input weights",
        f"{_LAYER}\n"
        "gw.initialise(layer, recurrent_weights='orthogonal', input_weights='glorot', biases='zeros')",
        "the effective rank rises, gradients neither grow nor die, and the loss falls",
        "arXiv:1312.6120",
    )

    def apply(model: nn.Module) -> nn.Module:
        for layer in layers_of(model):
            recurrent = "orthogonal" if layer.cell.graph.recurrent_maps else None
            first.initialise(
                layer,
                recurrent_weights=recurrent,
                input_weights="glorot",
                biases="zeros" if layer.bias else None,
            )
        return model

    return Change(remedy, apply)


def _redrawn_clipped(problem: Problem, values: Mapping[str, float]) -> Change:
    change, clip = _redrawn(problem, values), _clip_norm(values)
    remedy = Remedy(
        "redraw-clip",
        f"{change.remedy.text}; clip the norm of the gradient at {clip:.3g}",
        f"{change.remedy.code}\ntorch.nn.utils.clip_grad_norm_(model.parameters(), {clip:.3g})",
        "the largest Lyapunov exponent is at most 0 and no step leaps",
        "arXiv:1312.6120, arXiv:1211.5063",
    )
    return Change(remedy, change.apply, gradient_clip=clip)


# ---------------------------------------------------------------- how it is trained


def _clip_norm(values: Mapping[str, float]) -> float:
    """The median norm of usual steps: leaps are cut, the others hardly changed."""
    found = values.get("norm_median", 1.0)
    return min(max(found, 1e-3), 10.0) if math.isfinite(found) else 1.0


def _clip(problem: Problem, values: Mapping[str, float]) -> Change:
    clip = _clip_norm(values)
    remedy = Remedy(
        "clip",
        f"clip the norm of the gradient at {clip:.3g}, the median of the observed steps",
        f"torch.nn.utils.clip_grad_norm_(model.parameters(), {clip:.3g})  # before optimizer.step()",
        "no step leaps any more, and the loss falls",
        "arXiv:1211.5063",
    )
    return Change(remedy, gradient_clip=clip)


def _rate(problem: Problem, values: Mapping[str, float]) -> Change:
    rate = values.get("rate_best", problem.learning_rate / 10)
    remedy = Remedy(
        "learning-rate",
        f"train with a learning rate of {rate:g} in place of {problem.learning_rate:g}",
        f"torch.optim.Adam(model.parameters(), lr={rate:g})",
        "the loss falls at once, and farther",
        "arXiv:1506.01186",
    )
    return Change(remedy, learning_rate=rate)


def _slower(problem: Problem, values: Mapping[str, float]) -> Change:
    rate = problem.learning_rate / 10
    remedy = Remedy(
        "slower",
        f"train with a tenth of the learning rate, {rate:g}",
        f"torch.optim.Adam(model.parameters(), lr={rate:g})",
        "the loss falls without leaps",
    )
    return Change(remedy, learning_rate=rate)


def _averaged(problem: Problem, values: Mapping[str, float]) -> Change:
    count = min(_AVERAGED, max(2, len(problem.batches) // 2))
    remedy = Remedy(
        "larger-batches",
        f"average the gradients of {count} batches before a step, or make batches so much larger",
        "(loss / n).backward() for n batches, then optimizer.step()",
        "signal to noise of the gradient rises in proportion, and the held-out loss falls",
        "arXiv:1812.06162",
    )
    return Change(remedy, batches_per_step=count)


def _skipped(problem: Problem, values: Mapping[str, float]) -> Change:
    remedy = Remedy(
        "skip-non-finite",
        "take the numbers that are not finite out of the data; until then leave out their steps",
        "if torch.isfinite(loss) and torch.isfinite(gradient_norm): optimizer.step()",
        "every loss is finite",
    )
    return Change(remedy, skip_non_finite=True)


def _decay(problem: Problem, values: Mapping[str, float]) -> Change:
    def apply(model: nn.Module) -> nn.Module:
        def dropping(layer: Recurrent) -> Recurrent:
            return remade(layer, weight_drop=0.5) if layer.cell.graph.recurrent_maps else layer

        return replaced(model, dropping)

    remedy = Remedy(
        "weight-drop",
        "drop recurrent weights in training and decay all weights; stop at the best held-out loss",
        "gw.GRU(..., weight_drop=0.5); torch.optim.AdamW(model.parameters(), weight_decay=0.1)",
        "the gap between training and held-out loss closes",
        "arXiv:1708.02182",
    )
    return Change(remedy, apply, weight_decay=0.1)


# ---------------------------------------------------------------- the model


def _wider(problem: Problem, values: Mapping[str, float]) -> Change:
    remedy = Remedy(
        "wider",
        f"give the recurrent layers {_WIDER} times as many units",
        f"nn.GRU(..., hidden_size={_WIDER} * hidden_size)",
        "the state remembers more (memory curve), and the loss falls",
        "arXiv:1611.09913",
    )
    return Change(remedy, partial(widened, factor=_WIDER))


def _residual(problem: Problem, values: Mapping[str, float]) -> Change:
    remedy = Remedy(
        "residual",
        "add each layer's input to its output and normalise the input of every layer",
        "gw.GRU(..., residual=True, pre_norm=True)",
        "gradients of all layers are of one size, and the loss falls",
        "arXiv:1609.08144, arXiv:2002.04745",
    )

    def apply(model: nn.Module) -> nn.Module:
        return replaced(model, lambda layer: remade(layer, residual=True, pre_norm=True))

    return Change(remedy, apply)


def _layer_norm(problem: Problem, values: Mapping[str, float]) -> Change:
    remedy = Remedy(
        "layer-norm",
        "normalise the maps of the cell",
        "gw.GRU(..., layer_norm=True)",
        "gates leave their ends, gradients neither grow nor die, and the loss falls",
        "arXiv:1607.06450",
    )
    return Change(remedy, lambda model: replaced(model, lambda layer: remade(layer, layer_norm=True)))


def _gru(problem: Problem, values: Mapping[str, float]) -> Change:
    remedy = Remedy(
        "gru",
        "take a cell that reads its state through recurrent weights, such as the GRU",
        "gw.GRU(input_size, hidden_size)",
        "the loss falls on sequences of every length",
        "arXiv:2404.08819",
    )

    def apply(model: nn.Module) -> nn.Module:
        def make(layer: Recurrent) -> Recurrent:
            if len(layer.cell.graph.states) != 1:
                raise InputError("the model hands on several states, a GRU has one", "try it by hand")
            return remade(layer, cell="gru")

        return replaced(model, make)

    return Change(remedy, apply)


def _thawed(problem: Problem, values: Mapping[str, float]) -> Change:
    frozen = _frozen_behind(problem.model)
    what = ", ".join(frozen) or "what stands behind the recurrent layers"
    lines = [f"model.{name}.reset_parameters(); model.{name}.requires_grad_(True)" for name in frozen] or [
        "look at what the loss does with the output: its scale, its activation, its own learning rate"
    ]
    remedy = Remedy(
        "train-readout",
        f"train {what}" + (", drawn anew" if frozen else ""),
        "\n".join(lines),
        "the share of the rest error that the state explains goes to 0",
    )

    def apply(model: nn.Module) -> nn.Module:
        if not frozen:
            hint = "look at what the loss does with the output"
            raise InputError("nothing behind the recurrent layers is frozen", hint)
        for name in frozen:
            module = model.get_submodule(name)
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            module.requires_grad_(True)
        return model

    return Change(remedy, apply)


def _frozen_behind(model: nn.Module) -> list[str]:
    """Modules without a trained parameter that were made behind the first recurrent layer."""
    found, behind = [], False
    for name, module in model.named_modules():
        if isinstance(module, Recurrent):
            behind = True
            continue
        own = list(module.parameters(recurse=False))
        if behind and name and own and not any(p.requires_grad for p in own):
            found.append(name)
    return found


# ---------------------------------------------------------------- where gradients go


def _bridge(problem: Problem, values: Mapping[str, float]) -> Change:
    remedy = Remedy(
        "longer-gradients",
        f"let gradients pass the cuts: {_needed(values)} steps are needed, not {values['cut']:.0f}",
        "# no state.detach() between the pieces, and one loss.backward() behind the last of them",
        "the bias of the gradient goes to 0, and the loss falls",
        "arXiv:1905.07473",
    )
    return Change(remedy, around=bridged)


def _cut(problem: Problem, values: Mapping[str, float]) -> Change:
    exponent = max(values.get("data_exponent", 0.1), 0.02)
    # within so many steps a difference doubles
    steps = max(1, round(math.log(2) / exponent))
    remedy = Remedy(
        "shorter-rollouts",
        f"go back to observed values, or cut the gradient, every {steps} step{'s' * (steps > 1)}",
        f"if t % {steps} == 0: x, state = x.detach(), state.detach()  # or x = observed[t]",
        "gradients stay bounded, and the loss of a rollout falls",
        "arXiv:2110.07238",
    )
    return Change(remedy, around=partial(cut_every, steps=steps))


def _of_exploding(values: Mapping[str, float]) -> tuple[Maker, ...]:
    """Weights that are too large are drawn anew; leaps from batch to batch are clipped."""
    grows = (
        max(values.get("lyapunov", -1.0), values.get("time_growth", -1.0) / max(values.get("sequence", 1), 1))
        > 0.02
    )
    return (
        (_redrawn_clipped, _clip, _slower, _layer_norm)
        if grows
        else (_clip, _slower, _redrawn_clipped, _layer_norm)
    )


REMEDIES: dict[str, tuple[Maker, ...] | Callable[[Mapping[str, float]], tuple[Maker, ...]]] = {
    "non-finite": (_skipped, _clip, _slower),
    "learning-rate": (_rate,),
    "rank-collapse": (_redrawn, _uniform),
    "stuck-gates": (_uniform, _layer_norm, _redrawn),
    "chaos": (_cut, _clip),
    "exploding": _of_exploding,
    "depth": (_residual,),
    "state-tracking": (_gru,),
    "truncation": (_bridge,),
    "readout": (_thawed, _rate),
    "wrong-time-scale": (_uniform, _chrono, _redrawn),
    "vanishing": (_chrono_norm, _chrono, _uniform, _layer_norm),
    "capacity": (_wider,),
    "overfitting": (_decay, _slower),
    "noise": (_averaged, _slower),
    "healthy": (),
    "unknown": (),
}
"""Finding → what makes its remedies, the prescription first."""
