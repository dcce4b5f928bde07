"""Measure the layers beside their rivals, each after a check of its results.

    python -m benchmarks.run --quick
    python -m benchmarks.run --resume                  # everything; goes on where it was stopped
    python -m benchmarks.run --cells gru --mode training --grid 6,64x128x512 --peers torch,jax
    python -m benchmarks.run --first-call

Every rival solves the same problem in the same process with the same number of threads. Who departs from the
float64 equations by more than 1e-4, or raises, is named and left out. The rest are timed in turn. Results are
written after every case; Ctrl-C keeps those that are done. docs/performance.md says more.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import machine

if TYPE_CHECKING:
    from benchmarks.cases import Case
    from benchmarks.ceilings import Loops
    from benchmarks.peers.peer import Peer, Prepared
    from benchmarks.results import Document

TOLERANCE = 1e-4
"""The largest relative error of a rival that is measured."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; threads are set here, before any library is imported."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--mode", choices=("training", "inference", "all"), default="all")
    add("--cells", default="all", help="names separated by commas, or all")
    add("--grid", default=None, help="all, or indices and sizes BxTxH separated by commas")
    add("--peers", default=None, help="names separated by commas; ours always runs")
    add("--backend", default="", help="what ours runs on (default: cpu, as far as there is one, else auto)")
    add("--threads", type=int, default=min(2, machine.available_processors()), help="of every rival")
    add("--rounds", type=int, default=None, help="at most so many a case (default 25)")
    add("--seconds", type=float, default=None, help="of measuring a case, about (default 12)")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=None, help="results file (default: one a machine in benchmarks/results)")
    add("--resume", action="store_true", help="keep the cases that the results file has")
    add("--redo-disturbed", action="store_true", help="with --resume: but measure disturbed cases again")
    add(
        "--patience",
        type=float,
        default=3.0,
        help="times --seconds to wait for undisturbed rounds (default 3)",
    )
    add("--quick", action="store_true", help="two sizes, GRU and MGU, three rounds")
    add("--first-call", action="store_true", help="measure import and first calls in fresh processes instead")
    options = parser.parse_args(arguments)
    if not 1 <= options.threads <= machine.available_processors():
        parser.error(f"--threads: expected 1 to {machine.available_processors()}, received {options.threads}")
    machine.set_threads(options.threads)
    from benchmarks.cases import CELLS, MODES, parse_sizes
    from benchmarks.peers import make_peers
    from benchmarks.timing import Plan

    try:
        options.sizes = parse_sizes(options.grid or ("0,32x128x128" if options.quick else "all"))
    except ValueError as error:
        parser.error(f"--grid: {error}")
    options.modes = MODES if options.mode == "all" else (options.mode,)
    cells = "gru,mgu" if options.quick and options.cells == "all" else options.cells
    options.cells = tuple(CELLS) if cells == "all" else tuple(cells.split(","))
    options.peers = options.peers and tuple(options.peers.split(","))
    for flag, chosen, known in (
        ("--cells", options.cells, CELLS),
        ("--peers", options.peers or (), make_peers()),
    ):
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"{flag}: no {', '.join(unknown)}; there are {', '.join(known)}")
    rounds, seconds, least = (3, 1.0, 3) if options.quick else (25, 12.0, 5)
    rounds = options.rounds or rounds
    options.plan = Plan(
        rounds, options.seconds or seconds, min(rounds, least), options.patience, options.seed
    )
    return options


def chosen_peers(names: Iterable[str] | None, backend: str) -> tuple[dict[str, Peer], dict[str, str]]:
    """Those of the rivals that can run here, ours first, and why the others cannot."""
    from benchmarks.peers import DEFAULT, OURS, make_peers

    peers = make_peers(backend)
    wanted = list(dict.fromkeys((OURS, *(names or DEFAULT))))
    absent = {name: reason for name in wanted if (reason := peers[name].absence())}
    return {name: peers[name] for name in wanted if name not in absent}, absent


def prepare_and_check(
    case: Case, peers: dict[str, Peer], threads: int, seed: int, say: Callable[[str], None]
) -> tuple[dict[str, Prepared], dict[str, float], dict[str, str]]:
    """Make every rival ready and hold its results against the equations.

    Args:
        case: what is computed.
        peers: that offer it.
        threads: of each.
        seed: of the problem.
        say: is told what goes on.

    Returns:
        The rivals that are right, the error of each, and why the others are left out.
    """
    from benchmarks.cases import expected_results, make_problem, worst_error

    problem = make_problem(case, seed)
    say("equations in float64")
    expected = expected_results(problem)
    ready, errors, left_out = {}, {}, {}
    for name, peer in peers.items():
        say(f"preparing {name}")
        try:
            prepared = peer.prepare(problem, threads)
            error, tensor = worst_error(prepared.results(prepared.run()), expected)
        except Exception as failure:  # whatever a rival raises is its own matter, and is reported
            left_out[name] = f"{type(failure).__name__}: {str(failure).strip()[:300]}"
            continue
        if error <= TOLERANCE:
            ready[name], errors[name] = prepared, error
        else:
            left_out[name] = f"relative error {error:.1e} of {tensor}, above {TOLERANCE:g}"
    return ready, errors, left_out


