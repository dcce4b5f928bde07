"""Files that are whole or not there: written under a temporary name and renamed, errors in plain words."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gatewright.errors import InputError

_METADATA_KEY = "gatewright"


@contextmanager
def explained(path: Path, action: str) -> Iterator[None]:
    """Turn an operating-system error about a path into an ``InputError`` that says what to do."""
    try:
        yield
    except OSError as error:
        elsewhere = "" if action == "read" else ", or choose another place with --out"
        hint = {
            errno.ENOSPC: "free some space, or choose a folder on another disk with --out",
            errno.EDQUOT: "free some of your quota, or choose a folder on another disk with --out",
            errno.EACCES: f"check the permissions{elsewhere}",
            errno.EPERM: f"check the permissions{elsewhere}",
            errno.EROFS: "the disk is read-only: choose another folder with --out",
            errno.ENOENT: f"make the folder first{elsewhere}",
            errno.ENOTDIR: "a part of the path is a file: choose another folder with --out",
            errno.EISDIR: f"name a file, not a folder{elsewhere}",
            errno.ENAMETOOLONG: "choose a shorter name",
        }.get(error.errno or 0, f"check the disk{elsewhere}")
        raise InputError(f"cannot {action} {path}: {error.strerror or error}", hint) from error


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
    """Write a text file whole, as UTF-8."""
    write_bytes(path, text.encode())


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
    text = json.dumps(description, ensure_ascii=False, allow_nan=False)
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
    if not path.is_file():
        raise InputError(f"{path} is missing", remedy)
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
