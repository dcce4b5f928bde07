"""What is aimed at, and what the measurements say to it.

Ratios are times of a rival over ours, so more is better everywhere but in seconds. Of several rivals the one
that is fastest at that size counts. ``GRID`` is the whole; a figure over fewer sizes says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.cases import GRID, Case, Size
from benchmarks.peers import OURS
from benchmarks.results import Document


@dataclass(frozen=True)
class Target:
    """An aim over the grid.

    Attributes:
        title: what is compared.
        cell: of the cases.
        mode: of the cases.
        value: the figure of a case, from the document; None when it was not measured.
        sizes: those that it is about.
        mean: the least geometric mean, None when it is only stated.
        least: the least figure of any size, None when it is only stated.
        percent: whether figures are shares.
    """

    title: str
    cell: str
    mode: str
    value: Callable[[Document, Case], float | None]
    sizes: tuple[Size, ...] = GRID
    mean: float | None = None
    least: float | None = None
    percent: bool = False


@dataclass(frozen=True)
class Limit:
    """An aim for one figure, in seconds, that is not to be exceeded."""

    title: str
    figure: str
    most: float


@dataclass(frozen=True)
class Outcome:
    """What the measurements say.

    Attributes:
        mean: the geometric mean over the sizes measured.
        least: the least figure.
        where: its size.
        measured: how many of the sizes.
        disturbed: at how many of them others were using the machine.
        met: whether every aim is, None while sizes are missing.
    """

    mean: float
    least: float
    where: Size
    measured: int
    disturbed: int
    met: bool | None


def entry(document: Document, case: Case) -> dict[str, Any]:
    """The case's entry, empty when it was not measured."""
    return document["cases"].get(case.key, {})


def our(document: Document, case: Case) -> dict[str, Any]:
    """Our own figures in a case, empty when there are none."""
    return entry(document, case).get("peers", {}).get(OURS, {})


def against(*rivals: str) -> Callable[[Document, Case], float | None]:
    """The time of the fastest of some rivals over ours."""

    def value(document: Document, case: Case) -> float | None:
        ratios = entry(document, case).get("ratios", {})
        return min((ratios[name]["median"] for name in rivals if name in ratios), default=None)

    return value


def peak_share(document: Document, case: Case) -> float | None:
    """Our share of the machine's peak."""
    return our(document, case).get("peak_share")


def of_builtin(document: Document, case: Case) -> float | None:
    """Our rate over our rate at the built-in GRU of the same size."""
    own, gru = (our(document, one).get("gflops") for one in (case, replace(case, cell="gru")))
    return own / gru if own and gru else None


LARGE = tuple(size for size in GRID if size.B >= 32 and size.H >= 128)

TARGETS = (
    Target("GRU training, `torch.nn.GRU`", "gru", "training", against("torch"), mean=4, least=1.5),
    Target(
        "GRU training, best of JAX and Keras", "gru", "training", against("jax", "keras"), mean=1.7, least=1
    ),
    Target(
        "GRU training, share of peak, B ≥ 32, H ≥ 128", "gru", "training", peak_share, LARGE,
        least=0.6, percent=True,
    ),
    Target(
        "GRU inference, best of ONNX Runtime and OpenVINO", "gru", "inference",
        against("onnxruntime", "openvino"), mean=1.2, least=1,
    ),
    Target("LSTM training, `torch.nn.LSTM`", "lstm", "training", against("torch"), mean=1.3, least=1),
    Target("LSTM inference, `torch.nn.LSTM`", "lstm", "inference", against("torch"), mean=1.3, least=1),
    Target(
        "Reset-before GRU training, rate of the built-in GRU", "gru_reset_before", "training", of_builtin,
        least=0.8, percent=True,
    ),
    Target("Reset-before GRU training, JAX", "gru_reset_before", "training", against("jax"), least=2),
    Target(
        "MGU training, rate of the built-in GRU", "mgu", "training", of_builtin, least=0.8, percent=True
    ),
    Target("MGU training, JAX", "mgu", "training", against("jax"), least=2),
)  # fmt: skip
"""Aims over the grid."""

LIMITS = (
    Limit("First training call of a new cell", "first_call_s", 0.3),
    Limit("The same from the disk's cache", "cached_call_s", 0.03),
    Limit("Import, beyond torch", "import_s", 0.15),
)
"""Aims of the first call."""


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def judge(target: Target, document: Document) -> Outcome | None:
    """Hold a target against the measurements; None when there are none."""
    cases = {size: Case(target.cell, target.mode, size) for size in target.sizes}
    found = {size: target.value(document, case) for size, case in cases.items()}
    values = {size: value for size, value in found.items() if value is not None}
    if not values:
        return None
    where = min(values, key=lambda size: values[size])
    mean, least = geometric_mean(values.values()), values[where]
    aims = ((target.mean, mean), (target.least, least))
    met = all(figure >= aim for aim, figure in aims if aim is not None)
    # a size that is missing can only spoil what is met
    verdict = met if len(values) == len(target.sizes) or not met else None
    disturbed = sum(bool(entry(document, cases[size]).get("disturbed")) for size in values)
    return Outcome(mean, least, where, len(values), disturbed, verdict)