def measure_case(
    case: Case,
    peers: dict[str, Peer],
    options: argparse.Namespace,
    loops: Loops | None,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """One case: check, then time.

    Args:
        case: what is computed.
        peers: those that may run.
        options: plan and threads.
        loops: to look at the machine's peak once more; None when there are none.
        say: is told what goes on.

    Returns:
        The entry of the results file.
    """
    from benchmarks.peers import OURS
    from benchmarks.timing import measure_rounds, summarize

    start, moment, plan = time.perf_counter(), machine.moment(), options.plan
    offering = {name: peer for name, peer in peers.items() if case.cell in peer.offers[case.mode]}
    ready, errors, left_out = prepare_and_check(case, offering, options.threads, plan.seed, say)
    prepared = time.perf_counter() - start
    say(f"timing {', '.join(ready)}")
    rounds = measure_rounds({name: one.run for name, one in ready.items()}, plan) if ready else {}
    entry = summarize(rounds, case.work, OURS, plan.least)
    for name in ready:
        entry["peers"][name] |= {"error": errors[name], "settings": ready[name].settings}
    for peer in offering.values():
        peer.clean()
    entry |= {
        "left_out": left_out,
        "work": case.work,
        "peak_seen_gflops": loops.fma_rate(options.threads, 0.05) if loops else None,
        "commit": machine.commit(),
        "seconds_preparing": round(prepared, 1),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return entry | moment


class Progress:
    """What goes on, on standard error: a line a case, and on a terminal the step of the current one."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start = total, 0, time.perf_counter()
        self.terminal = sys.stderr.isatty()

    def step(self, case: Case, text: str) -> None:
        """Show a step of a case, on a terminal only."""
        if self.terminal:
            line = f"\r\033[K[{self.done + 1}/{self.total}] {case.key}: {text}"
            print(line, end="", file=sys.stderr, flush=True)

    def finished(self, case: Case, entry: dict[str, Any]) -> None:
        """Show the figures of a case and the time left."""
        from benchmarks.peers import OURS

        self.done += 1
        left = (time.perf_counter() - self.start) / self.done * (self.total - self.done)
        figures = []
        for name, figure in entry["peers"].items():
            ratio = entry["ratios"].get(name)
            share = f" {figure['peak_share']:.0%}" if name == OURS and "peak_share" in figure else ""
            more = f" ({ratio['median']:.2f}x)" if ratio else share
            figures.append(f"{name} {figure['gflops']:.1f} GF/s{more}")
        self.line(f"[{self.done}/{self.total}] {case.key}: {', '.join(figures)}; {left / 60:.0f} min left")
        if entry["disturbed"]:
            self.line("    others were using the machine")
        for name, reason in entry["left_out"].items():
            self.line(f"    left out: {name}, {reason}")

    def line(self, text: str) -> None:
        """Write a line."""
        print(("\r\033[K" if self.terminal else "") + text, file=sys.stderr, flush=True)


def run_cases(options: argparse.Namespace, document: Document, path: Path) -> None:
    """Measure what is asked for and add it to the document."""
    from benchmarks.cases import make_cases

    from benchmarks import ceilings, results

    peers, document["absent"] = chosen_peers(options.peers, options.backend)
    document.setdefault("peers", {})
    document["peers"] |= {name: peer.version() for name, peer in peers.items()}
    cases = make_cases(options.cells, options.modes, options.sizes)
    kept = set(document["cases"]) if options.resume else set()
    if options.redo_disturbed:
        kept = {key for key in kept if not document["cases"][key]["disturbed"]}
    wanted = [case for case in cases if case.key not in kept]
    progress = Progress(len(wanted))
    for name, reason in document["absent"].items():
        progress.line(f"without {name}: {reason}")
    if len(wanted) < len(cases):
        progress.line(f"{len(cases) - len(wanted)} cases kept from {path}")
    loops = None
    try:
        loops = ceilings.Loops()
        document["ceilings"] = ceilings.measure(options.threads) | machine.moment()
    except ImportError as error:
        progress.line(f"without the machine's peak: {error}")
    for case in wanted:
        progress.step(case, "inputs")
        entry = measure_case(case, peers, options, loops, lambda text, case=case: progress.step(case, text))
        document["cases"][case.key] = entry
        results.save(path, document)
        progress.finished(case, entry)
        gc.collect()


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 when done, 2 for a results file that cannot be used, 130 when interrupted."""
    options = parse(arguments)
    import torch

    from benchmarks import first_call, results

    torch.set_num_threads(options.threads)
    path = options.out or results.default_path(options.threads)
    try:
        document = results.opened(path, options.threads, options.resume or options.first_call)
    except results.ResultsError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        if options.first_call:
            document["first_call"] = first_call.measure(3 if options.quick else 7, options.threads)
            results.save(path, document)
        else:
            run_cases(options, document, path)
    except KeyboardInterrupt:
        print(f"\ninterrupted; {path} has {len(document['cases'])} cases, --resume goes on", file=sys.stderr)
        return 130
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
