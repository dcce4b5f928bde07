"""The results file: one JSON document a machine, written whole after every case."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import machine
from gatewright.files import to_json, write_text

FORMAT = 1
FOLDER = Path(__file__).parent / "results"

Document = dict[str, Any]

IDENTITY = ("format", "machine", "versions", "threads")
"""What must be the same for figures to stand in one document."""


class ResultsError(Exception):
    """A results file that cannot be read or be continued."""


def default_path(threads: int) -> Path:
    """The file of this machine at so many threads."""
    return FOLDER / f"{machine.slug()}-{threads}-threads.json"


def new_document(threads: int) -> Document:
    """A document without results, for this machine."""
    return {
        "format": FORMAT,
        "machine": machine.describe(),
        "versions": machine.versions(),
        "threads": threads,
        "ceilings": None,
        "absent": {},
        "cases": {},
    }


def read(path: Path) -> Document:
    """Read a results file.

    Args:
        path: of the file.

    Returns:
        The document.

    Raises:
        ResultsError: it is not there, damaged, or of another format.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"cannot read {path}: {error.strerror}; run python -m benchmarks.run") from error
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path} is damaged: {error}; remove it and measure again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ResultsError(f"{path} is not a results file of format {FORMAT}; remove it and measure again")
    return document


def opened(path: Path, threads: int, resume: bool) -> Document:
    """The document to add to: the one on disk if it is of this machine, versions and threads.

    Args:
        path: of the file.
        threads: every rival's.
        resume: whether its cases are to be kept, and it is an error when they cannot be.

    Returns:
        The document on disk, or a new one.

    Raises:
        ResultsError: it is to be resumed and was measured with something else.
    """
    fresh = new_document(threads)
    if not path.exists():
        return fresh
    try:
        document = read(path)
    except ResultsError:
        if resume:
            raise
        return fresh
    differing = [name for name in IDENTITY if document.get(name) != fresh[name]]
    if differing and resume:
        was, now = ({name: d.get(name) for name in differing} for d in (document, fresh))
        raise ResultsError(f"{path} was measured with {was}, this would be {now}; choose another --out")
    return fresh if differing else document


def set_shares(document: Document) -> None:
    """Set every rate's share of the machine's peak, the highest that was seen: others can only lower it."""
    ceilings = document["ceilings"]
    if not ceilings:
        return
    seen = [case["peak_seen_gflops"] for case in document["cases"].values() if case["peak_seen_gflops"]]
    peak = ceilings["fma_all_gflops"] = max([ceilings["fma_all_gflops"], *seen])
    for case in document["cases"].values():
        for figures in case["peers"].values():
            figures["peak_share"] = figures["gflops"] / peak


def save(path: Path, document: Document) -> None:
    """Write the document, whole or not at all."""
    set_shares(document)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a list of numbers stands in one line
    text = re.sub(r"\[[-+.\deE,\s]+\]", lambda found: " ".join(found[0].split()), to_json(document))
    write_text(path, text + "\n")
