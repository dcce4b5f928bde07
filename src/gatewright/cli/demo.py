"""``gatewright demo``: the whole way on real data that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gatewright.cli.fit import fit_and_report
from gatewright.data.bundled import bundled_path
from gatewright.tasks.forecast.run_folder import RunFolder
from gatewright.tasks.forecast.settings import make_settings


def demo(
    out: Annotated[Path, typer.Option("--out", help="run folder to write")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option("--seed", help="of the run")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a run that is in the folder")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document and nothing else")] = False,
) -> None:
    """Forecast a day of hourly bike rentals with a GRU, in about a minute.

    Trains on bundled data (Washington, D.C., 2011) and leaves a run folder with a report to open in a
    browser.
    """
    settings = make_settings(
        table=str(bundled_path("bike_rentals")), target="rentals", time="time", horizon=24, seed=seed
    )
    fit_and_report(RunFolder(out), settings, overwrite=overwrite, as_json=as_json)
