"""A diagnosis as JSON, for programs: strict, stable, complete."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from gatewright.reports.diagnosis_contents import DiagnosisReport

FORMAT = "gatewright diagnosis"
VERSION = 1


def report_json(report: DiagnosisReport) -> str:
    r"""Write a diagnosis as a JSON document.

    The document is an object with ``format`` and ``version``, then the attributes of `DiagnosisReport` by
    name and in order; what stands inside is written alike. Arrays become lists, [rows, columns] a list of
    rows. JSON has no word for numbers that are not finite: NaN is ``null``, infinity the string ``"inf"`` or
    ``"-inf"``. Half a surrogate pair in a name is written out, as ``\ud800``. The same report gives the
    same text; a later version of the format has another number.

    Args:
        report: what to write.

    Returns:
        The document, to be written as UTF-8; it ends with a line break.
    """
    document = {"format": FORMAT, "version": VERSION, **_plain(report)}
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _plain(value: Any) -> Any:
    """Turn dataclasses, mappings, arrays and numbers into what JSON knows."""
    if value is None or isinstance(value, bool | np.bool_):
        return None if value is None else bool(value)
    if isinstance(value, str):
        return _whole(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return _number(float(value))
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {_whole(str(key)): _plain(one) for key, one in value.items()}
    if is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return [_plain(one) for one in value]


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _whole(text: str) -> str:
    """Replace halves of surrogate pairs, which UTF-8 cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
