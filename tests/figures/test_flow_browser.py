"""The page of an explanation in a real browser: it opens without a word of complaint, asks nobody for anything, and its maps
can be chosen. Skipped where Playwright or a Chromium is missing."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest

from flow_reports import bare_report, flow_report, odd_report, tiled
from simignore import tiny
from simignore.figures.flow import flow_page

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")

REPORTS = {
    "full": flow_report,
    "tiles": lambda: flow_report(tiled(6)),
    "blind": lambda: flow_report(blind=(0, 3, 4), layers=8),
    "odd": odd_report,
    "bare": bare_report,
}


@dataclass
class Heard:
    """What a page asked for and complained about."""

    complaints: list[str] = field(default_factory=list)
    requests: Counter = field(default_factory=Counter)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, make in REPORTS.items():
        (folder / f"{name}.html").write_text(flow_page(make(), tiny.example(), None), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        try:
            running = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:  # a stub that only says where to find the browser, for instance
            pytest.skip(f"{CHROMIUM} does not start: {str(error).splitlines()[0]}")
        yield running
        running.close()


@pytest.fixture
def opened(browser, files):
    """Opens a page without a network: (page, what was heard)."""
    contexts = []

    def open_page(name: str, width: int = 1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        contexts.append(context)
        page, heard = context.new_page(), Heard()
        page.on("console", lambda said: heard.complaints.append(said.text))
        page.on("pageerror", lambda error: heard.complaints.append(str(error)))
        page.on("dialog", lambda dialog: heard.complaints.append(dialog.message))
        page.on("request", lambda asked: heard.requests.update([asked.url.split(":")[0]]))
        page.goto((files / f"{name}.html").as_uri())
        return page, heard

    yield open_page
    for context in contexts:
        context.close()


def stage(page) -> str:
    """The pictures that the large map shows now."""
    return page.eval_on_selector_all(".heat.main .cells", "all => all.map(one => one.getAttribute('href')).join()")


LOOKS = [("full", 1280, "light"), ("full", 420, "dark"), ("tiles", 1280, "dark"), ("blind", 420, "light")]
LOOKS += [("odd", 420, "dark"), ("bare", 1280, "light")]


@pytest.mark.parametrize(("name", "width", "scheme"), LOOKS)
def test_the_page_opens_in_silence_and_everything_on_it_can_be_seen(opened, name, width, scheme):
    page, heard = opened(name, width, color_scheme=scheme)
    sizes = page.eval_on_selector_all(
        "figure, svg:not(.store), .ramp, .meter",
        "all => all.map(one => one.getBoundingClientRect()).map(box => [box.width, box.height])",
    )
    assert len(sizes) > 10 and min(map(min, sizes)) > 0
    broken = page.evaluate(
        """async () => {
          const links = [...document.querySelectorAll("image")].map((one) => one.getAttribute("href"));
          const load = (link) => Object.assign(new Image(), { src: link }).decode().then(() => 0, () => 1);
          return [links.length, (await Promise.all(links.map(load))).reduce((a, b) => a + b, 0)];
        }"""
    )
    assert broken[0] > 2 and broken[1] == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.eval_on_selector_all(
        ".chart text, h1, h2, p, figcaption, td",
        """all => all.filter((one) => !one.closest(".wide"))
          .map((one) => [one.textContent, one.getBoundingClientRect(), document.documentElement.clientWidth])
          .filter(([text, box, width]) => text && (box.left < -1 || box.right > width + 1)).map(([text]) => text)""",
    )
    assert outside == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    assert heard.complaints == []
    assert set(heard.requests) <= {"file", "data"} and heard.requests["file"] == 1


@pytest.mark.parametrize("name", ["full", "tiles"])
def test_every_control_changes_the_picture(opened, name):
    page, heard = opened(name)
    seen = [stage(page)]
    page.locator(".chips").get_by_text("saliency", exact=True).click()
    seen.append(stage(page))
    assert "saliency" in page.inner_text("#maps-said") and "nats" in page.inner_text("#maps-bar")
    page.locator("input[name=maps-token]").nth(1).check(force=True)
    seen.append(stage(page))
    assert "answer token 2" in page.inner_text("#maps-said")
    page.focus("#maps-layer")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#maps-layer-said") == "layer 0"
    seen.append(stage(page))
    other = page.locator("input[name=maps-scale]:not(:checked)")
    other.check(force=True)
    seen.append(stage(page))
    assert len(set(seen)) == len(seen)
    page.fill("#maps-strength", "0.3")
    assert page.eval_on_selector(".heat.main .cells", "one => getComputedStyle(one).opacity") == "0.3"
    page.locator(".chips").get_by_text("similarity", exact=True).click()
    assert page.is_disabled("#maps-layer") and "no single layers" in page.inner_text("#maps-layer-said")
    assert heard.complaints == []


def test_a_small_map_opens_the_large_one_and_keys_alone_will_do(opened):
    page, _ = opened("full")
    page.focus("button[data-view='4'][data-token='1']")
    page.keyboard.press("Enter")
    assert page.inner_text("#maps-said").startswith("rollout of answer token 2")
    page.focus("input[name=maps-view]:checked")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#maps-said").startswith("relevancy of answer token 2")


def test_the_large_map_is_at_first_what_it_is_without_scripts(opened):
    page, _ = opened("full")
    plain, _ = opened("full", java_script_enabled=False)
    read = """async (link) => {
      const image = Object.assign(new Image(), { src: link });
      await image.decode();
      const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
      const pen = canvas.getContext("2d");
      pen.drawImage(image, 0, 0);
      return [...pen.getImageData(0, 0, image.width, image.height).data];
    }"""
    links = stage(page), plain.get_attribute(".main .cells", "href")
    chosen, drawn = (np.array(page.evaluate(read, link)) for link in links)
    assert chosen.shape == drawn.shape and np.abs(chosen - drawn).max() <= 3  # one step of the scale, rounded twice
    assert not plain.is_visible(".choose") and page.is_visible(".choose")
    assert plain.is_visible(".heat.main svg") and plain.is_visible(".sheet svg >> nth=0")


def test_pointing_at_a_square_tells_its_number(opened):
    page, _ = opened("full")
    values = flow_report().views["attention"][0]
    token = int(values.argmax())
    page.locator(".heat.main svg").scroll_into_view_if_needed()
    box = page.locator(".heat.main svg").bounding_box()
    page.mouse.move(
        box["x"] + (token % 14 + 0.5) / 14 * box["width"], box["y"] + (token // 14 + 0.5) / 14 * box["height"]
    )
    said = page.inner_text("#maps-read")
    assert said.startswith(f"image token {token} (row {token // 14}, column {token % 14}): ")
    assert float(said.split(": ")[1]) == pytest.approx(values[token], rel=0.05)


def test_a_table_that_is_cut_says_so_until_its_end_is_in_sight(opened):
    page, _ = opened("full", 420)
    sheet = page.locator(".wide:has(.sheet)")
    assert "more-right" in sheet.get_attribute("class") and page.locator(".hint:visible").count() >= 1
    sheet.evaluate("one => { one.scrollLeft = one.scrollWidth }")
    page.wait_for_function("!document.querySelector('.wide:has(.sheet)').classList.contains('more-right')")
    wide, _ = opened("full", 1280)
    assert wide.locator(".wide:has(.sheet) + .hint:visible").count() == 0


def test_a_layer_without_attention_says_so(opened):
    page, heard = opened("blind")
    page.focus("#maps-layer")
    page.keyboard.press("ArrowRight")
    assert "no attention" in page.inner_text("#maps-said")
    assert page.inner_text("#maps-bar").split()[:3] == ["–", "–", "–"]
    page.locator(".heat.main svg").hover()
    assert page.inner_text("#maps-read").endswith("no number")
    assert heard.complaints == []


@pytest.mark.parametrize("name", ["full", "tiles", "odd"])
def test_the_page_prints_on_white_without_what_paper_cannot_do(opened, name):
    page, heard = opened(name, color_scheme="dark")
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.is_visible("nav") and not page.is_visible(".choose") and page.is_visible(".heat.main svg")
    page.set_viewport_size({"width": 690, "height": 1000})  # what A4 leaves between its margins
    cut = page.eval_on_selector_all(
        ".wide",
        "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent.slice(0, 40))",
    )
    assert cut == []
    assert heard.complaints == []
