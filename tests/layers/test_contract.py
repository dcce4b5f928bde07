"""The contract of a layer over cells, options and shapes: however a sequence is run, the result is one.

A plain loop over the equations, written out below, says what is right. Beside it stand the whole sequence on
each backend, steps, chunks, packed sequences, rows alone, compiled and exported programs: outputs, final
states, states of every step and every gradient. ``pytest -s`` prints how much was compared and how near.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from benchmarks.parity import TOLERANCES, relative_error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewright as gw
from gatewright import exp, sigmoid, tanh
from gatewright.backends.cpu import ragged
from gatewright.layers import stack
from gatewright.layers.recurrent import Recurrent

# ---------------------------------------------------------------- cells, and their equations once more


@gw.cell(output="h")
def leaky(x, U, w, a, h):
    """Two states of which the second is the output, vector weights, two stages."""
    z = sigmoid(x.z + U.z(h) + w.p * a)
    n = tanh(x.n + U.n(z * h))
    a = exp(-exp(w.decay)) * a + (1 - exp(-exp(w.decay))) * n
    return a, (1 - z) * a + z * h


@gw.cell
def lone(x, w, h):
    """No recurrent map."""
    z = sigmoid(x.z + w.p * h)
    return z * h + (1 - z) * tanh(x.n)


def _gru(x, U, w, tanh, sigmoid, h):
    z, r = sigmoid(x.z + U.z(h)), sigmoid(x.r + U.r(h))
    return ((1 - z) * tanh(x.n + r * U.n(h)) + z * h,)


def _gru_reset_before(x, U, w, tanh, sigmoid, h):
    z, r = sigmoid(x.z + U.z(h)), sigmoid(x.r + U.r(h))
    return ((1 - z) * tanh(x.n + U.n(r * h)) + z * h,)


def _lstm(x, U, w, tanh, sigmoid, h, c):
    c = sigmoid(x.f + U.f(h)) * c + sigmoid(x.i + U.i(h)) * tanh(x.g + U.g(h))
    return sigmoid(x.o + U.o(h)) * tanh(c), c


def _leaky(x, U, w, tanh, sigmoid, a, h):
    z = sigmoid(x.z + U.z(h) + w.p * a)
    share = torch.exp(-torch.exp(w.decay))
    a = share * a + (1 - share) * tanh(x.n + U.n(z * h))
    return a, (1 - z) * a + z * h


def _lone(x, U, w, tanh, sigmoid, h):
    z = sigmoid(x.z + w.p * h)
    return (z * h + (1 - z) * tanh(x.n),)


EQUATIONS: dict[str, tuple[Any, Callable[..., tuple[Tensor, ...]]]] = {
    "gru": ("gru", _gru),
    "gru_reset_before": ("gru_reset_before", _gru_reset_before),
    "lstm": ("lstm", _lstm),
    "rnn_tanh": ("rnn_tanh", lambda x, U, w, tanh, sigmoid, h: (tanh(x.h + U.h(h)),)),
    "rnn_relu": ("rnn_relu", lambda x, U, w, tanh, sigmoid, h: (torch.relu(x.h + U.h(h)),)),
    "leaky": (leaky, _leaky),
    "lone": (lone, _lone),
}

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softplus": F.softplus,
    "sin": torch.sin,
    "linear": lambda v: v,
    # the derivative of torch's own hardsigmoid is 1 / 6 in single precision
    "hard_sigmoid": lambda v: (v / 6 + 0.5).clamp(0, 1),
    "hard_tanh": lambda v: v.clamp(-1, 1),
    "softsign": F.softsign,
}

# ---------------------------------------------------------------- chance


class Chance:
    """All that a layer draws, in order: drawn once, then handed out again, also for some steps and rows."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []
        self.place: int | None = None
        self.steps, self.rows = slice(None), slice(None)
        self.packed: Tensor | None = None

    def _value(self, make: Callable[[], Tensor], cut: Callable[[Tensor], Tensor]) -> Tensor:
        if self.place is None:
            self.drawn.append(make())
            return self.drawn[-1]
        self.place += 1
        return cut(self.drawn[self.place - 1])

    def next(self) -> Tensor:
        """The next one as it was drawn, for the loop."""
        assert self.place is not None
        return self._value(lambda: torch.empty(0), lambda value: value)

    def dropout(self, tensor: Tensor, rate: float = 0.5, training: bool = True) -> Tensor:
        """In place of ``F.dropout``: of a weight, of the ones of a mask for all steps, of an output."""
        if not training:
            return tensor
        cut: Callable[[Tensor], Tensor] = lambda value: value  # noqa: E731 - of three ways
        if tensor.dim() == 3:
            cut = lambda value: value[self.steps][:, self.rows]  # noqa: E731
        elif not tensor.requires_grad:
            cut = lambda value: value[self.rows]  # noqa: E731
        elif self.packed is not None:
            cut = lambda value: value if value.dim() == 2 else value[self.steps][:, self.rows][self.packed]  # noqa: E731
        return tensor * self._value(lambda: F.dropout(torch.ones_like(tensor), rate), cut)

    @contextmanager
    def at_work(
        self,
        steps: slice = slice(None),
        rows: Any = slice(None),
        packed: Tensor | None = None,
    ) -> Iterator[None]:
        """Where layers draw from here, in the first run anew, then of these steps and rows.

        ``packed`` says of a packed sequence which of its rows have not ended, ``[T, B]``.
        """
        self.place = 0 if self.drawn else None
        self.steps, self.rows, self.packed = steps, rows, packed
        own = stack.Stack._mask

        def mask(layer: Recurrent, name: str, *others: Any) -> Tensor:
            *_, draw = others
            if not name.startswith("zoneout_") or not draw:
                return own(layer, name, *others)
            cut = lambda value: value[self.steps][:, self.rows]  # noqa: E731
            return self._value(lambda: own(layer, name, *others), cut)

        functions = SimpleNamespace(dropout=self.dropout, layer_norm=F.layer_norm)
        with mock.patch.object(stack, "F", functions), mock.patch.object(stack.Stack, "_mask", mask):
            yield
        if self.place is not None:
            assert self.place == len(self.drawn), "not all that was drawn was used"


