"""The page of an explanation: it holds the report's numbers, at the right places, and claims no more than they say."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image
from zoo import CASES, Sample

from flow_reports import bare_report, flow_report, odd_report, tiled
from grids import lying
from simignore import Random, locate, tiny
from simignore.figures.flow import flow_page
from simignore.figures.flow.heat import MISSING, STEPS, heat
from simignore.figures.flow.labels import apart, beside
from simignore.figures.flow.layers import layers
from simignore.figures.flow.scale import Scale, over
from simignore.figures.flow.stage import Stage
from simignore.figures.flow.store import BUDGET, choices, layers_shown
from simignore.figures.flow.words import number, percent, ranges, safe, signed
from simignore.figures.paint import viridis
from simignore.types import Grid, Selection

VOID = {"meta", "input", "img", "br"}
SECTIONS = ["answer", "maps", "kept", "layers", "hypothesis", "sinks", "lens", "faithful", "cost", "settings"]


class Read(HTMLParser):
    """A page's elements and text; complains about elements that are not closed in turn."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.setdefault(self.open[-1] if self.open else "", []).append(data)

    def all(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [attrs[name] or "" for _, attrs in self.elements if name in attrs]


def page(report) -> str:
    return flow_page(report, tiny.example(), None)


def data(html: str):
    return json.loads(re.search(r'id="maps-data">(.*?)</script>', html, re.S)[1])


def values(maps, token: int, count: int) -> np.ndarray:
    """The numbers that a page's codes stand for, as its script reads them."""
    codes = np.frombuffer(base64.b64decode(maps["codes"]), np.uint8).reshape(-1, count)
    row = 0 if len(maps["scales"]) == 1 else token
    low, high, log, _ = maps["scales"][row]
    part = codes[row] / STEPS
    return low * (high / low) ** part if log else low + (high - low) * part


@pytest.mark.parametrize("report", [flow_report(), bare_report(), odd_report(), flow_report(tiled())], ids=range(4))
def test_the_page_is_sound_html_without_dead_links_or_anything_outside(report):
    html = page(report)
    read = Read(html)
    names = read.all("id")
    assert len(names) == len(set(names))
    links = read.all("href") + read.all("src")
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert {link[1:] for link in links if link.startswith("#")} <= set(names)
    assert not re.search(r"url\((?!#)|@import|https?://", html)
    assert sum(tag == "script" for tag, _ in read.elements) == 2
    assert not any(name.startswith("on") for _, attrs in read.elements for name in attrs)
    assert all(attrs.get("aria-label") for tag, attrs in read.elements if attrs.get("role") == "img")
    assert sum(tag == "figure" for tag, _ in read.elements) - 1 == sum(tag == "figcaption" for tag, _ in read.elements)


def test_sections_come_in_the_order_of_interest_and_what_is_not_there_is_left_out():
    shown = [attrs["id"] for tag, attrs in Read(page(flow_report())).elements if tag == "section"]
    assert shown == ["findings", *SECTIONS]
    shown = [attrs["id"] for tag, attrs in Read(page(bare_report())).elements if tag == "section"]
    assert shown == ["findings", "answer", "maps", "layers", "hypothesis", "settings"]


def test_the_same_report_makes_the_same_page():
    assert page(flow_report()) == page(flow_report())


def test_words_from_outside_stay_words():
    report = odd_report()
    read = Read(page(report))
    heading = "".join(read.words["h1"])
    assert heading == report.question.replace("\x07", "�").replace("\ud800", "�")
    assert not any(tag in ("img", "i", "b>") for tag, _ in read.elements)
    bdi = read.words["bdi"]
    assert {"⏎", "␣", "🇫🇷", "$x^$", "\"'&", *report.options} <= {
        text if text in bdi else text.strip() for text in bdi
    } | set(bdi)
    page(report).encode()  # no half pairs are left


def test_the_maps_in_the_page_hold_the_reports_numbers():
    report = flow_report(blind=(0, 3))
    told = data(page(report))
    count = told["count"]
    assert [view["name"] for view in told["views"]][: len(report.views)] == list(report.views)
    for view in told["views"]:
        if view["name"] in report.views:
            for token, wanted in enumerate(report.views[view["name"]]):
                _near(values(view["maps"][0], token, count), wanted)
        if view["name"] in report.curves:
            tokens = report.curves[view["name"]].tokens
            assert len(view["maps"]) == 1 + report.layers
            for layer in range(report.layers):
                if layer in (0, 3):
                    assert view["maps"][1 + layer]["scales"] == [[]] * len(report.tokens) or view["maps"][1 + layer][
                        "scales"
                    ] == [[]]
                    continue
                _near(values(view["maps"][1 + layer], 1, count), tokens[1, layer])


def _near(told: np.ndarray, wanted: np.ndarray) -> None:
    """To half a step of the codes."""
    if wanted.min() < 0:
        assert np.abs(told - wanted).max() <= (wanted.max() - wanted.min()) / STEPS
    else:
        floor = max(wanted.min(), wanted.max() * 1e-4)
        assert np.abs(np.log(told) - np.log(np.maximum(wanted, floor))).max() <= math.log(1e4) / STEPS


def test_tokens_lie_in_the_page_where_they_lie_on_the_picture():
    case = CASES["llava-next-clip-llama"]
    picture = Image.effect_noise((90, 48), 60).convert("RGB")
    with torch.no_grad(), Random(keep=0.5)(case.model()) as trace:
        case.model()(**case.inputs(Sample(images=(picture,))))
    patches = trace.patches[0]
    report = flow_report(patches)
    told = data(flow_page(report, picture, case.shared_processor()))
    places = locate(patches, picture, case.shared_processor())
    parts = [part for panel in told["panels"] for part in panel]
    assert sorted(n for part in parts for row in part["tokens"] for n in row if n >= 0) == list(range(told["count"]))
    for part in parts:
        rows, columns = len(part["tokens"]), len(part["tokens"][0])
        for row in range(rows):
            for column in range(columns):
                token = part["tokens"][row][column]
                place = places[int(patches.grid[0, token])]
                left, top, right, bottom = part["box"]
                cell = place.cell(int(patches.row[0, token]), int(patches.column[0, token]))
                assert cell[0] == pytest.approx(left + column * (right - left) / columns, abs=0.02)
                assert cell[3] == pytest.approx(top + (row + 1) * (bottom - top) / rows, abs=0.02)


def test_tiles_share_a_panel_and_an_overview_has_its_own():
    stage = Stage(tiled(4), tiny.example(), None)
    assert [(panel.name, len(panel.parts)) for panel in stage.panels] == [("overview", 1), ("all tiles", 4)]
    assert [panel.box for panel in stage.panels] == [(0, 0, 112, 112)] * 2


def test_tokens_without_a_place_are_shown_in_reading_order():
    patches = lying([[Grid(1, 10, 0, "tokens")]])
    stage = Stage(patches, tiny.example(), None)
    assert not stage.placed
    assert stage.panels[0].parts[0].tokens.ravel().tolist() == [*range(10), -1, -1]
    html = page(flow_report(patches))
    assert "no place on the picture" in html


def test_the_picture_is_painted_where_the_map_is_high():
    report = flow_report()
    stage = Stage(report.patches, tiny.example(), None)
    shown = heat(report.views["attention"][0])
    drawn = re.search(r'class="cells"[^>]*href="data:image/png;base64,([^"]+)"', stage.draw(shown.painted()))[1]
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(drawn))))
    side = pixels.shape[0] // 14
    middles = pixels[side // 2 :: side, side // 2 :: side].reshape(-1, 4)
    assert np.array_equal(middles, shown.painted())
    assert middles[report.views["attention"][0].argmax(), :3].tolist() == viridis(np.array(1.0)).tolist()


@given(some.lists(some.booleans(), min_size=24, max_size=24))
def test_an_outline_has_an_edge_wherever_chosen_meets_unchosen(chosen):
    grid = np.array(chosen).reshape(4, 6)
    stage = Stage(lying([[Grid(4, 6, 0, box=(0, 0, 1, 1))]]), Image.new("RGB", (60, 40)), None)
    (path,) = stage.outline(grid.ravel())
    edges = re.findall(r"M([\d.]+) ([\d.]+)([hv])", path.split('class="outline"')[-1])
    padded = np.pad(grid, 1)
    wanted = {(10.0 * c, 10.0 * r, "v") for r in range(4) for c in range(7) if padded[r + 1, c] != padded[r + 1, c + 1]}
    wanted |= {
        (10.0 * c, 10.0 * r, "h") for r in range(5) for c in range(6) if padded[r, c + 1] != padded[r + 1, c + 1]
    }
    assert {(float(x), float(y), way) for x, y, way in edges} == wanted and len(edges) == len(wanted)


@given(some.lists(some.floats(0, 200), min_size=1, max_size=10))
def test_names_at_the_ends_of_lines_do_not_lie_on_each_other(wanted):
    placed = apart(sorted(wanted), 0, 200, 15)
    assert all(b - a >= 15 - 1e-9 for a, b in pairwise(placed))
    assert min(placed) >= -1e-9 and max(placed) <= 200 + 1e-9


@given(some.lists(some.tuples(some.floats(0, 400), some.floats(0, 300)), max_size=12))
def test_words_beside_points_do_not_lie_on_each_other(points):
    taken = []
    for x, y in points:
        beside(x, y, "number", (0, 0, 400, 300), taken)
    for n, one in enumerate(taken):
        assert one[0] >= 0 and one[2] <= 400 and one[1] >= 0 and one[3] <= 300
        for other in taken[n + 1 :]:
            assert one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]


