"""Cheap measures while a model trains, and a stop at the first number that is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gatewright.diagnosis.measures.non_finite import locate
from gatewright.diagnosis.twin import Twin
from gatewright.errors import InputError
from gatewright.files import write_json
from gatewright.layers.recurrent import Recurrent

_RECURRENT = (nn.RNNBase, nn.RNNCellBase, Recurrent)
_EDGE = 0.95
_MOST_CALLS = 64


class Monitor:
    """Follows training from between ``loss.backward()`` and ``optimizer.step()``.

        monitor = gw.Monitor(model, every=20)
        for batch in batches:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            monitor.step(loss)
            optimizer.step()

    Each step costs the norm of the gradient; every so many steps also one look at each recurrent layer's
    output. What was recorded stands in ``records``, one mapping a look: ``step``, ``loss``,
    ``gradient_norm``, and for each recurrent layer ``<name>.gradient_norm`` (of its weights),
    ``<name>.weight_norm``, ``<name>.saturated`` (share of outputs beyond ±0.95) and ``<name>.change``
    (root mean square change of the output in a step, over its spread).

    Args:
        model: that is trained; hooks are put on it until ``close``.
        every: steps from one look to the next.

    Raises:
        InputError: there is no recurrent layer, or ``every`` is no whole number above 0.
    """

    def __init__(self, model: nn.Module, every: int = 20) -> None:
        if not isinstance(model, nn.Module):
            hint = "give the model itself"
            raise InputError(f"Monitor: expected a torch.nn.Module, received a {type(model).__name__}", hint)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputError(
                f"Monitor: expected every as a whole number above 0, received {every!r}", "20 is usual"
            )
        self.model, self.every = model, every
        self.records: list[dict[str, float]] = []
        self.steps = 0
        self._layers = {
            name or type(module).__name__.lower(): module
            for name, module in model.named_modules()
            if isinstance(module, _RECURRENT)
        }
        if not self._layers:
            hint = "give a model that holds torch.nn.GRU, LSTM, RNN, their cells, or layers of gatewright"
            raise InputError(f"Monitor: no recurrent layer in {type(model).__name__}", hint)
        self._outputs: dict[str, Tensor] = {}
        self._given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._hooks: list[Any] = [model.register_forward_pre_hook(self._keep(), with_kwargs=True)]
        for name, module in self._layers.items():
            self._hooks.append(module.register_forward_hook(self._watch(name)))

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def step(self, loss: Tensor | float) -> None:
        """Look at one step of training, behind ``backward`` and in front of the optimizer.

        Args:
            loss: of the step.

        Raises:
            InputError: the loss or a gradient is not finite; the message says in which layer, at which time
                step and by which operation. The weights are still those of the step before.
        """
        value = _number(loss)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = _norm(gradients)
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise self._complaint(value)
        if self.steps % self.every == 0:
            self.records.append(self._look(value, norm))
        self.steps += 1
        self._outputs.clear()
        self._given = []

    def save(self, path: Path | str) -> None:
        """Write the records as JSON.

        Args:
            path: of the file.
        """
        write_json(Path(path), {"every": self.every, "steps": self.steps, "records": self.records})

    # functions, not methods: a copy of the model must not take a copy of the monitor along
    def _keep(self) -> Any:
        def keep(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if module is self.model and len(self._given) < _MOST_CALLS:
                self._given.append((given, named))

        return keep

    def _watch(self, name: str) -> Any:
        def keep(module: nn.Module, given: tuple[Any, ...], found: Any) -> None:
            if self.steps % self.every or module is not self._layers[name]:
                return
            output = found[0] if isinstance(found, tuple) else found
            if isinstance(output, nn.utils.rnn.PackedSequence):
                output = output.data
            if isinstance(output, Tensor) and output.dim() == 3 and getattr(module, "batch_first", False):
                output = output.transpose(0, 1)
            self._outputs[name] = output.detach()

        return keep

    def _look(self, loss: float, norm: float) -> dict[str, float]:
        found = {"step": float(self.steps), "loss": loss, "gradient_norm": norm}
        for name, module in self._layers.items():
            own = list(module.parameters(recurse=False))
            found[f"{name}.gradient_norm"] = _norm([p.grad for p in own if p.grad is not None])
            found[f"{name}.weight_norm"] = _norm([p.detach() for p in own])
            output = self._outputs.get(name)
            if output is not None and output.numel():
                found[f"{name}.saturated"] = (output.abs() > _EDGE).float().mean().item()
                if output.dim() == 3 and len(output) > 1:
                    spread = output.flatten(0, 1).std(0).square().mean().sqrt().clamp(min=1e-12)
                    change = (output[1:] - output[:-1]).square().mean().sqrt()
                    found[f"{name}.change"] = (change / spread).item()
        return found

    def _complaint(self, loss: float) -> InputError:
        """Say where the number that is not finite arose, by running the same inputs step by step."""
        where = f"step {self.steps}: the loss is {loss:g}"
        hint = "leave the step out, clip the gradient, or lower the learning rate; gw.diagnose says which"
        text = ""
        for given, named in self._given:
            layer, text = self._located(given, named)
            if layer:
                return InputError(f"{where}; {text}", hint)
        bad = [
            name for name, p in self.model.named_parameters() if p.grad is not None and not _finite(p.grad)
        ]
        if bad and math.isfinite(loss):
            text = f"the gradient by {', '.join(bad[:4])} is not finite"
        elif math.isfinite(loss):
            text = "the norm of the gradient is too large for its numbers"
        return InputError(f"{where}; {text}" if text else where, hint)

    def _located(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[str, str]:
        given, named = _detached(given), _detached(named)
        try:
            twin = Twin(self.model)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                recording = twin.run(lambda model, _: _as_loss(model(*given, **named)), None)
        except InputError as error:
            # the loss is not finite all the same, and that is what must be said
            return "", f"where it arose could not be found: {error.message}"
        return locate(recording)


def _number(loss: Any) -> float:
    """The loss as a number."""
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex():
        return float(loss.detach())
    if isinstance(loss, Real):
        return float(loss)
    received = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise InputError(
        f"Monitor: expected the loss as one number, received {received}", "give the loss of the step"
    )


def _detached(value: Any) -> Any:
    """Inputs without the graph that they may hang on."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {name: _detached(part) for name, part in value.items()}
    return tuple(map(_detached, value)) if type(value) is tuple else value


def _as_loss(output: Any) -> Tensor:
    """Some scalar of what a model gives: only the way to it matters."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    return output.float().sum() if isinstance(output, Tensor) else torch.zeros(())


def _finite(value: Tensor) -> bool:
    return math.isfinite(_norm([value]))


def _norm(values: list[Tensor]) -> float:
    """The norm of all values together."""
    dense = [value.coalesce().values() if value.is_sparse else value for value in values if value.numel()]
    if not dense:
        return 0.0
    return float(nn.utils.get_total_norm(dense))
