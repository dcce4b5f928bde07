"""What a layer may have beyond those of torch.nn: options that change its cell, its weights or its stack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, NoReturn, TypedDict

import torch
from torch import Tensor

from gatewright.backends.call import transform_refusal
from gatewright.compiler.graph import Graph
from gatewright.compiler.interpret import GraphCell
from gatewright.compiler.language import Cell
from gatewright.compiler.rewrite import (
    ACTIVATIONS,
    masked,
    normalised,
    with_activations,
    with_recurrent_dropout,
    with_resets,
    with_zoneout,
)
from gatewright.errors import InputError


class LayerOptions(TypedDict, total=False):
    """The options of ``Options`` by name, for signatures."""

    recompute: bool
    recurrent_dropout: float
    zoneout: float | Mapping[str, float]
    weight_drop: float
    variational_dropout: float
    layer_norm: bool
    residual: bool
    pre_norm: bool
    train_initial_state: bool
    heads: int
    activation: str | None
    gate_activation: str | None


@dataclass(frozen=True)
class Options:
    """How a layer differs from torch's.

    Attributes:
        recompute: keep only outputs for the gradient and compute the gates again.
        recurrent_dropout: probability of dropping a value that a recurrent map reads, one choice for a whole
            sequence (Gal & Ghahramani 2016, arXiv:1512.05287).
        zoneout: probability that a unit of a state keeps its old value at a step, for all states or by name
            (Krueger et al. 2017, arXiv:1606.01305); in evaluation its expectation.
        weight_drop: probability of dropping a recurrent weight, one choice for a whole sequence (Merity et
            al. 2018, arXiv:1708.02182).
        variational_dropout: probability of dropping an output of every layer but the last, one choice for a
            whole sequence.
        layer_norm: normalise each input map and each recurrent map, with gains and biases of their own (Ba et
            al. 2016, arXiv:1607.06450).
        residual: add a layer's input to its output wherever both have as many features.
        pre_norm: normalise the input of every layer.
        train_initial_state: learn the state that a sequence begins with.
        heads: blocks that the recurrent weights are made of; each head reads only its own part of a state.
        activation: in place of tanh, by name.
        gate_activation: in place of the sigmoid, by name.
    """

    recompute: bool = False
    recurrent_dropout: float = 0.0
    zoneout: Mapping[str, float] = field(default_factory=dict)
    weight_drop: float = 0.0
    variational_dropout: float = 0.0
    layer_norm: bool = False
    residual: bool = False
    pre_norm: bool = False
    train_initial_state: bool = False
    heads: int = 1
    activation: str | None = None
    gate_activation: str | None = None

    def changed(self) -> dict[str, Any]:
        """The options that are not as in torch."""
        plain = Options()
        names = (row.name for row in fields(self))
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(plain, name)}


def read_options(owner: str, cell: Cell | GraphCell, hidden: int, given: Mapping[str, Any]) -> Options:
    """Check the options of a layer.

    Args:
        owner: the layer's class name, for messages.
        cell: of the layer.
        hidden: ``H``.
        given: by name.

    Returns:
        The options.

    Raises:
        InputError: an unknown name, a value of the wrong type or out of range, or one that the cell has no
            place for.
    """

    def refuse(message: str, hint: str) -> NoReturn:
        raise InputError(f"{owner}: {message}", hint)

    known = {row.name: row.default for row in fields(Options)}
    for name, value in given.items():
        if name not in known:
            refuse(f"no option named {name!r}", f"the options are {', '.join(known)}")
        if name in ("activation", "gate_activation"):
            if value is not None and value not in ACTIVATIONS:
                refuse(
                    f"expected {name} as one of {', '.join(ACTIVATIONS)}, received {value!r}", "leave it out"
                )
        elif name == "heads":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1 or hidden % value:
                hint = "each head has hidden_size / heads units"
                refuse(f"expected heads as a divisor of hidden_size={hidden}, received {value!r}", hint)
        elif isinstance(known[name], bool):
            if not isinstance(value, bool):
                refuse(f"expected {name} as True or False, received {value!r}", "options are given by name")
        elif name != "zoneout":
            _check_rate(name, value, refuse)
    rates = given.get("zoneout", {})
    states = cell.graph.states
    if not isinstance(rates, Mapping):
        rates = dict.fromkeys(states, rates)
    for state, rate in rates.items():
        if state not in states:
            refuse(f"zoneout: no state named {state!r}", f"the states are {', '.join(states)}")
        _check_rate("zoneout", rate, refuse)
    options = Options(**{**given, "zoneout": {state: rate for state, rate in rates.items() if rate}})
    recurrent = [n for n in ("recurrent_dropout", "weight_drop") if getattr(options, n)]
    recurrent += ["heads"] if options.heads > 1 else []
    if recurrent and not cell.graph.recurrent_maps:
        refuse(f"{recurrent[0]} needs recurrent maps, the cell {cell.name!r} has none", "leave it out")
    return options


def _check_rate(name: str, value: Any, refuse: Callable[[str, str], NoReturn]) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < 1:
        hint = "it is the probability of dropping or keeping a value; 0 turns it off"
        refuse(f"expected {name} from 0 to below 1, received {value!r}", hint)


def cell_with(cell: Cell | GraphCell, options: Options) -> Cell | GraphCell:
    """The cell whose weights a layer has: with layer norms and other activations, where it has them."""
    if not (options.layer_norm or options.activation or options.gate_activation):
        return cell
    graph = cell.graph
    if options.activation or options.gate_activation:
        graph = with_activations(graph, options.activation or "tanh", options.gate_activation or "sigmoid")
    return GraphCell(normalised(graph) if options.layer_norm else graph)


def random_mask(shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
    """Ones with a probability, else zeros, drawn by torch's generator.

    On the CPU torch draws each number with 32 bits or more; sixteen make a probability right to 2⁻¹⁶, in a
    quarter of the time.

    Args:
        shape: of the mask.
        rate: the probability.
        like: a tensor of the mask's dtype and device.

    Returns:
        The mask.
    """
    if like.device.type != "cpu" or (not torch.compiler.is_compiling() and transform_refusal()):
        return torch.bernoulli(like.new_full(shape, rate))
    count = math.prod(shape)
    bits = torch.randint(-(2**63), 2**63 - 1, (-(-count // 4),), device="cpu")
    numbers = bits.view(torch.int16)[:count].view(shape)
    # a limit that sixteen bits cannot hold would wrap around
    return (numbers < min(round(rate * 2**16), 2**16 - 1) - 2**15).to(like.dtype)


@lru_cache(maxsize=512)
def variant(
    graph: Graph,
    dropout: bool,
    zoneout: tuple[tuple[str, float], ...],
    training: bool,
    valid: bool,
    resets: str,
) -> GraphCell:
    """A cell as a call needs it.

    Args:
        graph: of the cell.
        dropout: whether there is recurrent dropout.
        zoneout: rates by state.
        training: whether units are dropped and kept at random.
        valid: whether some steps are masked.
        resets: ``""``, or what a reset leads to: ``"zero"`` or ``"first"``, the layer's initial state.

    Returns:
        The graph with these options as a cell.
    """
    if dropout and training:
        graph = with_recurrent_dropout(graph)
    if zoneout:
        graph = with_zoneout(graph, dict(zoneout), training)
    if valid:
        graph = masked(graph)
    if resets:
        graph = with_resets(graph, zero=resets == "zero")
    return GraphCell(graph)
