"""What is seen on a terminal and what a machine reads: progress, interrupts, JSON, a full disk."""

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys

import polars as pl
import pytest
from bad_input_table import FIT, GOOD, SMALL, call
from rich.console import Console

import gatewright
from gatewright.cli.main import main
from gatewright.cli.output import PlainConsole
from gatewright.cli.progress import TerminalWatcher
from gatewright.tasks.forecast.objective import ForecastObjective
from gatewright.training.loop import LoopOptions

OPTIONS = LoopOptions(max_epochs=2, steps_per_epoch=3, learning_rate=0.1, gradient_clip=1.0, patience=3)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(GOOD)
    return path


def watch(*, terminal, quiet=False):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, highlight=False)
    watcher = TerminalWatcher(console, quiet=quiet)
    watcher.begin(0, OPTIONS)
    for epoch in (1, 2):
        for step in (1, 2, 3):
            watcher.step(epoch, step, 0.25)
        watcher.epoch({"validation_loss": 0.5})
    watcher.end()
    return text.getvalue()


def test_progress_shows_losses_and_time_left_on_a_terminal_only():
    shown = watch(terminal=True)
    for part in ("epoch 2", "loss 0.2500", "validation 0.5000", "left at most"):
        assert part in shown
    assert watch(terminal=False) == ""
    assert watch(terminal=True, quiet=True) == ""


def test_first_interrupt_asks_to_stop_and_the_second_stops_at_once():
    text = io.StringIO()
    before = signal.getsignal(signal.SIGINT)
    watcher = TerminalWatcher(Console(file=text))
    watcher.begin(0, OPTIONS)
    assert not watcher.stop()
    signal.raise_signal(signal.SIGINT)
    assert watcher.stop()
    assert "stopping after this step" in text.getvalue()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    watcher.end()
    assert signal.getsignal(signal.SIGINT) is before


def interrupted_at(monkeypatch, epoch, step, times=1):
    """Press the interrupt key in the middle of a step."""
    loss = ForecastObjective.training_loss

    def interrupt(self, now, at):
        if (now, at) == (epoch, step):
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return loss(self, now, at)

    monkeypatch.setattr(ForecastObjective, "training_loss", interrupt)


LONGER = [*SMALL[:2], "--max-epochs", "3", "--steps-per-epoch", "3"]


def test_an_interrupted_run_says_how_to_go_on(data, tmp_path, monkeypatch):
    arguments = ["fit", str(data), *FIT, *LONGER]
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2, 1)
        code, out, errors = call([*arguments, "--out", str(run)])
    assert code == 130
    assert f"gatewright fit --resume --out {run}" in errors
    assert "interrupted after 1 epoch (" in out
    forecast = pl.read_csv(run / "forecast.csv")
    assert forecast["gru"].is_finite().all()
    code, out, _ = call(["predict", str(run)])
    assert (code, out) == (0, (run / "forecast.csv").read_text())
    code, out, errors = call(["fit", "--resume", "--out", str(run), "--json"])
    assert (code, errors) == (0, "")
    whole = json.loads(call([*arguments, "--out", str(tmp_path / "whole"), "--json"])[1])
    resumed = json.loads(out)
    for document in (whole, resumed):
        # the frequency stands in the run's settings: when it goes on, nothing is inferred
        del document["run"], document["training_seconds"], document["notes"]
    assert resumed == whole


def test_json_of_an_interrupted_run_is_one_document_too(data, tmp_path, monkeypatch):
    interrupted_at(monkeypatch, 1, 2)
    code, out, _ = call(["fit", str(data), *FIT, *LONGER, "--out", str(tmp_path / "run"), "--json"])
    assert code == 130
    assert json.loads(out)["status"] == "interrupted"
    assert json.loads(out)["epochs"] == 0


