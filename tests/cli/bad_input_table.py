"""Every bad input, what the command line is given for it, and the words its message must hold.

python tests/cli/bad_input_table.py    # prints case → message as a Markdown table
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from unittest import mock

from safetensors.torch import load_file, save_file

from gatewright.cli.main import main

Change = Callable[[list[str]], list[str]]


def table(change: Change | None = None, rows: int = 80) -> str:
    """A good table of hourly values, or one that was changed."""
    start = datetime(2024, 1, 1)
    lines = ["when,value"] + [f"{start + timedelta(hours=i)},{100 + i % 24}" for i in range(rows)]
    return "\n".join(change(lines) if change else lines) + "\n"


GOOD = table()
FIT = ["--target", "value", "--time", "when", "--horizon", "3"]
SMALL = ["--hidden-sizes", "4", "--max-epochs", "1", "--steps-per-epoch", "2"]
_TABLE, _RUN = "{folder}/table.csv", "{folder}/run"


@dataclass(frozen=True)
class Case:
    """A command that must be refused.

    Attributes:
        words: that the message must hold.
        arguments: of the command, with ``{folder}`` for the folder it happens in.
        files: in that folder before the command, by name; ``table.csv`` is good unless given,
            and None takes it away.
        damage: changes the folder further; a finished run is in ``run`` then.
        full_disk: whether nothing more can be written.
    """

    words: list[str]
    arguments: list[str]
    files: dict[str, bytes | None] = field(default_factory=dict)
    damage: Callable[[Path], object] | None = None
    full_disk: bool = False


def _with(row: int, text: str) -> str:
    return table(lambda lines: [*lines[:row], text, *lines[row + 1 :]])


def _swapped(lines: list[str]) -> list[str]:
    lines[5], lines[6] = lines[6], lines[5]
    return lines


def _values(value: str) -> str:
    return table(lambda lines: [lines[0]] + [line.split(",")[0] + "," + value for line in lines[1:]])


def _gap(lines: list[str]) -> list[str]:
    return [line.split(",")[0] + "," if 50 <= place <= 70 else line for place, line in enumerate(lines)]


def _table(words: list[str], content: bytes | str | None, arguments: list[str] = FIT) -> Case:
    """A table that cannot be used."""
    data = content.encode() if isinstance(content, str) else content
    return Case(words, ["fit", _TABLE, *arguments, "--out", _RUN], {"table.csv": data})


def _option(words: list[str], *options: str) -> Case:
    """Options that cannot be used with a good table; the last of its kind counts."""
    return Case(words, ["fit", _TABLE, *FIT, "--out", _RUN, *options])


def _config(words: list[str], text: str | bytes) -> Case:
    """A configuration file that cannot be used."""
    data = text.encode() if isinstance(text, str) else text
    arguments = ["fit", _TABLE, *FIT, "--out", _RUN, "--config", "{folder}/run.toml"]
    return Case(words, arguments, {"run.toml": data})


def _run(words: list[str], damage: Callable[[Path], object], *arguments: str) -> Case:
    """A finished run that something happened to."""
    return Case(words, list(arguments) or ["predict", _RUN], damage=damage)


def _predict(words: list[str], content: str, *options: str) -> Case:
    """A table that does not fit the model."""
    arguments = ["predict", _RUN, "--data", "{folder}/new.csv", *options]
    return Case(words, arguments, {"new.csv": content.encode()}, damage=lambda _: None)


def _model(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        path = folder / "run" / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return damage


def _foreign(folder: Path) -> None:
    save_file(load_file(folder / "run" / "model.safetensors"), folder / "run" / "model.safetensors")


def _other_version(content: bytes) -> bytes:
    assert b'\\"format\\": 1' in content
    return content.replace(b'\\"format\\": 1', b'\\"format\\": 9')


_DAILY = "when,value\n" + "".join(f"2024-01-{day:02d},{day}\n" for day in range(1, 20))

CASES: dict[str, Case] = {
    "missing file": _table(["no file", "check the path"], None),
    "folder instead of a file": Case(["folder"], ["fit", "{folder}", *FIT, "--out", _RUN]),
    "empty file": _table(["empty", "at least one row"], b""),
    "header only": _table(["no rows"], b"when,value\n"),
    "binary file": _table(["binary", "export"], bytes(range(256)) * 4),
    "wrong encoding": _table(
        ["utf-8", "line 1", "--encoding"], GOOD.replace("when", "wänn").encode("latin-1")
    ),
    "damaged Parquet file": _table(
        ["damaged Parquet", "write the file again"], b"PAR1" + bytes(50) + b"PAR1"
    ),
    "unknown column": _table(["valu", "did you mean 'value'"], GOOD, ["--target", "valu", "--horizon", "3"]),
    "unknown time column": _option(["'whn' for --time", "did you mean 'when'"], "--time", "whn"),
    "unknown id column": _option(["'shop' for --id", "pass --id"], "--id", "shop"),
    "target not numeric": _table(["not numeric", "many", "row 9"], _with(9, "2024-01-01 08:00:00,many")),
    "duplicate times": _table(["duplicate times", "rows 8 and 9"], _with(9, "2024-01-01 07:00:00,5")),
    "unsorted times": _table(["not sorted", "--sort"], table(_swapped)),
    "times that do not parse": _table(["yesterday", "row 9", "ISO 8601"], _with(9, "yesterday,5")),
    "irregular frequency": _table(
        ["irregular", "1 hour", "08:17", "resample"], _with(9, "2024-01-01 08:17:00,5")
    ),
    "horizon too long": _option(["horizon", "--horizon 26 or less"], "--horizon", "60"),
    "all values missing": _table(["all values", "missing"], _values("")),
    "validation part missing": _table(["validation part", "--validation-share"], table(_gap)),
    "infinite value": _table(["infinite", "row 9"], _with(9, "2024-01-01 08:00:00,inf")),
    "values too large unscaled": _table(
        ["too large", "--scaling standard"],
        table(lambda lines: [lines[0]] + [line + "e60" for line in lines[1:]]),
        [*FIT, *SMALL, "--scaling", "none"],
    ),
    "horizon of zero": _option(["horizon", "greater than or equal to 1"], "--horizon", "0"),
    "negative horizon": _option(["horizon = -3", "greater than or equal to 1"], "--horizon", "-3"),
    "horizon in words": _option(["--horizon", "integer"], "--horizon", "abc"),
    "no target": _table(["target", "--target"], GOOD, ["--horizon", "3"]),
    "no horizon": _table(["horizon", "--horizon"], GOOD, ["--target", "value"]),
    "no table": Case(["table", "configuration file"], ["fit", *FIT, "--out", _RUN]),
    "time is the target": _option(["'value'", "each role"], "--time", "value"),
    "unknown cell": _option(["gruu", "did you mean 'gru'"], "--cell", "gruu"),
    "hidden sizes in words": _option(["--hidden-sizes", "a,b", "64,32"], "--hidden-sizes", "a,b"),
    "levels in words": _option(["--levels", "a,b", "50,80,90"], "--levels", "a,b"),
    "hidden size beyond all measure": _option(
        ["hidden_sizes", "at most 100,000"], "--hidden-sizes", "9" * 40
    ),
    "network beyond the memory": _option(
        ["TB of memory", "lower --hidden-sizes"], "--hidden-sizes", "100000,100000,100000"
    ),
    "context beyond all measure": _option(["context", "less than or equal to"], "--context", "9" * 40),
    "hidden size of zero": _option(["hidden_sizes", "at least 1"], "--hidden-sizes", "0"),
    "level of 120": _option(["levels", "between 1 and 99"], "--levels", "120"),
    "learning rate of zero": _option(["learning_rate", "greater than 0"], "--learning-rate", "0"),
    "learning rate of 1e300": _option(["learning_rate", "less than or equal"], "--learning-rate", "1e300"),
    "unknown scaling": _option(["scaling", "standard"], "--scaling", "log"),
    "frequency in words": _option(["often", "1h"], "--frequency", "often"),
    "unknown option": _option(["--horizn", "--horizon"], "--horizn", "3"),
    "unknown command": Case(["fitt", "fit"], ["fitt"]),
    "unknown configuration key": _config(
        ["lerning_rate", "did you mean 'training.learning_rate'"], "[training]\nlerning_rate = 0.1\n"
    ),
    "unknown configuration section": _config(["trainin", "did you mean 'training'"], "[trainin]\nseed = 1\n"),
    "configuration without a section": _config(["section", "write [training]"], "training = 3\n"),
    "configuration out of range": _config(["training.seed = -1"], "[training]\nseed = -1\n"),
    "configuration that is no TOML": _config(["not valid TOML", "line 1"], "[training\n"),
    "configuration in another encoding": _config(["UTF-8"], "# größe\n".encode("latin-1")),
    "missing configuration": _option(["no configuration file", "--config"], "--config", "{folder}/no.toml"),
    "unwritable output folder": Case(
        ["cannot make the folder", "another folder"],
        ["fit", _TABLE, *FIT, "--out", "{folder}/file/run"],
        {"file": b""},
    ),
    "output folder with too long a name": _option(
        ["File name too long", "shorter"], "--out", "{folder}/" + "x" * 300
    ),
    "output folder is the root": _option(["not a run folder", "--out"], "--out", "/"),
    "output folder is a file": _option(["not a run folder", "--out"], "--out", _TABLE),
    "disk full while writing": Case(
        ["No space left", "free some space"], ["fit", _TABLE, *FIT, *SMALL, "--out", _RUN], full_disk=True
    ),
    "run exists": _run(
        ["holds a run already", "--overwrite"],
        lambda _: None,
        *["fit", _TABLE, *FIT, *SMALL, "--out", _RUN],
    ),
    "unfinished run exists": _run(
        ["unfinished run", "--resume", "--overwrite"],
        lambda folder: (folder / "run").rename(folder / "run.partial"),
        *["fit", _TABLE, *FIT, *SMALL, "--out", _RUN],
    ),
    "overwrite of what is no run": _run(
        ["not a run folder"],
        lambda folder: (folder / "run" / "config.toml").rename(folder / "run" / "thesis.txt"),
        *["fit", _TABLE, *FIT, *SMALL, "--out", _RUN, "--overwrite"],
    ),
    "resume with nothing there": Case(["no run to resume", "--out"], ["fit", "--resume", "--out", _RUN]),
    "resume without a folder": Case(["--resume", "--out"], ["fit", "--resume"]),
    "resume with other options": _run(
        ["seed", "leave out"], lambda _: None, *["fit", "--resume", "--out", _RUN, "--seed", "3"]
    ),
    "resume of a finished run": _run(
        ["is finished", "--overwrite"], lambda _: None, *["fit", "--resume", "--out", _RUN]
    ),
    "model truncated": _run(
        ["model.safetensors", "damaged", "fit the model again"], _model(lambda c: c[:-100])
    ),
    "model is not one": _run(["damaged", "fit the model again"], _model(lambda _: b"not a model")),
    "model missing": _run(
        ["missing", "fit the model again"], lambda folder: (folder / "run" / "model.safetensors").unlink()
    ),
    "model of another program": _run(["not written by gatewright", "fit the model again"], _foreign),
    "model of another version": _run(["format 9", "reads 1", "version"], _model(_other_version)),
    "run is no folder": Case(["no run folder"], ["predict", _TABLE]),
    "table of the run is gone": _run(
        ["not there any more", "--data"], lambda folder: (folder / "table.csv").unlink()
    ),
    "predict with another frequency": _predict(["1 hour", "same time step"], _DAILY),
    "predict without the column": _predict(["no column 'value'"], "when,price\n2024-01-01,1\n"),
    "predict to another format": _predict(["x.xlsx", ".parquet"], GOOD, "--out", "{folder}/x.xlsx"),
    "predict to a file that exists": _predict(
        ["exists", "--overwrite"], GOOD, "--out", "{folder}/run/forecast.csv"
    ),
    "predict to the table it reads": _predict(
        ["new.csv", "never replaced"], GOOD, "--out", "{folder}/new.csv", "--overwrite"
    ),
    "predict to the table of the run": _predict(
        ["table.csv", "never replaced"], GOOD, "--out", "{folder}/run/../table.csv", "--overwrite"
    ),
    "predict to no folder": _predict(["no folder", "make it"], GOOD, "--out", "{folder}/none/x.csv"),
}


@functools.cache
def finished_run() -> Path:
    """A folder with a good table and a finished run, made once."""
    folder = Path(tempfile.mkdtemp(prefix="bad-input-"))
    (folder / "table.csv").write_text(GOOD)
    code, _, errors = call(["fit", f"{folder}/table.csv", *FIT, *SMALL, "--out", f"{folder}/run", "--quiet"])
    assert code == 0, errors
    return folder


def prepare(folder: Path, case: Case) -> None:
    """Put what a case needs into an empty folder."""
    if case.damage:
        # the run keeps the path of its table: here the table is another one
        shutil.copytree(finished_run(), folder, dirs_exist_ok=True)
        _model(lambda c: _repointed(c, folder))(folder)
    files: dict[str, bytes | None] = {"table.csv": GOOD.encode()} | case.files
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    if case.damage:
        case.damage(folder)


def _repointed(content: bytes, folder: Path) -> bytes:
    """A model file whose table lies in another folder; the header's length is kept up to date."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(str(finished_run()).encode(), str(folder).encode()).rstrip()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def run(folder: Path, case: Case) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a case in its folder."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch("os.fsync", side_effect=full) if case.full_disk else contextlib.nullcontext():
        return call([argument.replace("{folder}", str(folder)) for argument in case.arguments])


def call(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(arguments)
    return code, out.getvalue(), errors.getvalue()


def plain(message: str) -> str:
    """A message in one line, without typer's box."""
    return " ".join(message.translate(str.maketrans("╭─╮│╰╯", "      ")).split())


if __name__ == "__main__":
    os.environ["COLUMNS"] = "200"
    print("| case | message |\n|---|---|")  # noqa: T201
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as temporary:
            prepare(Path(temporary), case)
            _, _, message = run(Path(temporary), case)
            text = plain(message.replace(temporary, "…")).replace("|", "\\|")
            print(f"| {name} | {text} |")  # noqa: T201
    shutil.rmtree(finished_run())
