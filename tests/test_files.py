"""Files are whole or not there, and every failure names its cause and its remedy."""

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from gatewright.errors import InputError
from gatewright.files import explained, locked, read_tensors, to_json, write_bytes, write_json, write_tensors


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def failing(code):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace"), (Path, "chmod")])
@pytest.mark.parametrize(
    ("code", "cause", "remedy"),
    [
        (errno.ENOSPC, "No space left", "free some space"),
        (errno.EDQUOT, "quota", "quota"),
        (errno.EIO, "Input/output error", "check the disk"),
    ],
    ids=["disk full", "quota", "broken disk"],
)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    owner, name, code, cause, remedy, tmp_path, monkeypatch
):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    monkeypatch.setattr(owner, name, failing(code))
    with pytest.raises(InputError) as caught:
        write_bytes(path, b"new")
    assert cause in caught.value.message
    assert str(path) in caught.value.message
    assert remedy in caught.value.hint
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    path = tmp_path / "file"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_write_that_the_system_itself_refuses_half_way(tmp_path):
    """The kernel's own limit on the size of a file: the first part is written, the rest is refused."""
    resource = pytest.importorskip("resource", reason="only POSIX has limits on the size of a file")
    path = tmp_path / "file"
    write_bytes(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError, match="File too large"):
            write_bytes(path, bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("place", "remedy"),
    [("none/file", "make the folder"), ("taken/file", "part of the path is a file"), ("x" * 300, "shorter")],
    ids=["no folder", "under a file", "long name"],
)
def test_a_place_that_cannot_be_written(place, remedy, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError) as caught:
        write_bytes(tmp_path / place, b"new")
    assert remedy in caught.value.hint
    assert names(tmp_path) == ["taken"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO])
def test_what_cannot_be_read_is_not_told_to_go_elsewhere(code, tmp_path):
    with pytest.raises(InputError) as caught, explained(tmp_path, "read"):
        raise OSError(code, os.strerror(code))
    assert os.strerror(code) in caught.value.message
    assert caught.value.hint
    assert "another" not in caught.value.hint


@pytest.mark.parametrize("action", ["read", "write"])
def test_no_hint_names_an_option_that_python_does_not_have(action, tmp_path):
    for code in errno.errorcode:
        with pytest.raises(InputError) as caught, explained(tmp_path, action):
            raise OSError(code, os.strerror(code))
        assert "--" not in caught.value.hint


def test_a_lock_is_taken_once_and_leaves_nothing(tmp_path):
    path = tmp_path / "lock"
    with locked(path, "the folder"):
        with pytest.raises(InputError, match=f"the folder is in use by process {os.getpid()}"):
            locked(path, "the folder").__enter__()
        assert names(tmp_path) == ["lock"]
    assert names(tmp_path) == []
    path.write_text("12")  # a killed process leaves its file, and its lock is gone
    with locked(path, "the folder"):
        assert path.read_text() == str(os.getpid())


def test_a_disk_without_locks_stops_no_one(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl", reason="only POSIX has it")
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    with locked(tmp_path / "lock", "the folder"), locked(tmp_path / "lock", "the folder"):
        pass
    assert names(tmp_path) == []


numbers = st.one_of(st.floats(), st.integers(), st.none(), st.booleans(), st.text())
documents = st.recursive(numbers, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(documents)
def test_json_is_read_back_and_holds_no_number_that_json_has_not(document):
    def expected(value):
        if isinstance(value, dict):
            return {key: expected(item) for key, item in value.items()}
        if isinstance(value, list):
            return [expected(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def refuse(word):
        raise AssertionError(word)

    assert json.loads(to_json(document), parse_constant=refuse) == expected(document)


def test_json_takes_tuples_and_numpy_numbers(tmp_path):
    write_json(tmp_path / "f.json", {"a": (1, np.float64("nan")), 2: np.float64(0.5)})
    assert json.loads((tmp_path / "f.json").read_text()) == {"a": [1, None], "2": 0.5}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool])
def test_tensors_come_back_as_they_were(dtype, tmp_path):
    tensors = {
        "one.weight": torch.arange(12).reshape(3, 4).to(dtype).T,  # not contiguous
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.zeros(0, 3, dtype=dtype),
    }
    description = {"format": 1, "text": "grün \u2603", "nested": {"a": [1, 0.1, None]}}
    write_tensors(tmp_path / "f", tensors, description)
    found, read = read_tensors(tmp_path / "f")
    assert read == description
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)


def test_floats_keep_every_bit(tmp_path):
    values = torch.tensor([math.nan, math.inf, -0.0, 5e-324, 0.1], dtype=torch.float64)
    write_tensors(tmp_path / "f", {"x": values}, {})
    assert read_tensors(tmp_path / "f")[0]["x"].numpy().tobytes() == values.numpy().tobytes()


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20, 100, -1])
def test_a_truncated_file_is_refused(length, tmp_path):
    path = tmp_path / "f"
    write_tensors(path, {"x": torch.arange(100)}, {"format": 1})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"damaged(.|\n)*hint: restore the file"):
        read_tensors(path)


def test_foreign_and_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="is missing"):
        read_tensors(tmp_path / "f")
    with pytest.raises(InputError, match="is missing"):
        read_tensors(tmp_path)
    (tmp_path / "text").write_text("a,b\n1,2\n" * 100)
    with pytest.raises(InputError, match="damaged"):
        read_tensors(tmp_path / "text")
    for metadata in (None, {"other": "1"}, {"gatewright": "{"}):
        save_file({"x": torch.zeros(2)}, tmp_path / "f", metadata)
        with pytest.raises(InputError, match="not written by gatewright"):
            read_tensors(tmp_path / "f")
