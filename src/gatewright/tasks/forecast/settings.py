"""Everything that decides a forecasting run, checked; one TOML file holds it all."""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gatewright.cells.catalogue import find_cell
from gatewright.errors import InputError
from gatewright.files import explained

_LARGEST_LAYER = 100_000


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSettings(_Section):
    """The table and its columns."""

    table: str | None = Field(None, description="CSV or Parquet file, long format")
    target: str = Field(description="column to forecast")
    time: str | None = Field(
        None, description="column of times; without it rows are evenly spaced in file order"
    )
    id: str | None = Field(None, description="column that tells the series apart; without it there is one")
    frequency: str | None = Field(None, description="time step such as 1h, 1d, 1mo; inferred when not given")
    sort: bool = Field(False, description="sort rows by time instead of refusing unsorted ones")
    encoding: str = Field("utf-8", description="text encoding of a CSV file")


class ForecastSettings(_Section):
    """What is forecast, and how it is held out."""

    horizon: int = Field(ge=1, description="time steps to forecast")
    context: int | None = Field(
        None, ge=1, le=1_000_000, description="time steps the network sees; chosen when not given"
    )
    levels: tuple[int, ...] = Field((50, 80, 90), description="levels of the forecast bands, in percent")
    scaling: Literal["standard", "robust", "none"] = Field("standard", description="scaling of each series")
    validation_share: float = Field(0.15, gt=0, lt=0.5, description="share of each series for early stopping")
    test_share: float = Field(0.15, gt=0, lt=0.5, description="share of each series held out for the scores")

    @field_validator("levels")
    @classmethod
    def _levels(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if not levels or any(not 0 < level < 100 for level in levels):
            raise ValueError("levels are percentages between 1 and 99")
        return tuple(sorted(set(levels)))

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The quantiles of the bands' edges and the median, ascending."""
        edges = {side for level in self.levels for side in ((100 - level) / 200, (100 + level) / 200)}
        return tuple(sorted(edges | {0.5}))


class ModelSettings(_Section):
    """The network."""

    cell: str = Field("gru", description="name of a catalogued cell")
    hidden_sizes: tuple[int, ...] = Field((64, 32), description="hidden size of each recurrent layer")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout between layers")

    @field_validator("cell")
    @classmethod
    def _cell(cls, cell: str) -> str:
        return find_cell(cell).name

    @field_validator("hidden_sizes")
    @classmethod
    def _hidden_sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or any(not 1 <= size <= _LARGEST_LAYER for size in sizes):
            raise ValueError(f"give at least one hidden size, each at least 1 and at most {_LARGEST_LAYER:,}")
        return sizes


class TrainingSettings(_Section):
    """How the network is trained."""

    seed: int = Field(0, ge=0, lt=2**32, description="makes a run repeatable bit for bit on one machine")
    max_epochs: int = Field(40, ge=1, description="epochs at most")
    steps_per_epoch: int = Field(50, ge=1, description="gradient steps between two validations")
    batch_size: int = Field(32, ge=1, le=1_000_000, description="windows in a gradient step")
    learning_rate: float = Field(3e-3, gt=0, le=10, description="step size of Adam")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads; when not given 1 for small networks"
    )
    patience: int = Field(8, ge=1, description="epochs without improvement before training stops")


class RunSettings(_Section):
    """All settings of a run."""

    data: DataSettings
    forecast: ForecastSettings
    model: ModelSettings = ModelSettings.model_validate({})
    training: TrainingSettings = TrainingSettings.model_validate({})


SECTIONS: dict[str, type[_Section]] = {
    "data": DataSettings,
    "forecast": ForecastSettings,
    "model": ModelSettings,
    "training": TrainingSettings,
}


def section_of(key: str) -> str:
    """The section that a setting stands in.

    Args:
        key: name of a setting.

    Returns:
        Name of the section.

    Raises:
        InputError: there is no such setting.
    """
    for name, section in SECTIONS.items():
        if key in section.model_fields:
            return name
    raise _unknown(key, [name for section in SECTIONS.values() for name in section.model_fields])


def make_settings(nested: dict[str, Any] | None = None, **flat: Any) -> RunSettings:
    """Settings from sections and from single values by name; a single value wins, None is left out.

    Args:
        nested: sections as in the TOML file.
        **flat: settings by name, whatever their section.

    Returns:
        The settings, checked.

    Raises:
        InputError: an unknown name or a value out of range.
    """
    merged: dict[str, Any] = {}
    for name, section in (nested or {}).items():
        if name not in SECTIONS:
            raise _unknown(name, list(SECTIONS), what="section")
        if not isinstance(section, dict):
            raise InputError(
                f"configuration: {name} is a section", f"write [{name}] and its settings below it"
            )
        for key in section:
            if key not in SECTIONS[name].model_fields:
                raise _unknown(f"{name}.{key}", [f"{name}.{field}" for field in SECTIONS[name].model_fields])
        merged[name] = dict(section)
    for key, value in flat.items():
        section = section_of(key)
        if value is not None:
            merged.setdefault(section, {})[key] = value
    for name in ("data", "forecast"):
        merged.setdefault(name, {})
    try:
        return RunSettings.model_validate(merged)
    except ValidationError as error:
        raise _reworded(error) from error


def read_settings(path: Path) -> dict[str, Any]:
    """The sections of a TOML file, not yet checked.

    Args:
        path: of the file.

    Returns:
        Section -> setting -> value.

    Raises:
        InputError: the file is missing or is no TOML.
    """
    with explained(path, "read"):
        if not path.is_file():
            raise InputError(f"no configuration file {path}", "check the path given with --config")
        content = path.read_bytes()
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}", "mend the line it names") from error


def settings_text(settings: RunSettings) -> str:
    """Settings as TOML, complete; what has no value is left out."""
    return tomli_w.dumps(settings.model_dump(exclude_none=True, mode="json"))


def _unknown(key: str, known: list[str], what: str = "key") -> InputError:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return InputError(f"unknown configuration {what} {key!r}", hint)


def _reworded(error: ValidationError) -> InputError:
    """The first problem in the words of this library."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        option = f"--{problem['loc'][-1]}".replace("_", "-")
        return InputError(f"{key} is missing", f"give it with {option}, or in the configuration file")
    message = problem["msg"].removeprefix("Value error, ")
    first, _, hint = message.partition("\n  hint: ")
    section = SECTIONS.get(str(problem["loc"][0]))
    field = section.model_fields.get(str(problem["loc"][1])) if section and len(problem["loc"]) > 1 else None
    meaning = field.description if field is not None and field.description else ""
    text = f"{key} = {problem['input']!r}: {first[:1].lower()}{first[1:]}"
    return InputError(text, hint or (f"{key}: {meaning}" if meaning else ""))
