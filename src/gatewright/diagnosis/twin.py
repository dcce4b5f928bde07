"""A model's twin: a copy whose recurrent layers run step by step through their equations, and are watched.

Fused kernels hide what happens between two steps. The twin has the same weights, gives the same outputs
(``check``), and leaves a trace of every state of every layer, through which gradients flow.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gatewright.backends import heads
from gatewright.backends.call import Call
from gatewright.backends.eager import EagerBackend
from gatewright.diagnosis.cells import StepLayer, is_cell
from gatewright.diagnosis.problem import Loss
from gatewright.errors import InputError
from gatewright.interop.torch import from_torch
from gatewright.layers.recurrent import Recurrent

_AMPLIFIED = 50.0
"""How much farther apart than a model that was moved by its last digit the equations may be."""

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3}


@dataclass(eq=False)
class Trace:
    """What one call of one layer and direction did.

    Attributes:
        chain: the layer and direction, as the model names it.
        module: that holds the layer.
        call: as it was run.
        maps: ``[T, B, ·]`` input maps in the order of time.
        states: of each step that was run: the states behind it, ``[B, ·]`` each; the graph hangs on them.
        previous: the call from whose last state this one goes on, if there is one.
        cut: whether the model had taken the state that this call goes on from out of the graph.
        carried: whether that state is from an evaluation of the loss before this one.
    """

    chain: str
    module: Recurrent
    call: Call
    maps: Tensor
    states: list[tuple[Tensor, ...]]
    previous: Trace | None = None
    cut: bool = False
    carried: bool = False

    @property
    def steps(self) -> int:
        """How many steps were run."""
        return len(self.states)

    def sequence(self) -> list[Trace]:
        """This call and those that it goes on from, the first one first."""
        found: list[Trace] = [self]
        while found[0].previous is not None:
            found.insert(0, found[0].previous)
        return found


@dataclass(eq=False)
class Recording:
    """One evaluation of the loss.

    Attributes:
        loss: the scalar, with its graph where gradients were recorded.
        traces: of every call, in the order in which they were run.
    """

    loss: Tensor
    traces: list[Trace] = field(default_factory=list)

    def chains(self) -> dict[str, Trace]:
        """Of each layer and direction the last call, in the order in which they were first run."""
        return {trace.chain: trace for trace in self.traces}


class _Watched(EagerBackend):
    """The equations, and what they gave."""

    def __init__(self) -> None:
        self.maps: Tensor | None = None
        self.states: list[tuple[Tensor, ...]] = []

    def observed_maps(self, maps: Tensor) -> Tensor:
        self.maps = maps
        return maps

    def observed_states(self, states: list[Tensor]) -> list[Tensor]:
        # one state may be made from another (an LSTM's output from its memory): behind the step they part
        states = [state.view_as(state) for state in states]
        self.states.append(tuple(states))
        return states


class Twin:
    """The copy of a model whose recurrent layers are watched.

    Args:
        model: holds layers of ``torch.nn``, cells of ``torch.nn`` or layers of this library.

    Attributes:
        model: the copy, in which every recurrent layer is one of this library.
        modules: the recurrent layers by name.
        notes: what could not be taken along, one sentence each.
        bridged: whether a state that the model took out of the graph is put back.

    Raises:
        InputError: there is no recurrent layer, or the model cannot be copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model, self.notes = converted(model)
        self.modules = {
            self._called(name, module): module
            for name, module in self.model.named_modules()
            if isinstance(module, Recurrent)
        }
        self.bridged = False
        self._recording: Recording | None = None
        self._last: dict[str, Trace] = {}
        self._carried: dict[str, tuple[Tensor, ...]] = {}
        self._layer: dict[str, int] = {}
        for name, module in self.modules.items():
            # attributes of the instance stand in front of the methods
            module.layer_calls = partial(self._layer_calls, name, module.layer_calls)  # type: ignore[method-assign]
            module.run_layer = partial(self._run_layer, name, module)  # type: ignore[method-assign]

    def _called(self, name: str, module: Recurrent) -> str:
        """What a layer is called: as the model calls it, or what it is where it is the model itself."""
        if isinstance(self.model, StepLayer):
            return f"{type(module).__name__.lower()}cell"
        return name.removesuffix(".layer") or type(module).__name__.lower()

    def run(self, loss: Loss, batch: Any) -> Recording:
        """Evaluate a loss and record what every layer did; states go on from the run before.

        Args:
            loss: of the problem.
            batch: of the problem.

        Returns:
            The recording.

        Raises:
            InputError: the loss did not run the model's recurrent layers, or is no scalar.
        """
        self._recording = Recording(torch.empty(0))
        self._last = {}
        try:
            value = loss(self.model, batch)
        finally:
            recording, self._recording = self._recording, None
        check_loss(value)
        if not recording.traces:
            raise InputError(
                "the loss did not run the recurrent layers of the model that it was given",
                "write loss(model, batch) so that it calls its own argument 'model', not another variable",
            )
        recording.loss = value
        self._carried = {n: tuple(s.detach() for s in t.states[-1]) for n, t in self._last.items()}
        return recording

    def forget(self) -> None:
        """Begin anew: nothing goes on from the runs before."""
        self._carried = {}

    def _layer_calls(
        self, name: str, layer_calls: Callable[..., list[Call]], *given: Any, **options: Any
    ) -> list[Call]:
        """In place of ``Stack.layer_calls``: remembers which layer is about to run."""
        self._layer[name] = given[2]
        return layer_calls(*given, **options)

    def _run_layer(
        self, name: str, module: Recurrent, calls: Sequence[Call]
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """In place of ``Stack.run_layer``."""
        outputs, found = [], []
        for call in calls:
            y, states = self._run_call(name, module, call)
            outputs.append(y)
            found.append(states[: len(module.cell.graph.states)])
        data = torch.cat(outputs, dim=-1) if module.bidirectional else outputs[0]
        return data, found

    def _run_call(self, name: str, module: Recurrent, call: Call) -> tuple[Tensor, tuple[Tensor, ...]]:
        if torch.is_autocast_enabled(call.x.device.type):
            raise InputError(
                f"{name}: the loss runs under autocast, whose rounding hides what is measured",
                "give a loss without torch.autocast: the diagnosis looks at the model in its own precision",
            )
        if call.batch_sizes is not None:
            raise InputError(
                f"{name}: a PackedSequence with a projection cannot be measured",
                "give the padded tensor and lengths=... to a layer of gatewright, or leave out proj_size",
            )
        chain = name if module.num_layers == 1 else f"{name} layer {self._layer[name] + 1}"
        chain += ", reverse" if call.reverse else ""
        call = replace(heads.dense(call) if heads.count(call) > 1 else call, recompute=False)
        previous, cut, carried = self._before(chain, call)
        if cut and self.bridged and previous is not None:
            call = replace(call, states=(*previous.states[-1], *call.states[len(previous.states[-1]) :]))
        watched = _Watched()
        result = watched.run(call)
        assert watched.maps is not None
        count = len(module.cell.graph.states)
        states = [states[:count] for states in watched.states]
        trace = Trace(chain, module, call, watched.maps, states, previous, cut, carried)
        if self._recording is not None:
            self._recording.traces.append(trace)
        if states:
            self._last[chain] = trace
        return result

    def _before(self, chain: str, call: Call) -> tuple[Trace | None, bool, bool]:
        """The call that this one goes on from, and whether its state was cut out of the graph, or carried."""
        if call.reverse:
            return None, False, False
        attached = any(state.requires_grad for state in call.states)
        last = self._last.get(chain)
        if last is not None and _same(call.states, last.states[-1]):
            return last, torch.is_grad_enabled() and not attached, False
        carried = _same(call.states, self._carried.get(chain, ()))
        return None, carried, carried


def _same(given: Sequence[Tensor], known: Sequence[Tensor]) -> bool:
    """Whether states are those of another call, and not merely all zero."""
    pairs = list(zip(given, known, strict=False))
    equal = all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)
    return bool(pairs) and equal and any(bool(a.any()) for a, _ in pairs)


