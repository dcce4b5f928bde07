"""The program ``gatewright``, also as ``python -m gatewright``."""

from __future__ import annotations

import sys

_APPLICATION = ("jinja2", "matplotlib", "narwhals", "polars", "pydantic", "rich", "tomli_w", "typer")


def run() -> None:
    """Run the command line and end the program with its exit code."""
    try:
        from gatewright.cli.main import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _APPLICATION:
            raise
        sys.exit(
            f"error: the command line needs {error.name}, which is not installed\n"
            'hint: install the application: python -m pip install "gatewright[app]"'
        )
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
