"""Put the measurements where they are read: tables and figure between markers in README and documentation.

    python -m benchmarks.report [RESULTS]

What stands between ``<!-- bench:begin -->`` and ``<!-- bench:end -->`` is replaced: in README.md by the aims
beside what was measured and the figure, in docs/performance.md by every table as well. The same results give
the same bytes.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.figure import draw
from benchmarks.machine import ROOT

from benchmarks import results, tables
from gatewright.files import write_text

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
README, DETAILS, FIGURE = (
    ROOT / "README.md",
    ROOT / "docs/performance.md",
    ROOT / "docs/images/performance.svg",
)


def replaced(text: str, content: str) -> str | None:
    """A text with what stands between the markers replaced; None unless it has both markers once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        return None
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{content.strip()}\n\n{END}{rest.split(END)[1]}"


def summary(document: results.Document, figure: str) -> str:
    """The aims, the figure and the conditions."""
    picture = f"![Rates of every rival by size]({figure})"
    return "\n\n".join([tables.target_table(document), picture, tables.conditions(document)])


def newest() -> Path | None:
    """The results file that was written last."""
    return max(results.FOLDER.glob("*.json"), key=lambda path: path.stat().st_mtime, default=None)


def main(arguments: list[str] | None = None) -> int:
    """Write everything; 2 without results."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("results", type=Path, nargs="?", help="results file (default: the newest)")
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--details", type=Path, default=DETAILS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    options = parser.parse_args(arguments)
    path = options.results or newest()
    try:
        if path is None:
            raise results.ResultsError(f"no results in {results.FOLDER}: run python -m benchmarks.run")
        document = results.read(path)
    except results.ResultsError as error:
        print(error, file=sys.stderr)
        return 2
    draw(document, options.figure)
    for page, more in ((options.readme, ""), (options.details, tables.details(document))):
        figure = Path(os.path.relpath(options.figure, page.parent)).as_posix()
        text = replaced(page.read_text(encoding="utf-8"), f"{summary(document, figure)}\n\n{more}")
        if text is None:
            print(f"{page} has not the markers {BEGIN} and {END} once each: left as it is", file=sys.stderr)
        else:
            write_text(page, text)
    print(tables.target_table(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
