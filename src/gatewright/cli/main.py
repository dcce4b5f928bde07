"""The command line: its subcommands, and what its errors look like.

Exit codes: 0 done; 2 bad input, with a message on standard error; 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import click
import typer
from rich.console import Console

from gatewright.cli import demo, fit, predict
from gatewright.errors import InputError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="gatewright",
    help="Gated recurrent networks: from a table to a forecast.\n\n"
    "Exit codes: 0 done, 2 bad input, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("fit")(fit.fit)
app.command("predict")(predict.predict)


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
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    try:
        code = app(arguments, prog_name="gatewright", standalone_mode=False)
    except InputError as error:
        errors.print(f"error: {error.message}")
        if error.hint:
            errors.print(f"hint: {error.hint}")
        return EXIT_BAD_INPUT
    except click.ClickException as error:
        error.show()
        return EXIT_BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        errors.print("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # whoever read the output has gone: nothing is wrong, and nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0
