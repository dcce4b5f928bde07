"""What a rival must offer, and how the quickest of its settings is found."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from benchmarks.cases import Problem
from torch import Tensor


@dataclass(frozen=True)
class Prepared:
    """A problem made ready in a rival's own form.

    Attributes:
        run: computes it once, to the end; nothing that belongs before or after is in it.
        results: from what ``run`` gave to tensors in torch's layout, named as in ``expected_results``.
        settings: how it runs, for the record.
    """

    run: Callable[[], Any]
    results: Callable[[Any], dict[str, Tensor]]
    settings: str = ""


class Peer(ABC):
    """A rival.

    Attributes:
        name: in options and tables.
        package: the distribution whose version is stated.
        module: what must be importable.
        offers: the cells it has, by mode.
    """

    name: str
    package: str
    module: str
    offers: Mapping[str, tuple[str, ...]]

    def version(self) -> str:
        """The version of its package."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return "unknown"

    def absence(self) -> str:
        """Why it cannot run here at all, or nothing."""
        return "" if find_spec(self.module) else f"{self.module} is not installed"

    @abstractmethod
    def prepare(self, problem: Problem, threads: int) -> Prepared:
        """Make a problem ready: layer, weights, input, compilation."""

    def clean(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of what compiled code and caches a case has left behind."""


def quickest(variants: Mapping[str, Prepared], seconds: float = 0.5) -> Prepared:
    """The fastest of several ways to compute the same; one that raises is passed over.

    Args:
        variants: by their settings.
        seconds: at most about so long for each, after a first run.

    Returns:
        The fastest, with its settings.

    Raises:
        RuntimeError: all of them raise.
    """
    best, fastest, failures = None, float("inf"), {}
    for settings, prepared in variants.items():
        try:
            prepared.run()
            start, took = time.perf_counter(), []
            while len(took) < 5 and (not took or time.perf_counter() - start < seconds):
                before = time.perf_counter()
                prepared.run()
                took.append(time.perf_counter() - before)
        except Exception as error:  # whatever a rival raises, another variant may do
            failures[settings] = f"{type(error).__name__}: {str(error).strip()[:200]}"
            continue
        if min(took) < fastest:
            best, fastest = Prepared(prepared.run, prepared.results, settings), min(took)
    if best is None:
        raise RuntimeError("; ".join(f"{settings}: {failure}" for settings, failure in failures.items()))
    return best


def reordered(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """The maps' blocks of rows in another order; its own inverse for the orders of two that are swapped."""
    blocks = tensor.chunk(len(order))
    return torch.cat([blocks[place] for place in order])
