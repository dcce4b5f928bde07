"""The measurements as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.cases import CELLS, GRID, MODES, Case, Size
from benchmarks.peers import OURS
from benchmarks.results import Document
from benchmarks.targets import LIMITS, TARGETS, Outcome, Target, entry, geometric_mean, judge, our

TITLES = {
    OURS: "Gatewright", f"{OURS}-eager": "Gatewright, eager", "torch": "torch.nn", "jax": "JAX",
    "keras": "Keras", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO",
    "torchrecurrent": "torchrecurrent",
}  # fmt: skip
"""Rivals in tables."""


def title(peer: str) -> str:
    """A rival's name in tables."""
    return TITLES.get(peer, peer)


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; the first column is left-aligned, the others right."""
    cells = [list(header), *map(list, rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|---" + "|--:" * (len(cells[0]) - 1) + "|", *lines[1:]])


def conditions(document: Document) -> str:
    """Machine, threads, versions, date and ceilings, in a paragraph."""
    machine, ceilings = document["machine"], document["ceilings"]
    dates = sorted(case["date"][:10] for case in document["cases"].values())
    commits = sorted({case["commit"] for case in document["cases"].values()} - {""})
    span = "" if not dates else dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    peers = [
        f"{title(name)} {version}" for name, version in document.get("peers", {}).items() if "-" not in name
    ]
    text = f"{machine['cpu']} ({', '.join(machine['features'])}), {document['threads']} threads, "
    text += f"{machine['os']}, Python {machine['python']}; {span}; {', '.join(peers)}"
    text += f"; commit {', '.join(commits)}. " if commits else ". "
    if ceilings:
        text += (
            f"Peak of fused multiply-adds {ceilings['fma_all_gflops']:.0f} GF/s, one thread "
            f"{ceilings['fma_one_gflops']:.0f}; reading from memory {ceilings['read_all_gbytes']:.0f} GB/s."
        )
    missing = [f"{title(name)} ({reason})" for name, reason in document["absent"].items()]
    return text + (f" Not measured: {', '.join(missing)}." if missing else "")


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _figure(value: float, percent: bool) -> str:
    return f"{value:.0%}" if percent else f"{value:.2f}×"


def _judged(target: Target, outcome: Outcome | None) -> list[str]:
    def aim(value: float | None) -> str:
        return "" if value is None else f" (≥ {f'{value:.0%}' if target.percent else f'{value:g}×'})"

    if outcome is None:
        return [target.title, f"–{aim(target.mean)}", f"–{aim(target.least)}", "", "not measured"]
    verdict = {True: "met", False: "missed", None: "so far"}[outcome.met]
    notes = []
    if outcome.measured < len(target.sizes):
        notes.append(f"{outcome.measured} of {len(target.sizes)} sizes")
    if outcome.disturbed:
        notes.append(f"{outcome.disturbed} disturbed")
    return [
        target.title,
        _figure(outcome.mean, target.percent) + aim(target.mean),
        _figure(outcome.least, target.percent) + aim(target.least),
        str(outcome.where).replace("x", "×"),
        verdict + (f" ({', '.join(notes)})" if notes else ""),
    ]


def target_table(document: Document) -> str:
    """Every aim beside what was measured."""
    header = ("", "geometric mean (aim)", "least (aim)", "at B×T×H", "")
    table = markdown_table(header, (_judged(target, judge(target, document)) for target in TARGETS))
    first = document.get("first_call")
    rows = []
    for limit in LIMITS:
        value = first[limit.figure] if first else None
        verdict = "not measured" if value is None else "met" if value <= limit.most else "missed"
        verdict += " (disturbed)" if first and first["disturbed"] else ""
        rows.append([limit.title, "–" if value is None else f"{value:.3f} s", f"{limit.most:g} s", verdict])
    return table + "\n\n" + markdown_table(("", "measured", "at most", ""), rows)


def _sizes(document: Document, cell: str, mode: str) -> list[Size]:
    """Sizes that were measured: those of the grid in its order, then others."""
    keys = [key for key in document["cases"] if key.startswith(f"{cell}-{mode}-")]
    measured = [Size(*map(int, key.rpartition("-")[2].split("x"))) for key in keys]
    return [s for s in GRID if s in measured] + [s for s in measured if s not in GRID]


def case_table(document: Document, cell: str, mode: str) -> str:
    """All sizes of a cell in a mode: our time, rate and share, and each rival's rate and time over ours."""
    sizes = _sizes(document, cell, mode)
    keys = [Case(cell, mode, size) for size in sizes]
    cases = [entry(document, key) for key in keys]
    rivals = list(dict.fromkeys(name for case in cases for name in case["peers"] if name != OURS))
    header = ["B×T×H", "ms", "GF/s", "of peak", *map(title, rivals)]
    rows = []
    for key, case in zip(keys, cases, strict=True):
        own, star = our(document, key), " *" if case["disturbed"] else ""
        share = own.get("peak_share")
        row = [str(key.size).replace("x", "×") + star]
        row += [_milliseconds(own["median_ms"]), f"{own['gflops']:.1f}"] if own else ["–", "–"]
        row.append(f"{share:.0%}" if share is not None else "–")
        for name in rivals:
            figure, ratio = case["peers"].get(name), case["ratios"].get(name)
            text = f"{figure['gflops']:.1f}" if figure else "–"
            if ratio:
                text += f" · {ratio['median']:.2f}× [{ratio['low']:.2f}, {ratio['high']:.2f}]"
            row.append(text)
        rows.append(row)
    if len(rows) > 1:
        rows.append(["geometric mean", "", *_means(cases, rivals)])
    return markdown_table(header, rows)


