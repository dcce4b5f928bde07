from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from gatewright.reports.contents import Report, ScoreRow, SeriesForecast
from gatewright.reports.page import render_page
from gatewright.reports.svg import COLOURS

VOID = {"meta", "link", "br", "hr", "img"}
HOSTILE = "<script>alert('x')</script>\"&\u65e5\u672c $x^2$ " + "long " * 60
FIGURES = [
    *(
        f"{kind}-{index}-{width}"
        for kind in ("held-out", "future")
        for index in (1, 2)
        for width in ("wide", "narrow")
    ),
    "error-by-horizon",
    "learning-curves",
    "gradient-by-lag",
]


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.values: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.values += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_every_part_is_on_the_page(report: Report) -> None:
    page = Page(render_page(report))
    words = " ".join(" ".join(page.words).split())
    for expected in (
        report.title,
        report.verdict,
        report.score_note,
        report.notes[0],
        report.command,
        "load.csv",
    ):
        assert expected in words
    assert {f"{name}-title" for name in FIGURES} <= set(page.ids)
    assert page.tags["html"] == page.tags["head"] == page.tags["body"] == page.tags["h1"] == 1
    assert ("lang", "en") in page.values
    assert ("name", "viewport") in page.values


def test_every_figure_has_a_role_and_a_title_it_refers_to(report: Report) -> None:
    text = render_page(report)
    heads = re.findall(
        r'<svg viewBox="0 0 \d+ \d+" role="img" aria-labelledby="([^"]+)" class="figure">', text
    )
    assert heads == [f"{name}-title" for name in FIGURES]
    for head in heads:
        assert re.search(f'<title id="{head}">[^<]+</title>', text)


def test_ids_are_unique_and_references_resolve(report: Report) -> None:
    text = render_page(report)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    used = re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'href="#([^"]+)"', text)
    assert used
    assert set(used) <= set(page.ids)


def test_nothing_comes_from_outside(report: Report) -> None:
    text = render_page(report)
    page = Page(text)
    assert page.tags["script"] == 0
    assert "://" not in text
    assert "@import" not in text
    assert [
        value for name, value in page.values if name in ("src", "href") and not value.startswith("#")
    ] == ["data:,"]
    assert not [name for name, _ in page.values if name.startswith("on")]


def test_same_report_gives_the_same_text(report: Report) -> None:
    assert render_page(report) == render_page(report)


def test_user_words_are_escaped_everywhere(report: Report) -> None:
    series = [replace(one, id=HOSTILE) for one in report.held_out]
    hostile = replace(
        report,
        title=HOSTILE,
        verdict=HOSTILE,
        target=HOSTILE,
        score_note=HOSTILE,
        held_out=series,
        scores=[ScoreRow(HOSTILE, 1, 2, 3, 0.9), ScoreRow("b", 2, 3, 4, 0.8)],
        error_by_horizon={HOSTILE: np.arange(3.0)},
        gradient_norms={HOSTILE: np.ones(3)},
        facts={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        files={HOSTILE: HOSTILE},
        command=HOSTILE,
    )
    text = render_page(hostile)
    page = Page(text)
    assert page.tags["script"] == 0
    assert "<script" not in text
    assert any("<script>alert('x')</script>\"&\u65e5\u672c $x^2$" in word for word in page.words)


def test_half_a_surrogate_pair_does_not_stop_the_page(report: Report) -> None:
    render_page(replace(report, title="a \ud800 b")).encode("utf-8")


def test_an_empty_report_is_a_page() -> None:
    text = render_page(Report("Empty", "Nothing was trained.", False, [], 90, "y"))
    page = Page(text)
    assert page.tags["figure"] == 0
    assert page.tags["table"] == 0
    assert 'class="verdict warn"' in text


def test_many_series_share_one_drawing_for_all_widths(report: Report) -> None:
    many = replace(report, held_out=list(report.held_out) * 3, future=())
    text = render_page(many)
    assert text.count('<title id="held-out-') == 6
    assert "held-out-1-wide" not in text


def test_long_series_keep_the_page_small(report: Report) -> None:
    size = 50_000
    rng = np.random.default_rng(0)
    one = SeriesForecast(
        "long",
        np.arange(size),
        rng.normal(size=size),
        np.arange(size, 2 * size),
        rng.normal(size=size),
        {level: (rng.normal(size=size) - 3, rng.normal(size=size) + 3) for level in (50, 80, 90)},
        "beyond the end of the data",
    )
    assert len(render_page(replace(report, held_out=(), future=[one] * 6)).encode()) < 1_500_000


def test_best_scores_stand_out(report: Report) -> None:
    text = render_page(report)
    best = re.findall(r'<td class="best"><strong>([^<]+)</strong>', text)
    assert best == ["0.700", "6.40 %", "88.4 %"]


def test_seasons_outside_the_gradient_window_are_named(report: Report) -> None:
    assert "Not on the axis: the season of 168 steps." in render_page(report)
    assert "Not on the axis" not in render_page(replace(report, season_lengths=(24,)))


@pytest.mark.parametrize("role", COLOURS)
def test_every_colour_has_a_light_and_a_dark_value(report: Report, role: str) -> None:
    light, dark = render_page(report).split("prefers-color-scheme: dark", 1)
    assert re.search(rf"--{role}: {COLOURS[role]};", light)
    assert re.search(rf"--{role}: #[0-9a-f]{{6}};", dark)
