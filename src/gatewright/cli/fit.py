"""``gatewright fit``: from a table to a trained model, its scores, a forecast and a report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gatewright.cli.progress import TerminalWatcher
from gatewright.data.wording import plural
from gatewright.errors import InputError
from gatewright.reports.contents import ScoreRow
from gatewright.reports.text import score_table
from gatewright.tasks.forecast.fitting import Fit
from gatewright.tasks.forecast.page import verdict
from gatewright.tasks.forecast.run_folder import RunFolder, fit_to_folder, load_panel, summary
from gatewright.tasks.forecast.settings import SECTIONS, make_settings, read_settings, section_of

EXIT_INTERRUPTED = 130


def _setting(name: str, **options: Any) -> Any:
    """A command-line option for a setting, described as the setting is."""
    field = SECTIONS[section_of(name)].model_fields[name]
    default = "" if field.default is None or field.is_required() else f" \\[default: {_plain(field.default)}]"
    flag = "--" + name.replace("_", "-")
    return typer.Option(flag, help=f"{field.description}{default}", show_default=False, **options)


def _plain(value: Any) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, tuple) else str(value)


def _numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    """``64,32`` as numbers."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        flag = "--" + name.replace("_", "-")
        raise InputError(
            f"{flag}: expected whole numbers with commas between, received {text!r}", f"write {flag} 64,32"
        ) from error


def fit(
    table: Annotated[
        Path | None, typer.Argument(help="CSV or Parquet file, long format.", show_default=False)
    ] = None,
    target: Annotated[str | None, _setting("target")] = None,
    horizon: Annotated[int | None, _setting("horizon")] = None,
    time_column: Annotated[
        str | None, typer.Option("--time", help="column of times; without it rows are evenly spaced")
    ] = None,
    id_column: Annotated[str | None, typer.Option("--id", help="column that tells the series apart")] = None,
    frequency: Annotated[str | None, _setting("frequency")] = None,
    sort: Annotated[bool, _setting("sort")] = False,
    encoding: Annotated[str | None, _setting("encoding")] = None,
    context: Annotated[int | None, _setting("context")] = None,
    levels: Annotated[str | None, _setting("levels")] = None,
    scaling: Annotated[str | None, _setting("scaling")] = None,
    validation_share: Annotated[float | None, _setting("validation_share")] = None,
    test_share: Annotated[float | None, _setting("test_share")] = None,
    cell: Annotated[str | None, _setting("cell")] = None,
    hidden_sizes: Annotated[str | None, _setting("hidden_sizes")] = None,
    dropout: Annotated[float | None, _setting("dropout")] = None,
    seed: Annotated[int | None, _setting("seed")] = None,
    max_epochs: Annotated[int | None, _setting("max_epochs")] = None,
    steps_per_epoch: Annotated[int | None, _setting("steps_per_epoch")] = None,
    batch_size: Annotated[int | None, _setting("batch_size")] = None,
    learning_rate: Annotated[float | None, _setting("learning_rate")] = None,
    gradient_clip: Annotated[float | None, _setting("gradient_clip")] = None,
    patience: Annotated[int | None, _setting("patience")] = None,
    threads: Annotated[int | None, _setting("threads")] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with settings; options win over it")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="run folder to write \\[default: runs/TABLE-TARGET-TIME]", show_default=False
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a run that is in the folder")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the unfinished run in --out")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document and nothing else")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing")] = False,
) -> None:
    """Train a recurrent network on a table and forecast it.

    The table is in long format: a row a time step, with --id also a row a series. The run folder holds the
    model, its scores on the held-out end beside the naive forecasts, the forecast and a report to open in a
    browser. Ctrl-C stops after the current step and still writes the run.
    """
    given = {
        "table": None if table is None else str(table.resolve()),
        "target": target, "time": time_column, "id": id_column, "frequency": frequency, "sort": sort or None,
        "encoding": encoding, "horizon": horizon, "context": context, "levels": _numbers("levels", levels),
        "scaling": scaling, "validation_share": validation_share, "test_share": test_share, "cell": cell,
        "hidden_sizes": _numbers("hidden_sizes", hidden_sizes), "dropout": dropout, "seed": seed,
        "max_epochs": max_epochs, "steps_per_epoch": steps_per_epoch, "batch_size": batch_size,
        "learning_rate": learning_rate, "gradient_clip": gradient_clip, "patience": patience,
        "threads": threads,
    }  # fmt: skip
    if resume:
        _resume(given, config, out, as_json=as_json, quiet=quiet)
        return
    settings = make_settings(read_settings(config) if config else None, **given)
    folder = RunFolder(out or _default_folder(settings.data.table, settings.data.target))
    fit_and_report(folder, settings, overwrite=overwrite, as_json=as_json, quiet=quiet)


def _resume(
    given: dict[str, Any], config: Path | None, out: Path | None, *, as_json: bool, quiet: bool
) -> None:
    """Go on with the run in a folder; its own settings hold."""
    if out is None:
        raise InputError("--resume needs the run folder", "give it with --out")
    others = [name for name, value in given.items() if value is not None]
    if others or config is not None:
        name = others[0] if others else "config"
        hint = "leave out everything but --out; to change settings begin a new run"
        raise InputError(f"--resume goes on with the run's own settings, received {name} too", hint)
    folder = RunFolder(out)
    fit_and_report(folder, folder.reopen(), resume=True, as_json=as_json, quiet=quiet)


def _default_folder(table: str | None, target: str) -> Path:
    stem = Path(table).stem if table else "table"
    safe = "".join(c if c.isalnum() else "-" for c in f"{stem}-{target}")[:60]
    return Path("runs") / f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}"


def fit_and_report(
    folder: RunFolder,
    settings: Any,
    *,
    overwrite: bool = False,
    resume: bool = False,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    """Fit into a run folder and say how it went.

    Args:
        folder: where the run goes.
        settings: of the run.
        overwrite: replace a run that is there.
        resume: go on with an unfinished run.
        as_json: print one JSON document and nothing else.
        quiet: print nothing.

    Raises:
        Exit: with code 130, when training was interrupted; the run is written all the same.
    """
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not resume:
        folder.check(overwrite=overwrite)
    panel = load_panel(settings)
    quiet = quiet or as_json
    if not quiet:
        for note in panel.notes:
            console.print(note)
    watcher = TerminalWatcher(console, quiet=quiet)
    fitted = fit_to_folder(folder, settings, panel, overwrite=overwrite, resume=resume, watcher=watcher)
    if as_json:
        print(summary(fitted, folder.path))  # noqa: T201 - the document that was asked for
    elif not quiet:
        _print(fitted, folder)
    if fitted.outcome.status == "interrupted":
        if not quiet:
            console.print(f"interrupted; go on with: gatewright fit --resume --out {folder.path}")
        raise typer.Exit(EXIT_INTERRUPTED)


def _print(fitted: Fit, folder: RunFolder) -> None:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    progress, scores = fitted.outcome.progress, fitted.scores
    took = f"{plural(progress.epoch, 'epoch')} ({progress.seconds:.0f} s), best {progress.best_epoch}"
    console.print(f"{fitted.outcome.status} after {took}")
    rows = [ScoreRow(model.replace("_", " "), **values) for model, values in scores.models.items()]
    console.print(score_table(rows, scores.coverage_level))
    console.print(verdict(scores)[0])
    console.print(f"report: {folder.path / 'report.html'}")
