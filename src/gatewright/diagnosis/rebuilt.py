"""Recurrent layers in a model's copy replaced by others that take over what they can of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewright.diagnosis.cells import StepLayer
from gatewright.errors import InputError
from gatewright.layers.recurrent import Recurrent


def layers_of(model: nn.Module) -> list[Recurrent]:
    """The recurrent layers of this library in a model."""
    return [module for module in model.modules() if isinstance(module, Recurrent)]


def replaced(model: nn.Module, make: Callable[[Recurrent], nn.Module]) -> nn.Module:
    """The model with every recurrent layer replaced.

    Args:
        model: a copy.
        make: the new layer of an old one.

    Returns:
        The model, or the new layer where the model was one.
    """
    new: dict[nn.Module, nn.Module] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(module, Recurrent):
            continue
        found = new.setdefault(module, make(module))
        if not path:
            return found
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, found)
    return model


def remade(layer: Recurrent, cell: str = "", hidden_size: int = 0, **options: Any) -> Recurrent:
    """A layer of the same sizes with other options, or another cell; weights of the same shape are copied.

    Args:
        layer: the old one.
        cell: name of another cell; empty for the same.
        hidden_size: another one; 0 for the same.
        **options: that are changed.

    Returns:
        A new layer.

    Raises:
        InputError: the layer has a projection.
    """
    if layer.proj_size:
        raise InputError("a layer with proj_size cannot be made anew for a trial", "leave out proj_size")
    given = {**layer.options.changed(), **options}
    parameter = next(layer.parameters())
    new = Recurrent(
        cell or layer.cell, layer.input_size, hidden_size or layer.hidden_size, layer.num_layers, layer.bias,
        layer.batch_first, layer.dropout, layer.bidirectional, device=parameter.device, dtype=parameter.dtype,
        **given,
    )  # fmt: skip
    old = dict(layer.named_parameters())
    if not cell:
        with torch.no_grad():
            for name, value in new.named_parameters():
                if name in old and old[name].shape == value.shape:
                    value.copy_(old[name])
    return new.train(layer.training)


class Wider(nn.Module):
    """A layer with more units, whose output and states are mapped back to the width that the model knows.

    Args:
        layer: the old one.
        factor: how many times as many units.
    """

    def __init__(self, layer: Recurrent, factor: int) -> None:
        super().__init__()
        if layer.proj_size:
            raise InputError("a layer with proj_size cannot be widened for a trial", "leave out proj_size")
        self.inner = remade(layer, hidden_size=factor * layer.hidden_size)
        self.batch_first = layer.batch_first
        parameter = next(layer.parameters())
        at = {"device": parameter.device, "dtype": parameter.dtype}
        directions = 2 if layer.bidirectional else 1
        self.output = nn.Linear(directions * factor * layer.hidden_size, directions * layer.hidden_size, **at)
        self.state = nn.Linear(factor * layer.hidden_size, layer.hidden_size, **at)

    def forward(self, x: Any, hx: Any = None, **marks: Any) -> tuple[Any, Any]:
        """As the layer: input and state to output and state."""
        if not isinstance(x, Tensor):
            raise InputError("a widened layer takes no PackedSequence", "give the padded tensor")
        missing = self.inner.hidden_size - self.state.out_features
        pair = isinstance(hx, tuple)
        if hx is not None:
            padded = tuple(F.pad(h, (0, missing)) for h in (hx if pair else (hx,)))
            hx = padded if pair else padded[0]
        y, after = self.inner(x, hx, **marks)
        states = tuple(self.state(h) for h in (after if isinstance(after, tuple) else (after,)))
        return self.output(y), states if isinstance(after, tuple) else states[0]


def widened(model: nn.Module, factor: int) -> nn.Module:
    """The model with wider recurrent layers.

    Args:
        model: a copy.
        factor: how many times as many units.

    Returns:
        The model.

    Raises:
        InputError: it steps through a cell of torch.nn, whose state has the width that the loop knows.
    """
    if any(isinstance(module, StepLayer) for module in model.modules()):
        raise InputError(
            "a cell that your own loop steps cannot be widened from outside", "give it more units"
        )
    return replaced(model, lambda layer: Wider(layer, factor))


@contextmanager
def bridged(model: nn.Module) -> Iterator[None]:
    """Inside, a state that a layer handed on and got back without its graph is put back into the graph.

    Args:
        model: a copy.

    Yields:
        Nothing.
    """
    last: dict[nn.Module, tuple[Tensor, ...]] = {}

    def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
        hx = given[1] if len(given) > 1 else named.get("hx")
        if hx is None or not torch.is_grad_enabled():
            last.pop(module, None)
            return None
        pair, known = isinstance(hx, tuple), last.get(module)
        rows = hx if pair else (hx,)
        if known is None or not all(
            isinstance(r, Tensor) and torch.equal(r, k) for r, k in zip(rows, known, strict=False)
        ):
            return None
        found = known if pair else known[0]
        rest = {name: value for name, value in named.items() if name != "hx"}
        return (*given[:1], found, *given[2:]), rest

    def behind(module: nn.Module, given: tuple[Any, ...], found: Any) -> None:
        output, state = found
        last[module] = state if isinstance(state, tuple) else (state,)
        if isinstance(output, Tensor) and output.requires_grad:
            # a graph that a backward pass went through is gone
            output.register_hook(lambda _: last.pop(module, None) and None)

    hooks: list[Any] = []
    for layer in layers_of(model):
        hooks += [
            layer.register_forward_pre_hook(before, with_kwargs=True),
            layer.register_forward_hook(behind),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def cut_every(model: nn.Module, steps: int) -> Iterator[None]:
    """Inside, what the lowest layer reads is taken out of the graph at every so many-th call.

    Args:
        model: a copy that is run step by step.
        steps: from one cut to the next.

    Yields:
        Nothing.
    """
    calls = 0
    layers = layers_of(model)

    def before(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any] | None:
        nonlocal calls
        if module is layers[0]:
            calls += 1
        if calls % steps:
            return None
        return tuple(_detached(value) for value in given), {k: _detached(v) for k, v in named.items()}

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    return tuple(map(_detached, value)) if isinstance(value, tuple) else value
