"""From LLVM text to functions: the machine, compilation, object code in memory and on disk.

Object code on disk is named by the text it was made from, the machine and LLVM's version: none is ever out of
date, and machines may share a folder. Where llvmlite cannot be imported, the other backends run.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from gatewright.backends.cpu.vectors import ELEMENT_BITS, Vectors
from gatewright.errors import InputError

if TYPE_CHECKING:
    from llvmlite.binding import TargetMachine

# with the package rather than at the first call of a layer; what goes wrong is said by ``refusal``
with contextlib.suppress(ImportError, OSError):
    import llvmlite.binding as _  # noqa: F401

_MAGIC = b"gatewright kernel\n"

_OPTIMISATION = 1
"""LLVM's level: the text is as it should be, a higher one takes as long again and wins nothing."""


class UnsupportedMachineError(RuntimeError):
    """The processor lacks what the kernels are made of."""


class CompilationError(RuntimeError):
    """LLVM refused the text of a kernel: our mistake, or a version of LLVM that reads it differently."""


# -------------------------------------------------------------------- the machine


@dataclass(frozen=True)
class _Level:
    """Vectors of one width.

    Attributes:
        name: in the words of the processor's maker.
        vector_bytes: of a vector.
        registers: how many vector registers there are.
        needs: LLVM's names of the features it takes.
        without: of those that are switched off.
    """

    name: str
    vector_bytes: int
    registers: int
    needs: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


_X86 = (
    # 256 bits are what LLVM prefers on some machines with wider vectors
    _Level("AVX-512", 64, 32, ("avx512f", "avx512vl", "avx512dq"), ("prefer-256-bit",)),
    _Level("AVX2", 32, 16, ("avx2", "fma"), ("avx512f",)),
    _Level("AVX", 16, 16, ("avx", "fma"), ("avx2",)),
)
_ARM = (_Level("NEON", 16, 32),)


@dataclass(frozen=True)
class Machine:
    """The processor that code is made for.

    Attributes:
        name: LLVM's name of it.
        features: LLVM's list of them.
        vector_bytes: of its widest vectors.
        registers: how many vector registers it has.
        pause: the intrinsic that a waiting loop calls, with its operand, or empty.
        instruction_set: that of its vectors, in the words of its maker.
    """

    name: str
    features: str
    vector_bytes: int
    registers: int
    pause: str
    instruction_set: str

    def vectors(self, element: str) -> Vectors:
        """The machine's vectors of an element type."""
        return Vectors(element, self.vector_bytes * 8 // ELEMENT_BITS[element], self.registers)


@lru_cache(maxsize=1)
def machine() -> Machine:
    """This machine, with vectors no wider than ``GATEWRIGHT_VECTOR_BYTES`` says.

    Returns:
        The machine.

    Raises:
        UnsupportedMachineError: it has no fused multiplication and addition.
        InputError: ``GATEWRIGHT_VECTOR_BYTES`` is no width that it has.
    """
    return _machine(_widest())


def _widest() -> int:
    given = os.environ.get("GATEWRIGHT_VECTOR_BYTES") or "64"
    if not given.isdecimal() or int(given) < 16:
        message = f"GATEWRIGHT_VECTOR_BYTES: expected 16, 32 or 64, received {given!r}"
        raise InputError(message, "unset it to use the machine's widest vectors")
    return int(given)


def _machine(widest: int) -> Machine:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    try:
        features = llvm.get_host_cpu_features()
    except RuntimeError:
        # LLVM knows the processor but not how to ask it: what every one of its kind has
        features = llvm.FeatureMap()
    kind = platform.machine().lower()
    pause = ""
    levels: tuple[_Level, ...] = (_Level(kind, 16, 32),)
    if kind in ("x86_64", "amd64"):
        levels, pause = _X86, "llvm.x86.sse2.pause()"
    elif kind in ("arm64", "aarch64"):
        levels, pause = _ARM, "llvm.aarch64.hint(i32 1)"
    for level in levels:
        if level.vector_bytes <= widest and all(features.get(name) for name in level.needs):
            # the last word on a feature counts, and switches off what builds on it as well
            text = ",".join([features.flatten(), *(f"-{name}" for name in level.without)]).strip(",")
            return Machine(
                llvm.get_host_cpu_name(), text, level.vector_bytes, level.registers, pause, level.name
            )
    raise UnsupportedMachineError("its kernels need a processor with FMA instructions")


@lru_cache(maxsize=1)
def refusal() -> str | None:
    """Why no code can be made on this machine, or None."""
    try:
        machine()
    except (ImportError, OSError) as error:
        return f"its kernels are compiled by llvmlite, which cannot be imported: {error}"
    except UnsupportedMachineError as error:
        return str(error)
    return None


# -------------------------------------------------------------------- compilation


def _target_machine() -> TargetMachine:
    import llvmlite.binding as llvm

    host = machine()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=host.name, features=host.features, opt=_OPTIMISATION, jit=True)


