"""Fault injection: how often the diagnosis is right, and where its thresholds come from.

    python -m benchmarks.faults [--seeds 4] [--workers 2] [--only NAME ...]

measures every case of ``fault_cases`` on every seed, and goes on where it was interrupted. Even seeds are
the calibration half, odd ones the reporting half: ``--fit`` sets ``gatewright/diagnosis/thresholds.py`` on
the first, the tables are of the second. ``--trials`` also tries the first prescription of every fault.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.fault_cases import CASES, build

from gatewright.diagnosis import thresholds as thresholds_module
from gatewright.diagnosis.causes import CALIBRATED, CAUSES
from gatewright.diagnosis.measure import measure
from gatewright.diagnosis.rules import judge, likeliest
from gatewright.diagnosis.thresholds import THRESHOLDS
from gatewright.files import write_text

Rows = Sequence[dict[str, Any]]

FOLDER = Path(__file__).parent / "results" / "faults"
_SECONDS = 25.0


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
        "values": found.values,
        "layers": found.layers,
        "notes": found.notes,
        "making": made - began,
        "seconds": time.perf_counter() - made,
    }


def read(path: Path) -> list[dict[str, Any]]:
    """The rows that were measured so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def first(values: Mapping[str, float], thresholds: Mapping[str, float]) -> str:
    """The likeliest finding."""
    return likeliest(judge(values, thresholds).confidence)[0]


def pairs(rows: Rows, thresholds: Mapping[str, float]) -> list[tuple[str, str]]:
    """What is right and what was said, of each row; one that is accepted counts as the main one."""
    result = []
    for row in rows:
        expected, said = CASES[row["case"]].expected, first(row["values"], thresholds)
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
    mean = [sum(row[i] for row in by_name.values()) / len(by_name) for i in (0, 1)]
    lines += [f"| mean | {len(rows)} | {mean[0]:.2f} | {mean[1]:.2f} |", ""]
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
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--fit", action="store_true", help="set the thresholds on what was measured")
    parser.add_argument("--report", action="store_true", help="print the tables of what was measured")
    parser.add_argument("--out", type=Path, default=FOLDER / "measures.jsonl")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    done = {(r["case"], r["cell"], r["task"], r["seed"]) for r in read(given.out)}
    rows = read(given.out)
    if given.fit:
        write_thresholds(fitted([row for row in rows if row["seed"] % 2 == 0]))
        return
    if given.report:
        for half, name in ((0, "calibration"), (1, "reporting")):
            text = tables([row for row in rows if row["seed"] % 2 == half], THRESHOLDS)
            print(f"## The {name} half\n\n{text}")
        return
    todo = [job for job in jobs(given.seeds, given.only) if job not in done]
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool, given.out.open("a") as file:
        for count, row in enumerate(pool.imap_unordered(measured, todo), 1):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(
                f"{count}/{len(todo)} {row['case']} {row['cell']} {row['task']} {row['seconds']:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
