"""First weights and biases of a recurrent layer, by name: each with its formula and its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

from gatewright.errors import InputError
from gatewright.layers.explain import check_layer
from gatewright.layers.recurrent import Recurrent

Layer = TypeVar("Layer", bound=Recurrent)


@dataclass(frozen=True)
class _Draw:
    """What a block is drawn with: the layer's ``H`` and a generator."""

    hidden: int
    generator: Generator | None

    def empty(self, *shape: int) -> Tensor:
        """A block to be filled.

        In double precision, so that a bound or an orthogonality is as exact as the parameter can hold it, and
        where the generator is, so that a seed gives the same weights on every device.
        """
        device = "cpu" if self.generator is None else self.generator.device
        return torch.empty(shape, dtype=torch.float64, device=device)


def _uniform(block: Tensor, draw: _Draw) -> Tensor:
    bound = 1 / math.sqrt(draw.hidden)
    return block.uniform_(-bound, bound, generator=draw.generator)


def _glorot(block: Tensor, draw: _Draw) -> Tensor:
    return nn.init.xavier_uniform_(block, generator=draw.generator)


def _orthogonal(block: Tensor, draw: _Draw) -> Tensor:
    return nn.init.orthogonal_(block, generator=draw.generator)


def _identity(block: Tensor, _: _Draw) -> Tensor:
    return nn.init.eye_(block)


def _zeros(block: Tensor, _: _Draw) -> Tensor:
    return block.zero_()


def _uniform_gates(block: Tensor, draw: _Draw) -> Tensor:
    # a single unit has an empty range: it is given its middle
    low = min(1 / draw.hidden, 0.5)
    return block.uniform_(low, 1 - low, generator=draw.generator).logit_()


def _chrono(block: Tensor, draw: _Draw, longest: float) -> Tensor:
    return block.uniform_(1, longest - 1, generator=draw.generator).log_()


Initialiser = Callable[[Tensor, _Draw], Tensor]

INPUT_WEIGHTS: dict[str, Initialiser] = {"uniform": _uniform, "glorot": _glorot, "orthogonal": _orthogonal}
RECURRENT_WEIGHTS: dict[str, Initialiser] = {**INPUT_WEIGHTS, "identity": _identity}
BIASES: dict[str, Initialiser] = {"uniform": _uniform, "zeros": _zeros}
GATES = ("chrono", "uniform")


def initialise(
    layer: Layer,
    *,
    input_weights: str | None = None,
    recurrent_weights: str | None = None,
    recurrent_gain: float = 1.0,
    biases: str | None = None,
    gates: str | None = None,
    longest: float | None = None,
    forget_bias: float | None = None,
    generator: Generator | None = None,
) -> Layer:
    """Give a layer first weights and biases, in every layer and direction; what is not named stays as it is.

    Weights are drawn block by block: a block is one map's ``[H, I]`` or ``[H, H]``, with heads one head's
    ``[H / heads, H / heads]``; W_hr of a projection is one too and follows the recurrent weights.

    - ``"uniform"``: U(−1/√H, 1/√H), what torch.nn does, for weights and biases;
    - ``"glorot"``: U(−a, a), a = √(6 / (rows + columns)) (Glorot & Bengio 2010);
    - ``"orthogonal"``: WᵀW = 1, or WWᵀ = 1 where there are fewer rows (Saxe et al. 2014, arXiv:1312.6120);
    - ``"identity"``: W = 1, meant for a plain network with relu (Le et al. 2015, arXiv:1504.00941);
    - ``"zeros"``: no biases.

    Gates get their bias b as the sum of both: it stands in ``bias_ih`` and 0 in ``bias_hh``. ``keep`` of the
    cell says which maps; where it says −1 the bias is −b. One b is drawn a unit.

    - ``"chrono"``: b = log u, u ~ U(1, longest − 1) (Tallec & Ollivier 2018, arXiv:1804.11188);
    - ``"uniform"``: b = −log(1/u − 1), u ~ U(1/H, 1 − 1/H) (Gu et al. 2020, arXiv:1910.09890);
    - ``forget_bias``: one number, 1 in Jozefowicz et al. 2015 (ICML), for the gates that keep alone: the maps
      with −1 get it, negated, only where the cell has none with 1.

    Args:
        layer: of any cell.
        input_weights: ``"uniform"``, ``"glorot"`` or ``"orthogonal"``.
        recurrent_weights: one of those, or ``"identity"``.
        recurrent_gain: a factor on the recurrent weights that are drawn, not on W_hr.
        biases: ``"uniform"`` or ``"zeros"``; the gates' biases come after them.
        gates: ``"chrono"`` or ``"uniform"``.
        longest: for chrono, over how many steps the task must remember, at least 2.
        forget_bias: in place of ``gates``.
        generator: where numbers are drawn; torch's own on the CPU for None, wherever the layer is.

    Returns:
        The layer.

    Raises:
        InputError: an unknown name, options that do not go together, or what the layer or its cell has not.
    """
    check_layer(layer, "initialise")
    _check_recurrent(layer, recurrent_weights, recurrent_gain)
    _check_generator(generator)
    asked = {"biases": biases, "gates": gates, "forget_bias": forget_bias}
    _check_biases(layer, [name for name, value in asked.items() if value is not None])
    weights = (
        _chosen("input_weights", input_weights, INPUT_WEIGHTS),
        _chosen("recurrent_weights", recurrent_weights, RECURRENT_WEIGHTS),
        _chosen("biases", biases, BIASES),
    )
    gate = _gate_initialiser(gates, longest, forget_bias)
    draw = _Draw(layer.hidden_size, generator)
    signs = _signs(layer.cell.keep, both=forget_bias is None)
    for parameters in _parameters(layer):
        _write_maps(layer, parameters, weights, recurrent_gain, draw)
        if gate is not None:
            _write_gates(layer, parameters, signs, gate(draw.empty(layer.hidden_size), draw))
    return layer


