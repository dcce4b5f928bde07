"""What is measured: cells, sizes and modes, each with its inputs, its arithmetic and its exact results.

A case is one cell at one size, in training or inference. ``make_problem`` draws its input and weights from a
seed, ``expected_results`` computes what every rival must arrive at, in float64 from the formulas of
``CELLS``: outputs, final states and, in training, the gradients of input and weights for a fixed random
gradient of the output.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import gatewright as gw
from gatewright import sigmoid, tanh

MODES = ("training", "inference")

Map = Callable[[int, Tensor], Tensor]
"""A recurrent map: its row in the weights and the value it is applied to."""

Equations = Callable[[tuple[Tensor, ...], Map, tuple[Tensor, ...]], tuple[Tensor, ...]]
"""New states from the input maps of a step, the recurrent maps and the states."""


@gw.cell(source="Zhou et al. 2016, arXiv:1603.09420")
def mgu(x, U, h):
    """Minimal gated unit: one gate both forgets and resets, so two products depend on each other."""
    f = sigmoid(x.f + U.f(h))
    n = tanh(x.n + U.n(f * h))
    return (1 - f) * h + f * n


@gw.cell(source="Feng et al. 2024, arXiv:2410.01201")
def min_gru(x, h):
    """minGRU: gate and candidate see the input alone, so a step is elementwise and affine in the state."""
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.n


def _gru(x: tuple[Tensor, ...], U: Map, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h,) = states
    r, z = torch.sigmoid(x[0] + U(0, h)), torch.sigmoid(x[1] + U(1, h))
    n = torch.tanh(x[2] + r * U(2, h))
    return ((1 - z) * n + z * h,)


def _gru_reset_before(x: tuple[Tensor, ...], U: Map, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h,) = states
    r, z = torch.sigmoid(x[0] + U(0, h)), torch.sigmoid(x[1] + U(1, h))
    n = torch.tanh(x[2] + U(2, r * h))
    return ((1 - z) * n + z * h,)


def _lstm(x: tuple[Tensor, ...], U: Map, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    h, c = states
    i, f, o = (torch.sigmoid(x[k] + U(k, h)) for k in (0, 1, 3))
    c = f * c + i * torch.tanh(x[2] + U(2, h))
    return o * torch.tanh(c), c


def _mgu(x: tuple[Tensor, ...], U: Map, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h,) = states
    f = torch.sigmoid(x[0] + U(0, h))
    return ((1 - f) * h + f * torch.tanh(x[1] + U(1, f * h)),)


def _min_gru(x: tuple[Tensor, ...], U: Map, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (h,) = states
    z = torch.sigmoid(x[0])
    return ((1 - z) * h + z * x[1],)


@dataclass(frozen=True)
class MeasuredCell:
    """A cell of the benchmark.

    Attributes:
        cell: as the library has it, or as a user would write it.
        equations: the same step in plain torch, rows of the maps in the order of the weights.
        title: for tables.
    """

    cell: gw.Cell
    equations: Equations
    title: str

    @property
    def maps(self) -> int:
        """Input maps and recurrent maps together; each is one product of ``H·H`` a row and step."""
        return len(self.cell.graph.input_maps) + len(self.cell.graph.recurrent_maps)


CELLS: dict[str, MeasuredCell] = {
    "gru": MeasuredCell(gw.CATALOGUE["gru"], _gru, "GRU"),
    "lstm": MeasuredCell(gw.CATALOGUE["lstm"], _lstm, "LSTM"),
    "gru_reset_before": MeasuredCell(
        gw.CATALOGUE["gru_reset_before"], _gru_reset_before, "GRU, reset before"
    ),
    "mgu": MeasuredCell(mgu, _mgu, "MGU (custom cell)"),
    "min_gru": MeasuredCell(min_gru, _min_gru, "minGRU (custom cell)"),
}
"""Every cell by name."""


@dataclass(frozen=True)
class Size:
    """Sizes of a case; the input is as wide as the state."""

    B: int
    T: int
    H: int

    def __str__(self) -> str:
        return f"{self.B}x{self.T}x{self.H}"


GRID = tuple(
    Size(*size)
    for size in (
        (1, 128, 64), (1, 128, 256), (1, 128, 512), (4, 128, 256), (16, 128, 64), (32, 128, 128),
        (64, 128, 256), (128, 128, 128), (64, 128, 512), (16, 1024, 64), (256, 64, 64),
    )
)  # fmt: skip
"""Every size, ``(B, T, H)``."""


@dataclass(frozen=True)
class Case:
    """One cell at one size in one mode."""

    cell: str
    mode: str
    size: Size

    @property
    def key(self) -> str:
        """Its name in a results file."""
        return f"{self.cell}-{self.mode}-{self.size}"

    @property
    def work(self) -> int:
        """Floating-point operations: 2·T·B·H² a map (12·T·B·H² for a GRU), three times that in training."""
        size, passes = self.size, 3 if self.mode == "training" else 1
        return 2 * size.T * size.B * size.H**2 * CELLS[self.cell].maps * passes


def make_cases(cells: tuple[str, ...], modes: tuple[str, ...], sizes: tuple[Size, ...]) -> list[Case]:
    """Every combination, cell by cell."""
    return [Case(*choice) for choice in itertools.product(cells, modes, sizes)]


def parse_sizes(text: str) -> tuple[Size, ...]:
    """Sizes from ``all``, or from indices into the grid and ``BxTxH``, separated by commas."""
    if text == "all":
        return GRID
    sizes = []
    for part in text.split(","):
        numbers = part.strip().split("x")
        if not all(number.isdigit() for number in numbers) or len(numbers) not in (1, 3):
            raise ValueError(f"{part!r} is neither an index below {len(GRID)} nor a size such as 64x128x256")
        if len(numbers) == 1 and int(numbers[0]) >= len(GRID):
            raise ValueError(f"the grid has {len(GRID)} sizes, indices 0 to {len(GRID) - 1}; received {part}")
        sizes.append(GRID[int(numbers[0])] if len(numbers) == 1 else Size(*map(int, numbers)))
    return tuple(sizes)


@dataclass(frozen=True)
class Problem:
    """A case with its numbers, float32, which no rival may change.

    Attributes:
        case: what is computed.
        x: ``[T, B, H]``, the input.
        dy: ``[T, B, H]``, the gradient of the output.
        weights: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh`` in torch's layout; for cells without
            recurrent maps only those of the input.
    """

    case: Case
    x: Tensor
    dy: Tensor
    weights: dict[str, Tensor]


def make_problem(case: Case, seed: int = 0) -> Problem:
    """Draw inputs from a normal distribution and weights as torch's layers begin."""
    graph, size = CELLS[case.cell].cell.graph, case.size
    generator = torch.Generator().manual_seed(seed)
    rows = {"ih": len(graph.input_maps) * size.H, "hh": len(graph.recurrent_maps) * size.H}
    weights = {}
    for kind, sort in itertools.product(("weight", "bias"), ("ih", "hh")):
        if rows[sort]:
            shape = (rows[sort], size.H) if kind == "weight" else (rows[sort],)
            bound = 1 / math.sqrt(size.H)
            weights[f"{kind}_{sort}"] = (2 * torch.rand(shape, generator=generator) - 1) * bound
    x, dy = (torch.randn(size.T, size.B, size.H, generator=generator) for _ in range(2))
    return Problem(case, x, dy, weights)


