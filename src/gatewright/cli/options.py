"""Command-line options that follow from the settings of a run."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer
from pydantic.fields import FieldInfo

from gatewright.errors import InputError
from gatewright.tasks.forecast.settings import SECTIONS, section_of


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting but the table, which is its argument.

    Args:
        command: takes them as ``**settings``, each None unless it was given.

    Returns:
        The command, with the signature that typer reads.
    """
    hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    options = [
        _parameter(name, SECTIONS[section].model_fields[name])
        for section in SECTIONS
        for name in SECTIONS[section].model_fields
        if name != "table"
    ]
    # its own argument first, its own options last, as the help lists them
    parameters = [*own[:1], *options, *own[1:]]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions may have one
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def parsed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they were given, lists of numbers and names of columns read.

    Args:
        settings: name -> value from the command line, None or False where it was not given.

    Returns:
        Those that were given, with the values that settings take.

    Raises:
        InputError: a list of numbers is none.
    """
    readers = dict.fromkeys(("levels", "hidden_sizes"), _numbers)
    readers |= dict.fromkeys(("target", "time", "id"), _column)
    # a zero is given, a flag's False is not
    given = {name: value for name, value in settings.items() if value is not None and value is not False}
    return {name: readers[name](name, value) if name in readers else value for name, value in given.items()}


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """The parameter from which typer makes the option of a setting."""
    # lists and choices come as text, and the settings check them
    kind: Any = next((k for k in (bool, int, float) if field.annotation in (k, k | None)), str)
    silent = field.is_required() or field.default is None or kind is bool
    shown = "" if silent else f" \\[default: {_plain(field.default)}]"
    option = typer.Option(_flag(name), help=f"{field.description}{shown}", show_default=False)
    # typer makes a flag only of what is either true or false
    default, annotation = (False, bool) if kind is bool else (None, kind | None)
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=default,
        annotation=Annotated[annotation, option],
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _plain(value: Any) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    """``64,32`` as numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        example = _plain(SECTIONS[section_of(name)].model_fields[name].default)
        raise InputError(
            f"{_flag(name)}: expected whole numbers with commas between, received {text!r}",
            f"write for example {_flag(name)} {example}",
        ) from error


def _column(_name: str, text: str) -> str:
    """The name of a column; where the locale is not UTF-8, Python hands its bytes over as half characters."""
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        return text
