"""The GPU backend beside its rivals, in one run on one device.

    python -m benchmarks.gpu                        # everything, into benchmarks/results
    python -m benchmarks.gpu --quick                # a size a cell
    python -m benchmarks.gpu --smoke                # tiny sizes in Triton's interpreter: shows that it runs

A case is a cell at a size, forward alone or with the gradients of input and weights. Rivals are torch.nn
(cuDNN) where torch has the cell, the step loop under ``torch.compile``, and JAX's scan where JAX sees the
device. Each is first held against the equations in float64; then all take turns, in an order drawn anew, and
the median of a rival's times counts. Ratios are taken within a round. The device's two ceilings, a large
product and a copy, are measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.cases import CELLS, Case, Problem, Size, expected_results, make_problem, worst_error
from torch import Tensor, nn

import gatewright as gw
from benchmarks import machine

TOLERANCES = {torch.float32: 1e-3, torch.bfloat16: 1e-1, torch.float16: 2e-2}
"""Worst relative error of a rival that is measured; float32 may be multiplied as TF32 on a GPU."""

GRID = tuple(Size(B, 1024, H) for H in (256, 512, 768, 1024) for B in (1, 16, 64))
LONG = (Size(8, 16384, 1024),)
SMOKE = (Size(2, 4, 20),)

ROUNDS, BLOCK_SECONDS = 15, 0.05
"""Rounds of a case, and how long a measurement takes at least."""


@dataclass(frozen=True)
class Device:
    """Where everything runs."""

    type: str
    dtype: torch.dtype

    def put(self, tensor: Tensor) -> Tensor:
        """A tensor there, in the dtype."""
        return tensor.to(self.type, self.dtype)

    def wait(self) -> None:
        """Until all that was launched is done."""
        if self.type == "cuda":
            torch.cuda.synchronize()


Run = Callable[[], Any]
"""Computes a case once and gives its results, by name unless it is JAX's."""


