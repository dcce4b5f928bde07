"""The run folder: everything a run leaves, put in place whole, and never over another one unasked.

A run grows in ``DIR.partial`` and becomes ``DIR`` by one renaming when it is complete. What a killed run
leaves there is enough to resume it.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import polars as pl

from gatewright.data.tables import Panel
from gatewright.errors import InputError
from gatewright.files import explained, locked, to_json, write_bytes, write_json, write_text
from gatewright.reports.page import render_page
from gatewright.tasks.forecast.fitting import Fit, fit_plan, plan_run
from gatewright.tasks.forecast.frames import csv_text
from gatewright.tasks.forecast.page import report_of, verdict
from gatewright.tasks.forecast.settings import RunSettings, make_settings, read_settings, settings_text
from gatewright.training.checkpoint import load_checkpoint
from gatewright.training.loop import Watcher

CONFIG, MODEL, METRICS, CHECKPOINT = (
    "config.toml",
    "model.safetensors",
    "metrics.json",
    "checkpoint.safetensors",
)

FILES = {
    CONFIG: "all settings; gatewright fit --config makes the same run again",
    MODEL: "the network and all that is needed to use it",
    METRICS: "scores, and how training went",
    "history.csv": "losses of every epoch",
    "forecast.csv": "the forecast beyond the end of the data",
    "backtest.csv": "the forecasts that were scored, beside the truth",
    "versions.json": "of the software that made this run",
    "report.html": "this page",
}
"""File -> what it holds."""


class RunFolder:
    """Where a run goes: ``DIR`` when it is complete, ``DIR.partial`` until then; one run at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial = path.parent / f"{path.name}.partial"
        self._lock = path.parent / f".{path.name}.lock"

    @property
    def checkpoint(self) -> Path:
        """The state of an unfinished run."""
        return self.partial / CHECKPOINT

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the folder while inside.

        Raises:
            InputError: another run is growing there, or the folder cannot be made.
        """
        with explained(self.path, "make the folder"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._lock, str(self.path)):
            yield

    def check(self, *, overwrite: bool) -> None:
        """Refuse to begin a run where something else is.

        Args:
            overwrite: whether a run that is there may be replaced.

        Raises:
            InputError: there is a run, an unfinished run, one that still grows, or something that is no run.
        """
        self._check_idle()
        self._check_free(overwrite=overwrite)

    def _check_idle(self) -> None:
        """Refuse a folder where a run is growing now."""
        with explained(self.path, "use"):
            looks_held = self._lock.exists()
        if looks_held:
            with self.held():
                pass

    def _check_free(self, *, overwrite: bool) -> None:
        """Refuse a folder that holds something."""
        with explained(self.path, "use"):
            for folder in (self.path, self.partial):
                if folder.exists() and not (_is_run(folder) or (folder is self.partial and _is_bare(folder))):
                    message = f"{folder} exists and is not a run folder"
                    raise InputError(message, "choose another folder with --out; it will not be replaced")
            if overwrite:
                return
            if self.path.exists():
                raise InputError(
                    f"{self.path} holds a run already", "choose another --out, or replace it with --overwrite"
                )
            if self.partial.exists() and not _is_bare(self.partial):
                hint = "go on with it with --resume, or discard it with --overwrite"
                raise InputError(f"{self.partial} holds an unfinished run", hint)

    def begin(self, settings: RunSettings, *, overwrite: bool) -> None:
        """Make the folder of an unfinished run; inside ``held``.

        Args:
            settings: of the run.
            overwrite: whether a run that is there may be replaced.

        Raises:
            InputError: there is a run, or the folder cannot be made.
        """
        self._check_free(overwrite=overwrite)
        with explained(self.partial, "make the folder"):
            if self.partial.exists():
                shutil.rmtree(self.partial)
            self.partial.mkdir()
        try:
            write_text(self.partial / CONFIG, settings_text(settings))
        except BaseException:
            self.discard()
            raise

    def reopen(self) -> RunSettings:
        """The settings of an unfinished run; nothing is changed yet.

        Returns:
            The settings of the run.

        Raises:
            InputError: there is none, it still grows, or it is finished.
        """
        self._check_idle()
        with explained(self.path, "use"):
            unfinished = self.partial.exists() and not _is_bare(self.partial)
            if not unfinished:
                if not (self.path / CONFIG).is_file():
                    raise InputError(
                        f"there is no run to resume in {self.path}", "check --out, or leave out --resume"
                    )
                if not (self.path / CHECKPOINT).is_file():
                    hint = "nothing is left to do; use --overwrite to train anew"
                    raise InputError(f"the run in {self.path} is finished", hint)
            config = (self.partial if unfinished else self.path) / CONFIG
            if not config.is_file():
                raise InputError(
                    f"{config.parent} has no settings to go on with", "begin anew with --overwrite"
                )
        return make_settings(read_settings(config))

    def take_up(self, fingerprint: str) -> None:
        """Let an interrupted run that was written grow again; inside ``held``.

        Args:
            fingerprint: of the settings and data at hand.

        Raises:
            InputError: its checkpoint is damaged, or of other settings or data; the run stays as it is.
        """
        with explained(self.path, "rename"):
            if self.partial.exists() and not _is_bare(self.partial):
                return
            load_checkpoint(self.path / CHECKPOINT, fingerprint)
            if self.partial.exists():
                shutil.rmtree(self.partial)
            self.path.replace(self.partial)

    def discard(self) -> None:
        """Remove an unfinished run that holds nothing to resume."""
        if not self.checkpoint.exists():
            shutil.rmtree(self.partial, ignore_errors=True)

    def complete(self, *, keep_checkpoint: bool) -> None:
        """Put the run in its place, an older one out of the way, in two renamings; inside ``held``."""
        with explained(self.path, "put in place"):
            if not keep_checkpoint:
                self.checkpoint.unlink(missing_ok=True)
            if not self.path.exists():
                self.partial.replace(self.path)
                return
            old = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
            self.path.replace(old / "replaced")
            self.partial.replace(self.path)
        shutil.rmtree(old, ignore_errors=True)


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def _is_bare(folder: Path) -> bool:
    """Whether a folder is what a run leaves that was killed before it had settings: all but empty."""
    return folder.is_dir() and all(file.name.startswith(f".{CONFIG}.") for file in folder.iterdir())


def fit_to_folder(
    folder: RunFolder,
    settings: RunSettings,
    panel: Panel,
    *,
    overwrite: bool = False,
    resume: bool = False,
    watcher: Watcher | None = None,
) -> Fit:
    """Train, score, forecast and write the run folder.

    Args:
        folder: where the run goes.
        settings: of the run; when resuming, those of ``folder.reopen()``.
        panel: the series.
        overwrite: replace a run that is there.
        resume: go on with an unfinished run.
        watcher: follows training and may ask to stop.

    Returns:
        What was fitted. Its outcome says whether training was interrupted.

    Raises:
        InputError: bad settings or data, a folder that cannot be written, a checkpoint that does not fit.
    """
    plan = plan_run(settings, panel)
    with folder.held():
        if resume:
            folder.take_up(plan.fingerprint)
        else:
            folder.begin(plan.settings, overwrite=overwrite)
        try:
            fit = fit_plan(plan, watcher=watcher, checkpoint=folder.checkpoint, resume=resume)
            write_files(folder.partial, fit)
            folder.complete(keep_checkpoint=fit.outcome.status == "interrupted")
        except BaseException:
            folder.discard()
            raise
    return fit


def write_files(folder: Path, fit: Fit) -> None:
    """Write everything a run leaves into a folder that exists, each file whole."""
    settings = fit.model.settings
    write_text(folder / CONFIG, settings_text(settings))
    fit.model.save(folder / MODEL)
    history = pl.DataFrame(fit.outcome.progress.history)
    write_text(folder / "history.csv", history.write_csv() if len(history) else "epoch\n")
    write_text(folder / "forecast.csv", csv_text(fit.forecast))
    write_text(folder / "backtest.csv", csv_text(fit.backtest))
    made_with = versions(settings)
    write_json(folder / "versions.json", made_with)
    page = render_page(report_of(fit, files=FILES, command=_command(settings), versions=made_with))
    write_bytes(folder / "report.html", page.encode())
    # last, as the sign that the rest is there
    write_json(folder / METRICS, metrics(fit))


def metrics(fit: Fit) -> dict[str, Any]:
    """Scores, and how training went, as JSON can hold them."""
    progress, scores = fit.outcome.progress, fit.scores
    return {
        "verdict": verdict(scores)[0],
        "winner": scores.winner,
        "scores": scores.models,
        "season": scores.season,
        "coverage_level": scores.coverage_level,
        "scored_forecasts": scores.windows,
        "error_by_horizon": {model: errors.tolist() for model, errors in scores.error_by_horizon.items()},
        "status": fit.outcome.status,
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch,
        "best_validation_loss": progress.best_loss,
        "training_seconds": round(progress.seconds, 3),
        "parameters": sum(p.numel() for p in fit.model.network.parameters()),
        "seed": fit.model.settings.training.seed,
        "notes": list(fit.panel.notes),
    }


def _command(settings: RunSettings) -> str:
    """What to type to get a run again; a run fitted in Python names no table."""
    table = "" if settings.data.table else "TABLE "
    return f"gatewright fit {table}--config {CONFIG} --out NEW_FOLDER"


def versions(settings: RunSettings) -> dict[str, str]:
    """Versions of what a result depends on, and the threads that training had."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("gatewright", "torch", "numpy", "polars"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"threads": str(settings.training.threads)}


def summary(fit: Fit, folder: Path) -> str:
    """One JSON document about a run, for machines."""
    return to_json({"run": str(folder), **metrics(fit)})
