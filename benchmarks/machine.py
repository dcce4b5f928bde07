"""The machine, its state and the versions on it; the number of threads that every rival gets."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "asimd", "sve")
"""What of a processor's features is worth stating."""

PACKAGES = (
    "torch", "numpy", "llvmlite", "jax", "jaxlib", "keras", "tensorflow-cpu", "tensorflow", "onnx",
    "onnxruntime", "openvino", "torchrecurrent",
)  # fmt: skip

ROOT = Path(__file__).resolve().parents[1]


def set_threads(threads: int) -> None:
    """Give this process and every library in it so many threads; call it before any of them is imported.

    Most libraries read a variable or are told by their rival's class. As far as one looks at the processors
    it may use, it finds no more than this many.

    Args:
        threads: at most as many as there are processors.
    """
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"):
        os.environ[name] = str(threads)
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["JAX_PLATFORMS"] = "cpu"


def available_processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Processor, its features, the number of processors, operating system."""
    model, flags = platform.processor() or platform.machine(), ""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    for name, value in re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE):
        model = value.strip() if name == "model name" else model
        flags = value if name in ("flags", "Features") else flags
    return {
        "cpu": model,
        "features": [feature for feature in FEATURES if feature in flags.split()],
        "processors": available_processors(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Versions of what is installed of the rivals."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit measured, with a plus when files differ from it; empty outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def moment() -> dict[str, Any]:
    """When it is, and how busy the machine."""
    load = [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "load": load}


def time_of_others() -> float:
    """Processor seconds that others than this process have had, in steps of 10 ms; 0 where it is not known.

    What a hypervisor takes for its other guests is in it.
    """
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:9]
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, fields)
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return busy - time.process_time()


def slug() -> str:
    """The processor's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", describe()["cpu"].lower()).strip("-") or "unknown"


def in_fresh_process(module: str, *arguments: str, **variables: str) -> dict[str, Any]:
    """Run a module of this folder in a process of its own.

    Args:
        module: its name.
        *arguments: of its command line.
        **variables: of its environment, beside this process's.

    Returns:
        The JSON document that it printed last.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