# ---------------------------------------------------------------- the loop


@dataclass
class Given:
    """What a layer is called with, time-major."""

    x: Tensor
    states: tuple[Tensor, ...] | None = None
    lengths: Tensor | None = None
    mask: Tensor | None = None
    resets: Tensor | None = None
    masked: str = "hold"

    @property
    def valid(self) -> Tensor:
        """Whether a step counts."""
        valid = torch.ones(self.x.shape[:2], dtype=torch.bool) if self.mask is None else self.mask
        if self.lengths is not None:
            valid = valid & (torch.arange(len(self.x)).unsqueeze(1) < self.lengths)
        return valid

    def marks(self, steps: slice = slice(None), rows: Any = slice(None)) -> dict[str, Any]:
        """What is said of some steps and rows."""
        found: dict[str, Any] = {"masked": self.masked}
        if self.lengths is not None:
            found["lengths"] = self.lengths[rows]
        for name in ("mask", "resets"):
            value = getattr(self, name)
            if value is not None:
                found[name] = value[steps][:, rows]
        return found


def _parts(layer: Recurrent, row: int, suffix: str) -> dict[str, Any]:
    """The parameters of one layer in one direction, by their names without the layer's."""
    end = f"_l{row}{suffix}"
    return {n.removesuffix(end): p for n, p in layer.named_parameters() if n.endswith(end)}