def test_two_interrupts_leave_a_run_to_resume(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupted_at(patch, 2, 1, times=2)
        code, out, _ = call(["fit", str(data), *FIT, *LONGER, "--out", str(run), "--quiet"])
    assert (code, out) == (130, "")
    assert not run.exists()
    assert call(["fit", "--resume", "--out", str(run), "--quiet"]) == (0, "", "")
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 3


def test_what_was_inferred_is_printed_and_quiet_prints_nothing(data, tmp_path):
    arguments = ["fit", str(data), *FIT, *SMALL]
    code, out, errors = call([*arguments, "--out", str(tmp_path / "loud")])
    assert code == 0
    assert "Frequency: 1 hour, inferred from the times." in errors
    for words in ("MASE", "sMAPE", "naive", "seasonal naive", "report.html"):
        assert words in out
    assert "\x1b" not in out + errors
    assert call([*arguments, "--out", str(tmp_path / "quiet"), "--quiet"]) == (0, "", "")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_predict_writes_what_it_prints(kind, data, tmp_path):
    run, newer = tmp_path / "run", tmp_path / "newer.parquet"
    assert call(["fit", str(data), *FIT, *SMALL, "--out", str(run), "--quiet"])[0] == 0
    shifted = pl.read_csv(data, try_parse_dates=True).with_columns(pl.col("when").dt.offset_by("1d"))
    shifted.write_parquet(newer)
    code, printed, errors = call(["predict", str(run), "--data", str(newer)])
    assert (code, errors) == (0, "")
    expected = pl.read_csv(io.StringIO(printed), try_parse_dates=True)
    assert expected["ds"].dt.to_string("%d %H").to_list() == ["05 08", "05 09", "05 10"]
    path = tmp_path / f"out.{kind}"
    path.write_text("old")
    arguments = ["predict", str(run), "--data", str(newer), "--out", str(path), "--overwrite"]
    assert call(arguments) == (0, "", "")
    found = pl.read_csv(path, try_parse_dates=True) if kind == "csv" else pl.read_parquet(path)
    assert found["gru"].to_list() == expected["gru"].to_list()
    assert found["ds"].to_list() == expected["ds"].to_list()
    code, out, errors = call([*arguments, "--json"])
    assert (code, errors) == (0, "")
    document = json.loads(out)
    assert [row["gru"] for row in document["forecast"]] == expected["gru"].to_list()
    assert document["out"] == str(path)


def test_help_lists_every_setting_with_its_default(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    code, out, _ = call(["fit", "--help"])
    assert code == 0
    for words in ("--hidden-sizes", "default: 64,32", "--overwrite", "--resume", "--json"):
        assert words in out
    assert "130 interrupted" in call(["--help"])[1]
    assert call(["--version"])[:2] == (0, f"gatewright {gatewright.__version__}")


class Refusing(io.StringIO):
    """A stream that nothing can be written to."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, _text):
        raise self.error


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
GONE = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
CLOSED = ValueError("I/O operation on closed file.")


@pytest.mark.parametrize("error", [FULL, GONE, CLOSED, None], ids=["full", "gone", "closed", "none"])
def test_notes_that_cannot_be_printed_end_no_fit(error, data, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Refusing(error) if error else None)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["fit", str(data), *FIT, *SMALL, "--out", str(tmp_path / "run")]) == 0
    assert "report.html" in out.getvalue()
    assert "inferred" not in out.getvalue()


@pytest.mark.parametrize("error", [FULL, CLOSED, None], ids=["full", "closed", "none"])
@pytest.mark.parametrize("kind", [[], ["--json"]], ids=["text", "json"])
def test_a_result_that_cannot_be_printed_is_an_error(kind, error, data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    monkeypatch.setattr(sys, "stdout", Refusing(error) if error else None)
    for arguments, remedy in (
        (["fit", str(data), *FIT, *SMALL, "--out", str(run)], f"the run itself is written: {run}"),
        (["predict", str(run)], "with --out"),
    ):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            assert main([*arguments, *kind]) == 2
        assert errors.getvalue().count("error: cannot write to standard output") == 1
        assert remedy in errors.getvalue()
    assert (run / "metrics.json").is_file()


def test_a_bar_that_cannot_be_drawn_ends_no_training():
    watcher = TerminalWatcher(Console(file=Refusing(FULL), force_terminal=True))
    watcher.begin(0, OPTIONS)
    watcher.step(1, 1, 0.5)
    signal.raise_signal(signal.SIGINT)
    assert watcher.stop()
    watcher.end()


def test_a_reader_that_goes_away_ends_no_program(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Refusing(GONE))
    with pytest.raises(BrokenPipeError):
        PlainConsole(stderr=True).print("word")


LOCALES = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "no UTF-8 at all": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
}


@pytest.mark.parametrize("locale", LOCALES.values(), ids=LOCALES)
def test_a_terminal_without_the_characters_shows_question_marks(locale, data, tmp_path):
    run = tmp_path / "Lauf \u2603"
    data.write_text(GOOD.replace("when", "gr\u00f6\u00dfe"))
    arguments = ["fit", str(data), *FIT, *SMALL, "--time", "gr\u00f6\u00dfe", "--out", str(run)]
    done = subprocess.run(
        [sys.executable, "-m", "gatewright", *arguments],
        env=os.environ | locale,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"Lauf ?" in done.stdout
    assert call(["predict", str(run)])[0] == 0


def test_a_file_name_that_is_no_text(data, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/t\xff.csv")
    try:
        os.rename(data, odd)  # noqa: PTH104 - a name of bytes
    except OSError:
        pytest.skip("this disk takes names of text only")
    run = tmp_path / "run"
    code, out, errors = call(["fit", odd, *FIT, *SMALL, "--out", str(run)])
    assert (code, out) == (2, "")
    assert "no text" in errors
    assert "rename" in errors
    assert not run.exists()
    data.write_text(GOOD)
    assert call(["fit", str(data), *FIT, *SMALL, "--out", str(run), "--quiet"]) == (0, "", "")
    assert call(["predict", str(run), "--data", odd]) == call(["predict", str(run)])


def test_without_the_application_the_program_says_what_to_install():
    program = "import sys; sys.modules['typer'] = None; import gatewright.__main__ as m; m.run()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: the command line needs typer, which is not installed",
        'hint: install the application: python -m pip install "gatewright[app]"',
    ]
