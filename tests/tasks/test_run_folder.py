"""The run folder: one run at a time, whatever a killed one has left."""

import os
import subprocess
import sys

import pytest

from gatewright.errors import InputError
from gatewright.tasks.forecast.run_folder import CONFIG, RunFolder
from gatewright.tasks.forecast.settings import make_settings

SETTINGS = make_settings(target="y", horizon=1)


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def held_by_another(path, then):
    """A process that holds the folder until its input ends; `then` is the rest of its program."""
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from gatewright.tasks.forecast.run_folder import RunFolder\n"
        f"with RunFolder(Path({str(path)!r})).held():\n    print('held', flush=True)\n    {then}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_run_is_refused_while_the_first_goes_on(overwrite, run):
    """Two runs in one folder would mix their files: the second would remove what the first writes to."""
    first = held_by_another(run.path, "sys.stdin.read()")
    try:
        with pytest.raises(InputError, match=f"in use by process {first.pid}"):
            run.check(overwrite=overwrite)
        with pytest.raises(InputError, match="in use"):
            run.reopen()
        with pytest.raises(InputError, match="in use"), run.held():
            pass
    finally:
        first.communicate(timeout=60)
    run.check(overwrite=overwrite)
    assert names(run.path.parent) == []


def test_a_killed_run_blocks_nothing(run):
    killed = held_by_another(run.path, "os.kill(os.getpid(), 9)")
    killed.communicate(timeout=60)
    assert killed.returncode != 0
    assert names(run.path.parent) == [".run.lock"]
    run.check(overwrite=False)
    with run.held():
        run.begin(SETTINGS, overwrite=False)
    assert run.reopen() == SETTINGS
    assert names(run.path.parent) == ["run.partial"]


def test_the_folder_is_held_against_the_same_process_too(run):
    with run.held(), pytest.raises(InputError, match=f"in use by process {os.getpid()}"), run.held():
        pass
    with run.held():
        pass


@pytest.mark.parametrize("left", [[], [f".{CONFIG}.x7a"]], ids=["empty", "half a file"])
def test_what_a_run_killed_at_its_first_moment_leaves_is_used_again(left, run):
    run.partial.mkdir()
    for name in left:
        (run.partial / name).write_text("")
    with pytest.raises(InputError, match="no run to resume"):
        run.reopen()
    run.check(overwrite=False)
    with run.held():
        run.begin(SETTINGS, overwrite=False)
    assert names(run.partial) == [CONFIG]


def test_what_is_no_run_is_left_alone(run):
    run.partial.mkdir()
    (run.partial / "thesis.txt").write_text("")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not a run folder"):
            run.check(overwrite=overwrite)
