"""From a matplotlib figure to SVG text that may stand inside a page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import style
from matplotlib.figure import Figure

# role -> its colour in the light scheme; the page's style sheet names the same roles for the dark one.
# No two may be equal: a colour in the drawing is found again by its value.
COLOURS = {
    "ink": "#4a5563",
    "grid": "#e4e8ed",
    "rule": "#9aa5b1",
    "truth": "#2b3541",
    "accent": "#1b6ca8",
    "band": "#1c6da9",
    "line-1": "#c2571a",
    "line-2": "#2a8560",
    "line-3": "#8a55b5",
    "line-4": "#b33f62",
    "line-5": "#80702f",
}
FONT_SIZE = 11.5

_STYLE = {
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["ink"],
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": FONT_SIZE,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.dpi": 72,  # one unit of the drawing is then one point, and one pixel at full size
    "font.family": "DejaVu Sans",
    "font.size": FONT_SIZE,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.9,
    "lines.linewidth": 1.6,
    "path.simplify": False,
    "svg.fonttype": "none",
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["ink"],
    "ytick.color": COLOURS["rule"],
    "ytick.labelcolor": COLOURS["ink"],
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Make matplotlib draw in the report's style inside the block, whatever the user's own style is.

    Args:
        name: identifies the figure on its page; salts the ids of what it defines.
    """
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}], after_reset=True):
        yield


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """Write a figure as an `<svg>` element for the middle of an HTML page; call it inside `drawing(name)`.

    The same figure gives the same bytes. Colours of `COLOURS` become custom properties (`--accent` and so on,
    with the light colour to fall back on), fonts are the page's own, and every id begins with `name`.

    Args:
        figure: drawn with the colours of `COLOURS`.
        name: as given to `drawing`; letters, digits and hyphens.
        description: read aloud in place of the picture.

    Returns:
        The SVG as text.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    viewbox = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index("</defs>") + len("</defs>") : text.rindex("</svg>")]
    title = f'<title id="{name}-title">{html.escape(description)}</title>'
    head = f'<svg {viewbox[0] if viewbox else ""} role="img" aria-labelledby="{name}-title" class="figure">'
    return f"{head}{title}{_recolour(_shorten(_rename(body, name)))}</svg>"


def _rename(body: str, name: str) -> str:
    """Prefix the ids that something refers to, drop the others."""
    used = set(re.findall(r"url\(#([^)]+)\)", body)) | set(re.findall(r'xlink:href="#([^"]+)"', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = body.replace("url(#", f"url(#{name}-")
    return body.replace('xlink:href="#', f'href="#{name}-')


def _shorten(body: str) -> str:
    """Round coordinates to a tenth of a pixel, leave fonts to the page, drop the white space between tags."""

    def round_number(match: re.Match[str]) -> str:
        return f"{round(float(match[0]), 1) + 0.0:g}"  # the zero added turns -0 into 0

    def round_attribute(match: re.Match[str]) -> str:
        value = re.sub(r"-?\d+\.\d+", round_number, match[2])
        if match[1] == "d":
            value = re.sub(r"\s*([MLQCzZ])\s*", r"\1", value)
        return f' {match[1]}="{value.strip()}"'

    body = re.sub(r' (d|x|y|transform)="([^"]*)"', round_attribute, body)
    body = re.sub(r" font-family:[^;\"]*;?", "", body)
    return re.sub(r">\s+<", "><", body).strip()


def _recolour(body: str) -> str:
    """Name colours by role, so that the page's scheme decides."""
    for role, colour in COLOURS.items():
        body = body.replace(f": {colour}", f": var(--{role}, {colour})")
    return body
