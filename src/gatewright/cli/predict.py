"""``gatewright predict``: a forecast from a run folder, of its own table or of a newer one."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from gatewright.data.tables import make_panel, read_table
from gatewright.errors import InputError
from gatewright.files import explained, to_json, write_bytes
from gatewright.tasks.forecast.fitting import forecast_beyond
from gatewright.tasks.forecast.frames import csv_text
from gatewright.tasks.forecast.model import ForecastModel
from gatewright.tasks.forecast.run_folder import MODEL


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder that gatewright fit has written.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="table to forecast \\[default: the one it was fitted to]", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="CSV or Parquet file to write \\[default: CSV on standard output]",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the file if it is there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document and nothing else")] = False,
) -> None:
    """Forecast the steps after the end of a table with a fitted model.

    Another table needs the same columns and the same time step; series that the model has not seen are
    scaled by their own values.
    """
    if not run.is_dir():
        raise InputError(f"no run folder {run}", "give a folder that gatewright fit has written")
    model = ForecastModel.load(run / MODEL)
    _check_out(out, overwrite=overwrite)
    settings = model.settings.data
    table = data or (Path(settings.table) if settings.table else None)
    if table is None:
        raise InputError("the run was fitted in Python and names no table", "give one with --data")
    if data is None and not table.exists():
        raise InputError(f"the table of the run, {table}, is not there any more", "give one with --data")
    panel = make_panel(
        read_table(table, encoding=settings.encoding),
        target=settings.target, time=settings.time, id=settings.id,
        frequency=model.frequency, sort=settings.sort,
    )  # fmt: skip
    frame = forecast_beyond(model, model.data(panel))
    if out is not None:
        _write(frame, out)
    if as_json:
        rows = frame.with_columns(pl.col("ds", "cutoff").cast(pl.String)).to_dicts()
        print(to_json({"run": str(run), "out": str(out) if out else None, "forecast": rows}))  # noqa: T201 - the document
    elif out is None:
        sys.stdout.write(csv_text(frame))


def _check_out(out: Path | None, *, overwrite: bool) -> None:
    if out is None:
        return
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(
            f"--out: expected a CSV or Parquet file, received {out}", "let it end in .csv or .parquet"
        )
    if not out.parent.is_dir():
        raise InputError(f"there is no folder {out.parent}", "make it, or choose another file with --out")
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists", "choose another file, or replace it with --overwrite")


def _write(frame: pl.DataFrame, out: Path) -> None:
    if out.suffix == ".csv":
        write_bytes(out, csv_text(frame).encode())
        return
    content = io.BytesIO()
    frame.write_parquet(content)
    with explained(out, "write"):
        write_bytes(out, content.getvalue())
