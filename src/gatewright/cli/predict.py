"""``gatewright predict``: a forecast from a run folder, of its own table or of a newer one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from gatewright.cli.output import deliver
from gatewright.errors import InputError
from gatewright.files import explained, to_json, write_bytes
from gatewright.tasks.forecast.diagnosed import table_of
from gatewright.tasks.forecast.fitting import forecast_beyond
from gatewright.tasks.forecast.frames import csv_text
from gatewright.tasks.forecast.model import ForecastModel
from gatewright.tasks.forecast.panels import load_panel
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
    with explained(run, "read"):
        if not run.is_dir():
            raise InputError(f"no run folder {run}", "give a folder that gatewright fit has written")
    model = ForecastModel.load(run / MODEL)
    settings = model.settings.data
    table = table_of(model, data)
    if out is not None:
        _check_out(out, [table, Path(settings.table or table)], overwrite=overwrite)
    panel = load_panel(settings.model_copy(update={"table": str(table)}))
    frame = forecast_beyond(model, model.data(panel))
    if out is not None:
        _write(frame, out)
    remedy = "write the forecast to a file with --out" if out is None else f"the forecast is written: {out}"
    if as_json:
        rows = frame.with_columns(pl.col("ds", "cutoff").cast(pl.String)).to_dicts()
        document = {"run": str(run), "out": str(out) if out else None, "forecast": rows}
        deliver(to_json(document) + "\n", remedy=remedy)
    elif out is None:
        deliver(csv_text(frame), remedy=remedy)


def _check_out(out: Path, tables: Sequence[Path], *, overwrite: bool) -> None:
    if out.suffix not in (".csv", ".parquet"):
        raise InputError(
            f"--out: expected a CSV or Parquet file, received {out}", "let it end in .csv or .parquet"
        )
    with explained(out, "write"):
        if not out.parent.is_dir():
            raise InputError(f"there is no folder {out.parent}", "make it, or choose another file with --out")
        if any(out.exists() and table.exists() and out.samefile(table) for table in tables):
            message = f"{out} is the table that is forecast, or the one the run was fitted to"
            raise InputError(message, "choose another file with --out; a table is never replaced")
        if out.exists() and not overwrite:
            raise InputError(f"{out} exists", "choose another file, or replace it with --overwrite")


def _write(frame: pl.DataFrame, out: Path) -> None:
    if out.suffix == ".csv":
        write_bytes(out, csv_text(frame).encode())
        return
    content = io.BytesIO()
    frame.write_parquet(content)
    write_bytes(out, content.getvalue())
