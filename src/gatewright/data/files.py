"""Table files: CSV in any common separator and encoding, gzip, Parquet, and what can be wrong with them."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from itertools import islice
from pathlib import Path

import polars as pl

from gatewright.data.wording import plural
from gatewright.errors import InputError

_PARQUET, _GZIP, _ZIP = b"PAR1", b"\x1f\x8b", b"PK\x03\x04"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SEPARATORS = (",", ";", "\t", "|")


def read_table(path: Path, *, encoding: str = "utf-8") -> pl.DataFrame:
    """Read a CSV or Parquet file, either of them gzipped or not, told apart by content.

    The CSV separator (comma, semicolon, tab or bar) is found from the header. CSV columns come back as
    text, just as written, with null for empty fields: `001` stays an id, and `make_panel` reads numbers
    and times with the row at hand.

    Args:
        path: the file.
        encoding: of the text, where the file is CSV.

    Returns:
        The table, at least one row.

    Raises:
        InputError: the file is missing, unreadable, empty, damaged, binary, ragged or wrongly encoded.
    """
    path = Path(path)
    data = _contents(path)
    if data.startswith(_GZIP):
        data = _unzipped(path, data)
    if data.startswith(_PARQUET):
        frame = _parquet(path, data)
    elif path.suffix.lower() in (".parquet", ".pq"):
        raise InputError(
            f"{path} is a damaged Parquet file, or none at all: its first bytes are not a Parquet mark",
            "write the file again, or name it .csv if it is text",
        )
    else:
        frame = _csv(path, _decoded(path, data, encoding))
    if frame.height == 0:
        raise InputError(f"{path} has a header but no rows", "the table needs at least one row of data")
    return frame


def _contents(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InputError(f"expected a table file, received a folder: {path}", "name one file inside it")
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"there is no file {path}", "check the path and the folder it is relative to"
        ) from None
    except PermissionError:
        raise InputError(f"no permission to read {path}", "change the file's permissions") from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {error}", "check the path and the disk") from None
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        raise InputError(f"{path} is empty", "the table needs a header and at least one row of data")
    return data


def _unzipped(path: Path, data: bytes) -> bytes:
    try:
        inside = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is a damaged gzip file: {error}", "compress or download it again") from None
    if not inside.strip(b"\xef\xbb\xbf \t\r\n"):
        raise InputError(f"{path} is empty", "the table needs a header and at least one row of data")
    return inside


def _parquet(path: Path, data: bytes) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(data))
    except BaseException as error:
        # A panic inside polars is no Exception, and a damaged file can cause one.
        if not isinstance(error, (pl.exceptions.PolarsError, OSError, ValueError)) and (
            type(error).__name__ != "PanicException"
        ):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is a damaged Parquet file: {reason}", "write the file again") from None


def _decoded(path: Path, data: bytes, encoding: str) -> str:
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise InputError(
            f"no encoding is called {encoding!r}", "use e.g. --encoding utf-8 or --encoding latin-1"
        ) from None
    wide = codec.startswith(("utf-16", "utf-32"))
    if data.startswith(_UTF16) and not wide:
        raise InputError(f"{path} is UTF-16 text, not {encoding}", "pass --encoding utf-16")
    if data.startswith(_ZIP):
        raise InputError(
            f"{path} is a spreadsheet or a zip archive, not CSV or Parquet",
            "export the sheet as CSV, or unpack the archive",
        )
    if b"\0" in data and not wide:
        raise InputError(
            f"{path} is a binary file: expected CSV or Parquet, received zero bytes in the text",
            "export the table as CSV or Parquet",
        )
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        remedy = "pass --encoding latin-1, or the right one, or re-save the file as UTF-8"
        raise InputError(
            f"{path} is not {encoding} text: byte 0x{data[error.start]:02x} on line {line}", remedy
        ) from None
    except LookupError:
        raise InputError(
            f"{encoding!r} is not a text encoding", "use e.g. --encoding utf-8 or --encoding latin-1"
        ) from None


def _csv(path: Path, text: str) -> pl.DataFrame:
    if "\r" in text:
        text = re.sub("\r+\n?", "\n", text)
    text = text.strip("\n") + "\n"
    separator = _separator(text)
    names, rows, blank = _scan(path, text, separator)
    try:
        source = io.BytesIO(text.encode())
        frame = pl.read_csv(source, separator=separator, infer_schema=False, new_columns=names)
    except pl.exceptions.PolarsError:
        frame = None
    if frame is None or frame.height != rows:
        # Quotes inside unquoted fields are where the fast reader and the scan part ways.
        return _from_rows(text, separator, names)
    if blank and len(names) > 1:
        keep = pl.Series([True]).new_from_index(0, frame.height).scatter(blank, False)
        frame = frame.filter(keep)
    return frame


def _from_rows(text: str, separator: str, names: list[str]) -> pl.DataFrame:
    """Build the frame from rows that the scan has accepted."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    next(rows)
    kept = [row or [""] for row in rows if row or len(names) == 1]
    fields = [[row[place] or None for row in kept] for place in range(len(names))]
    return pl.DataFrame(dict(zip(names, fields, strict=True)), schema=dict.fromkeys(names, pl.String))


def _separator(text: str) -> str:
    """Pick the separator that splits the first lines into most fields, the same number each."""
    sample = list(islice(io.StringIO(text), 20))

    def score(separator: str) -> tuple[bool, int]:
        try:
            widths = [len(row) for row in csv.reader(sample, delimiter=separator) if row]
        except csv.Error:
            return False, 0
        usual, times = Counter(widths[1:] or widths).most_common(1)[0]
        return widths[0] > 1 and widths[0] == usual and 2 * times >= len(widths[1:]), widths[0]

    return max(_SEPARATORS, key=score)


def _scan(path: Path, text: str, separator: str) -> tuple[list[str], int, list[int]]:
    """Check every row's width; return the column names, the count of rows, and which are blank."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    blank: list[int] = []
    rows = -1
    try:
        names = [name.strip() for name in next(reader)]
        for rows, row in enumerate(reader):
            if not row:
                blank.append(rows)
            elif len(row) != len(names):
                raise InputError(
                    f"{path} is ragged: row {rows + 1 - len(blank)} (line {reader.line_num}) has "
                    f"{plural(len(row), 'field')}, the header has {len(names)}",
                    "quote fields that hold the separator, and give every row the same number of fields",
                )
    except csv.Error as error:
        row = "the header" if rows < 0 and reader.line_num <= 1 else f"row {rows + 2 - len(blank)}"
        raise InputError(
            f"{path} has a broken field in {row} (line {reader.line_num}): {error}",
            "a quoted field needs a closing quote, and a quote inside it is written twice",
        ) from None
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InputError(
            f"{path} has duplicate column names: {', '.join(map(repr, repeated))}",
            "give every column a name of its own",
        )
    return names, rows + 1, blank
