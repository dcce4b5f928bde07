"""``gatewright diagnose``: a run folder gets its page, and what cannot be diagnosed says why."""

import json

import pytest
from bad_input_table import FIT, call, table

SIZES = ["--hidden-sizes", "6,4", "--steps-per-epoch", "5", "--batch-size", "8", "--max-epochs", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = folder / "table.csv"
    data.write_text(table(rows=200))
    code, _, errors = call(["fit", str(data), *FIT, *SIZES, "--out", str(folder / "run"), "--quiet"])
    assert (code, errors) == (0, "")
    return folder / "run"


def test_the_page_goes_into_the_run_folder(run):
    code, out, errors = call(["diagnose", str(run)])
    assert code == 0
    assert out.startswith("Verdict:")
    assert f"report: {run / 'diagnosis.html'}" in out
    assert "gradients through time" in errors
    page = (run / "diagnosis.html").read_text(encoding="utf-8")
    assert "Diagnosis of run" in page
    assert "<script" not in page
    document = json.loads((run / "diagnosis.json").read_text())
    assert document["findings"]


def test_one_document_and_nothing_else_with_trials(run):
    given = ["diagnose", str(run), "--json", "--trials", "--minutes", "0.1", "--needed-lag", "5"]
    code, out, errors = call(given)
    assert (code, errors) == (0, "")
    document = json.loads(out)
    assert document == json.loads((run / "diagnosis.json").read_text())
    assert document["measures"]["needed_lag"] == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere"], "no run folder nowhere"),
        (["RUN", "--minutes", "0"], "minutes as a number above 0"),
        (["RUN", "--needed-lag", "0"], "needed_lag as a whole number"),
        (["RUN", "--data", "gone.csv"], "gone.csv"),
    ],
)
def test_what_is_refused(run, given, message):
    code, out, errors = call(["diagnose", *(str(run) if part == "RUN" else part for part in given)])
    assert (code, out) == (2, "")
    assert message in errors
    assert "Traceback" not in errors
