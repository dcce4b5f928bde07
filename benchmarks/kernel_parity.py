"""Parity of the compiled kernels with the cell's equations: outputs, final states and every gradient.

    python benchmarks/parity.py --random 300

What is right is what the equations give step by step in float64, by torch's operations and autograd. The
error of a tensor is max|a - b| / max|b|, as in parity.py, except that a gradient which nearly cancels is
measured by the others: max|b| is taken as no less than a thousandth of the largest entry of all tensors of
its sort. Some random cells amplify what is rounded, step by step: beside stands how far the equations
themselves, in the dtype of the kernels, move when every number they are given moves by its last bit.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from benchmarks.parity import TOLERANCES, Errors, Sizes
from torch import Tensor

from gatewright.backends.call import Call, Weights
from gatewright.backends.dispatch import run
from gatewright.compiler.interpret import GraphCell
from gatewright.compiler.language import Cell

FLOOR = 1e-3
"""Of the largest entry of all tensors of a sort: what the largest entry of one of them counts at least."""

AMPLIFIED = 10
"""A random cell passes within so many times the error of its equations."""

HIDDEN, BATCHES, STEPS, INPUTS = (1, 3, 7, 16, 18, 33), (1, 2, 3, 9, 19), (1, 2, 5, 37), (1, 4, 17)
"""Sizes of random calls: one and odd ones, below, at and above the lengths of vectors and tiles."""


@dataclass(frozen=True)
class Found:
    """What a call gives, by name."""

    outputs: Mapping[str, Tensor]
    states: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]


def make_call(
    cell: Cell | GraphCell,
    sizes: Sizes,
    dtype: torch.dtype = torch.float64,
    *,
    bias: bool = True,
    reverse: bool = False,
    projected: int = 0,
    seed: int = 0,
) -> Call:
    """A call of random numbers, its output projected or not; all but masks require a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
        return (drawn * scale).to(dtype).requires_grad_()

    graph, hidden = cell.graph, sizes.H
    rows, recurrent = len(graph.input_maps) * hidden, len(graph.recurrent_maps) * hidden
    width = projected or hidden
    weights = Weights(
        weight_ih=normal(rows, sizes.I, scale=sizes.I**-0.5),
        weight_hh=normal(recurrent, width, scale=width**-0.5) if recurrent else None,
        bias_ih=normal(rows) if bias else None,
        bias_hh=normal(recurrent) if bias and recurrent else None,
        weight_hr=normal(projected, hidden, scale=hidden**-0.5) if projected else None,
        vectors={name: normal(hidden) for name in graph.vector_weights},
    )
    widths = [width if state == graph.output else hidden for state in graph.states]
    # some cells need states that are not negative
    states = tuple(normal(sizes.B, w, scale=0.5).detach().abs().requires_grad_() for w in widths)
    masks = tuple(_mask(kind, sizes, generator).to(dtype) for kind, _ in graph.masks)
    return Call(cell, normal(sizes.T, sizes.B, sizes.I), weights, states, reverse, masks=masks)


