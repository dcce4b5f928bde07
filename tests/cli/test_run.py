"""The command line from a table to a run folder, interrupted, killed and resumed."""

import json
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
from bad_input_table import FIT, call, table

from gatewright.tasks.forecast.run_folder import FILES

SIZES = ["--hidden-sizes", "6,4", "--steps-per-epoch", "5", "--batch-size", "4", "--patience", "50"]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(table(rows=200))
    return path


def numbers(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name not in ("training_seconds", "notes")}


def start(arguments):
    command = [sys.executable, "-c", "import sys; from gatewright.cli.main import run; run()", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_epoch(path):
    """Until the checkpoint has been written a few times, so that the run is in the middle of training."""
    seen = set()
    for _ in range(6000):
        if path.exists():
            seen.add(path.stat().st_mtime_ns)
        if len(seen) >= 4:
            return
        time.sleep(0.01)
    raise AssertionError("training did not get under way")


def test_run_folder_is_whole_and_repeatable(data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["fit", str(data), *FIT, *SIZES, "--max-epochs", "2"]
    code, out, errors = call([*arguments, "--out", str(first), "--json"])
    assert (code, errors) == (0, "")
    document = json.loads(out)
    assert document["run"] == str(first)
    assert {path.name for path in first.iterdir()} == set(FILES)
    code, out, _ = call(["fit", "--config", str(first / "config.toml"), "--out", str(second), "--quiet"])
    assert (code, out) == (0, "")
    assert numbers(first) == numbers(second)
    for name in ("model.safetensors", "forecast.csv", "backtest.csv", "config.toml"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    other = tmp_path / "other"
    assert call([*arguments, "--seed", "1", "--out", str(other), "--quiet"])[0] == 0
    assert numbers(other)["scores"]["gru"] != numbers(first)["scores"]["gru"]


def test_predict_gives_the_forecast_of_the_run(data, tmp_path):
    run = tmp_path / "run"
    assert call(["fit", str(data), *FIT, *SIZES, "--max-epochs", "1", "--out", str(run), "--quiet"])[0] == 0
    code, out, errors = call(["predict", str(run)])
    assert (code, errors) == (0, "")
    assert out == (run / "forecast.csv").read_text()
    assert call(["predict", str(run), "--out", str(tmp_path / "f.parquet")])[0] == 0
    frame = pl.read_parquet(tmp_path / "f.parquet")
    assert frame.columns[:4] == ["unique_id", "ds", "cutoff", "gru-lo-90"]
    assert str(frame["ds"][0]) == "2024-01-09 08:00:00"  # 200 hours from the first of January
    code, out, _ = call(["predict", str(run), "--json"])
    assert len(json.loads(out)["forecast"]) == 3


@pytest.mark.parametrize("kind", ["interrupted", "killed"])
def test_a_broken_run_ends_as_an_unbroken_one(kind, data, tmp_path):
    arguments = ["fit", str(data), *FIT, *SIZES, "--max-epochs", "60", "--dropout", "0.3"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start([*arguments, "--out", str(broken)])
    wait_for_epoch(tmp_path / "broken.partial" / "checkpoint.safetensors")
    process.send_signal(signal.SIGINT if kind == "interrupted" else signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    if kind == "interrupted":
        assert process.returncode == 130, errors
        assert "--resume" in errors
        assert json.loads((broken / "metrics.json").read_text())["status"] == "interrupted"
        assert set(FILES) <= {path.name for path in broken.iterdir()}
    else:
        assert process.returncode == -signal.SIGKILL
        assert not broken.exists()
        code, _, message = call([*arguments, "--out", str(broken)])
        assert code == 2
        assert "unfinished run" in message
    assert call(["fit", "--resume", "--out", str(broken), "--quiet"])[0] == 0
    assert call([*arguments, "--out", str(whole), "--quiet"])[0] == 0
    assert numbers(broken) == numbers(whole)
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert {path.name for path in broken.iterdir()} == set(FILES)
    assert not (tmp_path / "broken.partial").exists()


def test_a_second_run_does_not_disturb_the_first(data, tmp_path):
    arguments = ["fit", str(data), *FIT, *SIZES, "--max-epochs", "300", "--out", str(tmp_path / "run")]
    first = start([*arguments, "--overwrite"])
    wait_for_epoch(tmp_path / "run.partial" / "checkpoint.safetensors")
    for second in ([*arguments, "--overwrite"], arguments, ["fit", "--resume", "--out", arguments[-1]]):
        code, _, errors = call(second)
        assert code == 2
        assert f"in use by process {first.pid}" in errors
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 130, errors
    assert set(FILES) <= {path.name for path in (tmp_path / "run").iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "run"}


def test_a_reader_that_goes_away_is_no_error(data, tmp_path):
    run = tmp_path / "run"
    assert call(["fit", str(data), *FIT, *SIZES, "--max-epochs", "1", "--out", str(run), "--quiet"])[0] == 0
    program = f"{sys.executable} -c 'import sys; from gatewright.cli.main import run; run()'"
    pipe = subprocess.run(
        f"{program} predict {run} | true", shell=True, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in pipe.stderr