def one_direction(
    layer: Recurrent, case: "Case", data: Tensor, first: list[Tensor], fresh: list[Tensor], given: Given,
    row: int, reverse: bool, chance: Chance,
) -> list[list[Tensor]]:  # fmt: skip
    """The states behind every step, in the order of time."""
    own = _parts(layer, row, "_reverse" if reverse else "")
    graph, options, hidden = layer.cell.graph, layer.options, layer.hidden_size
    heads, training = options.heads, layer.training
    weight = own.get("weight_hh")
    if weight is not None and options.weight_drop and training:
        weight = weight * chance.next()
    kept = chance.next() if options.recurrent_dropout and training else None
    zoned = {s: chance.next() for s in graph.states if options.zoneout.get(s) and training}
    vectors = SimpleNamespace(
        **{n.removeprefix("vector_"): p for n, p in own.items() if n.startswith("vector_")}
    )

    def normed(value: Tensor, kind: str, name: str) -> Tensor:
        if not options.layer_norm:
            return value
        gain, bias = (own[f"vector_norm_{kind}_{name}_{what}"] for what in ("gain", "bias"))
        apart = F.layer_norm(value.unflatten(-1, (heads, -1)), (hidden // heads,)).flatten(-2)
        return apart * gain + bias

    def recurrent_map(place: int, name: str) -> Callable[[Tensor], Tensor]:
        assert weight is not None
        rows = slice(place * hidden, (place + 1) * hidden)
        dense = weight[rows]
        if heads > 1:
            dense = torch.block_diag(*dense.split(hidden // heads))

        def apply(value: Tensor) -> Tensor:
            value = value if kept is None else value * kept
            value = value @ dense.T
            return normed(value + own["bias_hh"][rows] if "bias_hh" in own else value, "u", name)

        return apply

    U = SimpleNamespace(**{n: recurrent_map(i, n) for i, n in enumerate(graph.recurrent_maps)})
    tanh = FUNCTIONS[options.activation or "tanh"]
    sigmoid = FUNCTIONS[options.gate_activation or "sigmoid"]
    steps, states = len(data), first
    behind: list[list[Tensor]] = [[]] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        begins = None if given.resets is None else given.resets[t]
        if begins is not None and reverse:
            # a sequence that begins one step later ends here, where the reverse direction begins
            assert given.resets is not None
            begins = given.resets[t + 1] if t + 1 < steps else torch.zeros_like(begins)
        if begins is not None:
            states = [torch.where(begins.unsqueeze(1), f, s) for f, s in zip(fresh, states, strict=True)]
        x = SimpleNamespace()
        for place, name in enumerate(graph.input_maps):
            rows = slice(place * hidden, (place + 1) * hidden)
            value = data[t] @ own["weight_ih"][rows].T
            value = value + own["bias_ih"][rows] if "bias_ih" in own else value
            setattr(x, name, normed(value, "x", name))
        found = list(EQUATIONS[case.cell][1](x, U, vectors, tanh, sigmoid, *states))
        for place, name in enumerate(graph.states):
            rate = options.zoneout.get(name)
            if rate and training:
                found[place] = torch.where(zoned[name][t] != 0, states[place], found[place])
            elif rate:
                found[place] = rate * states[place] + (1 - rate) * found[place]
            if "weight_hr" in own and name == graph.output:
                found[place] = found[place] @ own["weight_hr"].T
        counts = given.valid[t].unsqueeze(1)
        states = [torch.where(counts, new, old) for new, old in zip(found, states, strict=True)]
        behind[t] = states
    return behind


def by_steps(layer: Recurrent, case: "Case", given: Given, chance: Chance) -> list[Tensor]:
    """The output, the final states and the states of every step, by the equations alone."""
    graph, options = layer.cell.graph, layer.options
    directions, batch = 2 if layer.bidirectional else 1, given.x.shape[1]
    data = torch.where(given.valid.unsqueeze(-1), given.x, torch.zeros_like(given.x))
    output = graph.states.index(graph.output)
    widths = [layer.output_size if name == graph.output else layer.hidden_size for name in graph.states]
    every: list[list[Tensor]] = [[] for _ in graph.states]
    finals: list[list[Tensor]] = [[] for _ in graph.states]
    chance.place = 0
    for row in range(layer.num_layers):
        read = data
        if options.pre_norm:
            weight, bias = (layer.get_parameter(f"norm_{what}_l{row}") for what in ("weight", "bias"))
            read = F.layer_norm(data, data.shape[-1:]) * weight + bias
        outputs = []
        for reverse in range(directions):
            place = directions * row + reverse
            fresh = [
                layer.get_parameter(f"initial_{name}")[place].expand(batch, -1)
                if options.train_initial_state
                else data.new_zeros(batch, width)
                for name, width in zip(graph.states, widths, strict=True)
            ]
            first = fresh if given.states is None else [state[place] for state in given.states]
            behind = one_direction(layer, case, read, first, fresh, given, row, bool(reverse), chance)
            for i in range(len(graph.states)):
                every[i].append(torch.stack([states[i] for states in behind]))
                finals[i].append(behind[0 if reverse else -1][i])
            outputs.append(every[output][-1])
        y = torch.cat(outputs, -1)
        if options.residual and y.shape == data.shape:
            y = y + data
        if row < layer.num_layers - 1 and layer.training:
            y = y * chance.next() if layer.dropout else y
            y = y * chance.next() if options.variational_dropout else y
        data = y
    if given.masked == "zero":
        data = data * given.valid.unsqueeze(-1)
    assert chance.place == len(chance.drawn), "the layer drew more than the loop"
    return [data, *map(torch.stack, finals), *(map(torch.stack, every) if case.all_states else ())]


# ---------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """A layer and how it is called; printed by Hypothesis where something fails."""

    cell: str
    num_layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    dropout: float = 0.0
    proj_size: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    training: bool = True
    marks: frozenset[str] = frozenset()
    masked: str = "hold"
    nan: bool = True
    given_state: bool = True
    all_states: bool = False
    fine: bool = False
    sizes: tuple[int, int, int, int] = (4, 3, 4, 6)
    dtype: torch.dtype = torch.float64
    seed: int = 0

    def layer(self) -> Recurrent:
        """The layer, each of its parameters at random: gains and initial states too."""
        _, _, features, hidden = self.sizes
        layer = Recurrent(
            EQUATIONS[self.cell][0], features, hidden, self.num_layers, self.bias, self.batch_first,
            self.dropout, self.bidirectional, self.proj_size, dtype=self.dtype, **self.options,
        )  # fmt: skip
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=self.dtype))
        return layer.train(self.training)

    def given(self, layer: Recurrent) -> Given:
        """Inputs at random; where steps do not count NaN, if asked for."""
        steps, batch, features, _ = self.sizes
        generator = torch.Generator().manual_seed(self.seed + 1)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=self.dtype)

        def flags(share: float) -> Tensor:
            return torch.rand(steps, batch, generator=generator) < share

        given = Given(random(steps, batch, features), masked=self.masked)
        if self.given_state:
            expected, rows = layer.expectation(), layer.num_layers * (1 + layer.bidirectional)
            given.states = tuple(
                [random(rows, batch, size).requires_grad_() for size in expected.state_sizes]
            )
        if "lengths" in self.marks:
            given.lengths = torch.randint(0, steps + 1, (batch,), generator=generator)
        if "mask" in self.marks:
            given.mask = flags(0.7)
        if "resets" in self.marks:
            given.resets = flags(0.3)
        if self.nan:
            given.x[~given.valid] = math.nan
        given.x.requires_grad_()
        return given


def _fitting(case: Case) -> Case:
    """The case without what its cell or another option has no place for."""
    options, (steps, batch, features, hidden) = dict(case.options), case.sizes
    if case.cell == "lone":
        options = {k: v for k, v in options.items() if k not in ("recurrent_dropout", "weight_drop", "heads")}
    if case.proj_size and case.cell not in ("lstm", "rnn_tanh"):
        case = replace(case, proj_size=0)
    if case.proj_size:
        options = {k: v for k, v in options.items() if k not in ("recurrent_dropout", "zoneout", "heads")}
        options |= {"zoneout": {"c": 0.3}} if case.cell == "lstm" and "zoneout" in case.options else {}
        case = replace(case, marks=frozenset())
    if case.dtype == torch.float32:
        # norms of few features amplify what is rounded, and at a kink it decides on which side a value is
        apart = ("layer_norm", "pre_norm", "activation", "gate_activation")
        options = {name: value for name, value in options.items() if name not in apart}
        case = replace(case, cell="rnn_tanh" if case.cell == "rnn_relu" else case.cell)
    # a head has units enough for a layer norm whose gradient does not cancel
    hidden *= options.get("heads", 1)
    # with one layer there is nothing between layers, and the layer warns
    case = case if case.num_layers > 1 else replace(case, dropout=0.0)
    return replace(case, options=options, sizes=(steps, batch, features, hidden))


def _rare(*values: Any) -> st.SearchStrategy[Any]:
    """One of the values in every third case, else None."""
    return st.sampled_from([None] * 2 * len(values) + list(values))


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


RATES = _rare(0.2, 0.5)
OPTIONS = st.fixed_dictionaries(
    {
        "recompute": _rare(True),
        "recurrent_dropout": RATES,
        "zoneout": RATES,
        "weight_drop": RATES,
        "variational_dropout": RATES,
        "layer_norm": _rare(True),
        "residual": _rare(True),
        "pre_norm": _rare(True),
        "train_initial_state": _rare(True),
        "heads": _rare(2, 3),
        "activation": _rare(*sorted(FUNCTIONS)),
        "gate_activation": _rare(*sorted(FUNCTIONS)),
    }
).map(_given)
MARKS = st.tuples(*[st.sampled_from(["", name]) for name in ("lengths", "mask", "resets")]).map(
    lambda names: frozenset(names) - {""}
)
CASES = st.builds(
    Case,
    cell=st.sampled_from(sorted(EQUATIONS)),
    num_layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    dropout=st.sampled_from([0.0, 0.4]),
    proj_size=st.sampled_from([0, 0, 2]),
    options=OPTIONS,
    training=st.sampled_from([True, True, False]),
    marks=MARKS,
    masked=st.sampled_from(["hold", "zero"]),
    given_state=st.booleans(),
    all_states=st.booleans(),
    fine=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float64, torch.float32]),
    sizes=st.tuples(st.sampled_from([1, 2, 5, 7]), st.integers(1, 5), st.integers(3, 6), st.integers(3, 4)),
    seed=st.integers(0, 2**20),
).map(_fitting)

