"""What an option costs, what ragged rows save, and how long a step of a stream takes.

    python -m benchmarks.options

Rates are those of a training step beside one without the option, in turn in the same run; a stream stands
beside a call of ONNX Runtime's session on the same one-step graph, in turn too. The figures go to the results
file.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import machine, results, timing

SIZES = ((32, 128, 128), (16, 128, 64), (64, 128, 256))
"""B, T, H."""

OPTIONS: dict[str, dict[str, Any]] = {
    "recurrent_dropout": {"recurrent_dropout": 0.3},
    "zoneout": {"zoneout": 0.1},
    "weight_drop": {"weight_drop": 0.3},
    "train_initial_state": {"train_initial_state": True},
    "heads": {"heads": 4},
    "activation": {"activation": "softsign"},
    "residual": {"residual": True},
    "pre_norm": {"pre_norm": True},
    "layer_norm": {"layer_norm": True},
}

STREAMS = (16, 64, 256, 512)


def option_runs(B: int, T: int, H: int) -> dict[str, Callable[[], Any]]:
    """A training step of a GRU without an option and with each, and with what is said at the call."""
    import torch

    import gatewright as gw

    torch.manual_seed(0)
    x, dy = torch.randn(T, B, H, requires_grad=True), torch.randn(T, B, H)
    lengths = torch.linspace(1, T, B).round().long()[torch.randperm(B)]
    assert abs(lengths.sum().item() / (T * B) - 0.5) < 0.02

    def step(layer: Any, **said: Any) -> Callable[[], Any]:
        weights = list(layer.parameters())

        def run() -> Any:
            return torch.autograd.grad(layer(x, **said)[0], [x, *weights], dy, allow_unused=True)

        return run

    plain = gw.GRU(H, H)
    runs = {"none": step(plain)}
    runs |= {name: step(gw.GRU(H, H, **given)) for name, given in OPTIONS.items()}
    full = torch.ones(T, B, dtype=torch.bool)
    return runs | {
        "mask": step(plain, mask=full),
        "resets": step(plain, resets=torch.rand(T, B) < 0.02),
        "all_states": step(plain, all_states=True),
        "lengths, half of T": step(plain, lengths=lengths),
    }


def stream_runs(H: int) -> dict[str, Callable[[], Any]]:
    """One step of a GRU at a batch of one: ours, ours with bfloat16 weights, and ONNX Runtime's."""
    import torch
    from benchmarks.cases import Case, Size, make_problem
    from benchmarks.peers.onnx_graphs import OnnxRuntimePeer

    import gatewright as gw

    problem = make_problem(Case("gru", "inference", Size(B=1, T=1, H=H)))
    layer = gw.GRU(H, H)
    with torch.no_grad():
        for name, value in problem.weights.items():
            layer.get_parameter(f"{name}_l0").copy_(value)
    x = problem.x[0]
    streams = {"gatewright": layer.stream(), "gatewright, bfloat16": layer.stream(weights=torch.bfloat16)}
    runs: dict[str, Callable[[], Any]] = {name: lambda s=s: s(x) for name, s in streams.items()}
    peer = OnnxRuntimePeer()
    if not peer.absence():
        prepared = peer.prepare(problem, 1)
        found = prepared.results(prepared.run())["y"][0]
        torch.testing.assert_close(layer.stream()(x), found, rtol=1e-4, atol=1e-5)
        runs["onnxruntime"] = prepared.run
    return runs


def measured(runs: dict[str, Callable[[], Any]], ours: str) -> dict[str, Any]:
    """Medians in milliseconds, and each run's time to that of ``ours`` with its interval."""
    rounds = timing.measure_rounds(runs, timing.Plan(rounds=31, seconds=30.0, least=9, patience=4.0))
    summary = timing.summarize(rounds, 1, ours, 9)
    medians = {name: peer["median_ms"] for name, peer in summary["peers"].items()}
    return {"median_ms": medians, "ratios": summary["ratios"], "disturbed": summary["disturbed"]}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.options", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--threads", type=int, default=min(2, machine.available_processors()))
    parser.add_argument("--out", type=Path, default=None, help="results file, as of benchmarks.run")
    options = parser.parse_args(arguments)
    machine.set_threads(options.threads)
    path = options.out or results.default_path(options.threads)
    document = results.opened(path, options.threads, resume=True)
    found: dict[str, Any] = {"commit": machine.commit(), "options": {}, "streams": {}}
    for size in SIZES:
        name = "x".join(map(str, size))
        found["options"][name] = row = measured(option_runs(*size), "none")
        for option, ratio in row["ratios"].items():
            print(f"{name} {option}: rate {1 / ratio['median']:.2f}", flush=True)
    for H in STREAMS:
        found["streams"][str(H)] = row = measured(stream_runs(H), "gatewright")
        times = ", ".join(f"{n} {1e3 * ms:.2f} us" for n, ms in row["median_ms"].items())
        print(f"stream {H}: {times}", flush=True)
    document["layers"] = found
    results.save(path, document)
    rates = [1 / r["median"] for row in found["options"].values() for r in row["ratios"].values()]
    print(f"median rate of all options {statistics.median(rates):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
