"""Stacked, bidirectional recurrent layers of any cell, with the interface of torch.nn.GRU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Unpack, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatewright.backends import dispatch
from gatewright.backends.call import Call, Weights, transform_refusal
from gatewright.cells.catalogue import find_cell
from gatewright.compiler.interpret import GraphCell
from gatewright.compiler.language import Cell
from gatewright.errors import InputError
from gatewright.layers.inputs import (
    Expectation,
    SequenceBatch,
    SequenceInput,
    StateInput,
    read_sequence,
    read_states,
)
from gatewright.layers.marks import Lengths, Marks, read_marks
from gatewright.layers.options import LayerOptions, cell_with, read_options, variant
from gatewright.layers.parameters import Parameters
from gatewright.layers.state import State
from gatewright.layers.stream import Stream

_ORDER = "arguments stand in torch.nn's order; pass options by name"


class Recurrent(nn.Module):
    """A cell over a sequence: stacked layers, one or both directions.

    Inputs are ``[T, B, I]``, ``[B, T, I]`` with ``batch_first``, ``[T, I]`` for a single sequence, or a
    ``PackedSequence``; the output has the same layout and ``D·H`` features (``D·P`` with a projection). A
    state is ``[L·D, B, H]``, a tuple of those when the cell has several, or a ``State``. Parameters are named
    as in torch (``weight_ih_l0`` …), vector weights ``vector_<name>_l0``; a map's rows stand in the cell's
    order.

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
        **options: what torch does not have, by name: see ``gatewright.layers.options.Options``.

    Attributes:
        backend: ``"auto"``, or the name of the backend that must run.
        options: those that were given.
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
        **options: Unpack[LayerOptions],
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
        self._backend = "auto"
        self._check_arguments(dtype)
        self.options = read_options(type(self).__name__, self.cell, hidden_size, options)
        self._check_projection()
        self._cell = cell_with(self.cell, self.options)
        self._sizes = Parameters(
            self._cell.graph, input_size, hidden_size, num_layers, self._directions, bias, proj_size,
            self.options.heads, self.options.pre_norm, self.options.train_initial_state,
        )  # fmt: skip
        self._names = {row: self._weight_names(*row) for row in self._sizes.rows()}
        for name, shape in self._sizes.shapes().items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def _check_arguments(self, dtype: torch.dtype | None) -> None:
        owner = type(self).__name__
        for name, least in (("input_size", 1), ("hidden_size", 1), ("num_layers", 1), ("proj_size", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(
                    f"{owner}: expected {name} as an integer of at least {least}, received {value!r}", _ORDER
                )
        for name in ("bias", "batch_first", "bidirectional"):
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

    def _check_projection(self) -> None:
        owner, options = type(self).__name__, self.options
        if self.proj_size and not self.cell.graph.projectable:
            message = (
                f"{owner}: proj_size needs a cell whose output state feeds only recurrent maps, as the LSTM's"
            )
            raise InputError(f"{message}; {self.cell.name!r} reads it elsewhere too", "leave out proj_size")
        if self.proj_size >= self.hidden_size:
            message = f"{owner}: expected proj_size smaller than hidden_size={self.hidden_size}"
            raise InputError(f"{message}, received {self.proj_size}", "0 means no projection")
        given = {
            "recurrent_dropout": options.recurrent_dropout,
            "zoneout": self.cell.graph.output in options.zoneout,
            "heads": options.heads > 1,
        }
        other = next((name for name, value in given.items() if value), None)
        if self.proj_size and other is not None:
            raise InputError(f"{owner}: {other} is not possible with proj_size", f"leave out {other}")

    @property
    def output_size(self) -> int:
        """Features of one direction's output: ``P`` with a projection, else ``H``."""
        return self.proj_size or self.hidden_size

    @property
    def recompute(self) -> bool:
        """Whether only outputs are kept for the gradient."""
        return self.options.recompute

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

    def reset_parameters(self) -> None:
        """Draw every parameter from U(−1/√H, 1/√H) as torch; norms begin at gain 1, initial states at 0."""
        for name, parameter in self.named_parameters():
            self._sizes.draw(name, parameter)

    # ---------------------------------------------------------------- weights

    def _weight_names(self, layer: int, suffix: str) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
        """The parameters in the order of ``Weights``, None for one that there is not, then the vectors'."""
        shapes = self._sizes.of_direction(layer)
        maps = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        vectors = tuple(f"vector_{name}_l{layer}{suffix}" for name in self._cell.graph.vector_weights)
        return tuple(f"{name}_l{layer}{suffix}" if name in shapes else None for name in maps), vectors

    def _weights(self, layer: int, suffix: str) -> Weights:
        maps, vectors = self._names[layer, suffix]
        weights = Weights(*[None if name is None else self._weight(name) for name in maps])  # type: ignore[arg-type]
        if vectors:
            names = self._cell.graph.vector_weights
            weights.vectors = dict(zip(names, map(self._weight, vectors), strict=True))
        if self.options.weight_drop and self.training and weights.weight_hh is not None:
            weights.weight_hh = F.dropout(weights.weight_hh, self.options.weight_drop)
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
            projected=self.proj_size > 0,
            cell=self.cell.name,
            dtype=weight.dtype,
            device=weight.device,
        )

    def _initial(self) -> list[Tensor] | None:
        """The learned initial states, ``[L·D, size]`` each."""
        if not self.options.train_initial_state:
            return None
        return [self._weight(f"initial_{state}") for state in self.cell.graph.states]

    # ---------------------------------------------------------------- calls

    def _calls(
        self,
        data: Tensor,
        states: Sequence[Tensor],
        layer: int,
        sizes: tuple[int, ...] | None,
        marks: Marks,
        every: bool,
    ) -> list[Call]:
        """The calls of one layer, one a direction."""
        options, calls = self.options, []
        cell: Cell | GraphCell = self._cell
        resets = "" if marks.resets is None else "first" if options.train_initial_state else "zero"
        random = bool(options.recurrent_dropout) and self.training
        if random or options.zoneout or marks.valid is not None or resets:
            rates = tuple(options.zoneout.items())
            cell = variant(cell.graph, random, rates, self.training, marks.valid is not None, resets)
        for direction in range(self._directions):
            row, reverse = layer * self._directions + direction, bool(direction)
            weights = self._weights(layer, "_reverse" if reverse else "")
            first = tuple([state[row] for state in states])
            call = Call(cell, data, weights, first, reverse, sizes, options.recompute)
            if cell is not self._cell:
                call.masks = tuple([self._mask(name, data, marks, reverse) for _, name in cell.graph.masks])
                call.lengths = marks.lengths
            if resets == "first":
                own = self._initial() or []
                call.states += tuple([value[row].expand(data.shape[1], -1) for value in own])
            call.every = every
            calls.append(call)
        return calls

    def _mask(self, name: str, data: Tensor, marks: Marks, reverse: bool) -> Tensor:
        """A mask of a call: drawn, or what the caller marked."""
        steps, batch = data.shape[:2]
        if name == "recurrent_dropout":
            return F.dropout(data.new_ones(batch, self.hidden_size), self.options.recurrent_dropout)
        if name.startswith("zoneout_"):
            rate = self.options.zoneout[name.removeprefix("zoneout_")]
            return torch.bernoulli(data.new_full((steps, batch, self.hidden_size), rate))
        return marks.of_direction(name, reverse, data.dtype)

    def _run(self, calls: Sequence[Call]) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """The output of a layer, and the states that each direction gives."""
        results = [dispatch.run(call, self._backend) for call in calls]
        outputs = [y for y, _ in results]
        # behind the states of the cell stand those that a reset leads to
        count = len(self.cell.graph.states)
        data = torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
        return data, [states[:count] for _, states in results]

    def _before(self, data: Tensor, layer: int) -> Tensor:
        """What a layer reads."""
        if not self.options.pre_norm:
            return data
        names = (f"norm_{what}_l{layer}" for what in ("weight", "bias"))
        return F.layer_norm(data, data.shape[-1:], *map(self._weight, names))

    def _behind(self, data: Tensor, given: Tensor, layer: int, sizes: tuple[int, ...] | None) -> Tensor:
        """What a layer hands on: to its output its input is added, then some of it is dropped."""
        if self.options.residual and given.shape[-1] == data.shape[-1]:
            data = data + given
        if layer == self.num_layers - 1:
            return data
        if self.dropout:
            data = F.dropout(data, self.dropout, self.training)
        if self.options.variational_dropout and self.training:
            rows = data.shape[1] if sizes is None else sizes[0]
            mask = F.dropout(data.new_ones(rows, data.shape[-1]), self.options.variational_dropout)
            if sizes is not None:
                mask = torch.cat([mask[:size] for size in sizes])
            data = data * mask
        return data

    def _dense(
        self, sequence: SequenceBatch, marks: Marks, states: Sequence[Tensor]
    ) -> tuple[SequenceBatch, Marks]:
        """A packed sequence padded, where kernels of ours run it then; as it is where none do."""
        if sequence.packed is None or self._backend in ("torch", "eager") or self.proj_size:
            return sequence, marks
        padded, lengths = sequence.padded()
        marks = read_marks(lengths, None, None, "hold", padded, self._expectation())
        calls = self._calls(padded.data, states, 0, None, marks, False)
        backends = {dispatch.route(call, "auto").backend.name for call in calls}
        return (padded, marks) if backends <= {"cpu", "gpu"} else (sequence, Marks())

    @overload
    def forward(
        self, input: Tensor, hx: StateInput | None = None, *, lengths: Lengths | None = None,
        mask: Tensor | None = None, resets: Tensor | None = None, masked: str = "hold",
        all_states: bool = False,
    ) -> tuple[Tensor, Any]: ...  # fmt: skip

    @overload
    def forward(
        self, input: PackedSequence, hx: StateInput | None = None, *, lengths: Lengths | None = None,
        mask: Tensor | None = None, resets: Tensor | None = None, masked: str = "hold",
        all_states: bool = False,
    ) -> tuple[PackedSequence, Any]: ...  # fmt: skip

    def forward(
        self,
        input: SequenceInput,  # noqa: A002 - torch's name
        hx: StateInput | None = None,
        *,
        lengths: Lengths | None = None,
        mask: Tensor | None = None,
        resets: Tensor | None = None,
        masked: str = "hold",
        all_states: bool = False,
    ) -> tuple[Any, ...]:
        """Run over a sequence.

        A step that does not count leaves the states as they are; its input may be anything.

        Args:
            input: ``[T, B, I]``, ``[B, T, I]``, ``[T, I]`` or a ``PackedSequence``.
            hx: the initial state, ``[L·D, B, H]`` (``[L·D, H]`` unbatched), a tuple of those or a ``State``;
                the layer's own if None, which is zero unless it is learned.
            lengths: how many steps of each row count, ``[B]``, in any order, 0 too.
            mask: which steps count, ``[T, B]`` in the layout of the input, torch.bool.
            resets: in front of which steps a sequence begins, likewise: the state is the layer's own initial
                one again, in reverse that of the step before.
            masked: the output of a step that does not count: ``"hold"``, that of the step before, or
                ``"zero"``.
            all_states: give the states of every step too.

        Returns:
            The last layer's output in the layout of the input, and the final state in the form of ``hx``;
            with ``all_states`` then every state of every layer at every step, ``[L·D, T, B, H]`` (``[L·D, T,
            H]`` unbatched) or a tuple of those.

        Raises:
            InputError: a shape, dtype, device or value that does not fit the layer.
        """
        expected = self._expectation()
        given = sequence = read_sequence(input, expected)
        states = read_states(hx, sequence, expected, self._initial())
        marks = read_marks(lengths, mask, resets, masked, sequence, expected)
        if sequence.packed is not None:
            if all_states:
                expected.refuse("all_states with a PackedSequence", "give the padded tensor with lengths=...")
            sequence, marks = self._dense(sequence, marks, states)
        sizes, data = sequence.batch_sizes, marks.cleaned(sequence.data)
        found: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            calls = self._calls(self._before(data, layer), states, layer, sizes, marks, all_states)
            y, of_layer = self._run(calls)
            data = self._behind(y, data, layer, sizes)
            found += of_layer
        data = marks.of_output(data)
        if given.packed is not None and sequence.packed is None:
            data = data.flatten(0, 1).index_select(0, given.places())
        values = [_stacked(rows) for rows in zip(*found, strict=True)]
        last = values if not all_states else self._last(values, states)
        final = self._in_form([given.state_out(value) for value in last], hx)
        if not all_states:
            return given.output(data), final
        every = tuple(value.squeeze(2) if given.unbatched else value for value in values)
        return given.output(data), final, every[0] if len(every) == 1 else every

    def _last(self, values: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
        """The final states among those of every step: the last ones, in reverse the first ones."""
        if not values[0].shape[1]:
            return list(states)
        rows = range(self.num_layers * self._directions)
        reverse = [self.bidirectional and row % 2 == 1 for row in rows]
        return [torch.stack([v[row, 0 if reverse[row] else -1] for row in rows]) for v in values]

    def _in_form(self, states: list[Tensor], given: StateInput | None) -> Any:
        """Final states in the form in which the initial ones were given."""
        if isinstance(given, State):
            return State(dict(zip(self.cell.graph.states, states, strict=True)), self.cell.name)
        return states[0] if len(states) == 1 else tuple(states)

    # ---------------------------------------------------------------- one step after the other

    def make_state(self, batch: int) -> State:
        """The state that a sequence begins with: zeros, or what the layer learned.

        Args:
            batch: how many rows.

        Returns:
            A ``State``.
        """
        expected, initial = self._expectation(), self._initial()
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 0:
            expected.refuse(f"expected batch as a whole number of rows, received {batch!r}", "0 is possible")
        values = {}
        for place, (name, size) in enumerate(zip(expected.state_names, expected.state_sizes, strict=True)):
            if initial is None:
                shape = (expected.rows, batch, size)
                values[name] = torch.zeros(shape, dtype=expected.dtype, device=expected.device)
            else:
                values[name] = initial[place].unsqueeze(1).expand(-1, batch, -1)
        return State(values, self.cell.name)

    def step(self, x: Tensor, state: StateInput | None = None) -> tuple[Tensor, Any]:
        """One time step.

        Args:
            x: ``[B, I]``, or ``[I]`` for a single sequence.
            state: as ``hx`` of the layer, None to begin.

        Returns:
            The output of the step, ``[B, H]`` or ``[H]``, and the state behind it, to be given to the next.

        Raises:
            InputError: a layer of both directions, or what does not fit the layer.
        """
        self._check_streams("step")
        if not isinstance(x, Tensor) or x.dim() not in (1, 2):
            received = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            hint = "give the features of one time step, without a dimension of time"
            self._expectation().refuse(f"expected [B, I] or [I], received {received}", hint)
        time = 1 if self.batch_first and x.dim() == 2 else 0
        y, state = self(x.unsqueeze(time), state)
        return y.squeeze(time), state

    def chunk(self, x: Tensor, state: StateInput | None = None) -> tuple[Tensor, Any]:
        """Some time steps that follow those before: as calling the layer, but never in both directions.

        Args:
            x: as the input of the layer.
            state: that behind the steps before, None to begin.

        Returns:
            The output of the steps, and the state behind them.

        Raises:
            InputError: a layer of both directions, or what does not fit the layer.
        """
        self._check_streams("chunk")
        return self(x, state)

    def stream(self, batch: int = 1, weights: torch.dtype | None = None) -> Stream:
        """The layer fed step by step with the lowest latency, for inference.

        Args:
            batch: how many rows.
            weights: torch.bfloat16 to keep them in half the memory, on the CPU.

        Returns:
            A function of one step that keeps the state, see ``Stream``.

        Raises:
            InputError: a layer of both directions, or weights of another dtype.
        """
        return Stream(self, batch, weights)

    def step_calls(self, state: State) -> list[Call]:
        """The call of each layer for one step, from a state."""
        expected, calls = self._expectation(), []
        data = torch.zeros(1, state.batch, self.input_size, dtype=expected.dtype, device=expected.device)
        for layer in range(self.num_layers):
            calls += self._calls(data, state.tensors, layer, None, Marks(), False)
            data = data.new_zeros(1, state.batch, self.output_size)
        return calls

    def _check_streams(self, what: str) -> None:
        if self.bidirectional:
            hint = "make the layer with bidirectional=False, or give it the whole sequence"
            message = f"{type(self).__name__}: {what} is not possible in reverse, which begins at the end"
            raise InputError(message, hint)

    # ---------------------------------------------------------------- what is said of it

    def routes(self, x: SequenceInput, **marked: Any) -> list[tuple[str, Call, dispatch.Route]]:
        """For every layer and direction the suffix of its weights, its call for an input, and the backend.

        Args:
            x: the input.
            **marked: ``lengths``, ``mask``, ``resets`` and ``all_states``, as the layer is called with.

        Returns:
            One row a layer and direction.
        """
        expected = self._expectation()
        sequence = read_sequence(x, expected)
        states = read_states(None, sequence, expected, self._initial())
        every = marked.pop("all_states", False)
        lengths, mask, resets = (marked.pop(name, None) for name in ("lengths", "mask", "resets"))
        marks = read_marks(lengths, mask, resets, marked.pop("masked", "hold"), sequence, expected)
        if marked:
            hint = "give what the layer would be called with"
            expected.refuse(f"nothing is said of a step by {next(iter(marked))!r}", hint)
        sequence, marks = self._dense(sequence, marks, states)
        data, routes = sequence.data, []
        trained = any(parameter.requires_grad for parameter in self.parameters())
        for layer in range(self.num_layers):
            for call in self._calls(data, states, layer, sequence.batch_sizes, marks, every):
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
            [getattr(self, f"{name}_l{layer}{suffix}") for name in self._sizes.of_direction(layer)]
            for layer, suffix in self._sizes.rows()
        ]

    def extra_repr(self) -> str:
        """Sizes, and the options that differ from their default."""
        text = f"{self.input_size}, {self.hidden_size}"
        if type(self) is Recurrent:
            text = f"{self.cell.name}, {text}"
        defaults = {
            "proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0,
            "bidirectional": False,
        }  # fmt: skip
        given = {name: getattr(self, name) for name in defaults}
        given = {name: value for name, value in given.items() if value != defaults[name]}
        given |= self.options.changed()
        if self.backend != "auto":
            given["backend"] = self.backend
        for name, value in given.items():
            text += f", {name}={value!r}" if isinstance(value, str) else f", {name}={value}"
        return text


def _stacked(rows: tuple[Tensor, ...]) -> Tensor:
    """What all layers and directions give, ``[rows, ·]``; a single one is not copied."""
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.stack(rows)
