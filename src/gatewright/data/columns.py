"""Columns of a table read as numbers and as ids, from any dtype that pandas and polars have."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence

import narwhals as nw
import numpy as np
import polars as pl

from gatewright.data.wording import listed, plural
from gatewright.errors import InputError

MISSING_WORDS = ("", "na", "n/a", "#n/a", "nan", "nat", "null", "none", "<na>")
"""What stands for a missing entry in a column of text, in any case."""

_EXAMPLES = 4
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?([0-9]+|[0-9]{1,3}([. ][0-9]{3})+),[0-9]+")


def find_column(frame: nw.DataFrame, name: str, role: str) -> nw.Series:
    """Return a column by name.

    Args:
        frame: the table.
        name: the column's name.
        role: what it is wanted for, e.g. `--target`.

    Returns:
        The column.

    Raises:
        InputError: there is none; the message lists the columns and the hint names the nearest.
    """
    names = frame.columns
    if name in names:
        return frame[name]
    folded = {str(each).strip().casefold(): str(each) for each in names}
    near = difflib.get_close_matches(str(name).strip().casefold(), folded, n=1, cutoff=0.5)
    shown = listed([repr(each) for each in names[:20]], len(names))
    raise InputError(
        f"the table has no column {name!r} for {role}; its columns are {shown}",
        f"did you mean {folded[near[0]]!r}?" if near else f"pass {role} with one of these names",
    )


def numbers(column: nw.Series) -> np.ndarray:
    """Read a target column as `float64`, NaN where missing.

    Args:
        column: of any dtype that holds numbers, or text that spells them.

    Returns:
        One number a row.

    Raises:
        InputError: an entry is not a number, or is infinite.
    """
    dtype = column.dtype
    if dtype.is_numeric():
        missing = column.is_null().to_numpy().astype(bool)
        values = np.array(column.fill_null(0).cast(nw.Float64()).to_numpy(), dtype=np.float64)
        values[missing] = np.nan
    elif is_text(column):
        values = _parsed(column)
    else:
        kind = "true or false" if dtype == nw.Boolean else f"of type {type_text(column)}"
        remedy = "turn it into 0 and 1 first" if dtype == nw.Boolean else "name a column of numbers"
        raise InputError(
            f"the target column {column.name!r} is not numeric: its entries are {kind}",
            f"{remedy}, or pass another --target",
        )
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise InputError(
            f"the target column {column.name!r} holds {plural(len(infinite), 'infinite value')}: "
            + row_list(infinite),
            "replace them by numbers, or leave the fields empty to have them masked",
        )
    return values


def series_ids(column: nw.Series) -> list[str]:
    """Read an id column as strings; whole floats lose their `.0`.

    Args:
        column: of any dtype.

    Returns:
        One id a row.

    Raises:
        InputError: an id is null or blank.
    """
    missing = column.is_null().to_numpy().astype(bool)
    raw = column.to_list()
    ids = ["" if null else _id_text(value) for value, null in zip(raw, missing, strict=True)]
    blank = np.array([not text.strip() for text in ids], dtype=bool)
    if blank.any():
        rows = np.flatnonzero(blank)
        raise InputError(
            f"the id column {column.name!r} is empty in {plural(len(rows), 'row')}: {row_list(rows)}",
            "every row needs the id of its series: fill them in or drop these rows",
        )
    return ids


def is_text(column: nw.Series) -> bool:
    """Tell whether a column is read entry by entry as text: strings, categories, or mixed objects."""
    return column.dtype in (nw.String, nw.Categorical, nw.Enum, nw.Object) or (
        column.dtype == nw.Unknown and column.is_null().all()
    )


def as_text(column: nw.Series) -> pl.Series:
    """Return a column as stripped polars strings, null where the entry is missing or a missing word."""
    native = column.to_native()
    if isinstance(native, pl.Series) and column.dtype != nw.Object:
        text = native.cast(pl.String)
    else:
        missing = column.is_null().to_list()
        entries = [
            None if null else str(value) for value, null in zip(column.to_list(), missing, strict=True)
        ]
        text = pl.Series(entries, dtype=pl.String)
    text = text.str.strip_chars()
    frame = text.to_frame("text")
    word = pl.col("text").str.to_lowercase().is_in(MISSING_WORDS)
    return frame.select(pl.when(word).then(None).otherwise(pl.col("text")).alias("text"))["text"]


def row_list(rows: np.ndarray, entries: Sequence[object] | pl.Series | None = None) -> str:
    """List the first few rows, counted from 1, with what they hold: `row 3: 'abc', row 9: '1,5'`."""
    shown = [int(row) for row in rows[:_EXAMPLES]]
    texts = [f"row {row + 1}" if entries is None else f"row {row + 1}: {entries[row]!r}" for row in shown]
    return listed(texts, len(rows))


def type_text(column: nw.Series) -> str:
    """Name a column's type for a message: the frame's own name where narwhals has none."""
    return str(column.to_native().dtype if column.dtype == nw.Unknown else column.dtype)


def _id_text(value: object) -> str:
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return str(int(value))
    return str(value)


def _parsed(column: nw.Series) -> np.ndarray:
    text = as_text(column)
    values = text.cast(pl.Float64, strict=False)
    bad = np.flatnonzero((values.is_null() & text.is_not_null()).to_numpy())
    if len(bad):
        entries = [str(text[int(row)]) for row in bad[:1000]]
        raise InputError(
            f"the target column {column.name!r} is not numeric in {plural(len(bad), 'row')}: "
            + row_list(bad, text),
            _number_remedy(entries),
        )
    return np.array(values.fill_null(math.nan).to_numpy(), dtype=np.float64)


def _number_remedy(entries: Sequence[str]) -> str:
    thousands = all(_THOUSANDS.fullmatch(entry) for entry in entries)
    comma = all(_DECIMAL_COMMA.fullmatch(entry) for entry in entries)
    if thousands and comma:
        return (
            "write numbers with a decimal point and without thousands separators: "
            "a comma may be a decimal comma or a thousands separator here"
        )
    if thousands:
        return "remove the thousands separators: write 1234.5, not 1,234.5"
    if comma:
        return "these look like numbers with a decimal comma: write 1.5, not 1,5"
    return "write plain numbers such as 1234.5, leave missing ones empty, or pass another --target"