class EquationLoop(nn.Module):
    """The equations in torch's operations, a compiled step at a time."""

    def __init__(self, problem: Problem, device: Device) -> None:
        super().__init__()
        self.case = problem.case
        for name, tensor in problem.weights.items():
            self.register_parameter(name, nn.Parameter(device.put(tensor)))
        self._compiled = torch.compile(self._step)

    def _step(self, maps: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The new states."""
        measured, H = CELLS[self.case.cell], self.case.size.H
        weights = dict(self.named_parameters())
        parts = weights["weight_hh"].split(H) if "weight_hh" in weights else ()
        biases = weights["bias_hh"].split(H) if "bias_hh" in weights else ()

        def product(row: int, value: Tensor) -> Tensor:
            return nn.functional.linear(value, parts[row], biases[row])

        return measured.equations(maps.chunk(len(measured.cell.graph.input_maps), -1), product, states)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Output and final states."""
        graph, H = CELLS[self.case.cell].cell.graph, self.case.size.H
        weights = dict(self.named_parameters())
        states = tuple(x.new_zeros(x.shape[1], H) for _ in graph.states)
        outputs = []
        for step in nn.functional.linear(x, weights["weight_ih"], weights["bias_ih"]).unbind(0):
            states = self._compiled(step, states)
            outputs.append(states[0])
        return torch.stack(outputs), states


def ours(problem: Problem, device: Device) -> nn.Module:
    """Our layer on the kernels."""
    H = problem.case.size.H
    layer = gw.Recurrent(CELLS[problem.case.cell].cell, H, H)
    layer.load_state_dict({f"{name}_l0": tensor for name, tensor in problem.weights.items()})
    layer.backend = "gpu"
    return layer.to(device.type, device.dtype)


def of_torch(problem: Problem, device: Device) -> nn.Module | None:
    """CuDNN's layer, for cells that it has."""
    kinds = {"gru": nn.GRU, "lstm": nn.LSTM}
    if problem.case.cell not in kinds:
        return None
    H = problem.case.size.H
    layer = kinds[problem.case.cell](H, H)
    layer.load_state_dict({f"{name}_l0": tensor for name, tensor in problem.weights.items()})
    return layer.to(device.type, device.dtype)


def compiled(problem: Problem, device: Device) -> nn.Module | None:
    """The step under ``torch.compile``, in a loop; an hour of steps is not worth the wait."""
    if problem.case.size.T > 2048 or device.type != "cuda":
        return None
    return EquationLoop(problem, device)


LAYERS: dict[str, Callable[[Problem, Device], nn.Module | None]] = {
    "gatewright": ours,
    "torch": of_torch,
    "torch.compile": compiled,
}
"""The rivals that are layers of torch."""


def of_jax(problem: Problem, device: Device) -> Run | None:
    """JAX's scan, where JAX sees the device."""
    try:
        import jax

        if device.type == "cuda" and not jax.devices("gpu"):
            return None
    except (ImportError, RuntimeError):
        return None
    if device.type != "cuda":
        return None
    from benchmarks.peers.jax_scan import JaxPeer

    prepared = JaxPeer(str(device.dtype).removeprefix("torch.")).prepare(problem, 1)
    return _Jax(prepared.run, prepared.results)


@dataclass(frozen=True)
class _Jax:
    """A run whose results are only brought into torch's form when someone looks at them."""

    run: Callable[[], Any]
    results: Callable[[Any], dict[str, Tensor]]

    def __call__(self) -> Any:
        return self.run()


def runner(layer: nn.Module, problem: Problem, device: Device) -> Run:
    """A layer made ready for a problem."""
    states = CELLS[problem.case.cell].cell.graph.states
    x, dy = device.put(problem.x), device.put(problem.dy)
    parameters = list(layer.parameters())
    names = [f"d{name}" for name in ("x", *problem.weights)]

    def named(y: Tensor, final: Any) -> dict[str, Tensor]:
        values = final if isinstance(final, tuple) else (final,)
        return {"y": y} | {n: v.reshape(y.shape[1:]) for n, v in zip(states, values, strict=True)}

    def infer() -> dict[str, Tensor]:
        with torch.inference_mode():
            return named(*layer(x))

    def train() -> dict[str, Tensor]:
        leaf = x.detach().requires_grad_()
        y, final = layer(leaf)
        gradients = torch.autograd.grad(y, [leaf, *parameters], dy)
        return named(y.detach(), final) | dict(zip(names, gradients, strict=True))

    return infer if problem.case.mode == "inference" else train


def rivals(problem: Problem, device: Device) -> Iterator[tuple[str, Run]]:
    """All that can run a problem, made ready."""
    for name, make in LAYERS.items():
        layer = make(problem, device)
        if layer is not None:
            yield name, runner(layer, problem, device)
    jax = of_jax(problem, device)
    if jax is not None:
        yield "jax", jax


def seconds_of(run: Run, count: int, device: Device) -> float:
    """Of one call, from so many."""
    device.wait()
    start = time.perf_counter()
    for _ in range(count):
        run()
    device.wait()
    return (time.perf_counter() - start) / count


def measure(case: Case, device: Device, rounds: int, seed: int = 0) -> dict[str, Any]:
    """Check and measure all rivals of a case."""
    problem = make_problem(case)
    problem = replace(
        problem,
        x=problem.x.to(device.dtype).float(),
        dy=problem.dy.to(device.dtype).float(),
        weights={name: tensor.to(device.dtype).float() for name, tensor in problem.weights.items()},
    )
    # step by step in float64, which a processor would take minutes for
    there = {name: tensor.to(device.type) for name, tensor in problem.weights.items()}
    expected = expected_results(
        replace(problem, x=problem.x.to(device.type), dy=problem.dy.to(device.type), weights=there)
    )
    runs: dict[str, Run] = {}
    found: dict[str, Any] = {"errors": {}, "left_out": {}, "seconds": {}}
    for name, run in rivals(problem, device):
        given = run.results(run()) if isinstance(run, _Jax) else run()
        given = {key: tensor.to(device.type).double() for key, tensor in given.items()}
        error, where = worst_error(given, expected)
        found["errors"][name] = error
        if error > TOLERANCES[device.dtype]:
            found["left_out"][name] = f"{where} departs by {error:.1e}"
        else:
            runs[name] = run
    counts = {name: max(1, round(BLOCK_SECONDS / seconds_of(run, 2, device))) for name, run in runs.items()}
    order, times = random.Random(seed), {name: [] for name in runs}
    for _ in range(rounds):
        for name in order.sample(list(runs), len(runs)):
            times[name].append(seconds_of(runs[name], counts[name], device))
    found["seconds"] = times
    mine = times.get("gatewright", [])
    found["ratios"] = {
        name: statistics.median(theirs / own for theirs, own in zip(taken, mine, strict=True))
        for name, taken in times.items()
        if mine and name != "gatewright"
    }
    return found


def ceilings(device: Device, size: int = 8192, copied: int = 1 << 30) -> dict[str, float]:
    """Operations a second in a large product, and bytes a second read and written in a copy."""
    if device.type != "cuda":
        size, copied = 256, 1 << 20
    a = torch.randn(size, size, device=device.type).to(device.dtype)
    source = torch.empty(copied, dtype=torch.uint8, device=device.type)
    target = torch.empty_like(source)

    def best(run: Callable[[], Any]) -> float:
        run()
        return min(seconds_of(run, 5, device) for _ in range(5))

    return {
        "product_flops": 2 * size**3 / best(lambda: a @ a),
        "copy_bytes": 2 * copied / best(lambda: target.copy_(source)),
    }


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """What is measured."""
    sizes = SMOKE if options.smoke else (GRID[4],) if options.quick else GRID
    for cell in CELLS:
        for mode in ("inference", "training"):
            for size in LONG if cell == "min_gru" and not (options.smoke or options.quick) else sizes:
                yield Case(cell, mode, size)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark, and write its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="a size a cell")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes in the interpreter")
    parser.add_argument("--out", type=Path, default=None, help="results (default: by device)")
    options = parser.parse_args(arguments)
    if not options.smoke and not torch.cuda.is_available():
        print("gpu benchmark: expected a CUDA device, found none", file=sys.stderr)
        print("  hint: --smoke runs tiny sizes in Triton's interpreter", file=sys.stderr)
        return 2
    if options.smoke:
        # before triton is imported, which then decides
        os.environ["TRITON_INTERPRET"] = "1"
    device = Device("cpu" if options.smoke else "cuda", getattr(torch, options.dtype))
    name = "interpreter" if options.smoke else torch.cuda.get_device_name()
    results: dict[str, Any] = {
        "device": name,
        "dtype": options.dtype,
        "versions": machine.versions(),
        "commit": machine.commit(),
        "ceilings": ceilings(device),
        "cases": {},
    }
    for case in cases(options):
        found = measure(case, device, 2 if options.smoke else options.rounds)
        results["cases"][case.key] = found
        print(line(case, found), flush=True)
    out = (
        options.out or machine.ROOT / "benchmarks" / "results" / f"gpu-{name.lower().replace(' ', '-')}.json"
    )
    if options.out or not options.smoke:
        partial = out.with_suffix(".part")
        partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        partial.replace(out)
        print(out)
    return 0


def line(case: Case, found: dict[str, Any]) -> str:
    """A case in words."""
    parts = []
    for name, taken in found["seconds"].items():
        median = statistics.median(taken)
        ratio = f", {found['ratios'][name]:.2f}x ours" if name in found["ratios"] else ""
        parts.append(f"{name} {median * 1e3:.3f} ms ({median / case.size.T * 1e6:.2f} us a step{ratio})")
    parts += [f"{name} left out: {reason}" for name, reason in found["left_out"].items()]
    return f"{case.key}: {'; '.join(parts)}"


if __name__ == "__main__":
    sys.exit(main())
