"""Bad input: one clear message, exit code 2, nothing on standard output, nothing written."""

import errno
import json
import os
import shutil
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
from bad_input_table import CASES, FIT, SMALL, call, finished_run, plain, prepare, run, table

from gatewright.tasks.forecast.objective import ForecastObjective


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "closed/run"],
        ["predict", "run", "--out", "closed/f.csv"],
        ["predict", "run", "--data", "closed/table.csv"],
        ["fit", "--resume", "--out", "closed/run"],
        ["fit", "table.csv", *FIT, "--out", "closed/run"],
        ["fit", "table.csv", *FIT, "--out", "run2", "--config", "closed/run.toml"],
        ["fit", "closed/table.csv", *FIT, "--out", "run2"],
    ],
    ids=" ".join,
)
def test_a_folder_that_may_not_be_entered_is_named(arguments, tmp_path, monkeypatch):
    prepare(tmp_path, CASES["run exists"])
    (tmp_path / "closed").mkdir()
    stat = os.stat

    def refuse(path, *rest, **options):
        if isinstance(path, (str, Path)) and Path(path).parent.name == "closed":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *rest, **options)

    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    # root may enter every folder: the refusal is put in by hand
    monkeypatch.setattr(os, "stat", refuse)
    code, out, errors = call(arguments)
    monkeypatch.undo()
    assert (code, out) == (2, ""), errors
    assert errors.count("error:") == errors.count("hint:") == 1, errors
    assert "closed" in errors
    assert "permission" in errors.lower()
    assert snapshot(tmp_path) == before


def test_a_model_that_may_not_be_read_is_not_said_to_be_missing(tmp_path, monkeypatch):
    prepare(tmp_path, CASES["run exists"])
    opened = Path.open

    def refuse(path, *rest, **options):
        if path.name == "model.safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *rest, **options)

    monkeypatch.setattr(Path, "open", refuse)
    code, out, errors = call(["predict", str(tmp_path / "run")])
    assert (code, out) == (2, "")
    assert "model.safetensors: Permission denied" in errors
    assert "hint: check the permissions\n" in errors


def test_memory_that_runs_out_in_the_middle_is_told(tmp_path, monkeypatch):
    (tmp_path / "table.csv").write_text(table())
    arguments = ["fit", str(tmp_path / "table.csv"), *FIT, *SMALL, "--out", str(tmp_path / "run"), "--quiet"]
    for error in (
        MemoryError("Unable to allocate 7 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes. Error"),
    ):
        monkeypatch.setattr(ForecastObjective, "training_loss", mock.Mock(side_effect=error))
        code, _, errors = call([*arguments, "--overwrite"])
        assert code == 2
        assert "error: not enough memory: " in errors
        assert "hint: lower --hidden-sizes" in errors


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


@pytest.mark.parametrize("row", [20, 78], ids=["training part", "test part"])
@pytest.mark.parametrize("scaling", ["standard", "robust", "none"])
def test_an_outlier_beyond_all_measure_is_survived_and_told(row, scaling, tmp_path):
    """It may not be an error: no warning, no traceback, and no number of 300 digits."""
    path, run = tmp_path / "table.csv", tmp_path / "run"
    path.write_text(
        table(lambda lines: [*lines[:row], lines[row].split(",")[0] + ",1e300", *lines[row + 1 :]])
    )
    code, out, errors = call(["fit", str(path), *FIT, *SMALL, "--scaling", scaling, "--out", str(run)])
    assert code == 0, errors
    assert max(map(len, (out + errors).split())) < 200
    assert (run / "report.html").is_file()


@pytest.mark.parametrize("factor", ["e150", "e300"])
def test_a_table_of_vast_values_has_a_report(factor, tmp_path):
    path, run = tmp_path / "table.csv", tmp_path / "run"
    path.write_text(table(lambda lines: [lines[0]] + [line + factor for line in lines[1:]]))
    assert call(["fit", str(path), *FIT, *SMALL, "--out", str(run), "--quiet"]) == (0, "", "")
    assert "no values to draw" in (run / "report.html").read_text()
