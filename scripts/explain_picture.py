"""Draw docs/explain.png: the top of the page that `simignore explain` writes about the bundled picture, seen in a browser.

python scripts/explain_picture.py     # needs Chromium and the extra `browser`
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from simignore.cli import app

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1120, 865


def main() -> int:
    """0 if the picture was drawn."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        print("no Chromium found; install one (apt-get install chromium)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        page_file = Path(folder) / "report.html"
        told = CliRunner().invoke(app, ["explain", "example", "--answer-as", "text", "--out", str(page_file)])
        if told.exit_code:
            print(told.output, file=sys.stderr)
            return told.exit_code
        running = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = running.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(page_file.as_uri())
        top = page.locator("#maps").bounding_box()
        if top is None:
            print("the page has no maps", file=sys.stderr)
            return 1
        clip = {"x": 0, "y": top["y"], "width": WIDTH, "height": HEIGHT}
        page.screenshot(path=ROOT / "docs" / "explain.png", full_page=True, clip=clip)
        running.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