def expected_results(problem: Problem) -> dict[str, Tensor]:
    """Outputs, final states and in training gradients in float64, step by step from the formulas."""
    measured = CELLS[problem.case.cell]
    training = problem.case.mode == "training"
    leaves = {
        name: tensor.double().requires_grad_(training)
        for name, tensor in {"x": problem.x, **problem.weights}.items()
    }
    steps = torch.nn.functional.linear(leaves["x"], leaves["weight_ih"], leaves["bias_ih"])
    recurrent = list(_recurrent_weights(leaves, problem.case.size.H))

    def product(row: int, value: Tensor) -> Tensor:
        weight, bias = recurrent[row]
        return torch.nn.functional.linear(value, weight, bias)

    graph = measured.cell.graph
    states = tuple(steps.new_zeros(problem.case.size.B, problem.case.size.H) for _ in graph.states)
    outputs = []
    with torch.set_grad_enabled(training):
        for step in steps.unbind(0):
            maps = step.chunk(len(graph.input_maps), -1)
            states = measured.equations(maps, product, states)
            outputs.append(states[0])
        y = torch.stack(outputs)
    results = {"y": y, **dict(zip(graph.states, states, strict=True))}
    if training:
        gradients = torch.autograd.grad(y, list(leaves.values()), problem.dy.double())
        results |= {f"d{name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return {name: tensor.detach() for name, tensor in results.items()}


def _recurrent_weights(leaves: dict[str, Tensor], H: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias of each recurrent map."""
    if "weight_hh" in leaves:
        yield from zip(leaves["weight_hh"].split(H), leaves["bias_hh"].split(H), strict=True)


def worst_error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
    """The worst of max|a − b| / max|b| over all tensors, and the name of that tensor.

    Infinite for a tensor that is missing, has another shape or is not finite.
    """
    worst = (0.0, "")
    for name, exact in expected.items():
        given, error = actual.get(name), math.inf
        if given is not None and given.shape == exact.shape and bool(torch.isfinite(given).all()):
            difference, largest = (given.double() - exact).abs().max().item(), exact.abs().max().item()
            error = difference / largest if largest else (math.inf if difference else 0.0)
        worst = max(worst, (error, name))
    return worst