# ---------------------------------------------------------------- running and comparing

WORST: dict[tuple[str, torch.dtype], float] = {}
SEEN: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def figures() -> Iterator[None]:
    """Print what was compared, where pytest shows what is printed."""
    yield
    print("\nthe contract of a layer: comparisons, worst relative error")  # noqa: T201
    for (way, dtype), error in sorted(WORST.items(), key=str):
        print(f"  {way:24} {dtype!s:14} {SEEN[f'{way}, {dtype}']:5}  {error:.1e}")  # noqa: T201
    print(f"  cases: {SEEN['cases']}, with an option or mark: " + ", ".join(  # noqa: T201
        f"{name} {count}" for name, count in sorted(SEEN.items()) if name.startswith("+")))  # fmt: skip
    print(f"  pairs of options and marks that met: {len([n for n in SEEN if n.startswith('*')])}")  # noqa: T201


def called(layer: Recurrent, case: Case, given: Given, chance: Chance) -> list[Tensor]:
    """The layer over the whole sequence, results time-major."""
    x, marks = given.x, given.marks()
    if case.batch_first:
        x = x.transpose(0, 1)
        marks |= {n: v.transpose(0, 1) for n, v in marks.items() if n in ("mask", "resets")}
    with chance.at_work():
        y, *rest = layer(x, in_form(given.states), all_states=case.all_states, **marks)
    return [y.transpose(0, 1) if case.batch_first else y, *(t for r in rest for t in tensors(r))]


