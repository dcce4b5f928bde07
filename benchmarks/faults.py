"""Fault injection: how often the diagnosis is right, and where its thresholds come from.

    python -m benchmarks.faults [--seeds 6] [--workers 2]

measures every case of ``fault_cases`` on every seed, and goes on where it was interrupted. The first four
seeds calibrate: ``--fit`` sets ``gatewright/diagnosis/thresholds.py`` on them. The others report:
``--report`` prints the tables. ``--trials`` tries the first prescription of every fault on the first of
those.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.fault_cases import CASES, build

from gatewright.diagnosis import thresholds as thresholds_module
from gatewright.diagnosis.causes import CALIBRATED, CAUSES
from gatewright.diagnosis.measure import measure
from gatewright.diagnosis.practice import fast_copy
from gatewright.diagnosis.remedies import changes_for
from gatewright.diagnosis.rules import judge, likeliest
from gatewright.diagnosis.thresholds import THRESHOLDS
from gatewright.diagnosis.trials import run_trials
from gatewright.files import write_text

Rows = Sequence[dict[str, Any]]

FOLDER = Path(__file__).parent / "results" / "faults"
_SECONDS = 25.0
_MINUTES, _STEPS = 5.0, 200
CALIBRATING = 4
"""Seeds by which thresholds are set; those from here on report."""


def jobs(seeds: int, only: list[str]) -> Iterator[tuple[str, str, str, int]]:
    """Case, cell, task and seed of all that is to be measured."""
    for seed in range(seeds):
        for name, case in CASES.items():
            for task in case.tasks if not only or name in only else ():
                for cell in case.cells:
                    yield name, cell, task, seed


def measured(job: tuple[str, str, str, int]) -> dict[str, Any]:
    """The numbers of one case."""
    torch.set_num_threads(1)
    name, cell, task, seed = job
    began = time.perf_counter()
    problem = build(name, cell, task, seed)
    made = time.perf_counter()
    found = measure(problem, seconds=_SECONDS, needed_lag=None, say=lambda text: None)
    return {
        "case": name,
        "cell": cell,
        "task": task,
        "seed": seed,
        "values": {name: float(f"{value:.5g}") for name, value in found.values.items()},
        "making": round(made - began, 2),
        "seconds": round(time.perf_counter() - made, 2),
    }


def tried(row: dict[str, Any]) -> dict[str, Any]:
    """What came of the first prescription for a case that was measured."""
    torch.set_num_threads(1)
    problem = build(row["case"], row["cell"], row["task"], row["seed"])
    problem = replace(problem, model=fast_copy(problem.model))
    finding = first(row["values"], THRESHOLDS)
    result = {key: row[key] for key in ("case", "cell", "task", "seed")} | {"finding": finding}
    changes = changes_for(finding, problem, row["values"])
    if not changes:
        return result | {"remedy": "", "judgement": "not run", "note": "nothing is prescribed"}
    (trial,), _ = run_trials(problem, changes[:1], minutes=_MINUTES, steps=_STEPS, workers=1)
    return result | {
        "remedy": trial.remedy,
        "judgement": trial.judgement,
        "loss": trial.loss,
        "baseline": trial.baseline,
        "change": trial.change,
        "low": trial.low,
        "high": trial.high,
        "note": trial.note,
    }


def trial_table(rows: Rows) -> str:
    """How often the first prescription helped, by what is wrong, as Markdown."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(CASES[row["case"]].expected[0], []).append(row)
    lines = ["| fault | cases | prescribed | helped | median change |", "|---|---|---|---|---|"]
    for name, group in sorted(groups.items()):
        remedies = Counter(row["remedy"] or "nothing" for row in group)
        helped = sum(row["judgement"] == "helped" for row in group)
        changes = sorted(
            row.get("change", math.nan) for row in group if math.isfinite(row.get("change", math.nan))
        )
        middle = f"{100 * changes[len(changes) // 2]:+.0f} %" if changes else "–"
        what = ", ".join(f"{remedy} {count}" for remedy, count in remedies.most_common())
        lines.append(f"| {name} | {len(group)} | {what} | {helped} | {middle} |")
    helped = sum(row["judgement"] == "helped" for row in rows)
    lines += [f"| all | {len(rows)} | | {helped} ({100 * helped / max(1, len(rows)):.0f} %) | |", ""]
    return "\n".join(lines)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows that were measured so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def first(values: Mapping[str, float], thresholds: Mapping[str, float]) -> str:
    """The likeliest finding."""
    return likeliest(judge(values, thresholds).confidence)[0]


def pairs(rows: Rows, thresholds: Mapping[str, float], *, strict: bool = False) -> list[tuple[str, str]]:
    """What is right and what was said, of each row; one that is accepted too counts as the main one."""
    result = []
    for row in rows:
        expected, said = CASES[row["case"]].expected, first(row["values"], thresholds)
        expected = expected[:1] if strict else expected
        result.append((expected[0], expected[0] if said in expected else said))
    return result


def scores(found: Sequence[tuple[str, str]]) -> dict[str, tuple[float, float, int]]:
    """Precision, recall and number of cases of each finding that was right somewhere."""
    right = Counter(expected for expected, said in found if expected == said)
    said, expected = Counter(said for _, said in found), Counter(expected for expected, _ in found)
    return {
        name: (right[name] / said[name] if said[name] else 0.0, right[name] / count, count)
        for name, count in sorted(expected.items())
    }


