"""From a table and the settings that name its columns to a panel."""

from __future__ import annotations

from pathlib import Path

from narwhals.typing import IntoDataFrame

from gatewright.data.frequency import Frequency
from gatewright.data.tables import Panel, make_panel, read_table
from gatewright.errors import InputError
from gatewright.tasks.forecast.settings import DataSettings


def panel_of(table: IntoDataFrame, data: DataSettings) -> Panel:
    """The series of a table.

    Args:
        table: a pandas or polars data frame in long format.
        data: names its columns.

    Returns:
        The series.

    Raises:
        InputError: the table's content does not fit.
    """
    return make_panel(
        table,
        target=data.target,
        time=data.time,
        id=data.id,
        frequency=Frequency.from_text(data.frequency) if data.frequency else None,
        sort=data.sort,
    )


def load_panel(data: DataSettings) -> Panel:
    """The series of the table file that the settings name.

    Args:
        data: names the file and its columns.

    Returns:
        The series.

    Raises:
        InputError: the file cannot be read, or its content does not fit.
    """
    if data.table is None:
        raise InputError("data.table is missing", "give the table, or name it in the configuration file")
    return panel_of(read_table(Path(data.table), encoding=data.encoding), data)
