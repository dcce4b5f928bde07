"""Stacked, bidirectional recurrent layers of any cell, with the interface of torch.nn.GRU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatewright.backends import dispatch
from gatewright.backends.call import Call
from gatewright.errors import InputError
from gatewright.layers.inputs import SequenceBatch, SequenceInput, StateInput, read_sequence, read_states
from gatewright.layers.marks import NOTHING, Lengths, Marks, read_marks
from gatewright.layers.stack import Stack
from gatewright.layers.state import State
from gatewright.layers.stream import Stream


class Recurrent(Stack):
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

    def padded(
        self, sequence: SequenceBatch, marks: Marks, states: Sequence[Tensor]
    ) -> tuple[SequenceBatch, Marks]:
        """A packed sequence padded, where kernels of ours run it then; as it is where only torch's do."""
        if sequence.packed is None:
            return sequence, marks
        if self.proj_size or self._backend in ("torch", "eager"):
            return sequence, marks
        padded, lengths = sequence.padded()
        marks = read_marks(lengths, None, None, "hold", padded, self.expectation())
        calls = self.layer_calls(padded.data, states, 0, None, marks, False, draw=False)
        backends = {dispatch.route(call, "auto").backend.name for call in calls}
        return (padded, marks) if backends <= {"cpu", "gpu"} else (sequence, NOTHING)

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
        expected = self.expectation()
        given = sequence = read_sequence(input, expected)
        states = read_states(hx, sequence, expected, self.initial_states())
        marks = read_marks(lengths, mask, resets, masked, sequence, expected)
        if sequence.packed is not None:
            if all_states:
                expected.refuse("all_states with a PackedSequence", "give the padded tensor with lengths=...")
            sequence, marks = self.padded(sequence, marks, states)
        sizes, data = sequence.batch_sizes, marks.cleaned(sequence.data)
        places = given.places() if given.packed is not None and sequence.packed is None else None
        found: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            calls = self.layer_calls(self.before_layer(data, layer), states, layer, sizes, marks, all_states)
            y, of_layer = self.run_layer(calls)
            data = self.behind_layer(y, data, layer, sizes, places)
            found += of_layer
        data = marks.of_output(data)
        if places is not None:
            data = data.flatten(0, 1).index_select(0, places)
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
        expected, initial = self.expectation(), self.initial_states()
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
        self.check_forwards("step")
        if not isinstance(x, Tensor) or x.dim() not in (1, 2):
            received = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            hint = "give the features of one time step, without a dimension of time"
            self.expectation().refuse(f"expected [B, I] or [I], received {received}", hint)
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
        self.check_forwards("chunk")
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
        expected, calls = self.expectation(), []
        data = torch.zeros(1, state.batch, self.input_size, dtype=expected.dtype, device=expected.device)
        for layer in range(self.num_layers):
            calls += self.layer_calls(data, state.tensors, layer, None, NOTHING, False)
            data = data.new_zeros(1, state.batch, self.output_size)
        return calls

    def check_forwards(self, what: str) -> None:
        """Refuse what a layer that also runs in reverse cannot do."""
        if self.bidirectional:
            hint = "make the layer with bidirectional=False, or give it the whole sequence"
            message = f"{type(self).__name__}: {what} is not possible in reverse, which begins at the end"
            raise InputError(message, hint)

    def flatten_parameters(self) -> None:
        """Do nothing: kept so that code written for torch.nn runs unchanged."""

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, as torch.nn lists them."""
        return [
            [getattr(self, f"{name}_l{layer}{suffix}") for name in self.sizes.of_direction(layer)]
            for layer, suffix in self.sizes.rows()
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
