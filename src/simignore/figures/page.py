"""A page of results: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e24; --quiet: #686e7a; --paper: #fff; --line: #d6dae2; --bar: #0072b2;
  --soft: #f4f6fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaf0; --quiet: #9aa2b1; --paper: #16181d; --line: #343944; --bar: #56b4e9; --soft: #1e2128 }
  figure img { background: #fff; border-radius: 6px }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 2.5rem auto; padding: 0 1.25rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.6rem; overflow-wrap: anywhere }
p, figcaption, caption { color: var(--quiet); max-width: 60rem } caption { text-align: left; padding-bottom: .4rem }
.wide { overflow-x: auto; margin: 1.2rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { padding: .32rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { color: var(--quiet); font-weight: 500 }
tr.reference td { background: var(--soft) } .yes { color: #009e73; font-weight: 600 }
.bar { display: inline-block; height: .55rem; background: var(--bar); border-radius: 2px; margin-right: .5rem }
figure { margin: 1.4rem 0 } figure img { max-width: 100%; height: auto } code { font-size: .88em; overflow-wrap: anywhere }
details { margin: 1rem 0 } summary { cursor: pointer; color: var(--quiet) }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """The whole page. title: plain text. sections: HTML, as :func:`section` makes it."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><h1>{escape(title)}</h1>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def section(
    title: str, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], pictures: Sequence[tuple[str, bytes]]
) -> str:
    """One set of questions. rows: as in ``comparison.json``. facts: what they depend on. pictures: captions and PNG files."""
    parts = [f"<h2>{escape(title)}</h2>"]
    at_tokens, at_cost = ([row for row in rows if row["at"] == at] for at in ("tokens", "cost"))
    parts.append(
        _accuracies(at_tokens, "At equal tokens. Brackets: 95 % intervals; of differences by paired bootstrap.")
    )
    if at_cost:
        parts.append(_accuracies(at_cost, "At the prefill cost of dropping before the decoder."))
    if any("cost" in row for row in rows):
        parts.append(_costs([row for row in rows if "cost" in row]))
    parts += [picture(words, data) for words, data in pictures]
    parts.append(_details(rows, facts))
    return "\n".join(parts)


def _accuracies(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    head = ("method", "tokens kept", "held, mean", "accuracy, %", "against random", "better?", "against all tokens")
    return table(caption, head, [(_reference(row), _cells(row)) for row in rows])


def _cells(row: Mapping[str, Any]) -> list[str]:
    if "impossible" in row:
        return [escape(row["method"]), f"{row['keep']:g}", "", f"cannot: {escape(row['impossible'])}", "", "", ""]
    better = row.get("significantly_better_than_random")
    bar = f'<span class="bar" style="width:{row["accuracy"] * 6:.2f}rem"></span>'
    return [
        escape(row["method"]),
        f"{row['kept']:.4g}" if "kept" in row else "all",
        f"{row['held']:.4g}" if "held" in row else "all",
        f"{bar}{row['accuracy'] * 100:.1f} ({row['low'] * 100:.1f} to {row['high'] * 100:.1f})",
        _points(row.get("versus_random")),
        "" if better is None else '<span class="yes">yes</span>' if better else "no",
        _points(row.get("versus_full")),
    ]


def _points(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    middle, low, high = (difference[name] * 100 for name in ("difference", "low", "high"))
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("method", "kept", "prefill, ms", "of all tokens'", "prefill, GFLOP", "of all tokens'", "choosing, ms")
    cells = []
    for row in rows:
        own, of_full = row["cost"], row["cost"]["of_full"]
        cells.append(
            (
                _reference(row),
                [
                    escape(row["method"]),
                    f"{row['kept']:.4g}" if "kept" in row else "all",
                    f"{own['prefill_seconds']['median'] * 1e3:.1f}",
                    f"{of_full['prefill_seconds']:.2f}",
                    f"{own['prefill_flops'] / 1e9:.3g}",
                    f"{of_full['prefill_flops']:.2f}",
                    f"{own['selection_seconds']['median'] * 1e3:.2f}",
                    f"{own['decode_seconds']['median'] * 1e3:.1f}",
                    f"{own['kv_bytes'] / 1e6:.2f}",
                    f"{of_full['kv_bytes']:.2f}",
                ],
            )
        )
    caption = (
        "What one prompt costs: times are medians of runs taken in turn, prefill includes vision tower and choosing, FLOPs are "
        "counted by torch."
    )
    return table(caption, (*head, "decoding step, ms", "KV cache, MB", "of all tokens'"), cells)


def _reference(row: Mapping[str, Any]) -> bool:
    return row["method"] in ("full", "random")


def picture(caption: str, data: bytes) -> str:
    """A PNG file and what is seen on it, in plain text."""
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(caption: str, head: Sequence[str], rows: Sequence[tuple[bool, Sequence[str]]]) -> str:
    """A table. caption, head: plain text. rows: whether each is a reference, and its cells as HTML."""
    body = "\n".join(
        f"<tr{' class=reference' if quiet else ''}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for quiet, cells in rows
    )
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{titles}</tr></thead><tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def _details(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    told = "".join(f"<li>{escape(str(name))}: <code>{escape(str(value))}</code></li>" for name, value in facts.items())
    made = dict.fromkeys(str(row["configuration"]) for row in rows if row.get("configuration"))
    methods = "".join(f"<li><code>{escape(text)}</code></li>" for text in made)
    return f"<details><summary>What this was measured with</summary><ul>{told}</ul><ul>{methods}</ul></details>"
