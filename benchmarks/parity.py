"""Parity with torch.nn over all options: outputs, final states and every gradient.

    python benchmarks/parity.py
    python benchmarks/parity.py --random 300    # the kernels of random cells against their equations

The error of a tensor is max|a - b| / max|b| with b torch's: relative to the tensor's own largest entry,
without a floor. It is infinite for another shape or dtype, for anything not finite, and for a deviation from
a tensor of zeros. Every figure of the table is the worst over all tensors, options and ways of use.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import gatewright as gw

TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5}
"""The largest error that passes."""

KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "GRU": (gw.GRU, nn.GRU, {}),
    "LSTM": (gw.LSTM, nn.LSTM, {}),
    "LSTM-projected": (gw.LSTM, nn.LSTM, {"proj_size": 2}),
    "RNN-tanh": (gw.RNN, nn.RNN, {"nonlinearity": "tanh"}),
    "RNN-relu": (gw.RNN, nn.RNN, {"nonlinearity": "relu"}),
}
"""The layers compared: ours, torch's, and the options that only this kind has."""

FORMS = ("dense", "unbatched", "packed", "packed-unsorted")
"""Forms of the input; the second kind of packing is that of ``enforce_sorted=False``."""


@dataclass(frozen=True)
class Options:
    """Arguments of a layer."""

    kind: str
    num_layers: int = 1
    bias: bool = True
    batch_first: bool = False
    bidirectional: bool = False
    dropout: float = 0.0

    def __str__(self) -> str:
        names = ("bias", "batch_first", "bidirectional")
        given = [name for name in names if getattr(self, name)] + (
            [f"dropout={self.dropout}"] * bool(self.dropout)
        )
        return "-".join([self.kind, f"{self.num_layers}", *given])

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for both layers."""
        common = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "kind"}
        return common | KINDS[self.kind][2]


@dataclass(frozen=True)
class Use:
    """A way to call a layer."""

    form: str = "dense"
    given_state: bool = True
    backend: str = "auto"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a comparison."""

    T: int = 5
    B: int = 3
    I: int = 3  # noqa: E741 - the field's own letter
    H: int = 5


