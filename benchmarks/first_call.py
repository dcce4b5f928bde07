"""What a user waits for once: the import, and the first training call of a cell that was never seen before.

    python -m benchmarks.run --first-call

Each figure is the median of several fresh processes, beyond what torch alone takes in the same place: the
import of gatewright after that of torch, and the first training call of a custom cell, once torch is warm,
less the shortest call of ``torch.nn.GRU`` at the same small size, in which next to nothing is computed. The
first call is measured with an empty folder of kernels and again with the folder that this has filled.
Processes during which others used the machine do not count while three others are left.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks import machine

B, T, H = 4, 16, 64
"""Of the first call; the time is all but the computation."""

DISTURBED = 0.25
"""A process does not count when others had more of a processor than this."""

LEAST = 3
"""So many undisturbed processes are enough."""

CACHE = "GATEWRIGHT_CACHE"
"""The variable that names the folder of compiled kernels."""


def measure(processes: int, threads: int) -> dict[str, Any]:
    """Medians and every single figure, in seconds.

    Args:
        processes: fresh ones for each figure, after one that warms the disk's cache.
        threads: of torch.

    Returns:
        ``import_s``, ``first_call_s`` and ``cached_call_s`` beyond torch's, and ``raw``.
    """
    raw: dict[str, list[dict[str, Any]]] = {"torch": [], "empty": [], "filled": []}
    for count in range(processes + 1):
        with tempfile.TemporaryDirectory() as folder:
            options = {CACHE: folder, "OMP_NUM_THREADS": str(threads)}
            for name, what in (("torch", "torch"), ("empty", "gatewright"), ("filled", "gatewright")):
                done = machine.in_fresh_process("first_call", what, **options)
                if count:
                    raw[name].append(done)

    quiet = {name: [run for run in runs if run["others"] <= DISTURBED] for name, runs in raw.items()}
    disturbed = any(len(runs) < LEAST for runs in quiet.values())

    def median(name: str, figure: str) -> float:
        return statistics.median(run[figure] for run in (raw if disturbed else quiet)[name])

    warm = min(run["torch_warm_s"] for run in raw["torch"] + raw["empty"] + raw["filled"])
    return {
        "import_s": median("filled", "import_s"),
        "definition_s": median("empty", "definition_s"),
        "first_call_s": median("empty", "first_s") - warm,
        "cached_call_s": median("filled", "first_s") - warm,
        "torch_import_s": median("torch", "torch_import_s"),
        "torch_first_call_s": median("torch", "torch_first_s"),
        "route": raw["empty"][0]["route"],
        "disturbed": disturbed,
        "commit": machine.commit(),
        "raw": raw,
    } | machine.moment()


def _seconds(start: float) -> float:
    return round(time.perf_counter() - start, 6)


def _child(what: str) -> dict[str, Any]:
    """Import torch, in the other kind of process gatewright too, and call a layer of each."""
    figures: dict[str, Any] = {}
    others, begin = machine.time_of_others(), time.perf_counter()
    start = time.perf_counter()
    import torch

    figures["torch_import_s"] = _seconds(start)
    x, dy = torch.randn(T, B, H, requires_grad=True), torch.randn(T, B, H)

    def train(layer: Any, name: str) -> None:
        took = []
        for _ in range(5):
            start = time.perf_counter()
            y, _ = layer(x)
            torch.autograd.grad(y, [x, *layer.parameters()], dy)
            took.append(_seconds(start))
        figures[f"{name}first_s"], figures[f"{name}warm_s"] = took[0], min(took)

    if what == "gatewright":
        _ours(train, figures)
    else:
        train(torch.nn.GRU(H, H), "torch_")
    return figures | {"others": (machine.time_of_others() - others) / (time.perf_counter() - begin)}


def _ours(train: Callable[[Any, str], None], figures: dict[str, Any]) -> None:
    """Import gatewright, warm torch up, define a cell and call a layer of it."""
    import torch

    start = time.perf_counter()
    import gatewright as gw

    figures["import_s"] = _seconds(start)
    train(torch.nn.GRU(H, H), "torch_")
    start = time.perf_counter()

    @gw.cell
    def never_seen(x, U, h):
        f = gw.sigmoid(x.f + U.f(h))
        return (1 - f) * h + f * gw.tanh(x.n + U.n(f * h))

    layer = gw.Recurrent(never_seen, H, H)
    figures["definition_s"] = _seconds(start)
    train(layer, "")
    figures["route"] = gw.explain(layer, torch.randn(T, B, H)).partition(":")[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="One process of the measurement; prints JSON.")
    parser.add_argument("what", choices=("torch", "gatewright"))
    print(json.dumps(_child(parser.parse_args().what)))