def test_ticks_are_round_and_inside():
    for scale in (
        Scale(0, 1),
        Scale(-3.2, 0.7),
        Scale(-0.4, 31.4, whole=True),
        Scale(3e-6, 0.2, log=True),
        Scale(0, 1e-7),
    ):
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 9
        assert all(scale.low - 1e-12 <= tick <= scale.high + 1e-12 for tick in ticks)
    assert Scale(-0.4, 3.4, whole=True).ticks() == [0, 1, 2, 3]
    assert over(np.array([np.nan]), np.array([np.inf])).ticks()


def test_a_map_without_numbers_is_clear_and_one_of_equal_numbers_is_even():
    nothing = heat(np.full(5, np.nan))
    assert nothing.empty and (nothing.codes == MISSING).all() and not nothing.painted()[:, 3].any()
    even = heat(np.full(5, 0.3))
    assert len(set(even.codes.tolist())) == 1
    assert heat(np.zeros(3)).codes.tolist() == [127] * 3
    some_missing = heat(np.array([0.1, np.nan, 0.2]))
    assert some_missing.painted()[:, 3].tolist() == [255, 0, 255]


def test_layers_without_attention_are_hatched_and_named():
    html = layers(flow_report(blind=(0, 3, 4, 5)))
    assert "layers without attention (0 and 3 to 5)" in html
    assert 'class="none"' in html and 'class="none"' not in layers(flow_report())
    written = re.sub(
        r"base64,[^\"]*|\"codes\":\"[^\"]*\"|\"colours\":\"[^\"]*\"", "", page(flow_report(blind=(0, 3, 4, 5)))
    )
    assert not re.search(r"\bnan\b", written, re.I)