def converted(model: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy of a model whose recurrent layers and cells are those of this library, with the same weights.

    Args:
        model: of the user.

    Returns:
        The copy, and notes on what was left as it is.

    Raises:
        InputError: there is nothing recurrent, or the model cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"expected a torch.nn.Module, received a {type(model).__name__}", "give the model itself"
        )
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise InputError(
            f"the model cannot be copied: {error}",
            "what it keeps in its attributes must be copyable: detach tensors, and leave locks and files out",
        ) from error
    for path, module in twin.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            # the same gradient, in a form that can be measured
            module.sparse = False
        if isinstance(module, nn.RNNBase | nn.RNNCellBase) and parametrize.is_parametrized(module):
            raise InputError(
                f"{path or 'the model'}: its weights are computed from others, which is not followed",
                "take off weight norm and the like first: torch.nn.utils.parametrize.remove_parametrizations",
            )
    if any(type(module) in (nn.GRU, nn.LSTM, nn.RNN) for module in twin.modules()):
        twin = from_torch(twin)
    notes, layers = [], {}
    for path, module in list(twin.named_modules(remove_duplicate=False)):
        if is_cell(module):
            # a cell that stands in two places stays one
            layer = layers.setdefault(module, StepLayer(module))
            parent, _, name = path.rpartition(".")
            twin = layer if not path else twin
            if path:
                setattr(twin.get_submodule(parent), name, layer)
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            notes.append(f"{path or 'the model'} is a subclass of torch's layer and was not looked into")
    if not any(isinstance(module, Recurrent) for module in twin.modules()):
        raise InputError(
            f"no recurrent layer in {type(model).__name__}" + (f": {notes[0]}" if notes else ""),
            "give a model that holds torch.nn.GRU, LSTM, RNN, their cells, or layers of gatewright",
        )
    return twin, notes