def compile_text(text: str) -> bytes:
    """Object code of a module.

    Args:
        text: of the module.

    Returns:
        The object file.

    Raises:
        CompilationError: LLVM refuses the text.
    """
    import llvmlite.binding as llvm

    try:
        target = _target_machine()
        module = llvm.parse_assembly(text)
        module.triple = target.triple
        module.data_layout = str(target.target_data)
        module.verify()
        return target.emit_object(module)
    except RuntimeError as error:
        version = ".".join(map(str, llvm.llvm_version_info))
        message = f"LLVM {version} refused the code of a kernel: {error}"
        hint = "set layer.backend = 'eager', and please report this message with the cell"
        raise CompilationError(f"{message}\n  hint: {hint}") from error


class Library:
    """Loaded object code: a kernel.

    Args:
        code: the object file.

    Attributes:
        run: the kernel, called with the address of its arguments and the number of the thread.
        enter_address: of the function that every thread of an OpenMP team enters.
    """

    def __init__(self, code: bytes) -> None:
        import llvmlite.binding as llvm

        # the engine takes the target machine over, so each has one of its own
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
        self.run: Callable[[int, int], None] = prototype(self._address("run"))
        self.enter_address = self._address("enter")

    def _address(self, name: str) -> int:
        address = self._engine.get_function_address(name)
        if not address:
            raise CompilationError(f"the object code of a kernel has no function {name!r}")
        return address


# -------------------------------------------------------------------- in memory

_lock = threading.RLock()
_loaded: WeakValueDictionary[str, Library] = WeakValueDictionary()

if hasattr(os, "register_at_fork"):
    # no fork in the middle of a compilation: the child would wait for it for ever
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def library(key: str, make: Callable[[], str]) -> Library:
    """A kernel: loaded already, read from disk, or compiled.

    Args:
        key: what its text follows from.
        make: makes the text.

    Returns:
        The kernel, the same for the same key as long as anyone uses it.
    """
    with _lock:
        found = _loaded.get(key)
        if found is None:
            found = _loaded[key] = Library(_code(key, make))
        return found


# -------------------------------------------------------------------- on disk


def _code(key: str, make: Callable[[], str]) -> bytes:
    """The object code of a module; where it is on the disk already, its text is not made."""
    import llvmlite
    import llvmlite.binding as llvm

    writers = _writers()
    if writers is None:
        return compile_text(make())
    versions = (llvmlite.__version__, llvm.llvm_version_info, _OPTIMISATION)
    made_from = repr((versions, machine(), writers, key))
    digest = hashlib.sha256(made_from.encode()).hexdigest()
    folder = _folder()
    if folder is None:
        return compile_text(make())
    path = folder / f"{digest}.o"
    code = _read(path, digest)
    if code is None:
        code = compile_text(make())
        _write(path, digest, code)
    return code


@lru_cache(maxsize=1)
def _writers() -> str | None:
    """A sum of all source that texts follow from, so that no code outlives a change; None without."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    try:
        sources = sorted([*here.glob("*.py"), *(here.parents[1] / "compiler").glob("*.py")])
        for path in sources:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    except OSError:
        return None
    return digest.hexdigest() if sources else None


def _folder() -> Path | None:
    """Where object code is kept: ``GATEWRIGHT_CACHE``, else the user's cache; None where there is no home."""
    given = os.environ.get("GATEWRIGHT_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "gatewright"
    except RuntimeError:
        return None


def _read(path: Path, digest: str) -> bytes | None:
    """The object code of a file that this user wrote and nothing has changed since, or None."""
    try:
        with path.open("rb") as file:
            if not _is_own(os.fstat(file.fileno())):
                return None
            content = file.read()
    except OSError:
        return None
    head = _head(digest, content[len(_MAGIC) + hashlib.sha256().digest_size :])
    return content[len(head) :] if content.startswith(head) else None


def _is_own(info: os.stat_result) -> bool:
    """Whether this user alone can have written a file: what is in it will be run as this user."""
    if not hasattr(os, "geteuid"):
        return True
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _head(digest: str, code: bytes) -> bytes:
    """What stands before the object code: a sum of what it was made from and of itself."""
    return _MAGIC + hashlib.sha256(digest.encode() + code).digest()


def _write(path: Path, digest: str, code: bytes) -> None:
    """Keep object code for the next process, whole or not at all; it may be that nothing can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_head(digest, code) + code)
            Path(name).replace(path)
        except OSError:
            Path(name).unlink(missing_ok=True)
    except OSError:
        return
