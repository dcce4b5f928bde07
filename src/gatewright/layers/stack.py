"""The weights of stacked layers, and what each layer asks of the backends."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewright.backends import dispatch
from gatewright.backends.call import Call, Weights
from gatewright.cells.catalogue import find_cell
from gatewright.compiler.interpret import GraphCell
from gatewright.compiler.language import Cell
from gatewright.errors import InputError
from gatewright.layers.inputs import Expectation
from gatewright.layers.marks import Marks
from gatewright.layers.options import LayerOptions, cell_with, random_mask, read_options, variant
from gatewright.layers.parameters import Parameters

_ORDER = "arguments stand in torch.nn's order; pass options by name"


class Stack(nn.Module):
    """The weights of stacked layers, and what each asks of the backends; arguments as in ``Recurrent``."""

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
        self.sizes = Parameters(
            self._cell.graph, input_size, hidden_size, num_layers, self._directions, bias, proj_size,
            self.options.heads, self.options.pre_norm, self.options.train_initial_state,
        )  # fmt: skip
        self._names = {row: self._weight_names(*row) for row in self.sizes.rows()}
        for name, shape in self.sizes.shapes().items():
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
                stacklevel=3 if type(self).__init__ is Stack.__init__ else 4,
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
            self.sizes.draw(name, parameter)

    # ---------------------------------------------------------------- weights

    def _weight_names(self, layer: int, suffix: str) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
        """The parameters in the order of ``Weights``, None for one that there is not, then the vectors'."""
        shapes = self.sizes.of_direction(layer)
        maps = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        vectors = tuple(f"vector_{name}_l{layer}{suffix}" for name in self._cell.graph.vector_weights)
        return tuple(f"{name}_l{layer}{suffix}" if name in shapes else None for name in maps), vectors

    def _weights(self, layer: int, suffix: str, draw: bool) -> Weights:
        maps, vectors = self._names[layer, suffix]
        weights = Weights(*[None if name is None else self._weight(name) for name in maps])  # type: ignore[arg-type]
        if vectors:
            names = self._cell.graph.vector_weights
            weights.vectors = dict(zip(names, map(self._weight, vectors), strict=True))
        if draw and self.options.weight_drop and self.training and weights.weight_hh is not None:
            weights.weight_hh = F.dropout(weights.weight_hh, self.options.weight_drop)
        return weights

    def _weight(self, name: str) -> Any:
        # a parametrized weight is an attribute; a parameter is found sooner where it is registered
        found = self._parameters.get(name)
        return getattr(self, name) if found is None else found

    def expectation(self) -> Expectation:
        """What the layer expects of its input and its state."""
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

    def initial_states(self) -> list[Tensor] | None:
        """The learned initial states, ``[L·D, size]`` each."""
        if not self.options.train_initial_state:
            return None
        return [self._weight(f"initial_{state}") for state in self.cell.graph.states]

    # ---------------------------------------------------------------- calls

    def layer_calls(
        self,
        data: Tensor,
        states: Sequence[Tensor],
        layer: int,
        sizes: tuple[int, ...] | None,
        marks: Marks,
        every: bool,
        draw: bool = True,
    ) -> list[Call]:
        """The calls of one layer, one a direction.

        Args:
            data: its input.
            states: the initial states, ``[L·D, B, ·]`` each.
            layer: its number.
            sizes: of a packed sequence.
            marks: which steps count, and where sequences begin.
            every: whether the states of every step are wanted.
            draw: whether they are to be run: if not, what is drawn at random is left out.

        Returns:
            The calls.
        """
        options, calls = self.options, []
        cell: Cell | GraphCell = self._cell
        resets = "" if marks.resets is None else "first" if options.train_initial_state else "zero"
        dropped = bool(options.recurrent_dropout) and self.training
        if dropped or options.zoneout or marks.valid is not None or resets:
            cell = self._variant(self.training, marks.valid is not None, resets)
        for direction in range(self._directions):
            row, reverse = layer * self._directions + direction, bool(direction)
            weights = self._weights(layer, "_reverse" if reverse else "", draw)
            first = tuple([state[row] for state in states])
            call = Call(cell, data, weights, first, reverse, sizes, options.recompute)
            if cell is not self._cell:
                names = [name for _, name in cell.graph.masks]
                call.masks = tuple([self._mask(name, data, marks, reverse, sizes, draw) for name in names])
                call.lengths = marks.lengths
            if resets == "first":
                own = self.initial_states() or []
                call.states += tuple([value[row].expand(data.shape[1], -1) for value in own])
            call.every = every
            calls.append(call)
        return calls

    def _variant(self, training: bool, valid: bool, resets: str) -> GraphCell:
        """The cell with the options of the layer and of a call; see ``variant``."""
        rates, dropout = tuple(self.options.zoneout.items()), bool(self.options.recurrent_dropout)
        return variant(self._cell.graph, dropout, rates, training, valid, resets)

    # as torch.compiler.assume_constant_result does, which would load torch's tracer
    _variant._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _mask(
        self,
        name: str,
        data: Tensor,
        marks: Marks,
        reverse: bool,
        sizes: tuple[int, ...] | None,
        draw: bool,
    ) -> Tensor:
        """A mask of a call: what the caller marked, or drawn."""
        if name in ("valid", "reset"):
            return marks.of_direction(name, reverse, data.dtype)
        steps, batch = data.shape[:2] if sizes is None else (len(sizes), sizes[0])
        state = name.removeprefix("zoneout_") if name.startswith("zoneout_") else None
        shape = (batch, self.hidden_size) if state is None else (steps, batch, self.hidden_size)
        if not draw:
            return data.new_zeros(shape)
        if state is None:
            return F.dropout(data.new_ones(shape), self.options.recurrent_dropout)
        return random_mask(shape, self.options.zoneout[state], data)

    def run_layer(self, calls: Sequence[Call]) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """The output of a layer, and the states that each direction gives."""
        results = [dispatch.run(call, self._backend) for call in calls]
        outputs = [y for y, _ in results]
        # behind the states of the cell stand those that a reset leads to
        count = len(self.cell.graph.states)
        data = torch.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
        return data, [states[:count] for _, states in results]

    def before_layer(self, data: Tensor, layer: int) -> Tensor:
        """What a layer reads."""
        if not self.options.pre_norm:
            return data
        names = (f"norm_{what}_l{layer}" for what in ("weight", "bias"))
        return F.layer_norm(data, data.shape[-1:], *map(self._weight, names))

    def behind_layer(
        self,
        data: Tensor,
        given: Tensor,
        layer: int,
        sizes: tuple[int, ...] | None,
        places: Tensor | None,
    ) -> Tensor:
        """What a layer hands on: to its output its input is added, then some of it is dropped.

        Args:
            data: the output.
            given: the input.
            layer: its number.
            sizes: of a packed sequence.
            places: of the rows of a packed sequence that was padded.

        Returns:
            The input of the next layer.
        """
        if self.options.residual and given.shape[-1] == data.shape[-1]:
            data = data + given
        if layer == self.num_layers - 1:
            return data
        if self.dropout and self.training and places is not None:
            # as torch draws for a packed sequence: nothing for padding
            rows = data.flatten(0, 1)
            dropped = F.dropout(rows.index_select(0, places), self.dropout)
            data = torch.zeros_like(rows).index_copy(0, places, dropped).view_as(data)
        elif self.dropout:
            data = F.dropout(data, self.dropout, self.training)
        if self.options.variational_dropout and self.training:
            rows = data.shape[1] if sizes is None else sizes[0]
            mask = F.dropout(data.new_ones(rows, data.shape[-1]), self.options.variational_dropout)
            if sizes is not None:
                mask = torch.cat([mask[:size] for size in sizes])
            data = data * mask
        return data
