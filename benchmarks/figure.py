"""The measurements as one figure: rates of all rivals at every size, training above inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.cases import CELLS, GRID, MODES, Case
from benchmarks.peers import OURS
from benchmarks.results import Document
from benchmarks.tables import title
from benchmarks.targets import entry
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from gatewright.reports.svg import COLOURS, drawing

PANELS = ("gru", "lstm", "mgu")
"""Cells, from left to right."""

LOOKS = {
    OURS: ("accent", "o"), "torch": ("line-1", "s"), "jax": ("line-2", "^"), "keras": ("line-3", "D"),
    "onnxruntime": ("line-4", "v"), "openvino": ("line-5", "P"), "torchrecurrent": ("truth", "X"),
    f"{OURS}-eager": ("rule", "o"),
}  # fmt: skip
"""Colour and marker of each rival."""


def draw(document: Document, path: Path) -> None:
    """Draw a results document; the same document gives the same file."""
    with drawing("performance"):
        figure = Figure(figsize=(12.5, 9), facecolor="white", layout="constrained")
        axes = figure.subplots(len(MODES), len(PANELS), sharex=True, sharey=True, squeeze=False)
        for row, mode in zip(axes, MODES, strict=True):
            for ax, cell in zip(row, PANELS, strict=True):
                _panel(ax, document, cell, mode)
        for ax in axes[-1]:
            ax.set_xlabel("GF/s (dashed: the machine's peak)")
        for ax in axes[:, 0]:
            ax.set_ylabel("B×T×H")
        _legend(figure, axes)
        path.parent.mkdir(parents=True, exist_ok=True)
        FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None})


def _panel(ax: Axes, document: Document, cell: str, mode: str) -> None:
    """One cell in one mode: a row a size, a mark a rival, the machine's peak as a line."""
    ax.set_title(f"{CELLS[cell].title}, {mode}", loc="left", fontsize=12)
    for place, size in enumerate(GRID):
        peers = entry(document, Case(cell, mode, size)).get("peers", {})
        # ours is drawn last, over the others
        for name, (colour, marker) in reversed(LOOKS.items()):
            if name in peers:
                large = 10 if name == OURS else 6
                ax.plot(
                    peers[name]["gflops"], place, marker, color=COLOURS[colour], markersize=large,
                    markeredgecolor="white", markeredgewidth=0.7, label=title(name),
                )  # fmt: skip
    if document["ceilings"]:
        ax.axvline(document["ceilings"]["fma_all_gflops"], color=COLOURS["rule"], linestyle="--", linewidth=1)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_yticks(range(len(GRID)), [str(size).replace("x", "×") for size in GRID])
    ax.set_ylim(len(GRID) - 0.5, -0.5)


def _legend(figure: Figure, axes: Any) -> None:
    """One legend for all panels, in the order of ``LOOKS``."""
    marks = {}
    for ax in axes.flat:
        handles, labels = ax.get_legend_handles_labels()
        marks |= dict(zip(labels, handles, strict=True))
    order = [title(name) for name in LOOKS if title(name) in marks]
    if order:
        figure.legend(
            [marks[name] for name in order], order, loc="outside upper center", ncols=len(order),
            frameon=False, handletextpad=0.2, columnspacing=1.4,
        )  # fmt: skip