def in_form(states: Sequence[Any] | None) -> Any:
    if states is None:
        return None
    return states[0] if len(states) == 1 else tuple(states)


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def with_gradients(layer: Recurrent, given: Given, results: list[Tensor], seed: int) -> list[Tensor]:
    """The results, and the gradients of a random combination of them by all that there is."""
    generator = torch.Generator().manual_seed(seed)
    loss = results[0].new_zeros(())
    for result in results:
        loss = loss + (result * torch.randn(result.shape, generator=generator, dtype=result.dtype)).sum()
    leaves = [given.x, *(given.states or ()), *layer.parameters()]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    gradients = [torch.zeros_like(t) if g is None else g for g, t in zip(found, leaves, strict=True)]
    return [*results, *gradients]


def check(way: str, found: Sequence[Tensor], expected: Sequence[Tensor], factor: float = 1.0) -> None:
    """Every tensor within its dtype's tolerance of the expected one."""
    assert len(found) == len(expected), way
    for place, (a, b) in enumerate(zip(found, expected, strict=True)):
        if not b.numel():
            assert a.shape == b.shape
            continue
        error = relative_error(a, b)
        key = (way, b.dtype)
        WORST[key] = max(error, WORST.get(key, 0.0))
        assert error <= factor * TOLERANCES[b.dtype], f"{way}: tensor {place} is off by {error:.2e}"
    SEEN[f"{way}, {expected[0].dtype}"] += 1


