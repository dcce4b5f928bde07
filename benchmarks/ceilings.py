"""What the machine can do at best: fused multiply-adds a second, bytes read from memory a second.

    python -m benchmarks.ceilings

Both loops are generated with LLVM for this processor. The first keeps independent vector accumulators in
registers and does nothing but multiply and add; the second sums a block far larger than the caches. Threads
are Python threads: a call through ``ctypes`` holds no lock. The best of several runs counts.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

BLOCK_BYTES = 128 << 20
"""What each thread reads."""


def loop_text(lanes: int, accumulators: int) -> str:
    """Both loops as LLVM IR.

    Args:
        lanes: floats in a vector.
        accumulators: independent sums, enough to hide the latency and few enough for the registers.

    Returns:
        A module with ``float fma_loop(i64 steps, float a)`` and ``float read_loop(i64 steps, ptr data)``; a
        step is one operation on each accumulator.
    """
    vector, numbers = f"<{lanes} x float>", range(accumulators)
    phis = [f"  %s{i} = phi {vector} [%start, %entry], [%n{i}, %loop]" for i in numbers]
    products = [
        f"  %n{i} = call {vector} @llvm.fma.v{lanes}f32({vector} %s{i}, {vector} %v, {vector} %v)"
        for i in numbers
    ]
    reads = []
    for i in numbers:
        reads += [
            f"  %p{i} = getelementptr {vector}, ptr %data, i64 %o{i}",
            f"  %l{i} = load {vector}, ptr %p{i}, align 4",
            f"  %n{i} = fadd {vector} %s{i}, %l{i}",
        ]
    offsets = [f"  %o{i} = add i64 %base, {i}" for i in numbers]
    total = [f"  %t0 = fadd {vector} %n0, %start"]
    total += [f"  %t{i} = fadd {vector} %t{i - 1}, %n{i}" for i in numbers[1:]]

    def function(name: str, argument: str, before: list[str], body: list[str]) -> str:
        lines = [f"define float @{name}(i64 %steps, {argument}) {{", "entry:", *before, "  br label %loop"]
        lines += ["loop:", "  %k = phi i64 [0, %entry], [%next, %loop]", *phis, *body]
        lines += ["  %next = add i64 %k, 1", "  %more = icmp ult i64 %next, %steps"]
        lines += ["  br i1 %more, label %loop, label %done", "done:", *total]
        lines += [f"  %r = extractelement {vector} %t{accumulators - 1}, i32 0", "  ret float %r", "}"]
        return "\n".join(lines)

    spread = [
        f"  %one = insertelement {vector} poison, float %a, i32 0",
        f"  %v = shufflevector {vector} %one, {vector} poison, <{lanes} x i32> zeroinitializer",
        f"  %start = fadd {vector} %v, %v",
    ]
    nothing = [f"  %start = fadd {vector} zeroinitializer, zeroinitializer"]
    base = [f"  %base = mul i64 %k, {accumulators}", *offsets, *reads]
    return "\n".join(
        [
            f"declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})",
            function("fma_loop", "float %a", spread, products),
            function("read_loop", "ptr %data", nothing, base),
        ]
    )


class Loops:
    """The two loops, compiled for this processor."""

    def __init__(self) -> None:
        from llvmlite import binding

        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        features = binding.get_host_cpu_features()
        wide, middle = features.get("avx512f", False), features.get("avx2", False)
        self.lanes = 16 if wide else 8 if middle else 4
        self.accumulators = 24 if wide else 12
        machine = binding.Target.from_default_triple().create_target_machine(
            cpu=binding.get_host_cpu_name(), features=features.flatten(), opt=3
        )
        module = binding.parse_assembly(loop_text(self.lanes, self.accumulators))
        module.verify()
        self._engine = binding.create_mcjit_compiler(module, machine)  # keeps the code alive
        self._engine.finalize_object()
        address = self._engine.get_function_address
        self.fma = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_float)(address("fma_loop"))
        self.read = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_void_p)(address("read_loop"))

    def fma_rate(self, threads: int, seconds: float = 0.3) -> float:
        """Arithmetic in GF/s, all threads together."""
        steps = 200_000
        while (took := _together([partial(self.fma, steps, 0.5)])) < 0.004:
            steps = int(steps * max(1.5, 0.005 / took))
        work = 2 * self.lanes * self.accumulators * steps * threads
        return work / _best([partial(self.fma, steps, 0.5)] * threads, seconds) / 1e9

    def read_rate(self, threads: int, seconds: float = 0.5) -> float:
        """Reading in GB/s, all threads together, each from a block of its own."""
        stride = 4 * self.lanes * self.accumulators
        blocks = [ctypes.create_string_buffer(BLOCK_BYTES) for _ in range(threads)]
        for block in blocks:
            ctypes.memset(block, 1, BLOCK_BYTES)  # pages that were never written are all the same zeros
        calls = [partial(self.read, BLOCK_BYTES // stride, ctypes.addressof(block)) for block in blocks]
        return BLOCK_BYTES // stride * stride * threads / _best(calls, seconds) / 1e9


def _together(calls: list[Callable[[], Any]]) -> float:
    """Seconds until all calls are done that begin together, each in a thread of its own."""
    if len(calls) == 1:
        start = time.perf_counter()
        calls[0]()
        return time.perf_counter() - start
    barrier = threading.Barrier(len(calls))
    spans: list[tuple[float, float]] = []

    def work(call: Callable[[], Any]) -> None:
        barrier.wait()
        start = time.perf_counter()
        call()
        spans.append((start, time.perf_counter()))

    workers = [threading.Thread(target=work, args=(call,)) for call in calls]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _best(calls: list[Callable[[], Any]], seconds: float) -> float:
    """The shortest time of several runs."""
    start, took = time.perf_counter(), [_together(calls)]
    while time.perf_counter() - start < seconds:
        took.append(_together(calls))
    return min(took)


def measure(threads: int, seconds: float = 0.5) -> dict[str, float]:
    """All ceilings: GF/s of one thread and of all, GB/s of one and of all."""
    loops = Loops()
    return {
        "fma_one_gflops": loops.fma_rate(1, seconds),
        "fma_all_gflops": loops.fma_rate(threads, seconds),
        "read_one_gbytes": loops.read_rate(1, seconds),
        "read_all_gbytes": loops.read_rate(threads, seconds),
    }


def main() -> None:
    """Print the ceilings of this machine."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    print(json.dumps(measure(parser.parse_args().threads), indent=2))


if __name__ == "__main__":
    main()
