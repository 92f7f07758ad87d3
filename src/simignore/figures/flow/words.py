"""Numbers and pieces of HTML as the page writes them. Every text that comes from outside goes through :func:`safe`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SHOWN = {"\n": "⏎", "\t": "⇥", "\r": "␍"}


def safe(text: object) -> str:
    """Text as HTML shows it, quotes escaped too; what no page may hold (control characters, half pairs) becomes �."""
    told = "".join("�" if (ord(c) < 32 and c not in "\n\t") or 0xD800 <= ord(c) < 0xE000 else c for c in str(text))
    return escape(told, quote=True)


def token(text: str) -> str:
    """One token's text as HTML: blanks and line breaks made visible, in its own direction."""
    shown = "".join(_SHOWN.get(letter, letter) for letter in text)
    if not shown.strip():
        shown = "␣" * len(shown) or "∅"
    return f"<bdi>{safe(shown)}</bdi>"


def number(value: float, digits: int = 3) -> str:
    """A number to so many digits, with a power of ten where it would be long: 0.0213, 1,250, 3.2×10⁻⁵."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        rounded = float(f"{value:.{digits}g}")
        places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
        told = f"{rounded:,.{places}f}"
        return (told.rstrip("0").rstrip(".") if "." in told else told).replace("-", "−")
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    told = f"{mantissa}×10{str(int(power)).translate(_RAISED)}".replace("-", "−")
    return told.replace("1×10", "10", 1) if mantissa in ("1", "-1") else told


def fixed(value: float, places: int = 3) -> str:
    """A number with always so many decimals, as a column of areas is told."""
    told = f"{value:.{places}f}".replace("-", "−") if math.isfinite(value) else "–"
    return told[1:] if told.startswith("−") and not told.strip("−0.") else told


def percent(share: float) -> str:
    """A share as per cent: 25 %, 0.3 %, under 0.1 %."""
    if not math.isfinite(share):
        return "–"
    value = share * 100
    if 0 < value < 0.1:
        return "under 0.1 %"
    if 99.9 < value < 100:
        return "over 99.9 %"
    return f"{value:.2g} %" if abs(value) < 10 else f"{value:.0f} %"


def signed(value: float) -> str:
    """Two decimals with a sign, as correlations are told."""
    told = f"{value:+.2f}".replace("-", "−") if math.isfinite(value) else "–"
    return told[1:] if told in ("+0.00", "−0.00") else told


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""


def ranges(numbers: Sequence[int]) -> str:
    """Whole numbers in rising order, runs of three or more told by their ends: 0, 1 and 3 to 5."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    told = [[str(n) for n in run] if len(run) < 3 else [f"{run[0]} to {run[-1]}"] for run in runs]
    return listed([part for run in told for part in run])


def section(name: str, title: str, lead: str, *parts: str) -> str:
    """A section with its heading; ``name`` is its place in the page, ``lead`` (HTML) what it answers."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{name}"><h2>{safe(title)}</h2>\n<p class="lead">{lead}</p>\n{body}\n</section>'


def figure(body: str, caption: str, kind: str = "") -> str:
    """A figure with its caption, both HTML."""
    named = f' class="{kind}"' if kind else ""
    return f"<figure{named}>{body}<figcaption>{caption}</figcaption></figure>"


def panels(*charts: tuple[str, str], thirds: bool = False) -> str:
    """Charts side by side where there is room, each with a title: (title as text, HTML)."""
    each = "".join(f'<div class="panel"><h4>{safe(title)}</h4>{chart}</div>' for title, chart in charts)
    return f'<div class="panels{" thirds" if thirds else ""}">{each}</div>'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """A table that scrolls by itself where it is too wide. Everything is HTML; the first cell of a row names the row."""
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "\n".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    return (
        f'<div class="wide" role="region" aria-label="table" tabindex="0"><table class="{kind}"><caption>{caption}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>\n{lines}\n</tbody></table></div>"
    )
