"""Bad input: one clear message, exit code 2, nothing on standard output, nothing written."""

import json
import shutil

import polars as pl
import pytest
from bad_input_table import CASES, FIT, SMALL, call, finished_run, plain, prepare, run, table


@pytest.fixture(scope="module", autouse=True)
def _tidy():
    yield
    if finished_run.cache_info().currsize:
        shutil.rmtree(finished_run())
        finished_run.cache_clear()


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_and_nothing_is_written(case, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "work"
    folder.mkdir()
    prepare(folder, CASES[case])
    before = snapshot(tmp_path)
    monkeypatch.chdir(folder)
    code, out, errors = run(folder, CASES[case])
    assert (code, out) == (2, ""), errors
    assert snapshot(tmp_path) == before
    assert "Traceback" not in errors
    lines = errors.splitlines()
    assert sum(line.startswith(("error:", "╭─ Error")) for line in lines) == 1, errors
    # this library's own messages end with one hint; typer's name the options
    if "╭─ Error" not in errors:
        assert sum(line.startswith("hint:") for line in lines) == 1, errors
        assert lines[-1].startswith("hint:"), errors
    for word in CASES[case].words:
        assert word.lower() in plain(errors).lower(), errors


def test_a_message_shows_names_as_they_are(tmp_path):
    """No markup and no pictures are made of what the user wrote."""
    for name in ("[bold]x[/bold].csv", "a:car:.csv"):
        code, _, errors = call(["fit", str(tmp_path / name), *FIT])
        assert code == 2
        assert name in errors


@pytest.mark.parametrize("scaling", ["standard", "robust", "none"])
def test_constant_series_works_and_says_so(scaling, tmp_path):
    path = tmp_path / "flat.csv"
    path.write_text("value\n" + "5\n" * 60)
    out = tmp_path / "run"
    arguments = ["fit", str(path), "--target", "value", "--horizon", "3", *SMALL, "--scaling", scaling]
    code, _, errors = call([*arguments, "--out", str(out)])
    assert code == 0, errors
    assert "The series is constant: every value is 5." in errors
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["scores"]["gru"]["mase"] is None
    assert metrics["scores"]["naive"]["smape"] == 0
    assert any("constant" in note for note in metrics["notes"])


def test_very_large_values_are_forecast(tmp_path):
    path = tmp_path / "big.csv"
    path.write_text(table(lambda lines: [lines[0]] + [line + "e30" for line in lines[1:]]))
    code, _, errors = call(["fit", str(path), *FIT, *SMALL, "--out", str(tmp_path / "run"), "--quiet"])
    assert (code, errors) == (0, "")
    forecast = pl.read_csv(tmp_path / "run" / "forecast.csv")["gru"].to_numpy()
    assert ((forecast > 5e31) & (forecast < 2e32)).all()
