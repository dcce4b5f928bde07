"""Every bad input, what the command line is given for it, and the words its message must hold.

python tests/cli/bad_input_table.py    # prints case → message as a Markdown table
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from gatewright.cli.main import main

Change = Callable[[list[str]], list[str]]


def table(change: Change | None = None, rows: int = 80) -> str:
    """A good table of hourly values, or one that was changed."""
    start = datetime(2024, 1, 1)
    lines = ["when,value"] + [f"{start + timedelta(hours=i)},{100 + i % 24}" for i in range(rows)]
    return "\n".join(change(lines) if change else lines) + "\n"


def _with(row: int, text: str) -> Change:
    return lambda lines: [*lines[:row], text, *lines[row + 1 :]]


def _swap(lines: list[str]) -> list[str]:
    lines[5], lines[6] = lines[6], lines[5]
    return lines


def _values(value: str) -> Change:
    return lambda lines: [lines[0]] + [line.split(",")[0] + "," + value for line in lines[1:]]


GOOD = table()
FIT = ["--target", "value", "--time", "when", "--horizon", "3"]

CASES: dict[str, tuple[bytes | None, list[str], list[str]]] = {
    # case: content of the table (None: no file), arguments, words
    "missing file": (None, FIT, ["no file", "hint"]),
    "empty file": (b"", FIT, ["empty"]),
    "header only": (b"when,value\n", FIT, ["no rows"]),
    "binary file": (bytes(range(256)) * 4, FIT, ["binary"]),
    "wrong encoding": (GOOD.replace("when", "wänn").encode("latin-1"), FIT, ["utf-8", "--encoding"]),
    "unknown column": (
        GOOD.encode(),
        ["--target", "valu", "--horizon", "3"],
        ["valu", "did you mean 'value'"],
    ),
    "target not numeric": (table(_with(9, "2024-01-01 08:00:00,many")).encode(), FIT, ["many", "row 9"]),
    "duplicate times": (
        table(_with(9, "2024-01-01 07:00:00,5")).encode(),
        FIT,
        ["duplicate times", "rows 8 and 9"],
    ),
    "unsorted times": (table(_swap).encode(), FIT, ["--sort"]),
    "times that do not parse": (table(_with(9, "yesterday,5")).encode(), FIT, ["yesterday", "row 9"]),
    "irregular frequency": (table(_with(9, "2024-01-01 08:17:00,5")).encode(), FIT, ["08:17"]),
    "horizon too long": (GOOD.encode(), [*FIT[:-1], "60"], ["horizon", "--horizon 26 or less"]),
    "all values missing": (table(_values("")).encode(), FIT, ["missing"]),
    "infinite value": (table(_with(9, "2024-01-01 08:00:00,inf")).encode(), FIT, ["infinite", "row 9"]),
    "horizon of zero": (GOOD.encode(), [*FIT[:-1], "0"], ["horizon", "greater than or equal to 1"]),
    "no target": (GOOD.encode(), ["--horizon", "3"], ["target", "--target"]),
    "no horizon": (GOOD.encode(), ["--target", "value"], ["horizon", "--horizon"]),
    "unknown cell": (GOOD.encode(), [*FIT, "--cell", "gruu"], ["gruu", "did you mean 'gru'"]),
    "hidden sizes in words": (GOOD.encode(), [*FIT, "--hidden-sizes", "a,b"], ["--hidden-sizes", "a,b"]),
    "hidden size of zero": (GOOD.encode(), [*FIT, "--hidden-sizes", "0"], ["hidden"]),
    "level of 120": (GOOD.encode(), [*FIT, "--levels", "120"], ["levels", "between 1 and 99"]),
    "learning rate of zero": (GOOD.encode(), [*FIT, "--learning-rate", "0"], ["learning_rate"]),
    "unknown scaling": (GOOD.encode(), [*FIT, "--scaling", "log"], ["scaling", "standard"]),
    "time is the target": (
        GOOD.encode(),
        ["--target", "value", "--time", "value", "--horizon", "3"],
        ["value"],
    ),
    "frequency in words": (GOOD.encode(), [*FIT, "--frequency", "often"], ["often", "1h"]),
    "unknown option": (GOOD.encode(), [*FIT, "--horizn", "3"], ["--horizn", "--horizon"]),
    "resume with nothing there": (GOOD.encode(), ["--resume"], ["--resume"]),
}


def run(folder: Path, case: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a case in an empty folder."""
    content, arguments, _ = CASES[case]
    path = folder / "table.csv"
    if content is not None:
        path.write_bytes(content)
    given = [] if arguments == ["--resume"] else [str(path)]
    return call(["fit", *given, *arguments, "--out", str(folder / "run")])


def call(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(arguments)
    return code, out.getvalue(), errors.getvalue()


if __name__ == "__main__":
    os.environ["COLUMNS"] = "200"
    print("| case | message |\n|---|---|")  # noqa: T201
    for name in CASES:
        with tempfile.TemporaryDirectory() as temporary:
            code, _, message = run(Path(temporary), name)
            text = " ".join(message.replace(temporary + "/", "").split()).replace("|", "\\|")
            print(f"| {name} | {text} |")  # noqa: T201
