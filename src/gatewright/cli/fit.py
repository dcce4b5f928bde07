"""``gatewright fit``: from a table to a trained model, its scores, a forecast and a report."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gatewright.cli.options import parsed, with_settings
from gatewright.cli.output import PlainConsole, deliver, say
from gatewright.cli.progress import TerminalWatcher
from gatewright.data.wording import plural
from gatewright.errors import InputError
from gatewright.reports.text import score_table
from gatewright.tasks.forecast.fitting import Fit
from gatewright.tasks.forecast.page import score_rows, verdict
from gatewright.tasks.forecast.panels import load_panel
from gatewright.tasks.forecast.run_folder import RunFolder, fit_to_folder, summary
from gatewright.tasks.forecast.settings import RunSettings, make_settings, read_settings

EXIT_INTERRUPTED = 130


@with_settings
def fit(
    table: Annotated[
        Path | None, typer.Argument(help="CSV or Parquet file, long format.", show_default=False)
    ] = None,
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
    **settings: Any,
) -> None:
    """Train a recurrent network on a table and forecast it.

    The table is in long format: a row a time step, with --id also a row a series. The run folder holds the
    model, its scores on the held-out end beside the naive forecasts, the forecast and a report to open in a
    browser. Ctrl-C stops after the current step and still writes the run.
    """
    given = {**({} if table is None else {"table": _absolute(table)}), **parsed(settings)}
    if resume:
        _resume(given, config, out, as_json=as_json, quiet=quiet)
        return
    run = make_settings(read_settings(config) if config else None, **given)
    folder = RunFolder(out or _default_folder(run.data.table, run.data.target))
    fit_and_report(folder, run, overwrite=overwrite, as_json=as_json, quiet=quiet)


def _resume(
    given: dict[str, Any], config: Path | None, out: Path | None, *, as_json: bool, quiet: bool
) -> None:
    """Go on with the run in a folder; its own settings hold."""
    if out is None:
        raise InputError("--resume needs the run folder", "give it with --out")
    if given or config is not None:
        name = next(iter(given), "config")
        hint = "leave out everything but --out; to change settings begin a new run"
        raise InputError(f"--resume goes on with the run's own settings, received {name} too", hint)
    folder = RunFolder(out)
    fit_and_report(folder, folder.reopen(), resume=True, as_json=as_json, quiet=quiet)


def _absolute(table: Path) -> str:
    """The path of a table as settings hold it: in a file of text."""
    try:
        os.fsencode(table).decode()
    except UnicodeError as error:
        message = f"the name of the table is no text in UTF-8: {table}"
        raise InputError(message, "rename the file: the settings of the run hold its name") from error
    return str(table.resolve())


def _default_folder(table: str | None, target: str) -> Path:
    stem = Path(table).stem if table else "table"
    safe = "".join(c if c.isalnum() else "-" for c in f"{stem}-{target}")[:60]
    return Path("runs") / f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}"


def fit_and_report(
    folder: RunFolder,
    settings: RunSettings,
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
    if not resume:
        folder.check(overwrite=overwrite)
    panel = load_panel(settings.data)
    quiet = quiet or as_json
    if not quiet:
        for note in panel.notes:
            say(note)
    watcher = TerminalWatcher(PlainConsole(stderr=True), quiet=quiet)
    fitted = fit_to_folder(folder, settings, panel, overwrite=overwrite, resume=resume, watcher=watcher)
    if as_json:
        deliver(summary(fitted, folder.path) + "\n", remedy=f"the run itself is written: {folder.path}")
    elif not quiet:
        _print(fitted, folder)
    if fitted.outcome.status == "interrupted":
        if not quiet:
            say(f"interrupted; go on with: gatewright fit --resume --out {folder.path}")
        raise typer.Exit(EXIT_INTERRUPTED)


def _print(fitted: Fit, folder: RunFolder) -> None:
    progress, scores = fitted.outcome.progress, fitted.scores
    took = f"{plural(progress.epoch, 'epoch')} ({progress.seconds:.0f} s), best {progress.best_epoch}"
    deliver(
        f"{fitted.outcome.status} after {took}\n",
        score_table(score_rows(scores), scores.coverage_level),
        f"{verdict(scores)[0]}\n",
        f"report: {folder.path / 'report.html'}\n",
        remedy=f"the run itself is written: {folder.path}",
    )
