"""Stacked, bidirectional recurrent layers of any cell, with the interface of torch.nn.GRU."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatewright.backends import dispatch
from gatewright.backends.call import Call, Weights, transform_refusal
from gatewright.cells.catalogue import find_cell
from gatewright.compiler.language import Cell
from gatewright.errors import InputError
from gatewright.layers.inputs import Expectation, SequenceInput, read_sequence, read_states

State = Tensor | tuple[Tensor, ...]

_ORDER = "arguments stand in torch.nn's order; pass options by name"


class Recurrent(nn.Module):
    """A cell over a sequence: stacked layers, one or both directions.

    Inputs are ``[T, B, I]``, ``[B, T, I]`` with ``batch_first``, ``[T, I]`` for a single sequence, or a
    ``PackedSequence``; the output has the same layout and ``D·H`` features (``D·P`` with a projection). A
    state is ``[L·D, B, H]``, or a tuple of those when the cell has several. Parameters are named as in torch
    (``weight_ih_l0`` …), vector weights ``vector_<name>_l0``; a map's rows stand in the cell's order.

    Args:
        cell: a cell, or the name of a catalogued one.
        input_size: ``I``.
        hidden_size: ``H``.
        num_layers: ``L``.
        bias: whether the maps have biases.
        batch_first: whether dense inputs and outputs are ``[B, T, ·]``.
        dropout: probability of dropping an output of every layer but the last, in training.
        bidirectional: whether a second set of weights runs over the sequence in reverse.
        proj_size: ``P``, when the output state is projected to another size after every step, else 0.
        device: of the parameters.
        dtype: of the parameters.
        recompute: keep only outputs for the gradient and compute the gates again: less memory, a third more
            arithmetic; without effect under ``torch.compile``.

    Attributes:
        backend: ``"auto"``, or the name of the backend that must run.
    """

    def __init__(
        self,
        cell: str | Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.cell = find_cell(cell)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.recompute = recompute
        self._backend = "auto"
        self._check_arguments(dtype)
        self._names = {row: self._weight_names(*row) for row in self._layers_and_suffixes()}
        for layer, suffix in self._layers_and_suffixes():
            for name, shape in self._parameter_shapes(layer).items():
                parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(f"{name}_l{layer}{suffix}", parameter)
        self.reset_parameters()

    def _check_arguments(self, dtype: torch.dtype | None) -> None:
        owner = type(self).__name__
        for name, least in (("input_size", 1), ("hidden_size", 1), ("num_layers", 1), ("proj_size", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"{owner}: expected {name} as an integer of at least {least}, received {value!r}", _ORDER
                )
        for name in ("bias", "batch_first", "bidirectional", "recompute"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise InputError(f"{owner}: expected {name} as True or False, received {value!r}", _ORDER)
        number = isinstance(self.dropout, (int, float)) and not isinstance(self.dropout, bool)
        if not number or not 0 <= self.dropout <= 1:
            hint = "dropout is the probability of dropping a value; 0 drops nothing"
            raise InputError(f"{owner}: expected dropout between 0 and 1, received {self.dropout!r}", hint)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(
                f"{owner}: expected a real floating-point dtype, received {dtype!r}", "use torch.float32"
            )
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"{owner}: dropout={self.dropout} acts between layers and does nothing with num_layers=1",
                stacklevel=3 if type(self) is Recurrent else 4,
            )
        if self.proj_size and not self.cell.graph.projectable:
            message = (
                f"{owner}: proj_size needs a cell whose output state feeds only recurrent maps, as the LSTM's"
            )
            raise InputError(f"{message}; {self.cell.name!r} reads it elsewhere too", "leave out proj_size")
        if self.proj_size >= self.hidden_size:
            message = f"{owner}: expected proj_size smaller than hidden_size={self.hidden_size}"
            raise InputError(f"{message}, received {self.proj_size}", "0 means no projection")

    @property
    def output_size(self) -> int:
        """Features of one direction's output: ``P`` with a projection, else ``H``."""
        return self.proj_size or self.hidden_size

    @property
    def backend(self) -> str:
        """The backend asked for: ``"auto"`` or a name."""
        return self._backend

    @backend.setter
    def backend(self, choice: str) -> None:
        self._backend = dispatch.check_choice(choice)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _layers_and_suffixes(self) -> Iterator[tuple[int, str]]:
        for layer in range(self.num_layers):
            yield layer, ""
            if self.bidirectional:
                yield layer, "_reverse"

    def _parameter_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Shapes by name, in torch's order, of one layer in one direction."""
        graph, hidden = self.cell.graph, self.hidden_size
        inputs = self.input_size if layer == 0 else self.output_size * self._directions
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (len(graph.input_maps) * hidden, inputs)}
        if graph.recurrent_maps:
            shapes["weight_hh"] = (len(graph.recurrent_maps) * hidden, self.output_size)
        if self.bias:
            shapes["bias_ih"] = (len(graph.input_maps) * hidden,)
            if graph.recurrent_maps:
                shapes["bias_hh"] = (len(graph.recurrent_maps) * hidden,)
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, hidden)
        return shapes | {f"vector_{name}": (hidden,) for name in graph.vector_weights}

    def reset_parameters(self) -> None:
        """Draw every parameter from U(−1/√H, 1/√H) as torch does; layer norm begins at gain 1 and bias 0."""
        bound = 1 / math.sqrt(self.hidden_size)
        gains, biases = self.cell.graph.layer_norm_vectors()
        for name, parameter in self.named_parameters():
            vector = name.removeprefix("vector_").rpartition("_l")[0] if name.startswith("vector_") else ""
            if vector in gains or vector in biases:
                nn.init.constant_(parameter, 1.0 if vector in gains else 0.0)
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def _weight_names(self, layer: int, suffix: str) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
        """The parameters in the order of ``Weights``, None for one that there is not, then the vectors'."""
        shapes = self._parameter_shapes(layer)
        maps = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        vectors = tuple(f"vector_{name}_l{layer}{suffix}" for name in self.cell.graph.vector_weights)
        return tuple(f"{name}_l{layer}{suffix}" if name in shapes else None for name in maps), vectors

    def _weights(self, layer: int, suffix: str) -> Weights:
        maps, vectors = self._names[layer, suffix]
        weights = Weights(*[None if name is None else self._weight(name) for name in maps])  # type: ignore[arg-type]
        if vectors:
            names = self.cell.graph.vector_weights
            weights.vectors = dict(zip(names, map(self._weight, vectors), strict=True))
        return weights

    def _weight(self, name: str) -> Any:
        # a parametrized weight is an attribute; a parameter is found sooner where it is registered
        found = self._parameters.get(name)
        return getattr(self, name) if found is None else found

    def _expectation(self) -> Expectation:
        graph = self.cell.graph
        weight: Tensor = self._weight("weight_ih_l0")
        return Expectation(
            layer=type(self).__name__,
            input_size=self.input_size,
            state_sizes=tuple(
                [self.output_size if s == graph.output else self.hidden_size for s in graph.states]
            ),
            state_names=graph.states,
            rows=self.num_layers * self._directions,
            batch_first=self.batch_first,
            dtype=weight.dtype,
            device=weight.device,
        )

    def _calls(
        self, data: Tensor, states: list[Tensor], layer: int, sizes: tuple[int, ...] | None
    ) -> list[Call]:
        """The calls of one layer, one a direction."""
        calls = []
        for direction in range(self._directions):
            row = layer * self._directions + direction
            weights = self._weights(layer, "_reverse" if direction else "")
            first = tuple([state[row] for state in states])
            calls.append(Call(self.cell, data, weights, first, bool(direction), sizes, self.recompute))
        return calls

    @overload
    def forward(self, input: Tensor, hx: State | None = None) -> tuple[Tensor, Any]: ...

    @overload
    def forward(self, input: PackedSequence, hx: State | None = None) -> tuple[PackedSequence, Any]: ...

    def forward(self, input: SequenceInput, hx: State | None = None) -> tuple[Any, Any]:  # noqa: A002 - torch's name
        """Run over a sequence.

        Args:
            input: ``[T, B, I]``, ``[B, T, I]``, ``[T, I]`` or a ``PackedSequence``.
            hx: the initial state, ``[L·D, B, H]`` (``[L·D, H]`` unbatched) or a tuple of those; zero if None.

        Returns:
            The last layer's output in the layout of the input, and the final state in the form of ``hx``.

        Raises:
            InputError: a shape, dtype or device that does not fit the layer.
        """
        expected = self._expectation()
        sequence = read_sequence(input, expected)
        states = read_states(hx, sequence, expected)
        data = sequence.data
        final: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            calls = self._calls(data, states, layer, sequence.batch_sizes)
            results = [dispatch.run(call, self._backend) for call in calls]
            outputs = [y for y, _ in results]
            data = torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
            final += [last for _, last in results]
            if layer < self.num_layers - 1 and self.dropout:
                data = F.dropout(data, self.dropout, self.training)
        stacked = tuple(sequence.state_out(_stacked(rows)) for rows in zip(*final, strict=True))
        return sequence.output(data), stacked[0] if len(stacked) == 1 else stacked

    def routes(self, x: SequenceInput) -> list[tuple[str, Call, dispatch.Route]]:
        """For every layer and direction the suffix of its weights, its call for an input, and the backend."""
        expected = self._expectation()
        sequence = read_sequence(x, expected)
        states = read_states(None, sequence, expected)
        data, routes = sequence.data, []
        trained = any(parameter.requires_grad for parameter in self.parameters())
        for layer in range(self.num_layers):
            for call in self._calls(data, states, layer, sequence.batch_sizes):
                suffix = f"l{layer}_reverse" if call.reverse else f"l{layer}"
                routes.append((suffix, call, dispatch.route(call, self._backend)))
            features = self.output_size * self._directions
            graded = data.requires_grad or trained
            data = data.new_empty(*data.shape[:-1], features)
            # what torch.func transforms may not be told; no kernel that asks runs there
            if graded and transform_refusal() is None:
                data.requires_grad_()
        return routes

    def flatten_parameters(self) -> None:
        """Do nothing: kept so that code written for torch.nn runs unchanged."""

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, as torch.nn lists them."""
        return [
            [getattr(self, f"{name}_l{layer}{suffix}") for name in self._parameter_shapes(layer)]
            for layer, suffix in self._layers_and_suffixes()
        ]

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their default."""
        text = f"{self.input_size}, {self.hidden_size}"
        if type(self) is Recurrent:
            text = f"{self.cell.name}, {text}"
        defaults = {
            "proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
            "bidirectional": False, "recompute": False, "backend": "auto",
        }  # fmt: skip
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                text += f", {name}={value!r}" if isinstance(value, str) else f", {name}={value}"
        return text


def _stacked(rows: tuple[Tensor, ...]) -> Tensor:
    """The states of all layers and directions, ``[rows, B, ·]``; a single one is not copied."""
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)
