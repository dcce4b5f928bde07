"""``gatewright diagnose``: why a fitted network does not learn better, and what would help."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from gatewright.cli.output import deliver, say
from gatewright.diagnosis.diagnose import Diagnosis
from gatewright.diagnosis.diagnose import diagnose as diagnose_model
from gatewright.errors import InputError
from gatewright.files import explained
from gatewright.tasks.forecast.diagnosed import problem_of, table_of
from gatewright.tasks.forecast.model import ForecastModel
from gatewright.tasks.forecast.panels import load_panel
from gatewright.tasks.forecast.run_folder import MODEL

PAGE, DOCUMENT, TRIALS = "diagnosis.html", "diagnosis.json", "diagnosis-trials"


def diagnose(
    run: Annotated[Path, typer.Argument(help="Run folder that gatewright fit has written.")],
    data: Annotated[
        Path | None,
        typer.Option("--data", help="table of the run \\[default: the one it names]", show_default=False),
    ] = None,
    trials: Annotated[bool, typer.Option("--trials", help="also try the remedies")] = False,
    minutes: Annotated[float, typer.Option("--minutes", help="for the trials")] = 5.0,
    needed_lag: Annotated[
        int | None,
        typer.Option("--needed-lag", help="steps that must be remembered, if known", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document and nothing else")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="print nothing")] = False,
) -> None:
    """Find out why a fitted network does not learn better.

    Gradients are followed from step to step, training is observed for a while, and the likeliest cause is
    named with its evidence and a remedy. The page diagnosis.html goes into the run folder. With --trials the
    remedies are tried on copies; interrupted, the same command goes on where it was broken off.
    """
    with explained(run, "read"):
        if not run.is_dir():
            raise InputError(f"no run folder {run}", "give a folder that gatewright fit has written")
    model = ForecastModel.load(run / MODEL)
    table = table_of(model, data)
    panel = load_panel(model.settings.data.model_copy(update={"table": str(table)}))
    problem = problem_of(model, panel)
    quiet = quiet or as_json
    found = diagnose_model(
        problem.model,
        problem.batches,
        problem.loss,
        validation=problem.validation,
        learning_rate=problem.learning_rate,
        gradient_clip=problem.gradient_clip,
        needed_lag=needed_lag,
        trials=trials,
        minutes=minutes,
        seed=problem.seed,
        folder=run / TRIALS if trials else None,
        progress=None if quiet else _tell,
        title=f"Diagnosis of {run.name}",
        command=_command(run, data, minutes if trials else None, needed_lag),
    )
    found.save(run / PAGE)
    found.save(run / DOCUMENT)
    _print(found, run, as_json=as_json, quiet=quiet)


def _command(run: Path, data: Path | None, minutes: float | None, needed_lag: int | None) -> str:
    """What to type to get the same again."""
    parts = ["gatewright diagnose", shlex.quote(str(run))]
    parts += [] if data is None else ["--data", shlex.quote(str(data))]
    parts += [] if minutes is None else ["--trials", f"--minutes {minutes:g}"]
    parts += [] if needed_lag is None else [f"--needed-lag {needed_lag}"]
    return " ".join(parts)


def _tell(text: str, share: float) -> None:
    say(f"{share:4.0%} {text}" if share else f"     {text}")


def _print(found: Diagnosis, run: Path, *, as_json: bool, quiet: bool) -> None:
    remedy = f"the diagnosis itself is written: {run / PAGE}"
    if as_json:
        deliver(found.to_json() + "\n", remedy=remedy)
    elif not quiet:
        deliver(f"{found}\n", f"report: {run / PAGE}\n", remedy=remedy)