def alone(layer: Recurrent, case: Case, given: Given, chance: Chance) -> list[Tensor]:
    """Each row of the batch as a sequence of its own, every other one without a dimension for the batch."""
    found = []
    for row in range(given.x.shape[1]):
        rows, unbatched = slice(row, row + 1), row % 2 == 1
        x, marks = given.x[:, rows], given.marks(rows=rows)
        states = None if given.states is None else [state[:, rows] for state in given.states]
        if unbatched:
            x, states = x[:, 0], None if states is None else [state[:, 0] for state in states]
            marks |= {n: v[:, 0] for n, v in marks.items() if n in ("mask", "resets")}
        elif case.batch_first:
            x = x.transpose(0, 1)
            marks |= {n: v.transpose(0, 1) for n, v in marks.items() if n in ("mask", "resets")}
        with chance.at_work(rows=rows):
            y, *rest = layer(x, in_form(states), all_states=case.all_states, **marks)
        y = y.unsqueeze(1) if unbatched else y.transpose(0, 1) if case.batch_first else y
        rest = [t for r in rest for t in tensors(r)]
        if unbatched:
            rest = [t.unsqueeze(-2) for t in rest]
        found.append([y, *rest])
    # the batch is the last dimension but one in all of them
    return [torch.cat(rows, -2) for rows in zip(*found, strict=True)]


def in_parts(layer: Recurrent, case: Case, given: Given, chance: Chance, size: int) -> list[Tensor]:
    """Chunk after chunk, or with size 1 step after step, the state handed on."""
    count, state, found = len(layer.cell.graph.states), in_form(given.states), []
    marked = {"mask": given.valid} if case.marks - {"resets"} else {}
    marked |= {} if given.resets is None else {"resets": given.resets}
    bare = not marked and not case.all_states
    time = 1 if case.batch_first else 0
    for start in range(0, len(given.x), size):
        steps = slice(start, start + size)
        x = given.x[steps].transpose(0, 1) if case.batch_first else given.x[steps]
        here = {n: m[steps].transpose(0, 1) if case.batch_first else m[steps] for n, m in marked.items()}
        every: list[Any] = []
        with chance.at_work(steps=steps):
            if bare and size == 1:
                y, state = layer.step(given.x[start], state)
                y = y.unsqueeze(time)
            elif bare:
                y, state = layer.chunk(x, state)
            else:
                y, state, *every = layer(x, state, masked=given.masked, all_states=case.all_states, **here)
        y = y.transpose(0, 1) if case.batch_first else y
        found.append([y, *tensors(state), *(t for e in every for t in tensors(e))])
    joined = [torch.cat([part[0] for part in found]), *found[-1][1 : 1 + count]]
    if case.all_states:
        joined += [torch.cat(parts, 1) for parts in zip(*(part[1 + count :] for part in found), strict=True)]
    return joined


def packed(layer: Recurrent, given: Given, chance: Chance) -> list[Tensor]:
    """As a packed sequence; its output is padded with zeros."""
    assert given.lengths is not None
    # what is drawn for rows that are sorted already needs no other order
    in_order = bool((given.lengths.diff() <= 0).all())
    sequence = pack_padded_sequence(given.x, given.lengths, enforce_sorted=in_order)
    rows: Any = slice(None) if in_order else sequence.sorted_indices
    active = torch.arange(given.x.shape[1]) < sequence.batch_sizes.unsqueeze(1)
    with chance.at_work(slice(len(active)), rows, active):
        y, final = layer(sequence, in_form(given.states))
    padded, _ = pad_packed_sequence(y, total_length=len(given.x))
    return [padded, *tensors(final)]


def note(case: Case) -> None:
    """Count a case, its options and marks, and which of them met."""
    SEEN["cases"] += 1
    names = [*case.options, *case.marks]
    names += [n for n in ("bidirectional", "dropout", "proj_size", "all_states", "batch_first")
              if getattr(case, n)]  # fmt: skip
    for i, one in enumerate(sorted(names)):
        SEEN[f"+{one}"] += 1
        for other in sorted(names)[i + 1 :]:
            SEEN[f"*{one} {other}"] += 1


@contextmanager
def fine_cuts(wanted: bool) -> Iterator[None]:
    """Where rows are dealt out by length even if none ends early."""
    if not wanted:
        yield
        return
    with mock.patch.object(ragged, "WORTH", 2.0):
        yield