def _means(cases: list[dict[str, Any]], rivals: list[str]) -> Iterator[str]:
    rates = [case["peers"][OURS]["gflops"] for case in cases if OURS in case["peers"]]
    yield f"{geometric_mean(rates):.1f}" if rates else "–"
    yield ""
    for name in rivals:
        ratios = [case["ratios"][name]["median"] for case in cases if name in case["ratios"]]
        yield f"{geometric_mean(ratios):.2f}×, least {min(ratios):.2f}×" if ratios else "–"


def memory_tables(document: Document) -> str:
    """Peak memory of a training step, and whether memory stays flat."""
    parts = []
    if memory := document.get("memory"):
        rows = []
        for size, peaks in memory["peaks"].items():
            ratio = f"{peaks[OURS] / peaks['torch']:.2f}×" if peaks["torch"] else "–"
            figures = (f"{peaks[name] / 2**20:.1f}" for name in (OURS, "torch"))
            rows.append([size.replace("x", "×"), *figures, ratio])
        parts.append(markdown_table(("B×T×H", "Gatewright, MiB", "torch.nn.GRU, MiB", "ratio"), rows))
    for name, run in document.get("flat", {}).items():
        parts.append(
            f"{title(name)} over {run['calls']} calls: {'flat' if run['flat'] else 'not flat'}, "
            f"{run['growth_bytes'] / 1024:+.0f} KiB over the second half."
        )
    return "\n\n".join(parts)


def layer_tables(document: Document) -> str:
    """The rate of a training step with each option, and the time of a stream's step."""
    layers = document.get("layers")
    if not layers:
        return ""
    sizes = list(layers["options"])
    names = list(dict.fromkeys(name for row in layers["options"].values() for name in row["ratios"]))
    rows = []
    for name in names:
        rates = (1 / layers["options"][size]["ratios"][name]["median"] for size in sizes)
        rows.append([f"`{name}`" if name.isidentifier() else name, *(f"{rate:.0%}" for rate in rates)])
    header = ("rate beside no option, B×T×H", *(size.replace("x", "×") for size in sizes))
    parts = [markdown_table(header, rows)]
    rivals = list(dict.fromkeys(name for row in layers["streams"].values() for name in row["median_ms"]))
    lines = [
        [
            hidden,
            *(f"{1e3 * row['median_ms'][name]:.1f}" if name in row["median_ms"] else "–" for name in rivals),
        ]
        for hidden, row in layers["streams"].items()
    ]
    parts.append(markdown_table(("one step at B = 1, µs; I = H", *rivals), lines))
    return "\n\n".join([*parts, f"Measured at commit {layers['commit']}."])


def first_call_table(document: Document) -> str:
    """Import and first calls, and torch's own beside them."""
    first = document.get("first_call")
    if not first:
        return ""
    figures = {
        "import torch": "torch_import_s",
        "import gatewright, beyond it": "import_s",
        "first training call of torch.nn.GRU": "torch_first_call_s",
        "definition of a cell and a layer of it": "definition_s",
        "its first training call, beyond a call of torch.nn.GRU, no cache": "first_call_s",
        "the same from the disk's cache": "cached_call_s",
    }
    rows = [[text, f"{first[figure]:.3f} s"] for text, figure in figures.items()]
    note = " Others were using the machine." if first["disturbed"] else ""
    return markdown_table(("", "median"), rows) + f"\n\nBackend: {first['route']}.{note}"


def left_out(document: Document) -> list[str]:
    """Who was left out of which case, and why."""
    return [
        f"- {key}: {title(name)}, {reason}"
        for key, case in document["cases"].items()
        for name, reason in case["left_out"].items()
    ]


def details(document: Document) -> str:
    """Everything: a table for each cell and mode, then memory, first calls and who was left out."""
    parts, busy = [], False
    for cell in CELLS:
        for mode in MODES:
            if _sizes(document, cell, mode):
                parts += [f"### {CELLS[cell].title}, {mode}", case_table(document, cell, mode)]
                sizes = _sizes(document, cell, mode)
                busy |= any(entry(document, Case(cell, mode, size))["disturbed"] for size in sizes)
    if busy:
        parts.append(
            "\\* others were using the machine in too many rounds for all figures to be without them."
        )
    if text := layer_tables(document):
        parts += ["### Options and streams of a GRU", text]
    if text := memory_tables(document):
        parts += ["### Memory of a GRU's training step", text]
    if text := first_call_table(document):
        parts += ["### Import and first call", text]
    if lines := left_out(document):
        parts += ["### Left out", "\n".join(lines)]
    return "\n\n".join(parts)
