"""Files that are whole or not there, locks that end with their process, and errors in plain words."""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gatewright.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_METADATA_KEY = "gatewright"


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Turn an operating-system error about a path into an ``InputError`` that says what to do."""
    try:
        yield
    except OSError as error:
        reading = action == "read"
        elsewhere = "" if reading else ", or choose another place"
        hint = {
            errno.ENOSPC: "free some space, or choose a folder on another disk",
            errno.EDQUOT: "free some of your quota, or choose a folder on another disk",
            errno.EACCES: f"check the permissions{elsewhere}",
            errno.EPERM: f"check the permissions{elsewhere}",
            errno.EROFS: "the disk is read-only: choose another folder",
            errno.ENOENT: "check the path" if reading else "make the folder first, or choose another one",
            errno.ENOTDIR: "a part of the path is a file: "
            + ("check the path" if reading else "choose another folder"),
            errno.EEXIST: "a file of that name is in the way: choose another folder",
            errno.EISDIR: f"name a file, not a folder{elsewhere}",
            errno.ENAMETOOLONG: "choose a shorter name",
        }.get(error.errno or 0, f"check the disk{elsewhere}")
        raise InputError(f"cannot {action} {path}: {error.strerror or error}", hint) from error


@contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Hold a lock file while inside, so that one process at a time is.

    The lock is the system's own and ends with its process, however that ends: a file that a killed one left
    is taken over. Where the disk has no locks there are none.

    Args:
        path: of the lock file; its folder exists. It is made, and removed at the end.
        purpose: what it is held for, e.g. a folder: `PURPOSE is in use`.

    Raises:
        InputError: another process holds it, or it cannot be made.
    """
    with explained(path, "make the lock"):
        handle = _open_locked(path)
    if handle is None:
        holder = ""
        with suppress(OSError, ValueError):
            holder = f" by process {int(path.read_text())}"
        raise InputError(f"{purpose} is in use{holder}", "wait until it is done, or choose another place")
    try:
        yield
    finally:
        # the name goes first: a file that is unlocked and still there could be locked by two
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _open_locked(path: Path) -> int | None:
    """A handle of a locked file, None where another one holds the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            mine = _lock(handle)
            if mine and _is_at(path, handle):
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if not mine:
            return None


def _is_at(path: Path, handle: int) -> bool:
    """Whether an open file is still there: who held the lock until now may have removed it since."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _lock(handle: int) -> bool:
    """Lock an open file at once, or say that another process has."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        # some network disks have no locks, and a run there is better than none
        return True
    return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the new one, never half of it.

    Args:
        path: of the file; its folder exists.
        content: of the file.

    Raises:
        InputError: the disk is full, or the folder cannot be written.
    """
    with explained(path, "write"):
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8; bytes of a file name that are no text stay those bytes."""
    write_bytes(path, text.encode(errors="surrogateescape"))


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file whole; numbers that are not finite become null, as JSON has none."""
    write_text(path, to_json(document) + "\n")


def to_json(document: Any) -> str:
    """A document as JSON text; numbers that are not finite become null."""
    return json.dumps(_finite(document), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def write_tensors(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and a JSON description into one safetensors file."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # escaped, since a file name may hold bytes that are no text
    text = json.dumps(description, allow_nan=False)
    write_bytes(path, save(contiguous, metadata={_METADATA_KEY: text}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``write_tensors`` wrote.

    Args:
        path: of the file.

    Returns:
        The tensors by name, and the description.

    Raises:
        InputError: the file is missing, damaged, or was not written by this library.
    """
    remedy = "restore the file from a copy, or fit the model again"
    with explained(path, "read"):
        if not path.is_file():
            raise InputError(f"{path} is missing", remedy)
        # safetensors says of a file that may not be read that it is not there
        path.open("rb").close()
    try:
        with explained(path, "read"), safe_open(path, framework="pt") as file:
            # safetensors' own handle is no mapping
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
        description = json.loads(metadata[_METADATA_KEY])
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: {error}", remedy) from error
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path} was not written by gatewright, or its description is damaged", remedy
        ) from error
    return tensors, description
