from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import numpy as np
from diagnosis_examples import full_report, reports
from hypothesis import given

from gatewright.reports.diagnosis_contents import Charts, DiagnosisReport
from gatewright.reports.diagnosis_json import report_json


def refuse(token: str) -> NoReturn:
    raise AssertionError(f"{token} is no JSON")


def read(text: str) -> dict[str, Any]:
    return json.loads(text, parse_constant=refuse)


def written(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


@given(reports)
def test_any_report_is_strict_json_that_holds_its_numbers(report: DiagnosisReport) -> None:
    text = report_json(report)
    document = read(text)
    text.encode("utf-8")
    assert report_json(report) == text
    assert list(document["measures"].values()) == [written(value) for value in report.measures.values()]
    assert document["charts"]["losses"] == [written(value) for value in report.charts.losses.tolist()]
    assert [trial["judgement"] for trial in document["trials"]] == [one.judgement for one in report.trials]
    assert len(document["findings"]) == len(report.findings)


def test_the_document_has_a_format_and_every_attribute() -> None:
    document = read(report_json(full_report()))
    assert list(document) == [
        "format",
        "version",
        "title",
        "verdict",
        "good",
        "findings",
        "measures",
        "measure_texts",
        "trials",
        "charts",
        "facts",
        "notes",
        "command",
    ]
    assert document["format"] == "gatewright diagnosis"
    assert document["version"] == 1
    assert document["good"] is False
    assert document["findings"][0]["remedies"][0]["code"] == "LSTM(8, 64, forget_bias=4)"
    assert document["measures"] == {"reach": 28, "at_needed": 2.4e-4, "saturation": None, "longest": "inf"}
    assert np.shape(document["charts"]["baseline_curves"]) == (3, 5)


def test_numpy_scalars_and_narrow_arrays_are_written() -> None:
    charts = Charts(losses=np.array([0.5, np.nan], np.float32), needed_lag=np.int64(7))  # type: ignore[arg-type]
    report = DiagnosisReport("t", "v", np.bool_(True), [], {"a": np.float32(0.25)}, charts=charts)  # type: ignore[arg-type]
    document = read(report_json(report))
    assert document["good"] is True
    assert document["measures"] == {"a": 0.25}
    assert document["charts"]["losses"] == [0.5, None]
    assert document["charts"]["needed_lag"] == 7


def test_halves_of_surrogate_pairs_are_written_out_and_stay_apart() -> None:
    halves = [chr(0xD800), chr(0xD801)]
    report = DiagnosisReport("a \ud800", "v", True, [], dict(zip(halves, (1.0, 2.0), strict=True)))
    document = read(report_json(report))
    assert document["title"] == "a \\ud800"
    assert document["measures"] == {"\\ud800": 1, "\\ud801": 2}
