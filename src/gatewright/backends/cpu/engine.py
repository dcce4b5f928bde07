"""From LLVM text to functions: the machine, compilation, object code in memory and on disk."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import stat
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm

from gatewright.backends.cpu.simd import ELEMENT_BITS, Vectors

FORMAT = 1
"""Of the generated code; a change of the emitter changes it, and with it every key of the cache."""

_MAGIC = b"gatewright kernel\n"


@dataclass(frozen=True)
class Machine:
    """The processor that code is made for.

    Attributes:
        name: LLVM's name of it.
        features: LLVM's list of them.
        vector_bytes: of its widest vectors.
        registers: how many vector registers it has.
        pause: the intrinsic that a waiting loop calls, with its operand, or empty.
    """

    name: str
    features: str
    vector_bytes: int
    registers: int
    pause: str

    def vectors(self, element: str) -> Vectors:
        """The machine's vectors of an element type."""
        return Vectors(element, self.vector_bytes * 8 // ELEMENT_BITS[element], self.registers)

    @property
    def instruction_set(self) -> str:
        """In the words of the processor's maker."""
        if platform.machine().lower() in ("x86_64", "amd64"):
            return {64: "AVX-512", 32: "AVX2", 16: "SSE"}[self.vector_bytes]
        return "NEON" if platform.machine().lower() in ("arm64", "aarch64") else platform.machine()


@lru_cache(maxsize=1)
def machine() -> Machine:
    """This machine."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    size, registers = 16, 16 if x86 else 32
    if features.get("avx512f") and features.get("avx512vl") and features.get("avx512dq"):
        size, registers = 64, 32
    elif features.get("avx2") and features.get("fma"):
        size = 32
    arm = platform.machine().lower() in ("arm64", "aarch64")
    pause = "llvm.x86.sse2.pause()" if x86 else "llvm.aarch64.hint(i32 1)" if arm else ""
    return Machine(llvm.get_host_cpu_name(), features.flatten(), size, registers, pause)


@lru_cache(maxsize=1)
def _target_machine() -> llvm.TargetMachine:
    host = machine()
    target = llvm.Target.from_default_triple()
    # 256 bits are what LLVM prefers on some machines with wider vectors
    features = host.features + (",-prefer-256-bit" if host.vector_bytes == 64 else "")
    return target.create_target_machine(cpu=host.name, features=features, opt=3, jit=True)


class Library:
    """Loaded object code.

    Args:
        code: the object file.
    """

    def __init__(self, code: bytes) -> None:
        empty = llvm.parse_assembly("")
        # the engine takes its target machine over, so each needs one of its own
        _target_machine.cache_clear()
        self._engine = llvm.create_mcjit_compiler(empty, _target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self.run = self._function("run", ctypes.c_void_p, ctypes.c_int64)
        self.enter_address = self._engine.get_function_address("enter")

    def _function(self, name: str, *arguments: type) -> Any:
        address = self._engine.get_function_address(name)
        if not address:
            raise OSError(f"the object code has no function {name}")
        return ctypes.CFUNCTYPE(None, *arguments)(address)


def compile_text(text: str) -> bytes:
    """Object code of a module."""
    target = _target_machine()
    module = llvm.parse_assembly(text)
    module.triple = target.triple
    module.data_layout = str(target.target_data)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return target.emit_object(module)


_lock = threading.Lock()
_loaded: dict[str, Library] = {}


def library(key: str, make: Callable[[], str]) -> Library:
    """The library of a key: loaded before, read from disk, or made."""
    found = _loaded.get(key)
    if found is not None:
        return found
    with _lock:
        if key not in _loaded:
            _loaded[key] = _read_or_make(key, make)
        return _loaded[key]


def _read_or_make(key: str, make: Callable[[], str]) -> Library:
    host = machine()
    parts = (FORMAT, llvmlite.__version__, llvm.llvm_version_info, host, key)
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    path = _folder() / f"{digest}.o"
    code = _read(path, digest)
    if code is not None:
        return Library(code)
    code = compile_text(make())
    _write(path, digest, code)
    return Library(code)


def _folder() -> Path:
    given = os.environ.get("GATEWRIGHT_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "gatewright"


def _read(path: Path, digest: str) -> bytes | None:
    """The object code of a file that this user wrote and nothing has changed since, or None."""
    try:
        info = path.stat()
        if hasattr(os, "getuid") and (
            info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        ):
            return None
        content = path.read_bytes()
    except OSError:
        return None
    head = len(_MAGIC) + 32
    code = content[head:]
    if content[:head] != _MAGIC + hashlib.sha256(digest.encode() + code).digest():
        return None
    return code


def _write(path: Path, digest: str, code: bytes) -> None:
    """Keep object code for the next process; a folder that cannot be written is no error."""
    content = _MAGIC + hashlib.sha256(digest.encode() + code).digest() + code
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
    except OSError:
        return