# what is refused


def _chosen(option: str, name: str | None, known: Mapping[str, Initialiser]) -> Initialiser | None:
    """The initialiser of a name."""
    if name is None:
        return None
    if not isinstance(name, str) or name not in known:
        message = f"initialise: expected {option} as one of {', '.join(known)}, received {name!r}"
        raise InputError(message, "None, the default, leaves them as they are")
    return known[name]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_generator(generator: object) -> None:
    if generator is not None and not isinstance(generator, Generator):
        message = f"initialise: expected generator as a torch.Generator, received {generator!r}"
        raise InputError(message, "write generator=torch.Generator().manual_seed(0)")


def _check_recurrent(layer: Recurrent, name: str | None, gain: float) -> None:
    if not _is_number(gain):
        hint = "it multiplies the recurrent weights; 1 leaves them as they are drawn"
        raise InputError(f"initialise: expected recurrent_gain as a finite number, received {gain!r}", hint)
    if name is None and gain != 1:
        hint = "say how they are drawn, such as recurrent_weights='orthogonal'"
        raise InputError(f"initialise: recurrent_gain={gain} without recurrent_weights", hint)
    if name is None:
        return
    if not layer.cell.graph.recurrent_maps:
        message = f"initialise: the cell {layer.cell.name!r} has no recurrent maps"
        raise InputError(f"{message} for recurrent_weights={name!r}", "leave out recurrent_weights")
    if name == "identity" and layer.proj_size:
        message = "initialise: expected square recurrent weights for recurrent_weights='identity'"
        message += f", received [{layer.hidden_size}, {layer.proj_size}] with proj_size={layer.proj_size}"
        raise InputError(message, "take 'orthogonal', which keeps lengths as the identity does")


def _check_biases(layer: Recurrent, asked: list[str]) -> None:
    """The layer has biases, and its cell gates that keep, where the options ask for some."""
    if asked and not layer.bias:
        message = f"initialise: {asked[0]} needs biases, and the layer was made with bias=False"
        raise InputError(message, f"make the layer with bias=True, or leave out {asked[0]}")
    option = next((name for name in asked if name != "biases"), None)
    if option is not None and not layer.cell.keep:
        message = f"initialise: {option} needs a gate that keeps the state, and the cell"
        hint = f"if it has one, say which: @gw.cell(keep={{'z': 1}}); if not, leave out {option}"
        raise InputError(f"{message} {layer.cell.name!r} states none", hint)


def _gate_initialiser(
    gates: str | None, longest: float | None, forget_bias: float | None
) -> Initialiser | None:
    """How the bias of the gates is drawn."""
    if gates is not None and (not isinstance(gates, str) or gates not in GATES):
        message = f"initialise: expected gates as one of {', '.join(GATES)}, received {gates!r}"
        raise InputError(message, "for one number in all units, forget_bias=1.0")
    if gates is not None and forget_bias is not None:
        message = f"initialise: expected gates or forget_bias, received both, {gates!r} and {forget_bias!r}"
        raise InputError(message, "they set the same biases: leave one out")
    if longest is not None and gates != "chrono":
        hint = "write gates='chrono', or leave out longest"
        raise InputError(f"initialise: longest={longest!r} says something to gates='chrono' alone", hint)
    if forget_bias is not None:
        if not _is_number(forget_bias):
            message = f"initialise: expected forget_bias as a finite number, received {forget_bias!r}"
            raise InputError(message, "1.0 is a usual one")
        return lambda block, _: block.fill_(forget_bias)
    if gates != "chrono":
        return None if gates is None else _uniform_gates
    if longest is None or not _is_number(longest) or longest < 2:
        message = (
            f"initialise: gates='chrono' expects longest as a number of at least 2, received {longest!r}"
        )
        raise InputError(message, "give the number of steps over which the task must remember")
    return lambda block, draw: _chrono(block, draw, longest)


