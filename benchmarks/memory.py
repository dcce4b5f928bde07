"""Memory of a training step, and whether it stays flat over many calls.

    python -m benchmarks.memory              # peak of one step, ours and torch.nn.GRU's, over the grid
    python -m benchmarks.memory --flat       # resident memory over 10,000 calls

The peak is the highest resident memory during a step less the resident memory before it, in a fresh process
that has made layer and inputs and has run two time steps, so that everything is loaded and compiled. What
the step returns, the gradients of input and weights, is in it.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine

LAYERS = ("gatewright", "torch")
FLAT_GROWTH = 1 << 20
"""Bytes by which the second half of the calls may grow what is resident: pages of the interpreter's own."""


def resident() -> int:
    """Resident bytes now."""
    return _status("VmRSS") or _highest()


def _status(field: str) -> int:
    """A field of the process's status in bytes, 0 where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(field + ":")), 0)


def _highest() -> int:
    """The highest resident bytes since the process began; macOS counts bytes, others kilobytes."""
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return value if sys.platform == "darwin" else value << 10


def peak_during(run: Callable[[], Any]) -> int:
    """The highest resident memory during a call less the resident memory before it."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest begins anew
    except OSError:
        before, reading = _highest(), _highest
    else:
        before, reading = resident(), lambda: _status("VmHWM")
    kept = run()
    after = reading()
    del kept
    return max(0, after - before)


def make_step(layer_name: str, B: int, T: int, H: int) -> tuple[Any, Callable[[], Any], Callable[[], Any]]:
    """A layer, a training step at a size and the same over two time steps."""
    import torch

    if layer_name == "torch":
        layer: Any = torch.nn.GRU(H, H)
    else:
        import gatewright as gw
        from gatewright.backends.dispatch import CHOICES

        layer = gw.GRU(H, H)
        layer.backend = "cpu" if "cpu" in CHOICES else "auto"

    def step_at(steps: int) -> Callable[[], Any]:
        x, dy = torch.randn(steps, B, H, requires_grad=True), torch.randn(steps, B, H)

        def step() -> Any:
            y, _ = layer(x)
            return y, torch.autograd.grad(y, [x, *layer.parameters()], dy)

        return step

    return layer, step_at(T), step_at(2)


def _peak_child(layer_name: str, size: str) -> dict[str, Any]:
    B, T, H = map(int, size.split("x"))
    _, step, tiny = make_step(layer_name, B, T, H)
    tiny()
    return {"peak_bytes": peak_during(step)}


def _flat_child(layer_name: str, calls: int) -> dict[str, Any]:
    """Training and inference by turns at several sizes; what is resident, twenty times."""
    import torch

    steps = []
    for B, T, H in ((1, 16, 16), (3, 8, 24), (8, 12, 16), (2, 5, 40)):
        layer, step, _ = make_step(layer_name, B, T, H)
        x = torch.randn(T, B, H)
        steps += [step, lambda layer=layer, x=x: infer(layer, x)]

    def infer(layer: Any, x: Any) -> None:
        with torch.no_grad():
            layer(x)

    seen, every = [], max(1, calls // 20)
    for call, step in zip(range(1, calls + 1), itertools.cycle(steps), strict=False):
        step()
        if call % every == 0:
            seen.append(resident())
    growth = seen[-1] - seen[len(seen) // 2 - 1]
    return {"calls": calls, "resident_bytes": seen, "growth_bytes": growth, "flat": growth <= FLAT_GROWTH}


def measure_peaks(sizes: list[str], threads: int) -> dict[str, dict[str, int]]:
    """Bytes at the peak of a step by size and layer, the least of three fresh processes."""
    peaks: dict[str, dict[str, int]] = {}
    for size, name in itertools.product(sizes, LAYERS):
        runs = [
            machine.in_fresh_process("memory", "--child", name, size, OMP_NUM_THREADS=str(threads))
            for _ in range(3)
        ]
        peaks.setdefault(size, {})[name] = min(run["peak_bytes"] for run in runs)
        print(f"{size} {name}: {peaks[size][name] / 2**20:.1f} MiB", file=sys.stderr, flush=True)
    return peaks


def main(arguments: list[str] | None = None) -> int:
    """Measure, and add the figures to the results file; 1 when memory is not flat."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--flat", action="store_true", help="resident memory over many calls instead")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--grid", default="all", help="as of benchmarks.run")
    parser.add_argument("--threads", type=int, default=min(2, machine.available_processors()))
    parser.add_argument("--out", type=Path, default=None, help="results file, as of benchmarks.run")
    parser.add_argument("--child", nargs=2, metavar=("LAYER", "WHAT"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        name, what = options.child
        print(json.dumps(_peak_child(name, what) if "x" in what else _flat_child(name, int(what))))
        return 0
    machine.set_threads(options.threads)
    from benchmarks.cases import parse_sizes

    from benchmarks import results

    path = options.out or results.default_path(options.threads)
    document = results.opened(path, options.threads, resume=True)
    if options.flat:
        found = {
            name: machine.in_fresh_process("memory", "--child", name, str(options.calls)) for name in LAYERS
        }
        document["flat"] = found
        for name, run in found.items():
            grown = f"{run['growth_bytes'] / 1024:+.0f} KiB over the second half"
            print(f"{name}: {'flat' if run['flat'] else 'not flat'}, {grown} of {options.calls} calls")
    else:
        sizes = [str(size) for size in parse_sizes(options.grid)]
        document["memory"] = {"peaks": measure_peaks(sizes, options.threads), "commit": machine.commit()}
    results.save(path, document)
    return 0 if not options.flat or document["flat"]["gatewright"]["flat"] else 1


if __name__ == "__main__":
    sys.exit(main())
