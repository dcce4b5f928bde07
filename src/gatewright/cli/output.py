"""What the command line prints: results on standard output, notes on standard error."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console
from rich.table import Table

from gatewright.errors import InputError


class PlainConsole(Console):
    """Prints what the user wrote as it is; who reads no more does not end the program."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Leave it to who prints, where rich would end the program."""
        raise  # noqa: PLE0704 - rich calls this while it handles the error


def use_any_encoding() -> None:
    """Print a question mark for a character that the terminal's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@contextmanager
def unimportant() -> Iterator[None]:
    """Go on where something inside cannot be printed: a closed terminal ends no training."""
    try:
        yield
    except (OSError, ValueError):
        # ValueError is what a closed stream raises
        _abandon(sys.stderr)


def say(text: str) -> None:
    """Print a note on standard error; one that cannot be printed is left out."""
    # print would take standard output where standard error is closed
    if sys.stderr is not None:
        with unimportant():
            print(text, file=sys.stderr, flush=True)  # noqa: T201 - notes are what this is for


def deliver(*parts: str | Table, remedy: str) -> None:
    """Print a result on standard output; a reader that goes away has had enough.

    Args:
        *parts: text, ending as it should, and tables.
        remedy: what to do when it cannot be printed.

    Raises:
        InputError: standard output is closed, or nothing more can be written there.
    """
    if sys.stdout is None:
        raise InputError("cannot write to standard output: it is closed", remedy)
    try:
        for part in parts:
            if isinstance(part, str):
                sys.stdout.write(part)
            else:
                PlainConsole().print(part)
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon(sys.stdout)
    except (OSError, ValueError) as error:
        _abandon(sys.stdout)
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot write to standard output: {reason}", remedy) from error


def _abandon(stream: TextIO) -> None:
    """Let go of what a stream still holds, which Python would try to write once more at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
