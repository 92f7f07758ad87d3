"""Write the pages' tables and numbers: ``python scripts/readme.py``, or ``--check`` to fail where they are stale.

Whatever stands between ``<!-- simignore:NAME -->`` and ``<!-- /simignore:NAME -->`` is replaced by the section NAME,
made from ``results/*.json`` or from the package's own lists, so that no number or name is typed twice.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import card
import claims_page
import flow_page
import learning_page
import methods_page

import sections
from sections import StaleError

SECTIONS = dict(sections.SECTIONS)
for page in (card, methods_page, claims_page, flow_page, learning_page):
    SECTIONS |= page.SECTIONS
ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/methods.md", "docs/claims.md", "docs/flow.md", "docs/learning.md", "docs/bundled-model.md")
_MARK = re.compile(r"<!-- (/?)simignore:([\w-]+) -->")


def rendered(text: str, root: Path = ROOT) -> str:
    """``text`` with every marked section made anew from the results under ``root``.

    Raises StaleError for a page without markers, a marker without its partner, an unknown name, a missing result.
    """
    found, parts, opened, end = 0, [], None, 0
    for mark in _MARK.finditer(text):
        closing, name = mark[1] == "/", mark[2]
        if name not in SECTIONS:
            raise StaleError(f"unknown section {name!r} in {mark[0]}; there are {', '.join(SECTIONS)}")
        if closing != (opened is not None) or (closing and name != opened):
            missing = f"<!-- /simignore:{opened} -->" if opened else f"<!-- simignore:{name} -->"
            raise StaleError(f"{mark[0]} stands where {missing} is missing; every section needs both of its markers")
        if closing:
            parts += [f"\n{SECTIONS[name](root).strip()}\n", mark[0]]
            found += 1
        else:
            parts += [text[end : mark.end()]]
        opened, end = (None if closing else name), mark.end()
    if opened:
        raise StaleError(f"<!-- simignore:{opened} --> is never closed; add <!-- /simignore:{opened} --> below it")
    if not found:
        raise StaleError(
            "the page has no markers; write <!-- simignore:methods --> <!-- /simignore:methods --> into it"
        )
    return "".join([*parts, text[end:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the pages; 0 if they are now up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail with a diff if one is out of date")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of README.md, docs/ and results/")
    options = parser.parse_args(arguments)
    pages = [page for page in PAGES if page == PAGES[0] or (options.root / page).exists()]
    return max(_page(page, options.root, options.check) for page in pages)


def _page(page: str, root: Path, check: bool) -> int:
    path = root / page
    try:
        old = path.read_text(encoding="utf-8")
        new = rendered(old, root)
    except (StaleError, OSError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    if check and new != old:
        lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), page, f"{page} as it should be")
        sys.stdout.writelines(lines)
        print(f"{page} is out of date; run `python scripts/readme.py` and commit", file=sys.stderr)
        return 1
    if not check:
        path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
