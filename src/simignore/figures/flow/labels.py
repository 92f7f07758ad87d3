"""Where words go in a chart, so that none lies on another."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

LINE = 15  # height of a line of text, in the chart's units
Box = tuple[float, float, float, float]  # left, top, right, bottom


def apart(wanted: Sequence[float], low: float, high: float, gap: float = LINE) -> list[float]:
    """Rising heights near those wanted (rising), at least ``gap`` apart, from ``low`` to ``high`` if they fit."""
    placed: list[float] = []
    for height in wanted:
        placed.append(max(height, placed[-1] + gap if placed else low))
    ceiling = high
    for n in reversed(range(len(placed))):
        placed[n] = max(min(placed[n], ceiling), low + n * gap if high - low >= gap * (len(placed) - 1) else -1e9)
        ceiling = placed[n] - gap
    return placed


def beside(x: float, y: float, word: str, within: Box, taken: list[Box]) -> tuple[float, float, str] | None:
    """(x, y, text-anchor) of a word beside a point where nothing lies yet, right, left, below or above it; None without room.

    within: the chart. taken: what lies there already; the word's own box is added.
    """
    length = wide(word) * 0.9  # these words are smaller
    for left, down, at, anchor in (
        (x + 6, y + 4, x + 7, "start"),
        (x - 6 - length, y + 4, x - 7, "end"),
        (x - length / 2, y + 16, x, "middle"),
        (x - length / 2, y - 7, x, "middle"),
    ):
        box = left, down - 10, left + length, down + 2
        inside = within[0] <= box[0] and box[2] <= within[2] and within[1] <= box[1] and box[3] <= within[3]
        if inside and not any(_meet(box, other) for other in taken):
            taken.append(box)
            return at, down, anchor
    return None


def short(text: str, most: int = 26) -> str:
    """A name that fits beside a chart."""
    return text if len(text) <= most else text[: most - 1] + "…"


def wide(text: str) -> int:
    """About how many units a name takes at the chart's size of letters."""
    return round(sum(12 if unicodedata.east_asian_width(c) in "WF" else 7.3 for c in short(text)))


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
