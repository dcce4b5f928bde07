"""What the benchmark keeps and writes: results files, resumption, tables between markers."""

import json

import pytest
from benchmarks.cases import GRID, Case
from benchmarks.targets import LARGE, TARGETS, judge

from benchmarks import machine, report, results, run

ARGUMENTS = ["--cells", "gru", "--mode", "inference", "--peers", "torch", "--rounds", "2", "--threads", "1"]
ARGUMENTS += ["--seconds", "0.1"]


@pytest.fixture(autouse=True)
def _leave_the_process_alone(monkeypatch):
    monkeypatch.setattr(machine, "set_threads", lambda threads: None)
    monkeypatch.setattr("benchmarks.timing.BLOCK_SECONDS", 0.0)
    monkeypatch.setattr("benchmarks.ceilings.Loops.read_rate", lambda *arguments: 1.0)


def make_case(ratios, share=0.7, disturbed=()):
    rates = {name: 100.0 / ratio for name, ratio in ratios.items()}
    peers = {
        name: {"gflops": rate, "median_ms": 1.0, "peak_share": share}
        for name, rate in {"gatewright": 100.0, **rates}.items()
    }
    return {
        "peers": peers,
        "ratios": {name: {"median": r, "low": r, "high": r} for name, r in ratios.items()},
        "disturbed": list(disturbed),
        "left_out": {},
        "commit": "abc",
        "date": "2026-01-02T03:04:05+00:00",
        "peak_seen_gflops": 130.0,
    }


@pytest.fixture
def document():
    document = results.new_document(1)
    document["ceilings"] = dict.fromkeys(("fma_one_gflops", "fma_all_gflops", "read_all_gbytes"), 100.0)
    for place, size in enumerate(GRID):
        case = Case("gru", "training", size)
        document["cases"][case.key] = make_case({"torch": 5.0, "jax": 2.0, "keras": 1.0 + place})
    return document


def test_a_run_is_written_and_resumed_case_by_case(tmp_path, monkeypatch, capsys):
    path = tmp_path / "results.json"
    assert run.main([*ARGUMENTS, "--grid", "1x2x4", "--out", str(path)]) == 0
    first = json.loads(path.read_text())
    entry = first["cases"]["gru-inference-1x2x4"]
    assert set(entry["peers"]) == {"gatewright", "torch"}
    assert len(entry["peers"]["torch"]["times_ms"]) >= 2
    assert entry["ratios"]["torch"]["median"] > 0
    assert first["ceilings"]["fma_all_gflops"] > 0
    assert "[1/1] gru-inference-1x2x4: gatewright" in capsys.readouterr().err

    def interrupted(case, *rest):
        if case.size.B == 3:
            raise KeyboardInterrupt
        return measure(case, *rest)

    measure = run.measure_case
    monkeypatch.setattr(run, "measure_case", interrupted)
    sizes = ["--grid", "1x2x4,2x2x4,3x2x4"]
    assert run.main([*ARGUMENTS, *sizes, "--resume", "--out", str(path)]) == 130
    assert "2 cases, --resume goes on" in capsys.readouterr().err
    second = json.loads(path.read_text())
    assert (
        second["cases"]["gru-inference-1x2x4"]["peers"]["torch"]["times_ms"]
        == (entry["peers"]["torch"]["times_ms"])
    )
    assert list(second["cases"]) == ["gru-inference-1x2x4", "gru-inference-2x2x4"]
    assert list(tmp_path.iterdir()) == [path]


def test_figures_of_other_versions_are_not_mixed(tmp_path, capsys):
    path = tmp_path / "results.json"
    results.save(path, results.new_document(1) | {"versions": {"torch": "0.1"}, "cases": {}})
    before = path.read_text()
    assert run.main([*ARGUMENTS, "--grid", "1x2x4", "--resume", "--out", str(path)]) == 2
    assert "0.1" in capsys.readouterr().err
    assert path.read_text() == before
    assert results.opened(path, 1, resume=False)["cases"] == {}


@pytest.mark.parametrize(
    "arguments", [["--cells", "grru"], ["--grid", "99"], ["--peers", "nobody"], ["--threads", "0"]]
)
def test_bad_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        run.parse(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_shares_are_of_the_highest_peak_that_was_seen(document):
    results.set_shares(document)
    assert document["ceilings"]["fma_all_gflops"] == 130
    case = document["cases"]["gru-training-1x128x64"]
    assert case["peers"]["gatewright"]["peak_share"] == pytest.approx(100 / 130)


def test_targets_take_the_best_rival_of_each_size(document):
    titles = {target.title: target for target in TARGETS}
    torchs = judge(titles["GRU training, `torch.nn.GRU`"], document)
    assert torchs is not None
    assert (torchs.mean, torchs.least, torchs.met) == (pytest.approx(5), 5, True)
    best = judge(titles["GRU training, best of JAX and Keras"], document)
    assert best is not None
    assert best.least == 1  # Keras at the first size, JAX at all others
    assert best.where == GRID[0]
    assert best.mean == pytest.approx(2 ** (10 / 11))
    share = judge(titles["GRU training, share of peak, B ≥ 32, H ≥ 128"], document)
    assert share is not None
    assert (share.measured, share.met) == (len(LARGE), True)
    del document["cases"][Case("gru", "training", LARGE[0]).key]
    share = judge(titles["GRU training, share of peak, B ≥ 32, H ≥ 128"], document)
    assert share is not None
    assert share.met is None
    assert judge(titles["MGU training, JAX"], document) is None


def test_the_report_replaces_what_stands_between_the_markers_and_nothing_else(tmp_path, document, capsys):
    path, readme, details = (tmp_path / name for name in ("results.json", "README.md", "performance.md"))
    document["cases"]["gru-training-1x128x64"]["disturbed"] = ["torch"]
    results.save(path, document)
    readme.write_text("# Title\n")
    details.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    options = [str(path), "--readme", str(readme), "--details", str(details)]
    options += ["--figure", str(tmp_path / "images/figure.svg")]
    written = []
    for _ in range(2):
        assert report.main(options) == 0
        written.append((details.read_text(), (tmp_path / "images/figure.svg").read_bytes()))
    assert written[0] == written[1]
    text = written[0][0]
    assert text.startswith(f"before\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "old" not in text
    assert "| 32×128×128 | 1 | 100.0 | 77% | 20.0 · 5.00× [5.00, 5.00] |" in text
    assert "| 1×128×64 * |" in text
    assert "(images/figure.svg)" in text
    assert readme.read_text() == "# Title\n"
    assert "README.md has not the markers" in capsys.readouterr().err


def test_a_report_without_results_says_what_to_do(tmp_path, capsys):
    assert report.main([str(tmp_path / "none.json")]) == 2
    assert "python -m benchmarks.run" in capsys.readouterr().err