def _parameters(layer: Recurrent) -> list[dict[str, nn.Parameter]]:
    """The parameters of each layer and direction, by what they are called without either."""
    own, found = layer._parameters, []
    for number, suffix in layer.sizes.rows():
        shapes = layer.sizes.of_direction(number)
        named = {kind: own.get(f"{kind}_l{number}{suffix}") for kind in shapes}
        missing = [f"{kind}_l{number}{suffix}" for kind, parameter in named.items() if parameter is None]
        if missing:
            message = (
                f"initialise: expected the parameters of a plain layer; {missing[0]} is computed from others"
            )
            raise InputError(message, "initialise first, then put on weight norm, pruning and the like")
        found.append({kind: parameter for kind, parameter in named.items() if parameter is not None})
    return found


# what is written


@torch.no_grad()
def _fill(parameter: Tensor, rows: int, fill: Initialiser, draw: _Draw, gain: float = 1.0) -> None:
    """Draw a parameter anew, block after block of so many rows."""
    count, shape = len(parameter) // rows, (rows, *parameter.shape[1:])
    drawn = torch.cat([fill(draw.empty(*shape), draw) for _ in range(count)])
    parameter.copy_(drawn.mul_(gain).to(parameter.dtype))


def _write_maps(
    layer: Recurrent,
    parameters: Mapping[str, nn.Parameter],
    initialisers: tuple[Initialiser | None, Initialiser | None, Initialiser | None],
    gain: float,
    draw: _Draw,
) -> None:
    """Draw the weights and biases of one layer and direction.

    Args:
        layer: whose parameters they are.
        parameters: by name, without layer and direction.
        initialisers: of input weights, recurrent weights and biases; None leaves them as they are.
        gain: a factor on the recurrent weights.
        draw: what numbers are drawn with.
    """
    hidden, (inputs, recurrent, biases) = layer.hidden_size, initialisers
    if inputs is not None:
        _fill(parameters["weight_ih"], hidden, inputs, draw)
    if recurrent is not None:
        weight = parameters["weight_hh"]
        # a head's block is square; with a projection it has more rows than columns
        _fill(weight, hidden if layer.proj_size else weight.shape[1], recurrent, draw, gain)
        if layer.proj_size:
            _fill(parameters["weight_hr"], layer.proj_size, recurrent, draw)
    for name in ("bias_ih", "bias_hh"):
        if biases is not None and name in parameters:
            _fill(parameters[name], hidden, biases, draw)


def _signs(keep: Mapping[str, int], both: bool) -> Mapping[str, int]:
    """The maps whose biases are set, each with its sign: all gates, or those that keep where any do."""
    return keep if both or 1 not in keep.values() else {name: 1 for name, sign in keep.items() if sign == 1}


@torch.no_grad()
def _write_gates(
    layer: Recurrent, parameters: Mapping[str, nn.Parameter], signs: Mapping[str, int], bias: Tensor
) -> None:
    """Set the biases of gates: the first of a map's two is the bias, the other 0, so that their sum is right.

    Args:
        layer: whose parameters they are.
        parameters: of one layer and direction.
        signs: 1 or −1 for each map.
        bias: ``[H]``.
    """
    graph, hidden = layer.cell.graph, layer.hidden_size
    for name, sign in signs.items():
        value = sign * bias
        normed = [f"vector_norm_{letter}_{name}_bias" for letter in "xu"]
        if any(kind in parameters for kind in normed):
            # a bias in front of a norm is taken out again: that behind it counts
            for kind in normed:
                if kind in parameters:
                    parameters[kind].copy_(value.to(parameters[kind].dtype))
                    value = torch.zeros_like(bias)
            continue
        for kind, maps in (("bias_ih", graph.input_maps), ("bias_hh", graph.recurrent_maps)):
            if name in maps:
                start = maps.index(name) * hidden
                parameters[kind][start : start + hidden].copy_(value.to(parameters[kind].dtype))
                value = torch.zeros_like(bias)
