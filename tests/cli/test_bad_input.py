"""Bad input: one clear message, exit code 2, nothing on standard output, nothing written."""

import errno
import json
import os

import pytest
from bad_input_table import CASES, FIT, GOOD, call, run

SMALL = ["--hidden-sizes", "4", "--max-epochs", "1", "--steps-per-epoch", "2"]


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(GOOD)
    return path


def refused(result, *words):
    code, out, errors = result
    assert code == 2
    assert out == ""
    assert sum(line.startswith(("error:", "╭─ Error")) for line in errors.splitlines()) == 1
    flat = " ".join(errors.split())
    for word in words:
        assert word.lower() in flat.lower(), errors


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_anything_is_written(case, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    refused(run(tmp_path, case), *CASES[case][2])
    assert {path.name for path in tmp_path.iterdir()} <= {"table.csv"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[training]\nlerning_rate = 0.1\n", ["lerning_rate", "did you mean 'training.learning_rate'"]),
        ("[trainin]\nseed = 1\n", ["trainin", "did you mean 'training'"]),
        ("training = 3\n", ["section"]),
        ("[training\n", ["not valid TOML"]),
        ("[training]\nseed = -1\n", ["training.seed"]),
    ],
    ids=["unknown key", "unknown section", "no section", "syntax", "out of range"],
)
def test_bad_configuration(good, tmp_path, text, words):
    config = tmp_path / "run.toml"
    config.write_text(text)
    refused(call(["fit", str(good), *FIT, "--config", str(config), "--out", str(tmp_path / "run")]), *words)
    assert not (tmp_path / "run").exists()


def test_unwritable_folder_names_the_cause(good, tmp_path):
    (tmp_path / "file").write_text("")
    refused(call(["fit", str(good), *FIT, *SMALL, "--out", str(tmp_path / "file" / "run")]), "--out")


def test_full_disk_leaves_no_run(good, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(
        call(["fit", str(good), *FIT, *SMALL, "--out", str(tmp_path / "run")]), "No space left", "free some"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv"}


@pytest.fixture
def fitted(good, tmp_path):
    code, _, errors = call(["fit", str(good), *FIT, *SMALL, "--out", str(tmp_path / "run"), "--quiet"])
    assert code == 0, errors
    return tmp_path / "run"


def test_an_existing_run_is_not_overwritten(fitted, good, tmp_path):
    before = (fitted / "metrics.json").read_bytes()
    arguments = ["fit", str(good), *FIT, *SMALL, "--out", str(fitted)]
    refused(call(arguments), "holds a run already", "--overwrite")
    assert (fitted / "metrics.json").read_bytes() == before
    assert call([*arguments, "--overwrite", "--quiet"])[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "run"}


def test_overwrite_does_not_delete_what_is_no_run(good, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    arguments = ["fit", str(good), *FIT, *SMALL, "--out", str(tmp_path / "precious"), "--overwrite"]
    refused(call(arguments), "is not a run folder")
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "x"


def test_finished_run_has_nothing_to_resume(fitted):
    refused(call(["fit", "--resume", "--out", str(fitted)]), "finished")


def test_resume_refuses_other_settings(fitted):
    refused(call(["fit", "--resume", "--out", str(fitted), "--seed", "3"]), "seed")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing", "foreign", "version"])
def test_damaged_model(fitted, damage):
    from safetensors.torch import load_file, save_file

    path = fitted / "model.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "garbage":
        path.write_bytes(b"not a model")
    elif damage == "missing":
        path.unlink()
    elif damage == "foreign":
        save_file(load_file(path), path)
    else:
        content = path.read_bytes()
        assert b'\\"format\\": 1' in content
        path.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    words = ["format 9", "version"] if damage == "version" else ["model.safetensors", "fit the model again"]
    refused(call(["predict", str(fitted)]), *words)


def test_predict_refuses_what_does_not_fit(fitted, tmp_path):
    daily = tmp_path / "daily.csv"
    daily.write_text("when,value\n" + "".join(f"2024-01-{d:02d},{d}\n" for d in range(1, 20)))
    refused(call(["predict", str(fitted), "--data", str(daily)]), "1 hour")
    other = tmp_path / "other.csv"
    other.write_text("when,price\n2024-01-01,1\n")
    refused(call(["predict", str(fitted), "--data", str(other)]), "value")
    refused(call(["predict", str(tmp_path / "nowhere")]), "no run folder")
    refused(call(["predict", str(fitted), "--out", str(tmp_path / "x.xlsx")]), ".csv")
    taken = tmp_path / "taken.csv"
    taken.write_text("mine")
    refused(call(["predict", str(fitted), "--out", str(taken)]), "--overwrite")
    assert taken.read_text() == "mine"


def test_constant_series_works_and_says_so(tmp_path):
    path = tmp_path / "flat.csv"
    path.write_text("value\n" + "5\n" * 60)
    out = tmp_path / "run"
    code, _, errors = call(
        ["fit", str(path), "--target", "value", "--horizon", "3", *SMALL, "--out", str(out)]
    )
    assert code == 0, errors
    assert "constant" in errors
    assert json.loads((out / "metrics.json").read_text())["scores"]["gru"]["mase"] is None