@dataclass(frozen=True)
class Errors:
    """The worst relative error of each sort of tensor."""

    outputs: float = 0.0
    states: float = 0.0
    gradients: float = 0.0

    @property
    def worst(self) -> float:
        """The worst of all."""
        return max(self.outputs, self.states, self.gradients)

    def __or__(self, other: Errors) -> Errors:
        return Errors(*(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


OPTIONS = tuple(
    Options(kind, num_layers, bias, batch_first, bidirectional)
    for kind, num_layers, bias, batch_first, bidirectional in itertools.product(
        KINDS, (1, 2, 3), (True, False), (False, True), (False, True)
    )
)
"""The whole matrix of options without dropout."""

USES = tuple(Use(*use) for use in itertools.product(FORMS, (True, False), ("auto", "eager")))
"""Every way to call each of them."""


LARGER = Sizes(T=31, B=7, I=13, H=29)
"""Other sizes, at which two layers of both directions are compared as well."""


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The error of a tensor, as the module's text defines it."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return math.inf
    if not (torch.isfinite(actual).all() and torch.isfinite(expected).all()):
        return math.inf
    difference = (actual - expected).abs().max().item()
    if difference == 0:
        return 0.0
    largest = expected.abs().max().item()
    return difference / largest if largest else math.inf


def worst_error(actual: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The worst error of several tensors."""
    return max(relative_error(a, b) for a, b in zip(actual, expected, strict=True))


def make_pair(options: Options, dtype: torch.dtype, sizes: Sizes) -> tuple[gw.Recurrent, nn.Module]:
    """Our layer and torch's with the same weights."""
    ours, theirs, _ = KINDS[options.kind]
    reference = theirs(sizes.I, sizes.H, **options.arguments(), dtype=dtype)
    layer = ours(sizes.I, sizes.H, **options.arguments(), dtype=dtype)
    layer.load_state_dict(reference.state_dict())
    return layer, reference


def make_input(options: Options, form: str, dtype: torch.dtype, sizes: Sizes) -> tuple[Tensor, Any]:
    """A leaf tensor, and the layer's input made from it."""
    batch = (sizes.B, sizes.T) if options.batch_first else (sizes.T, sizes.B)
    shape = (sizes.T, sizes.I) if form == "unbatched" else (*batch, sizes.I)
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    if not form.startswith("packed"):
        return x, x
    lengths = [max(1, sizes.T - 2 * row) for row in range(sizes.B)]
    if form == "packed-unsorted":
        lengths = lengths[1:] + lengths[:1]
    packed = pack_padded_sequence(x, torch.tensor(lengths), options.batch_first, form == "packed")
    return x, packed


def make_state(options: Options, form: str, dtype: torch.dtype, sizes: Sizes) -> Any:
    """A random initial state of leaf tensors."""
    widths = [sizes.H] * (2 if options.kind.startswith("LSTM") else 1)
    widths[0] = options.arguments().get("proj_size", 0) or sizes.H
    batch = () if form == "unbatched" else (sizes.B,)
    rows = options.num_layers * (2 if options.bidirectional else 1)
    states = [torch.randn(rows, *batch, width, dtype=dtype, requires_grad=True) for width in widths]
    return states[0] if len(states) == 1 else tuple(states)


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of an output or a state."""
    if value is None or isinstance(value, Tensor):
        return [] if value is None else [value]
    if isinstance(value, PackedSequence):
        return [tensor for tensor in value if tensor is not None]
    return list(value)


def run(
    layer: nn.Module, given: Any, state: Any, leaves: list[Tensor], seed: int
) -> tuple[list[Tensor], ...]:
    """Outputs, final states and gradients of a fixed random combination of both."""
    torch.manual_seed(seed)
    y, final = layer(given, state)
    outputs, states = tensors_of(y), tensors_of(final)
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros((), dtype=states[0].dtype)
    for tensor in [outputs[0], *states]:
        loss = loss + (tensor * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)).sum()
    gradients = torch.autograd.grad(loss, [*leaves, *layer.parameters()], retain_graph=True)
    return [o.detach() for o in outputs], [s.detach() for s in states], list(gradients)


def compare(
    options: Options, use: Use, dtype: torch.dtype, sizes: Sizes | None = None, seed: int = 0
) -> Errors:
    """Our layer against torch's, once."""
    sizes = sizes or Sizes()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # torch says so of its own LSTM, every time it is made or run
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        layer, reference = make_pair(options, dtype, sizes)
        layer.backend = use.backend
        x, given = make_input(options, use.form, dtype, sizes)
        state = make_state(options, use.form, dtype, sizes) if use.given_state else None
        leaves = [x, *tensors_of(state)]
        actual = run(layer, given, state, leaves, seed)
        expected = run(reference, given, state, leaves, seed)
    return Errors(*(worst_error(a, b) for a, b in zip(actual, expected, strict=True)))


def main() -> None:
    """Print the table of the command line's choice."""
    parser = argparse.ArgumentParser(
        description="Parity with torch.nn, or of the kernels with their equations."
    )
    parser.add_argument("--random", type=int, metavar="N", help="compare N random cells with their equations")
    count = parser.parse_args().random
    if count is None:
        compare_layers()
        return
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from benchmarks import kernel_parity

    kernel_parity.main(count)


def compare_layers() -> None:
    """Print the table of layers and options."""
    header = (
        f"{'layer':16}{'options':>8}{'calls':>7}  {'dtype':9}{'outputs':>10}{'states':>10}{'gradients':>11}"
    )
    print(header)
    for kind in KINDS:
        rows = [options for options in OPTIONS if options.kind == kind]
        for dtype, tolerance in TOLERANCES.items():
            errors = Errors()
            for options, use in itertools.product(rows, USES):
                errors |= compare(options, use, dtype)
            for use in USES:
                errors |= compare(Options(kind, 2, bidirectional=True), use, dtype, LARGER)
            figures = f"{errors.outputs:10.1e}{errors.states:10.1e}{errors.gradients:11.1e}"
            verdict = "" if errors.worst <= tolerance else f"  above {tolerance:g}"
            name = str(dtype).removeprefix("torch.")
            print(f"{kind:16}{len(rows):8}{(len(rows) + 1) * len(USES):7}  {name:9}{figures}{verdict}")


if __name__ == "__main__":
    main()