def check_loss(value: Any) -> None:
    """Refuse what is no loss.

    Args:
        value: what the user's function gave.

    Raises:
        InputError: it is no scalar tensor.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        received = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise InputError(
            f"expected loss(model, batch) to give one number as a tensor, received {received}",
            "take the mean, as in torch.nn.functional.mse_loss(model(x), y)",
        )


def check(twin: Twin, model: nn.Module, loss: Loss, batch: Any) -> float:
    """Compare the twin's loss with the model's, both in evaluation mode.

    Args:
        twin: of the model.
        model: as it was given; a copy of it is run.
        loss: of the problem.
        batch: of the problem.

    Returns:
        The relative difference; NaN where a loss is not finite.

    Raises:
        InputError: they differ by more than the rounding that the model itself amplifies.
    """
    plain = copy.deepcopy(model).eval()
    training = twin.model.training
    twin.model.eval()
    state = torch.get_rng_state()

    def evaluated(run: Callable[[], Tensor]) -> float:
        torch.set_rng_state(state)
        with torch.no_grad():
            value = run()
        check_loss(value)
        return float(value)

    try:
        expected = evaluated(lambda: loss(plain, batch))
        found = evaluated(lambda: twin.run(loss, batch).loss)
        scale = max(abs(expected), 1e-3)
        error = abs(found - expected) / scale
        dtype = next((p.dtype for p in plain.parameters()), torch.float32)
        if error > _TOLERANCE.get(dtype, 5e-2):
            # a model that parts from itself at the last digit of its weights does so from its equations too
            with torch.no_grad():
                for parameter in plain.parameters():
                    parameter *= 1 + 2 * torch.finfo(parameter.dtype).eps
            moved = abs(evaluated(lambda: loss(plain, batch)) - expected) / scale
            if error > _AMPLIFIED * moved:
                raise InputError(
                    f"the model's loss is {expected:.6g}, its equations give {found:.6g}",
                    "a loss that draws random numbers must depend on torch's generator alone",
                )
    finally:
        twin.model.train(training)
        twin.forget()
    return error if math.isfinite(expected) and math.isfinite(found) else math.nan