def hold_contract(case: Case) -> None:
    """All ways of a case against the loop."""
    note(case)
    layer, chance = case.layer(), Chance()
    given = case.given(layer)
    seed = case.seed + 2
    torch.manual_seed(seed)
    results = {}
    with fine_cuts(case.fine):
        for backend in ("cpu", "eager"):
            layer.backend = backend
            results[backend] = with_gradients(layer, given, called(layer, case, given, chance), seed)
        expected = with_gradients(layer, given, by_steps(layer, case, given, chance), seed)
        for backend in ("cpu", "eager"):
            check(f"{backend}, whole sequence", results[backend], expected)
        layer.backend = "auto"
        check("rows alone", with_gradients(layer, given, alone(layer, case, given, chance), seed), expected)
        if not case.bidirectional:
            for way, size in (("steps", 1), ("chunks", 3)):
                found = in_parts(layer, case, given, chance, size)
                check(way, with_gradients(layer, given, found, seed), expected)


LIMITS: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}


@settings(max_examples=150, **LIMITS)
@given(case=CASES)
def test_all_ways_give_what_the_equations_give(case):
    hold_contract(case)


@settings(max_examples=50, **LIMITS)
@given(case=CASES.map(lambda case: replace(case, all_states=False, marks=frozenset(), masked="zero")))
def test_a_packed_sequence_gives_what_the_equations_give(case):
    note(case)
    layer, chance = case.layer(), Chance()
    given, seed = case.given(layer), case.seed + 2
    steps, batch = given.x.shape[:2]
    lengths = torch.randint(1, steps + 1, (batch,), generator=torch.Generator().manual_seed(seed))
    # with a projection nothing but a packed sequence has lengths: what is drawn is for so many steps
    alone = bool(case.proj_size)
    lengths[0] = steps if alone else lengths[0]
    given = replace(given, lengths=lengths.sort(descending=True).values if alone else lengths)
    layer = layer if not alone else replace(case, dropout=0.0).layer()
    torch.manual_seed(seed)
    results = {}
    with fine_cuts(case.fine):
        if not alone:
            called(layer, case, given, chance)
        for backend in ("auto", "eager"):
            layer.backend = backend
            results[backend] = with_gradients(layer, given, packed(layer, given, chance), seed)
        expected = with_gradients(layer, given, by_steps(layer, case, given, chance), seed)
    for backend in ("auto", "eager"):
        check(f"packed, {backend}", results[backend], expected)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


EVERYTHING = {
    "zoneout": 0.3,
    "layer_norm": True,
    "pre_norm": True,
    "residual": True,
    "train_initial_state": True,
    "heads": 2,
    "gate_activation": "hard_sigmoid",
}
AT_RANDOM = {"recurrent_dropout": 0.4, "zoneout": 0.4, "weight_drop": 0.4, "variational_dropout": 0.4}
ALL_MARKS = frozenset(("lengths", "mask", "resets"))
TRACED = {
    "plain": Case("gru", 2, True, all_states=True),
    "marks": Case("lstm", 2, True, marks=ALL_MARKS, masked="zero", sizes=(5, 3, 4, 5)),
    "options": Case("gru_reset_before", 2, False, options=EVERYTHING, training=False, marks=ALL_MARKS),
    "states": Case("leaky", 1, False, batch_first=True, marks=ALL_MARKS, all_states=True),
    "random": Case("lstm", 2, False, options=AT_RANDOM, dropout=0.3, marks=frozenset(("lengths",))),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", TRACED)
def test_a_compiled_layer_gives_what_the_equations_give(name):
    case = TRACED[name]
    layer, chance = case.layer(), Chance()
    given, seed = case.given(layer), case.seed + 2
    torch.manual_seed(seed)
    called(layer, case, given, chance)
    expected = with_gradients(layer, given, by_steps(layer, case, given, chance), seed)
    compiled: Any = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, marks = given.x, given.marks()
    if case.batch_first:
        x = x.transpose(0, 1)
        marks |= {n: v.transpose(0, 1) for n, v in marks.items() if n in ("mask", "resets")}
    torch.manual_seed(seed)
    y, *rest = compiled(x, in_form(given.states), all_states=case.all_states, **marks)
    found = [y.transpose(0, 1) if case.batch_first else y, *(t for r in rest for t in tensors(r))]
    check("compiled", with_gradients(layer, given, found, seed), expected)


class Alone(torch.nn.Module):
    """A layer with its marks as plain arguments, as an exported program takes them."""

    def __init__(self, layer: Recurrent, case: Case) -> None:
        super().__init__()
        self.layer, self.case = layer, case

    def forward(self, x, states, marks):
        case = self.case
        return self.layer(x, states, masked=case.masked, all_states=case.all_states, **marks)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["plain", "marks", "options"])
