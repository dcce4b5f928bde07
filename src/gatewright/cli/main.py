"""The command line: its subcommands, and what its errors look like.

Exit codes: 0 done; 2 bad input, with a message on standard error; 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import gatewright
from gatewright.cli import demo, diagnose, fit, predict
from gatewright.cli.output import deliver, say, use_any_encoding
from gatewright.errors import InputError

EXIT_BAD_INPUT = 2

app = typer.Typer(
    name="gatewright",
    help="Gated recurrent networks: from a table to a forecast.\n\n"
    "Exit codes: 0 done, 2 bad input, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        deliver(f"gatewright {gatewright.__version__}", remedy="open standard output")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


app.command("demo")(demo.demo)
app.command("fit")(fit.fit)
app.command("predict")(predict.predict)
app.command("diagnose")(diagnose.diagnose)


def run() -> None:
    """Run the command line and end the program with its exit code."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Run the command line.

    Args:
        arguments: as given on the command line.

    Returns:
        The exit code.
    """
    use_any_encoding()
    try:
        # ends with SystemExit, also where typer itself reports a wrong option or an interrupt
        app(arguments, prog_name="gatewright")
    except InputError as error:
        return _refuse(error)
    except OSError as error:
        # what no one foresaw of the disk, the terminal or the working folder is still no bug to trace back
        place = f": {error.filename}" if error.filename else ""
        return _refuse(
            InputError(f"{error.strerror or error}{place}", "check the path, the disk and the terminal")
        )
    except MemoryError:
        return _refuse(InputError("not enough memory", "give a smaller table, or choose smaller settings"))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _refuse(error: InputError) -> int:
    say(f"error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")
    return EXIT_BAD_INPUT
