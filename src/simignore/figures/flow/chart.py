"""Charts as SVG, with the page's colours and fonts, so that they follow light and dark paper and their words stay text.

Why not matplotlib: a chart here is a few lines with labels at their ends; as SVG of a few kilobytes it takes its colours from
the page's style sheet, its letters from the reader's fonts (any script, no formulas between dollars), and is the same on
every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simignore.figures.flow.labels import Box, apart, beside, short, wide
from simignore.figures.flow.looks import Look
from simignore.figures.flow.scale import Scale
from simignore.figures.flow.words import safe
from simignore.flow.report import Array

_TOP, _BOTTOM = 24, 40
_MARKS = {
    "o": "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "s": "M-2.9-2.9h5.8v5.8h-5.8z",
    "D": "M0-4l4 4l-4 4l-4-4z",
    "^": "M0-4l3.8 7h-7.6z",
    "v": "M0 4l3.8-7h-7.6z",
    "x": "M-3-3l6 6M-3 3l6-6",
    "P": "M-1.4-4.2h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8v-2.8h2.8z",
    "*": "M0-5l1.5 3.2 3.4.4-2.5 2.4.7 3.4-3.1-1.7-3.1 1.7.7-3.4-2.5-2.4 3.4-.4z",
}


class Chart:
    """One chart: make it, add to it, write it out with :meth:`svg`. Sizes are in the units of its view box, about a pixel each.

    x, y: the scales. x_label, y_label: what the axes are, with units. names: labels that will stand at the ends of lines (room
    is left for the longest). left: room beside the upright axis; None: as much as its numbers take.
    """

    def __init__(
        self,
        x: Scale,
        y: Scale,
        x_label: str,
        y_label: str,
        names: Sequence[str] = (),
        size: tuple[int, int] = (460, 300),
        left: int | None = None,
    ) -> None:
        self.x, self.y, self.size = x, y, size
        self.left = 34 + max(map(wide, map(y.told, y.ticks())), default=0) if left is None else left
        self.right = 16 + (12 + max(map(wide, names)) if names else 0)
        self._back: list[str] = []
        self._front: list[str] = []
        self._names: list[tuple[float, float, str, Look]] = []  # y, x of the end, the words, the look
        self._taken: list[Box] = []  # where words lie among the data
        self._axes(x_label, y_label)

    @property
    def plot(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of where data is drawn."""
        return self.left, _TOP, self.size[0] - self.right, self.size[1] - _BOTTOM

    def at(self, x: Any, y: Any) -> tuple[Array, Array]:
        """Where values are drawn."""
        left, top, right, bottom = self.plot
        return left + self.x.part(x) * (right - left), bottom - self.y.part(y) * (bottom - top)

    def line(self, x: Any, y: Any, look: Look, name: str = "", marks: bool = True) -> None:
        """A line through the values in order, broken where one is not a number; ``name`` is written at its end."""
        across, down = self.at(x, y)
        known = np.isfinite(across) & np.isfinite(down)
        if not known.any():
            return
        path, pen = [], "M"
        for here, a, d in zip(known, across, down, strict=True):
            if here:
                path.append(f"{pen}{a:.1f} {d:.1f}")
            pen = "L" if here else "M"
        dash = f' stroke-dasharray="{look.dash}"' if look.dash else ""
        self._front.append(f'<path class="line" style="--c:var(--{look.colour})" d="{"".join(path)}"{dash}/>')
        places = np.flatnonzero(known)
        for n in places[:: -(-len(places) // 14)] if marks else ():
            told = safe(f"{name}: {self.x.told(np.asarray(x)[n])}, {self.y.told(np.asarray(y)[n])}".lstrip(": "))
            self._front.append(_mark(across[n], down[n], look, told))
        if name:
            self._names.append((float(down[places[-1]]), float(across[places[-1]]), name, look))

    def band(self, x: Any, low: Any, high: Any, look: Look) -> None:
        """A tinted band between two lines; each run of numbers has its own."""
        across, floor = self.at(x, low)
        _, ceiling = self.at(x, high)
        known = np.isfinite(floor) & np.isfinite(ceiling)
        for run in np.split(np.arange(len(known)), np.flatnonzero(np.diff(known.astype(int))) + 1):
            if len(run) > 1 and known[run[0]]:
                points = [
                    *zip(across[run], ceiling[run], strict=True),
                    *zip(across[run[::-1]], floor[run[::-1]], strict=True),
                ]
                path = "M" + "L".join(f"{a:.1f} {d:.1f}" for a, d in points) + "Z"
                self._back.append(f'<path class="band" style="--c:var(--{look.colour})" d="{path}"/>')

    def dots(self, x: Any, y: Any, look: Look, width: float = 5, kind: str = "dots") -> None:
        """Many dots as one path; kind: "dots", or "rings" for open ones round dots that are there already."""
        across, down = self.at(x, y)
        known = np.isfinite(across) & np.isfinite(down)
        path = "".join(f"M{a:.1f} {d:.1f}h0" for a, d in zip(across[known], down[known], strict=True))
        if not path:
            return
        style = f"--c:var(--{look.colour});stroke-width:{width}"
        if kind == "rings":
            self._front.append(f'<path class="dots" style="{style.replace(look.colour, "ink")}" d="{path}"/>')
            style = f"--c:var(--{look.colour});stroke-width:{width - 2}"
        self._front.append(f'<path class="dots" style="{style}" d="{path}"/>')

    def mark(self, x: float, y: float, look: Look, told: str = "") -> None:
        """One marker; ``told`` is shown to who points at it."""
        across, down = (float(value) for value in self.at(x, y))
        self._taken.append((across - 4, down - 4, across + 4, down + 4))
        self._front.append(_mark(across, down, look, safe(told)))

    def word(self, x: float, y: float, word: str) -> None:
        """A word beside a point, where there is room between markers and other words."""
        across, down = (float(value) for value in self.at(x, y))
        if (place := beside(across, down, word, (0, 0, *self.size), self._taken)) is not None:
            at = f'x="{place[0]:.1f}" y="{place[1]:.1f}" text-anchor="{place[2]}"'
            self._front.append(f'<text class="word halo" {at}>{safe(short(word))}</text>')

    def tag(self, x: float, y: float, word: str) -> None:
        """A word centred at a place, readable on dots."""
        across, down = (float(value) for value in self.at(x, y))
        self._taken.append((across - 8, down - 8, across + 8, down + 8))
        at = f'x="{across:.1f}" y="{down + 4:.1f}" text-anchor="middle"'
        self._front.append(f'<text class="tag halo" {at}>{safe(word)}</text>')

    def span(self, low: float, high: float, y: float, look: Look, thick: float = 2.5, told: str = "") -> None:
        """A level stroke from ``low`` to ``high``."""
        (first, last), (down, _) = self.at([low, high], [y, y])
        self._back.append(
            f'<path class="span" style="--c:var(--{look.colour});stroke-width:{thick}" d="M{first:.1f} {down:.1f}H{last:.1f}">'
            f"<title>{safe(told)}</title></path>"
        )

    def level(self, y: float, look: Look, name: str = "") -> None:
        """A dashed line over the whole width at a value, with a name above its end."""
        left, _, right, _ = self.plot
        down = float(self.at(self.x.low, y)[1])
        self._back.append(
            f'<path class="line thin" style="--c:var(--{look.colour})" stroke-dasharray="3 3" d="M{left} {down:.1f}H{right}"/>'
        )
        if name:
            self._front.append(
                f'<text class="word halo" x="{right}" y="{down - 5:.1f}" text-anchor="end">{safe(name)}</text>'
            )

    def row(self, y: float, name: str) -> None:
        """A name left of the axis at a height."""
        down = float(self.at(self.x.low, y)[1])
        self._taken.append(
            (0, down - 10, self.left - 8, down + 4)
        )  # words beside points keep clear of it: name rows first
        self._front.append(
            f'<text class="row" x="{self.left - 10}" y="{down + 4:.1f}" text-anchor="end">{safe(short(name))}</text>'
        )

    def upright(self, x: float, word: str = "", colour: str = "ink") -> None:
        """A thin upright line at a value, with a word above it."""
        across = float(self.at(x, self.y.low)[0])
        left, top, right, bottom = self.plot
        self._back.append(f'<path class="upright" style="--c:var(--{colour})" d="M{across:.1f} {top - 6}V{bottom}"/>')
        if word:
            half = wide(word) / 2
            aside = min(max(across, left + half), right - half)
            self._front.append(
                f'<text class="word" x="{aside:.1f}" y="{top - 11}" text-anchor="middle">{safe(word)}</text>'
            )

    def shade(self, low: float, high: float, kind: str = "shade") -> None:
        """A tinted stripe from top to bottom; kind: "shade", or "none" where nothing was measured."""
        left, top, right, bottom = self.plot
        first, last = (min(max(float(v), left), right) for v in self.at([low, high], [self.y.low] * 2)[0])
        self._back.insert(
            0, f'<rect class="{kind}" x="{first:.1f}" y="{top}" width="{last - first:.1f}" height="{bottom - top}"/>'
        )

    def diagonal(self) -> None:
        """Where both axes have the same value."""
        low, high = max(self.x.low, self.y.low), min(self.x.high, self.y.high)
        (a, b), (c, d) = self.at([low, high], [low, high])
        self._back.append(f'<path class="upright" style="--c:var(--quiet)" d="M{a:.1f} {c:.1f}L{b:.1f} {d:.1f}"/>')

    def svg(self, alt: str) -> str:
        """The chart; ``alt`` says in words what it shows."""
        width, height = self.size
        return (
            f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{safe(alt)}">'
            f"{''.join(self._back)}{''.join(self._front)}{''.join(self._ends())}</svg>"
        )

    def _axes(self, x_label: str, y_label: str) -> None:
        left, top, right, bottom = self.plot
        add = self._back.append
        for value in self.y.ticks(max(3, int((bottom - top) / 40))):
            down = float(self.at(self.x.low, value)[1])
            told = safe(self.y.told(value))
            add(f'<path class="grid" d="M{left} {down:.1f}H{right}"/>')
            add(f'<text class="tick" x="{left - 7}" y="{down + 4:.1f}" text-anchor="end">{told}</text>')
        for value in self.x.ticks(max(3, int((right - left) / 48))):
            across = float(self.at(value, self.y.low)[0])
            told = safe(self.x.told(value))
            add(f'<path class="tickmark" d="M{across:.1f} {bottom}v4"/>')
            add(f'<text class="tick" x="{across:.1f}" y="{bottom + 17}" text-anchor="middle">{told}</text>')
        middle, height = (left + right) / 2, (top + bottom) / 2
        add(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
        add(f'<text class="label" x="{middle}" y="{bottom + 34}" text-anchor="middle">{safe(x_label)}</text>')
        turned = f'text-anchor="middle" transform="rotate(-90 13 {height})"'
        add(f'<text class="label" x="13" y="{height}" {turned}>{safe(y_label)}</text>')

    def _ends(self) -> list[str]:
        """Names at the ends of lines, moved apart where they would lie on each other, each with a thin line to its own end.

        Lines that end together keep the order in which they were drawn.
        """
        out = []
        _, top, right, bottom = self.plot
        names = sorted(self._names, key=lambda name: round(name[0]))
        heights = apart([name[0] for name in names], top + 4, bottom)
        for height, (down, across, name, look) in zip(heights, names, strict=True):
            style = f'style="--c:var(--{look.colour})"'
            out.append(f'<path class="leader" {style} d="M{across + 4:.1f} {down:.1f}L{right + 9} {height:.1f}"/>')
            told = f"{safe(short(name))}<title>{safe(name)}</title>"
            out.append(f'<text class="end" x="{right + 12}" y="{height + 4:.1f}">{told}</text>')
        return out


def _mark(across: float, down: float, look: Look, told: str) -> str:
    kind = "mark cross" if look.marker == "x" else "mark"
    return (
        f'<path class="{kind}" style="--c:var(--{look.colour})" transform="translate({across:.1f} {down:.1f})" '
        f'd="{_MARKS[look.marker]}">{f"<title>{told}</title>" if told else ""}</path>'
    )