def test_an_exported_layer_of_any_steps_and_rows_gives_what_the_equations_give(name):
    case = TRACED[name]
    layer = case.layer()
    T, B = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)

    def arguments(given: Given) -> tuple[Any, ...]:
        marks = {n: v for n, v in given.marks().items() if n != "masked"}
        return given.x.detach(), in_form([s.detach() for s in given.states or ()]), marks

    shapes = {"x": {0: T, 1: B}, "lengths": {0: B}, "mask": {0: T, 1: B}, "resets": {0: T, 1: B}}
    first = arguments(case.given(layer))
    states = in_form([{1: B}] * len(tensors(first[1])))
    dynamic = (shapes["x"], states, {mark: shapes[mark] for mark in first[2]})
    program = torch.export.export(Alone(layer, case), first, dynamic_shapes=dynamic).module()
    for steps, batch in ((4, 3), (9, 2), (2, 6)):
        other = replace(case, sizes=(steps, batch, *case.sizes[2:]), seed=steps)
        given = other.given(layer)
        expected = by_steps(layer, other, given, Chance())
        y, *rest = program(*arguments(given))
        check("exported", [y, *(t for r in rest for t in tensors(r))], expected)


@pytest.mark.parametrize("cell", sorted(EQUATIONS))
def test_rows_of_which_no_step_counts_keep_their_state_and_have_no_gradient(cell):
    for backend in ("cpu", "eager"):
        case = Case(cell, 2, True, options={"train_initial_state": True}, marks=frozenset(("lengths",)))
        layer = case.layer()
        layer.backend = backend
        given = replace(case.given(layer), lengths=torch.zeros(3, dtype=torch.int64))
        given.x.data.fill_(math.nan)
        y, *final = called(layer, case, given, Chance())
        assert given.states is not None
        output = layer.cell.graph.states.index(layer.cell.graph.output)
        last = given.states[output][-2:].transpose(0, 1).flatten(1)
        assert torch.equal(y, last.expand_as(y))
        assert all(torch.equal(a, b) for a, b in zip(final, given.states, strict=True))
        results = with_gradients(layer, given, [y, *final], 0)
        gradients = results[1 + len(final) + 1 + len(given.states) :]
        assert results[1 + len(final)].abs().max() == 0
        assert all(g.abs().max() == 0 for g in gradients)


def test_an_empty_sequence_may_have_marks():
    layer = gw.LSTM(3, 5, 2, bidirectional=True)
    flags = torch.ones(0, 2, dtype=torch.bool)
    states = (torch.randn(4, 2, 5), torch.randn(4, 2, 5))
    x = torch.zeros(0, 2, 3)
    y, final, every = layer(x, states, lengths=[0, 0], mask=flags, resets=flags, all_states=True)
    assert y.shape == (0, 2, 10)
    assert all(torch.equal(a, b) for a, b in zip(final, states, strict=True))
    assert all(value.shape == (4, 0, 2, 5) for value in every)


@pytest.mark.parametrize("rate", ["recurrent_dropout", "zoneout", "weight_drop", "variational_dropout"])
def test_explaining_draws_nothing_and_packing_draws_what_padding_does(rate):
    layer = gw.GRU(3, 5, 2, **{rate: 0.5})  # type: ignore[arg-type]  # an option by its name
    x = torch.randn(4, 2, 3)
    packed_x = pack_padded_sequence(x, [4, 4])
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    gw.explain(layer, x)
    gw.explain(layer, packed_x)
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(3)
    y = layer(x)[0]
    torch.manual_seed(3)
    assert torch.equal(pad_packed_sequence(layer(packed_x)[0])[0], y)


@pytest.mark.parametrize("rate", [0.25, 0.999, 0.999999])
def test_zoneout_keeps_as_many_units_as_it_is_told_to(rate):
    layer = gw.RNN(1, 500, zoneout=rate)
    torch.manual_seed(0)
    y, _ = layer(torch.randn(100, 1, 1))
    kept = (y[1:] == y[:-1]).double().mean().item()
    # of 50 000 draws four standard deviations, and what equal values by chance add
    assert abs(kept - rate) <= 4 * math.sqrt(rate * (1 - rate) / 49_500) + 1e-3
