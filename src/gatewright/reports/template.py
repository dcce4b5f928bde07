"""From templates and what they show to a page: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gatewright.reports.lines import LegendEntry
from gatewright.reports.svg import COLOURS


@dataclass(frozen=True)
class Panel:
    """One figure with the words around it.

    Attributes:
        title: its heading.
        drawings: one, or two that are one picture for wide and for narrow screens.
        caption: what there is to see.
        legend: what is drawn.
    """

    title: str
    drawings: Sequence[Markup]
    caption: str = ""
    legend: Sequence[LegendEntry] = ()


def render(template: str, **values: object) -> str:
    """Fill a template of this package; whatever is no `Markup` is escaped.

    Args:
        template: its file name.
        **values: what it shows.

    Returns:
        The page, to be written as UTF-8.
    """
    environment = Environment(
        loader=PackageLoader("gatewright", "reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(colours=COLOURS, **values)
    # half a surrogate pair in a name would make the page impossible to write
    return page.encode("utf-8", "replace").decode("utf-8")