def test_the_page_stays_small():
    assert len(page(flow_report(answer=tuple("abcdef")))) < 0.7e6
    large = flow_report(tiled(24), answer=tuple("abcdef"), layers=12)
    assert large.patches.grid.shape[1] == 2880
    assert len(page(large)) < 3e6


def test_layers_are_thinned_before_the_page_gets_too_large_but_the_one_of_convergence_stays():
    report = flow_report(lying([[Grid(40, 40, 0, box=(0, 0, 1, 1))]]), answer=tuple("abcdefgh"), layers=64)
    found = choices(report)
    shown = layers_shown(report, found)
    assert 1 < len(shown) < 64
    assert {curves.convergence.layer for curves in report.curves.values()} <= set(shown)
    assert len(shown) * sum(one.maps.size for one in found if one.layers is not None) < 2 * BUDGET


def test_merged_tokens_lead_to_those_that_took_them_in():
    report = flow_report()
    source = torch.full((1, 196), -1)
    source[0, [10, 20]], source[0, [11, 34]] = torch.tensor([10, 20]), torch.tensor([10, 20])
    merged = Selection(torch.tensor([[10, 20]]), source)
    html = page(replace(report, kept=replace(report.kept, selection=merged)))
    assert "M92.0 4.0L84.0 4.0M52.0 20.0L52.0 12.0" in html
    assert "Merged tokens live on" in html and "Merged tokens live on" not in page(report)
    assert ">kept: 2<" in html and ">merged: 2<" in html and ">dropped: 192<" in html


def test_what_cannot_be_drawn_is_refused_with_a_reason():
    report = flow_report()
    with pytest.raises(ValueError, match="view 'attention' has shape"):
        page(replace(report, views={"attention": report.views["attention"][:, :5]}))
    with pytest.raises(ValueError, match="no answer tokens"):
        page(replace(report, tokens=()))
    with pytest.raises(ValueError, match="2 were passed"):
        flow_page(report, [tiny.example(), tiny.example()], None)
    with pytest.raises(ValueError, match="pictures is None; pass the image"):
        flow_page(report, None, None)


def test_numbers_are_written_for_people():
    assert [number(x) for x in (0, 0.25, 1250, -0.5, 3.2e-5, 1e-6, 123456.0, math.nan)] == [
        "0", "0.25", "1,250", "−0.5", "3.2×10⁻⁵", "10⁻⁶", "1.23×10⁵", "–",
    ]  # fmt: skip
    assert [percent(x) for x in (0, 0.0001, 0.0213, 0.25, 1, 0.9999)] == [
        "0 %", "under 0.1 %", "2.1 %", "25 %", "100 %", "over 99.9 %",
    ]  # fmt: skip
    assert [signed(x) for x in (0.0, -0.3, 0.456)] == ["0.00", "−0.30", "+0.46"]
    assert ranges([0, 1, 3, 4, 5]) == "0, 1 and 3 to 5" and ranges([2]) == "2"
    assert safe("<\x00\ud800\"'") == "&lt;��&quot;&#x27;"


def test_colours_can_be_told_from_the_paper_in_light_and_dark():
    css = re.search(r"<style>(.*?)</style>", page(bare_report()), re.S)[1]
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", block)) for block in re.findall(r":root \{(.*?)\}", css, re.S)[:2]
    )
    lines = [
        "attention",
        "saliency",
        "rollout",
        "relevancy",
        "similarity",
        "image",
        "question",
        "options",
        "context",
        "system",
    ]
    lines += ["image-2", "image-3", "image-4", "random", "earlier", "other-1", "other-2", "other-3"]
    for scheme in (light, {**light, **dark}):
        for text in ("ink", "quiet", "accent"):
            assert (
                _contrast(scheme[text], scheme["paper"]) >= 4.5 and _contrast(scheme[text], scheme["raised"]) >= 4.5
            ), text
        for line in lines:
            assert _contrast(scheme[line], scheme["paper"]) >= 2.9, line


def _contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours."""

    def light(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