def _mask(kind: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Zeros, and as many numbers that are not."""
    shape = {"row_mask": (sizes.T, sizes.B), "unit_mask": (sizes.B, sizes.H)}.get(kind)
    shape = (sizes.T, sizes.B, sizes.H) if shape is None else shape
    return (torch.rand(shape, generator=generator, device="cpu") < 0.5) * 2.0


def random_call(
    seed: int, dtype: torch.dtype, steps: tuple[int, ...] = STEPS, *, project: bool = True
) -> Call:
    """A random cell, one in three with layer norms, called at random sizes, projected now and then."""
    tests = str(Path(__file__).parents[1] / "tests" / "compiler")
    if tests not in sys.path:
        sys.path.append(tests)
    from random_cells import random_cell

    pick = random.Random(seed).choice
    sizes = Sizes(T=pick(steps), B=pick(BATCHES), I=pick(INPUTS), H=pick(HIDDEN))
    cell = random_cell(seed, layer_norm=seed % 3 == 0)
    bias, reverse = pick((True, True, False)), pick((True, False))
    projectable = project and cell.graph.projectable and sizes.H > 1
    projected = pick((0, 1, sizes.H // 2, sizes.H - 1)) if projectable else 0
    return make_call(cell, sizes, dtype, bias=bias, reverse=reverse, projected=projected, seed=seed)


def leaves(call: Call) -> dict[str, Tensor]:
    """Everything that a gradient may be taken by."""
    weights = call.weights
    named = {
        "x": call.x,
        "weight_ih": weights.weight_ih,
        "weight_hh": weights.weight_hh,
        "bias_ih": weights.bias_ih,
        "bias_hh": weights.bias_hh,
        "weight_hr": weights.weight_hr,
        **{f"w.{name}": vector for name, vector in weights.vectors.items()},
        **dict(zip(call.cell.graph.states, call.states, strict=True)),
    }
    return {name: tensor for name, tensor in named.items() if tensor is not None}


def results(call: Call, backend: str, used: Iterable[str] | None = None) -> Found:
    """What a call gives on a backend.

    Args:
        call: of any dtype.
        backend: its name.
        used: what the gradient is taken of, ``"y"`` and names of final states; everything when None.

    Returns:
        Outputs, final states and gradients of a fixed random combination of them.
    """
    y, final = run(call, backend)
    states = dict(zip(call.cell.graph.states, final, strict=True))
    generator = torch.Generator().manual_seed(1)
    ends, weights = [], []
    for name, value in {"y": y, **states}.items():
        weight = torch.randn(value.shape, generator=generator, dtype=torch.float64, device="cpu")
        # a state that is handed on from a vector weight without a gradient has none
        if value.requires_grad and (used is None or name in used):
            ends.append(value)
            weights.append(weight.to(value.dtype))
    named = {name: tensor for name, tensor in leaves(call).items() if tensor.requires_grad}
    gradients = torch.autograd.grad(
        ends, list(named.values()), weights, allow_unused=True, materialize_grads=True
    )
    detached = {name: state.detach() for name, state in states.items()}
    return Found({"y": y.detach()}, detached, dict(zip(named, gradients, strict=True)))


def deviation(actual: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """The worst error of some tensors, as the module's text defines it."""
    largest = max((tensor.abs().max().item() for tensor in right.values() if tensor.numel()), default=0.0)
    worst = 0.0
    for name, expected in right.items():
        found = actual[name]
        if found.shape != expected.shape or not (found.isfinite().all() and expected.isfinite().all()):
            return math.inf
        difference = (found.double() - expected).abs().max().item() if found.numel() else 0.0
        if difference:
            size = max(expected.abs().max().item(), FLOOR * largest)
            worst = max(worst, difference / size if size else math.inf)
    return worst


def _errors(actual: Found, right: Found) -> Errors:
    return Errors(*(deviation(getattr(actual, f.name), getattr(right, f.name)) for f in fields(Found)))


def _right(call: Call, used: tuple[str, ...] | None = None) -> Found:
    """What the equations give in float64."""
    wider = call.changed(lambda t: t.detach().double().requires_grad_(t.requires_grad))
    return results(wider, "eager", used)


def compare(call: Call, used: tuple[str, ...] | None = None, backend: str = "cpu") -> Errors:
    """The errors of a call on the kernels of a backend; ``used`` as in ``results``."""
    return _errors(results(call, backend, used), _right(call, used))


def compare_random(call: Call, backend: str = "cpu") -> tuple[Errors, Errors, bool]:
    """The errors of a random cell on the kernels, those of its equations, and whether it passes."""
    generator = torch.Generator().manual_seed(2)

    def moved(tensor: Tensor) -> Tensor:
        sign = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
        by = torch.finfo(tensor.dtype).eps * sign.to(tensor.dtype)
        return (tensor.detach() * (1 + by)).requires_grad_(tensor.requires_grad)

    right = _right(call)
    errors = _errors(results(call, backend), right)
    own = _errors(results(call.changed(moved), "eager"), right)
    return errors, own, errors.worst <= max(TOLERANCES[call.x.dtype], AMPLIFIED * own.worst)


def main(count: int) -> None:
    """Print the table of random cells, and each that does not pass."""
    print(f"{'random cells':14}{'dtype':9}{'outputs':>10}{'states':>10}{'gradients':>11}   equations' own")
    for dtype in TOLERANCES:
        worst, worst_own, failed = Errors(), Errors(), []
        for seed in range(count):
            call = random_call(seed, dtype)
            errors, own, passes = compare_random(call)
            worst, worst_own = worst | errors, worst_own | own
            if not passes:
                failed.append(f"  seed {seed} at {tuple(call.x.shape)}: {errors.worst:.1e}\n{call.cell!r}")
        figures = f"{worst.outputs:10.1e}{worst.states:10.1e}{worst.gradients:11.1e}{worst_own.worst:17.1e}"
        print(f"{count:<14}{str(dtype).removeprefix('torch.'):9}{figures}")
        print(*failed, sep="\n", end="\n" if failed else "")
        if failed:
            sys.exit(f"{len(failed)} of {count} random cells depart from their equations")