def fitted(rows: Rows) -> dict[str, float]:
    """Thresholds that judge best, one moved after the other, a step of their own scale at a time."""
    best = dict(THRESHOLDS)
    scales = {
        f"{rule.name}:{condition.measure}": condition
        for rule in CAUSES.values()
        for group in rule.groups
        for condition in group
        if condition.source == CALIBRATED
    }

    def quality(thresholds: Mapping[str, float]) -> float:
        found = scores(pairs(rows, thresholds))
        exact = sum(2 * p * r / (p + r) if p + r else 0.0 for p, r, _ in found.values()) / len(found)
        sure = [judge(row["values"], thresholds).confidence[CASES[row["case"]].expected[0]] for row in rows]
        return exact + 0.05 * sum(sure) / len(sure)

    top = quality(best)
    for round_ in range(2):
        for key, condition in scales.items():
            for shift in (-3, -1.5, -0.7, 0.7, 1.5, 3):
                near = best[key]
                near = (
                    near * math.exp(shift * condition.scale)
                    if condition.ratio
                    else near + shift * condition.scale
                )
                tried = {**best, key: float(f"{near:.3g}")}
                if (found := quality(tried)) > top + 1e-4:
                    best, top = tried, found
        print(f"round {round_ + 1}: {top:.4f}", flush=True)
    return best


def write_thresholds(thresholds: Mapping[str, float]) -> None:
    """Write the thresholds into the library."""
    path = Path(thresholds_module.__file__)
    head = path.read_text().split("THRESHOLDS", 1)[0]
    lines = "".join(f'    "{name}": {value!r},\n' for name, value in thresholds.items())
    write_text(path, f"{head}THRESHOLDS: dict[str, float] = {{\n{lines}}}\n")


def tables(rows: Rows, thresholds: Mapping[str, float]) -> str:
    """The tables of a half, as Markdown."""
    found = pairs(rows, thresholds)
    by_name = scores(found)
    lines = ["| finding | cases | precision | recall |", "|---|---|---|---|"]
    lines += [f"| {n} | {c} | {p:.2f} | {r:.2f} |" for n, (p, r, c) in by_name.items()]
    strict = scores(pairs(rows, thresholds, strict=True))
    for name, table in (("mean", by_name), ("mean, nothing else accepted", strict)):
        precision, recall = (sum(row[i] for row in table.values()) / len(table) for i in (0, 1))
        lines.append(f"| {name} | {len(rows)} | {precision:.2f} | {recall:.2f} |")
    lines.append("")
    wrong = Counter(pair for pair in found if pair[0] != pair[1])
    lines += ["| right | said | cases |", "|---|---|---|"]
    lines += [f"| {right} | {said} | {count} |" for (right, said), count in wrong.most_common()]
    seconds = sorted(float(row["seconds"]) for row in rows)
    lines += [
        "",
        f"{len(rows)} diagnoses, median {seconds[len(seconds) // 2]:.1f} s, longest {seconds[-1]:.1f} s.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--trials", action="store_true", help="try the first prescriptions")
    parser.add_argument("--fit", action="store_true", help="set the thresholds on what was measured")
    parser.add_argument("--report", action="store_true", help="print the tables of what was measured")
    parser.add_argument("--out", type=Path, default=FOLDER / "measures.jsonl")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows = read(given.out)
    if given.fit:
        write_thresholds(fitted([row for row in rows if row["seed"] < CALIBRATING]))
        return
    if given.report:
        for reporting, name in ((False, "calibrate"), (True, "report")):
            chosen = [row for row in rows if (row["seed"] >= CALIBRATING) == reporting]
            print(f"## The seeds that {name}\n\n{tables(chosen, THRESHOLDS)}")
        print(f"## First prescriptions\n\n{trial_table(read(given.out.with_name('trials.jsonl')))}")
        return
    if given.trials:
        _extend(given.out.with_name("trials.jsonl"), tried, _faults(rows), given.workers)
    else:
        _extend(given.out, measured, list(jobs(given.seeds, given.only)), given.workers)


def _faults(rows: Rows) -> list[dict[str, Any]]:
    """What is broken among the first of the seeds that report."""
    return [r for r in rows if r["seed"] == CALIBRATING and CASES[r["case"]].expected[0] != "healthy"]


def _key(row: Any) -> tuple[Any, ...]:
    """Case, cell, task and seed."""
    return row if isinstance(row, tuple) else tuple(row[name] for name in ("case", "cell", "task", "seed"))


def _extend(path: Path, work: Callable[[Any], dict[str, Any]], todo: Sequence[Any], workers: int) -> None:
    """Do what is not in the file yet, and add it, row by row."""
    done = {_key(row) for row in read(path)}
    todo = [one for one in todo if _key(one) not in done]
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(workers) as pool, path.open("a") as file:
        for count, row in enumerate(pool.imap_unordered(work, todo), 1):
            file.write(json.dumps(row) + "\n")
            file.flush()
            what = " ".join(map(str, _key(row)))
            print(f"{count}/{len(todo)} {time.perf_counter() - began:.0f} s: {what}", flush=True)


if __name__ == "__main__":
    main()
