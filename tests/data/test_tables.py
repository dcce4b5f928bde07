"""Tables to panels: reading files, reading columns, the regular grid, and every kind of bad input."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.data.frequency import Frequency
from gatewright.data.tables import Panel, make_panel, read_table
from gatewright.errors import InputError

DAYS = ["2011-01-01", "2011-01-02", "2011-01-03", "2011-01-04"]


@pytest.fixture
def write(tmp_path: Path):
    def writer(content: bytes | str, name: str = "table.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writer


def daily(values: Any, times: Any = None) -> pl.DataFrame:
    return pl.DataFrame({"t": DAYS[: len(values)] if times is None else times, "y": values}, strict=False)


def refused(frame: Any, **roles: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        make_panel(frame, **{"target": "y", "time": "t", **roles})
    return caught.value


def same(one: Panel, other: Panel) -> bool:
    return (one.frequency, one.notes, [s.id for s in one.series]) == (
        other.frequency,
        other.notes,
        [s.id for s in other.series],
    ) and all(
        np.array_equal(a.times, b.times) and np.array_equal(a.values, b.values, equal_nan=True)
        for a, b in zip(one.series, other.series, strict=True)
    )


# Files that read


@pytest.mark.parametrize(
    "content",
    [
        "t,y\n2011-01-01,1.5\n2011-01-02,\n",
        "\ufefft,y\r\n2011-01-01,1.5\r\n2011-01-02,\r\n",
        "t;y\n2011-01-01;1.5\n2011-01-02;\n",
        "t\ty\n2011-01-01\t1.5\n2011-01-02\t\n",
        "t|y\n2011-01-01|1.5\n2011-01-02|\n",
        '"t", y \n"2011-01-01","1.5"\n"2011-01-02",',
        "\n\nt,y\n\n2011-01-01,1.5\n\n2011-01-02,\n\n\n",
        "t,y\r2011-01-01,1.5\r2011-01-02,\r",
    ],
)
def test_csv_dialects_read_alike(write: Any, content: str):
    frame = read_table(write(content))
    assert frame.columns == ["t", "y"]
    assert frame.rows() == [("2011-01-01", "1.5"), ("2011-01-02", None)]


def test_csv_fields_stay_as_written(write: Any):
    frame = read_table(write('id,note,y\n001,"a, ""b""\nc",1e3\n002,5" pipe,2\n'))
    assert frame.rows() == [("001", 'a, "b"\nc', "1e3"), ("002", '5" pipe', "2")]


def test_blank_lines_are_missing_values_in_a_single_column(write: Any):
    assert read_table(write("y\n1\n\n3\n")).rows() == [("1",), (None,), ("3",)]


def test_gzip_and_encodings(write: Any):
    text = "t,é\n2011-01-01,1\n"
    assert read_table(write(gzip.compress(text.encode(), mtime=0), "a.csv.gz")).columns == ["t", "é"]
    assert read_table(write(text.encode("latin-1")), encoding="latin-1").columns == ["t", "é"]
    assert read_table(write(text.encode("utf-16")), encoding="utf-16").columns == ["t", "é"]


def test_parquet_is_told_by_content(write: Any):
    frame = pl.DataFrame({"t": [dt.datetime(2011, 1, 1)], "y": [1]})
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    assert read_table(write(buffer.getvalue(), "named.csv")).equals(frame)
    assert read_table(write(gzip.compress(buffer.getvalue(), mtime=0), "t.parquet.gz")).equals(frame)


# Files that do not


def parquet_bytes() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame({"y": list(range(100))}).write_parquet(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "name", "words", "hint"),
    [
        ("", "a.csv", "is empty", "header"),
        (" \n\n", "a.csv", "is empty", "header"),
        (gzip.compress(b"", mtime=0), "a.csv", "is empty", "header"),
        ("t,y\n", "a.csv", "a header but no rows", "at least one row"),
        ("t,y\n\n\n", "a.csv", "a header but no rows", "at least one row"),
        (b"\x7fELF\0\1\2", "a.csv", "is a binary file", "CSV or Parquet"),
        (b"PK\x03\x04\0\0", "a.xlsx", "spreadsheet or a zip", "export the sheet"),
        (
            "t,é\n1,2\n".encode("latin-1"),
            "a.csv",
            "not utf-8 text: byte 0xe9 on line 1",
            "--encoding latin-1",
        ),
        ("t,y\n1,2\n".encode("utf-16"), "a.csv", "is UTF-16 text", "--encoding utf-16"),
        ("t,y\n1,2\n1,2,3\n", "a.csv", r"ragged: row 2 \(line 3\) has 3 fields, the header has 2", "quote"),
        ("t,y\n1\n", "a.csv", r"ragged: row 1 \(line 2\) has 1 field, the header has 2", "quote"),
        ('t,y\n1,"2\n3,4\n', "a.csv", "broken field in row 1", "closing quote"),
        ('t,y\n1,2\n"3"x,4\n', "a.csv", "broken field in row 2", "closing quote"),
        ("t,y,t\n1,2,3\n", "a.csv", "duplicate column names: 't'", "name of its own"),
        ("t,y\n1,2\n", "a.parquet", "damaged Parquet file, or none", "name it .csv"),
        (parquet_bytes()[:200], "a.parquet", "damaged Parquet file", "write the file again"),
        (gzip.compress(b"t,y\n1,2\n" * 99, mtime=0)[:-9], "a.csv.gz", "damaged gzip", "again"),
    ],
)
def test_bad_files(write: Any, content: bytes | str, name: str, words: str, hint: str):
    with pytest.raises(InputError, match=words) as caught:
        read_table(write(content, name))
    assert hint in caught.value.hint


def test_missing_file_and_folder(tmp_path: Path):
    with pytest.raises(InputError, match=r"there is no file .*nowhere\.csv"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="expected a table file, received a folder"):
        read_table(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        read_table(Path("a\0b"))


@pytest.mark.parametrize(
    ("error", "words"),
    [(PermissionError(13, "no"), "no permission to read"), (OSError(5, "disk"), "cannot read")],
)
def test_unreadable_file(write: Any, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str):
    path = write("y\n1\n")

    def fail(self: Path) -> bytes:
        raise error

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(InputError, match=words):
        read_table(path)


@pytest.mark.parametrize(
    ("encoding", "words"), [("klingon", "no encoding is called"), ("rot13", "not a text encoding")]
)
def test_unknown_encoding(write: Any, encoding: str, words: str):
    with pytest.raises(InputError, match=words) as caught:
        read_table(write("y\n1\n"), encoding=encoding)
    assert "latin-1" in caught.value.hint


# Panels


def test_gaps_and_missing_values_are_masked_and_told():
    times = ["2011-01-01", "2011-01-02", "2011-01-03", "2011-01-05", "2011-01-06", "2011-01-07"]
    panel = make_panel(daily(["", "1", "NA", "4", "5", None], times), target="y", time="t")
    (series,) = panel.series
    assert (series.id, panel.id, panel.time, panel.target) == ("", None, "t", "y")
    np.testing.assert_array_equal(series.values, [1, np.nan, np.nan, 4, 5])
    assert series.values.dtype == np.float64
    assert list(series.times) == list(np.arange("2011-01-02", "2011-01-07", dtype="datetime64[D]"))
    assert series.times.dtype == "datetime64[us]"
    assert panel.notes == (
        "Frequency: 1 day, inferred from the times.",
        "1 time step of 5 without a row, masked: 2011-01-04.",
        "1 time step of 5 without a value, masked: 2011-01-03.",
        "1 leading row without a value dropped: the series starts at 2011-01-02.",
        "1 trailing row without a value dropped: the forecast of the series starts after the last observed "
        "value, at 2011-01-06.",
    )


def test_series_keep_their_order_and_their_own_span():
    frame = pl.DataFrame(
        {
            "shop": [7, 7, 3, 3, 3, 7],
            "t": ["2011-01-01", "2011-01-02", "2011-02-01", "2011-02-02", "2011-02-04", "2011-01-04"],
            "y": [1, 2, 5, 5, 5, 3],
        }
    )
    panel = make_panel(frame, target="y", time="t", id="shop")
    assert [series.id for series in panel.series] == ["7", "3"]
    np.testing.assert_array_equal(panel.series[0].values, [1, 2, np.nan, 3])
    np.testing.assert_array_equal(panel.series[1].values, [5, 5, np.nan, 5])
    assert panel.series[1].times[0] == np.datetime64("2011-02-01")
    assert "2 time steps of 8 without a row, masked: (7, 2011-01-03), (3, 2011-02-03)." in panel.notes
    assert "1 of 2 series are constant: '3'." in panel.notes


def test_constant_series_is_only_a_note():
    assert (
        "The series is constant: every value is 2." in make_panel(daily([2, 2]), target="y", time="t").notes
    )


def test_without_time_rows_are_numbered_and_timestamps_pointed_out():
    panel = make_panel(daily([3, None, 5]), target="y")
    assert panel.frequency == Frequency("count", 1)
    assert panel.series[0].times.tolist() == [1, 2, 3]
    assert any("taken in file order" in note for note in panel.notes)
    assert any("'t' looks like timestamps: pass --time t" in note for note in panel.notes)
    by_id = make_panel(pl.DataFrame({"id": ["a", "b", "a"], "y": [1, 2, 3]}), target="y", id="id")
    assert [series.times.tolist() for series in by_id.series] == [[1, 2], [1]]
    assert not any("timestamps" in note for note in by_id.notes)


def test_one_row_table():
    panel = make_panel(daily([4]), target="y", time="t", frequency=Frequency.from_text("1d"))
    assert panel.series[0].values.tolist() == [4]
    assert make_panel(pl.DataFrame({"y": [4]}), target="y").series[0].times.tolist() == [1]


def test_given_frequency_is_taken():
    frame = daily([1, 2, 3], ["2011-01-01", "2011-01-03", "2011-01-05"])
    panel = make_panel(frame, target="y", time="t", frequency=Frequency.from_text("1d"))
    np.testing.assert_array_equal(panel.series[0].values, [1, np.nan, 2, np.nan, 3])
    month_ends = daily([1, 2], ["2011-02-28", "2011-03-31"])
    panel = make_panel(month_ends, target="y", time="t", frequency=Frequency.from_text("1mo"))
    assert panel.frequency.to_text() == "1mo-end"


def test_sort_puts_rows_in_order():
    frame = daily([2, 1, 3], ["2011-01-02", "2011-01-01", "2011-01-03"])
    panel = make_panel(frame, target="y", time="t", sort=True)
    assert panel.series[0].values.tolist() == [1, 2, 3]
    assert "Rows were sorted by time." in panel.notes


def test_rows_of_series_may_interleave():
    frame = pl.DataFrame({"id": ["a", "b", "a", "b"], "t": [1, 1, 2, 2], "y": [1, 2, 3, 4]})
    panel = make_panel(frame, target="y", time="t", id="id")
    assert [series.values.tolist() for series in panel.series] == [[1, 3], [2, 4]]


# Times


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2011-01-31", "2011-02-28"], ["2011-01-31", "2011-02-28"]),
        (["2011-1-1 3:00", "2011-1-1 4:00"], ["2011-01-01T03:00", "2011-01-01T04:00"]),
        (["2011/01/01 03:00:00", "2011/01/02 03:00:00"], ["2011-01-01T03:00", "2011-01-02T03:00"]),
        (
            ["2011-01-01T00:00:00.250", "2011-01-01T00:00:00.5"],
            ["2011-01-01T00:00:00.250", "2011-01-01T00:00:00.500"],
        ),
        (["20110101T0000", "20110101T010000"], ["2011-01-01T00:00", "2011-01-01T01:00"]),
        (["2011-01-01 12:30 am", "2011-01-01 1:30 PM"], ["2011-01-01T00:30", "2011-01-01T13:30"]),
        (["2011-01", "2011-02"], ["2011-01-01", "2011-02-01"]),
        (["2011Q4", "2012-Q1"], ["2011-10-01", "2012-01-01"]),
        (["31 Jan 2011", "28 February 2011"], ["2011-01-31", "2011-02-28"]),
        (["Jan 31, 2011", "February 28, 2011"], ["2011-01-31", "2011-02-28"]),
        (["20110101", "20110102"], ["2011-01-01", "2011-01-02"]),
        (["2011-01-01T00:00Z", "2011-01-01T01:00+00:00"], ["2011-01-01T00:00", "2011-01-01T01:00"]),
        (["2011-01-01T00:00-0530", "2011-01-01T01:00-05:30"], ["2011-01-01T05:30", "2011-01-01T06:30"]),
    ],
)
def test_text_times(texts: list[str], expected: list[str]):
    panel = make_panel(daily([1, 2], texts), target="y", time="t")
    assert list(panel.series[0].times) == list(np.array(expected, dtype="datetime64[us]"))


def test_years_and_other_integers_count():
    for times in ([2010, 2011, 2013], ["2010", "2011", "2013"], [2010.0, 2011.0, 2013.0]):
        panel = make_panel(daily([1, 2, 3], times), target="y", time="t")
        assert panel.frequency == Frequency("count", 1)
        assert panel.series[0].times.tolist() == [2010, 2011, 2012, 2013]
    unix = make_panel(daily([1, 2], [1_300_000_000, 1_300_003_600]), target="y", time="t")
    assert any("Unix clock" in note for note in unix.notes)


def test_offsets_across_a_clock_change_become_utc():
    texts = ["2011-03-27T01:00+01:00", "2011-03-27T03:00+02:00", "2011-03-27T04:00+02:00"]
    panel = make_panel(daily([1, 2, 3], texts), target="y", time="t")
    assert panel.frequency.to_text() == "1h"
    assert panel.series[0].times[0] == np.datetime64("2011-03-27T00:00")
    assert any("converted from +01:00 and +02:00 to UTC" in note for note in panel.notes)


def test_local_days_stay_days():
    days = pd.date_range("2011-03-25", periods=5, tz="Europe/Berlin")
    panel = make_panel(pd.DataFrame({"t": days, "y": range(5)}), target="y", time="t")
    assert panel.frequency.to_text() == "1d"
    assert panel.series[0].times[0] == np.datetime64("2011-03-25")
    assert any("time zone" in note and "dropped" in note for note in panel.notes)


def test_zoned_hours_become_utc():
    hours = pd.date_range("2011-03-27", periods=5, freq="h", tz="Europe/Berlin")
    panel = make_panel(pd.DataFrame({"t": hours, "y": range(5)}), target="y", time="t")
    assert panel.frequency.to_text() == "1h"
    assert panel.series[0].times[0] == np.datetime64("2011-03-26T23:00")
    assert any("converted from Europe/Berlin to UTC" in note for note in panel.notes)


@pytest.mark.parametrize(
    ("times", "words", "hint"),
    [
        (["2011-01-01", "soon"], "text that is not a time in 1 row: row 2: 'soon'", "ISO 8601"),
        (["2011-01-01", "2011-02-30"], "row 2: '2011-02-30'", "ISO 8601"),
        (["01/02/2011", "02/02/2011"], "which number is the day .* row 1: '01/02/2011'", "ISO 8601"),
        (["31.01.11", "01.02.11"], "which number is the day", "ISO 8601"),
        (["31-Jan-11", "28-Feb-11"], "text that is not a time in 2 rows", "ISO 8601"),
        (
            ["2011-01-01T00:00", "2011-01-01T01:00Z"],
            "mixes times with and without a zone: row 1: .* row 2",
            "offset",
        ),
        (["2011-01-01", None], "missing a time in 1 row: row 2", "drop the rows"),
        (["2011-01-01", " na "], "missing a time in 1 row: row 2", "drop the rows"),
        ([dt.date(2011, 1, 1), None], "missing a time in 1 row: row 2", "drop the rows"),
        ([1.0, 1.5], "not whole or too large: row 2: '1.5'", "integers"),
        ([1, 2**63 - 1], "beyond 2\\^62", "smaller"),
        (["1.0", "1.5"], "not whole or too large: row 2: '1.5'", "integers"),
        (["1", "9" * 30], "not whole or too large: row 2: '9999", "integers"),
        ([True, False], "holds no times: its type is Boolean", "ISO 8601"),
    ],
)
def test_bad_times(times: list[Any], words: str, hint: str):
    error = refused(daily([1, 2], times))
    with pytest.raises(InputError, match=words):
        raise error
    assert "'t'" in error.message
    assert hint in error.hint


# Numbers


@pytest.mark.parametrize(
    "values",
    [
        [1, None, 3],
        ["1", "n/a", " 3.0 "],
        pd.array([1, None, 3], dtype="Int64"),
        pd.array([1, None, 3], dtype="Float64"),
        pd.array(["1", None, "3"], dtype="string"),
        pd.array([1, None, 3], dtype="int64[pyarrow]"),
        pd.Categorical(["1", None, "3"]),
        pd.Categorical([1, None, 3]),
        [Decimal("1"), None, Decimal("3.0")],
        [1, "null", "3"],
        [1.0, math.nan, 3.0],
    ],
)
def test_numbers_of_every_dtype(values: Any):
    panel = make_panel(pd.DataFrame({"t": DAYS[:3], "y": values}), target="y", time="t")
    np.testing.assert_array_equal(panel.series[0].values, [1, np.nan, 3])


@pytest.mark.parametrize("dtype", [pl.Decimal(10, 2), pl.Int8, pl.UInt64, pl.Float32, pl.Int128])
def test_numbers_of_polars_dtypes(dtype: Any):
    frame = daily([1, None, 3]).with_columns(pl.col("y").cast(dtype))
    np.testing.assert_array_equal(make_panel(frame, target="y", time="t").series[0].values, [1, np.nan, 3])


def test_large_integers():
    panel = make_panel(daily([2**62, 2**53, -(2**60)]), target="y", time="t")
    assert panel.series[0].values.tolist() == [2.0**62, 2.0**53, -(2.0**60)]


@pytest.mark.parametrize(
    ("values", "words", "hint"),
    [
        (["1", "abc", "5%"], "not numeric in 2 rows: row 2: 'abc', row 3: '5%'", "--target"),
        (["1,5", "2", "3"], "row 1: '1,5'", "decimal comma"),
        (["1.234,5", "2", "3"], "row 1: '1.234,5'", "decimal comma"),
        (["1,234.5", "2", "3"], "row 1: '1,234.5'", "thousands separators"),
        (["1,234", "2", "3"], "row 1: '1,234'", "decimal comma or a thousands separator"),
        ([True, False, True], "entries are true or false", "0 and 1"),
        ([dt.date(2011, 1, 1)] * 3, "its entries are of type Date", "numbers"),
        ([1.0, math.inf, -math.inf], "2 infinite values: row 2, row 3", "masked"),
        (["1", "inf", "2"], "1 infinite value: row 2", "masked"),
        ([None, None, None], "all values of the target column 'y' are missing", "--target"),
        (["", "NA", "nan"], "all values of the target column 'y' are missing", "--target"),
    ],
)
def test_bad_numbers(values: list[Any], words: str, hint: str):
    error = refused(daily(values))
    assert words in error.message
    assert hint in error.hint


def test_an_empty_series_is_named():
    frame = pl.DataFrame({"id": ["a", "b", "b"], "t": [1, 1, 2], "y": [1, None, None]})
    assert "all values are missing in 1 series: 'b'" in refused(frame, id="id").message


# Columns, roles, ids, frames


def test_unknown_column_suggests_the_nearest():
    error = refused(daily([1, 2]).rename({"y": "Rentals"}), target="rental")
    assert "no column 'rental' for --target; its columns are 't', 'Rentals'" in error.message
    assert "'Rentals'" in error.hint
    assert "pass --id" in refused(daily([1, 2]), id="zzz").hint


def test_outer_spaces_of_a_column_name_are_seen():
    frame = daily([1, 2]).rename({"y": "  y  "})
    assert refused(frame).hint == "did you mean '  y  '?"
    assert refused(daily([1, 2]), target="  y  ").hint == "did you mean 'y'?"


def test_a_column_to_pass_is_written_as_a_shell_takes_it():
    panel = make_panel(daily([1, 2]).rename({"t": "my time"}), target="y")
    assert any("pass --time 'my time' to use it" in note for note in panel.notes)


def test_one_column_for_two_roles():
    assert "'t' is given for both --time and --id" in refused(daily([1, 2]), id="t").message
    assert "'y' is given for both" in refused(daily([1, 2]), time="y").message


@pytest.mark.parametrize("ids", [["a", None], ["a", " "], [1.0, math.nan]])
def test_null_ids(ids: list[Any]):
    for frame in (daily([1, 2]).with_columns(id=pl.Series(ids)), daily([1, 2]).to_pandas().assign(id=ids)):
        assert "id column 'id' is empty in 1 row: row 2" in refused(frame, id="id").message


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pl.Series([1, 2]), ["1", "2"]),
        (pl.Series([1.0, 2.5]), ["1", "2.5"]),
        (pl.Series(["NA", "b"], dtype=pl.Categorical), ["NA", "b"]),
        (pl.Series(["x", "b"], dtype=pl.Enum(["b", "x"])), ["x", "b"]),
        (pl.Series([True, False]), ["True", "False"]),
    ],
)
def test_ids_of_every_dtype(ids: pl.Series, expected: list[str]):
    frame = pl.DataFrame({"y": [1, 2], "t": [5, 5], "id": ids})
    for each in (frame, frame.to_pandas()):
        panel = make_panel(each, target="y", time="t", id="id")
        assert [series.id for series in panel.series] == expected


@pytest.mark.parametrize(
    "frame",
    [
        pl.LazyFrame({"t": [1], "y": [1]}),
        {"t": [1], "y": [1]},
        pd.DataFrame([[1, 2]], columns=["y", "y"]),
        pd.Series([1]),
    ],
)
def test_what_is_no_frame(frame: Any):
    assert "expected a pandas or polars DataFrame" in refused(frame).message


def test_no_rows():
    assert "has no rows" in refused(pl.DataFrame({"t": [], "y": []})).message


# Grids that do not work out


def test_duplicate_times():
    error = refused(pl.DataFrame({"shop": [1, 2, 1, 2], "t": [1, 1, 2, 2], "y": [1, 2, 3, 4]}))
    assert "2 rows repeat a time of the same series: 1 in rows 1 and 2, 2 in rows 3 and 4" in error.message
    assert "--id" in error.hint
    assert "'shop'" in error.hint
    stacked = refused(pl.DataFrame({"shop": [1, 1, 2, 2], "t": [1, 2, 1, 2], "y": [1, 2, 3, 4]}))
    assert "duplicate times" in stacked.message
    by_id = refused(pl.DataFrame({"id": ["a", "a"], "t": [1, 1], "y": [1, 2]}), id="id")
    assert "(a, 1) in rows 1 and 2" in by_id.message
    assert "aggregate" in by_id.hint


@pytest.mark.parametrize(
    "times",
    [
        pd.to_datetime(["2011-01-01 00:00:00.000000100", "2011-01-01 00:00:00.000000200"]),
        pd.to_datetime(["2011-01-01 00:00:00.000000100", "2011-01-01 00:00:00.000000200"], utc=True),
        ["2011-01-01 00:00:00.000000100", "2011-01-01 00:00:00.000000200"],
    ],
    ids=["datetimes", "with a zone", "text"],
)
def test_times_below_a_microsecond_say_why_they_repeat(times: Any):
    error = refused(pd.DataFrame({"t": times, "y": [1, 2]}))
    assert "duplicate times" in error.message
    assert "microsecond" in error.hint
    spaced = pd.DataFrame({"t": pd.to_datetime([1_100, 2_100, 3_100]), "y": [1, 2, 3]})
    assert any("cut to microseconds" in note for note in make_panel(spaced, target="y", time="t").notes)


def test_repeated_clock_times_point_to_daylight_saving():
    times = ["2011-11-06 00:00", "2011-11-06 01:00", "2011-11-06 01:00", "2011-11-06 02:00"]
    assert "daylight saving" in refused(daily([1, 2, 3, 4], times)).hint


def test_unsorted_times():
    error = refused(daily([1, 2, 3], ["2011-01-01", "2011-01-03", "2011-01-02"]))
    assert "not sorted: row 3 (2011-01-02)" in error.message
    assert "--sort" in error.hint


def test_irregular_times():
    hours = [f"2011-01-01 {hour:02d}:00" for hour in range(6)] + ["2011-01-01 06:20"]
    error = refused(daily(range(7), hours))
    assert "irregular frequency: expected steps of 1 hour" in error.message
    assert "2011-01-01 06:20:00 1 hour 20 minutes after" in error.message
    assert "--frequency" in error.hint
    given = refused(daily(range(7), hours), frequency=Frequency.from_text("2h"))
    assert "expected steps of 2 hours, but 4 times are off" in given.message


@pytest.mark.parametrize(
    ("times", "text", "words"),
    [
        ([1, 2], "1h", "needs dates, but column 't' holds integers"),
        (DAYS[:2], "1", "counts integers, but column 't' holds dates"),
    ],
)
def test_frequency_of_the_wrong_kind(times: list[Any], text: str, words: str):
    assert words in refused(daily([1, 2], times), frequency=Frequency.from_text(text)).message
    assert (
        "needs a time column" in refused(daily([1]), time=None, frequency=Frequency.from_text("1h")).message
    )


def test_single_time_needs_a_frequency():
    assert "cannot be inferred" in refused(daily([1])).message


def test_a_mistyped_time_does_not_eat_memory():
    times = [dt.datetime(2011, 1, 1) + dt.timedelta(seconds=n) for n in range(20)] + [dt.datetime(2101, 1, 1)]
    error = refused(daily(range(21), times))
    assert "21 rows" in error.message
    assert "between 2011-01-01 00:00:19 and 2101-01-01 (row 21)" in error.message
    assert "mistyped" in error.hint
    assert "1,999,999,999,999 steps" in refused(daily(range(3), [1, 2, 1_999_999_999_999])).message


# Properties


@st.composite
def long_tables(draw: st.DrawFn) -> tuple[Frequency, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A frequency, and for each id a whole grid with its values, NaN where the table has no row."""
    text = draw(st.sampled_from(["1", "7", "15min", "1h", "1d", "1w", "1mo", "1mo-end", "1q", "1y", "1bd"]))
    frequency = Frequency.from_text(text)
    origin: Any = 40 if frequency.unit == "count" else np.datetime64("2011-01-28T00:00", "us")
    truth = {}
    for name in draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True)):
        length = draw(st.integers(24, 60))
        grid = frequency.after(frequency.at(origin, np.array([draw(st.integers(0, 300))]))[0], length)
        values = np.arange(length) + draw(st.integers(-1000, 1000)) / 8
        gaps = draw(st.lists(st.integers(1, length // 4 - 1), unique=True, max_size=4))
        values[[4 * gap for gap in gaps]] = np.nan
        truth[name] = (grid, values)
    return frequency, truth


@settings(deadline=None)
@given(long_tables(), st.randoms(use_true_random=False))
def test_every_value_lands_at_its_time(table: tuple[Frequency, dict[str, Any]], random: Any):
    frequency, truth = table
    rows = [
        (name, time, value)
        for name, (grid, values) in truth.items()
        for time, value in zip(grid, values, strict=True)
        if not np.isnan(value)
    ]
    random.shuffle(rows)
    ids, times, values = (list(column) for column in zip(*rows, strict=True))
    frame = pl.DataFrame({"id": ids, "t": np.array(times), "y": values})
    panel = make_panel(frame, target="y", time="t", id="id", sort=True)
    assert panel.frequency == frequency
    assert [series.id for series in panel.series] == list(dict.fromkeys(ids))
    for series in panel.series:
        grid, expected = truth[series.id]
        np.testing.assert_array_equal(series.times, grid)
        np.testing.assert_array_equal(series.values, expected)
    assert same(panel, make_panel(frame.to_pandas(), target="y", time="t", id="id", sort=True))
    text = frame.with_columns(pl.col("t").cast(pl.String), pl.col("y").cast(pl.String))
    assert same(panel, make_panel(text, target="y", time="t", id="id", sort=True))


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9), st.integers(-9, 9)), min_size=1, max_size=30).filter(
        lambda values: any(value is not None for value in values)
    ),
    st.sampled_from(["time", "row"]),
)
@settings(deadline=None)
def test_pandas_polars_and_csv_give_the_same_panel(
    tmp_path_factory: pytest.TempPathFactory, values: list[float | None], order: str
):
    frame = pl.DataFrame({"t": range(len(values)), "y": pl.Series(values, dtype=pl.Float64, strict=False)})
    time = "t" if order == "time" else None
    panel = make_panel(frame, target="y", time=time)
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    frame.write_csv(path)
    shuffled_index = frame.to_pandas().set_index(np.arange(len(values))[::-1])
    assert same(panel, make_panel(shuffled_index, target="y", time=time))
    assert same(panel, make_panel(read_table(path), target="y", time=time))


def read_or_refused(path: Path, encoding: str) -> None:
    try:
        rows = read_table(path, encoding=encoding).height
    except InputError as error:
        refusal = error
    else:
        assert rows > 0
        return
    assert refusal.message
    assert refusal.hint


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(["utf-8", "latin-1", "utf-16"]))
def test_any_bytes_read_or_are_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, encoding: str
):
    path = tmp_path_factory.mktemp("bytes") / "table.csv"
    path.write_bytes(content)
    read_or_refused(path, encoding)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet='ab,;"\n\r\t |1', max_size=40))
def test_any_text_reads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, content: str):
    path = tmp_path_factory.mktemp("text") / "table.csv"
    path.write_text(content, encoding="utf-8", newline="")
    read_or_refused(path, "utf-8")


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.text(alphabet='aé1,;" \n', max_size=6), min_size=3, max_size=3), min_size=1, max_size=12
    ),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_reads_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], quoting: Any, separator: str, ending: str
):
    path = tmp_path_factory.mktemp("csv") / "table.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=ending)
        writer.writerows([["first", "second", "third"], *rows])
    read = [[field or "" for field in row] for row in read_table(path).rows()]
    assert read == rows
