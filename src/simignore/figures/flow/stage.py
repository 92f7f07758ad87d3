"""The pictures as a stage on which image tokens are painted where they lie: tiles, merged patches, overviews, frames.

A stage is SVG in the picture's own pixels. The pictures are in the page once (:meth:`Stage.pictures`); maps refer to them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from simignore.figures.drawn import names
from simignore.figures.flow.unseen import gaps, seen
from simignore.figures.flow.words import safe
from simignore.flow.report import Array
from simignore.places import Box, Pictures, Place, locate, opened
from simignore.types import Patches

LONGEST = 900  # pixels of a picture's longer side in the page
_CELL = 100  # a painted grid has at least so many pixels a side, so that browsers that smooth it blur its edges only

_HATCH = (  # of what was not measured; charts use it too
    '<pattern id="nothing" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path class="hatch" d="M0 0V6"/></pattern>'
)


@dataclass(frozen=True)
class Part:
    """A grid on the stage. box: in the panel's pixels. tokens: [rows, columns] numbers of image tokens, -1 = none."""

    box: Box
    tokens: Array


@dataclass(frozen=True)
class Panel:
    """One view of a picture: all its tiles together, its overview, one frame, or tokens that have no place (picture None).

    box: what is shown, (left, top, right, bottom) in the picture's pixels, padding that the processor added included.
    """

    name: str
    picture: int | None
    box: Box
    parts: tuple[Part, ...]

    @property
    def size(self) -> tuple[float, float]:
        """(width, height)."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    @property
    def tokens(self) -> Array:
        """Numbers of the image tokens that lie here."""
        every = np.concatenate([part.tokens.ravel() for part in self.parts])
        return every[every >= 0]


class Stage:
    """The panels of one prompt's pictures. Raises ValueError for pictures that are not those of the prompt."""

    def __init__(self, patches: Patches, pictures: Pictures, processor: Any) -> None:
        self.images = [image.convert("RGB") for image in opened(pictures)]
        places = locate(patches, self.images, processor)
        self.count = int((patches.grid[0] >= 0).sum())
        self.panels = _panels(places, _tokens(patches), self.images)

    @property
    def placed(self) -> bool:
        """Whether any image token has a place on a picture."""
        return any(panel.picture is not None for panel in self.panels)

    @property
    def seen(self) -> dict[int, float]:
        """The share of each picture that image tokens cover, of those that they do not cover whole."""
        boxes: dict[int, list[Box]] = {}
        for panel in self.panels:
            if panel.picture is not None:
                boxes.setdefault(panel.picture, []).extend(part.box for part in panel.parts)
        shares = {picture: seen(self.images[picture].size, own) for picture, own in boxes.items()}
        return {picture: share for picture, share in shares.items() if share < 1}

    def pictures(self) -> str:
        """The pictures themselves, hidden; once in the page, before any map."""
        shown = "".join(
            f'<image id="picture-{n}" width="{image.width}" height="{image.height}" href="{_photo(image)}"/>'
            for n, image in enumerate(self.images)
        )
        return f'<svg class="store" aria-hidden="true"><defs>{shown}{_HATCH}{_veil(self.images)}</defs></svg>'

    def draw(
        self,
        painted: Array | None = None,
        over: Sequence[str] = (),
        alt: str = "",
        kind: str = "",
        only: Sequence[int] | None = None,
    ) -> str:
        """The panels as HTML. painted: [N, 4] red, green, blue, alpha (uint8) of each image token, or None for bare pictures.
        over: SVG to lay over each panel. kind: class names; "heat" greys the picture beneath. only: which panels."""
        shown = range(len(self.panels)) if only is None else only
        return f'<div class="stages {kind}">{"".join(self._panel(n, painted, over, alt) for n in shown)}</div>'

    def outline(self, chosen: Array, colour: str = "kept") -> list[str]:
        """For each panel a line round every connected region of the tokens ``chosen`` [N] (bool)."""
        known, found = np.append(chosen, False), []  # -1 is the last: no token
        for panel in self.panels:
            path = "".join(_edges(known[part.tokens], part.box) for part in panel.parts)
            style = f'style="--c:var(--{colour})"'
            found.append(
                f'<path class="halo-line" d="{path}"/><path class="outline" {style} d="{path}"/>' if path else ""
            )
        return found

    def middle(self, token: int) -> tuple[int, float, float] | None:
        """(panel, x, y) of a token's centre; None for one that lies nowhere."""
        for n, panel in enumerate(self.panels):
            for part in panel.parts:
                for row, column in np.argwhere(part.tokens == token):
                    left, top, right, bottom = part.box
                    down, across = (np.array([row, column]) + 0.5) / part.tokens.shape
                    return n, float(left + across * (right - left)), float(top + down * (bottom - top))
        return None

    def pins(self, tokens: Mapping[int, str]) -> list[str]:
        """For each panel a pin at each of these tokens, with its word (a letter or two)."""
        found: list[str] = ["" for _ in self.panels]
        for token, word in tokens.items():
            if (at := self.middle(token)) is not None:
                panel, x, y = at
                size = max(self.panels[panel].size) / 100
                left, top, right, bottom = self.panels[panel].box
                x, y = min(max(x, left + 5 * size), right - 5 * size), min(max(y, top + 5 * size), bottom - 5 * size)
                found[panel] += (
                    f'<g class="pin" transform="translate({x:.2f} {y:.2f}) scale({size:.3f})"><circle r="4.2"/>'
                    f'<text y="2">{safe(word)}</text></g>'
                )
        return found

    def heart(self, chosen: Array) -> int:
        """The token among ``chosen`` [N] (bool) that lies nearest to their middle, in the panel with most of them."""
        places = {int(token): self.middle(int(token)) for token in np.flatnonzero(chosen)}
        panels = [place[0] for place in places.values() if place is not None]
        most = max(set(panels), key=lambda panel: (panels.count(panel), -panel))
        at = {token: np.array(place[1:]) for token, place in places.items() if place is not None and place[0] == most}
        middle = np.mean(list(at.values()), 0)
        return min(at, key=lambda token: (float(((at[token] - middle) ** 2).sum()), token))

    def _unseen(self, panel: Panel) -> str:
        """A dark hatching over what no token of a panel covers."""
        if panel.picture is None:
            return ""
        empty = gaps(self.images[panel.picture].size, [part.box for part in panel.parts])
        path = "".join(
            f"M{left:.2f} {top:.2f}H{right:.2f}V{bottom:.2f}H{left:.2f}z" for left, top, right, bottom in empty
        )
        return f'<path class="dim" d="{path}"/><path class="unseen" d="{path}"/>' if path else ""

    def _panel(self, n: int, painted: Array | None, over: Sequence[str], alt: str) -> str:
        panel = self.panels[n]
        (left, top, _, _), (width, height) = panel.box, panel.size
        inside = "" if panel.picture is None else f'<use class="under" href="#picture-{panel.picture}"/>'
        for g, part in enumerate(panel.parts) if painted is not None else ():
            x, y, end, floor = part.box
            inside += (
                f'<image class="cells" data-panel="{n}" data-part="{g}" x="{x:.2f}" y="{y:.2f}" width="{end - x:.2f}" '
                f'height="{floor - y:.2f}" preserveAspectRatio="none" href="{_png(np.asarray(painted), part.tokens)}"/>'
            )
        inside += self._unseen(panel) + (over[n] if over else "")
        several = len(self.panels) > 1
        told = f"{alt} ({panel.name})" if several else alt
        name = f'<span class="name">{safe(panel.name)}</span>' if several else ""
        place = f'x="{left:.2f}" y="{top:.2f}" width="{width:.2f}" height="{height:.2f}"'
        return (
            f'<div class="stage" style="--aspect:{width / height:.4f}">'
            f'<svg viewBox="{left:.2f} {top:.2f} {width:.2f} {height:.2f}" role="img" aria-label="{safe(told)}">'
            f'<rect class="void" {place}/>{inside}</svg>{name}</div>'
        )


def _veil(images: Sequence[Image.Image]) -> str:
    """The hatching of what no token covers, in strokes that suit the pictures' size."""
    step = max((max(image.size) for image in images), default=100) / 40
    return (
        f'<pattern id="unseen" width="{step:.2f}" height="{step:.2f}" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><path class="stroke" style="stroke-width:{step / 5:.2f}" d="M0 0V{step:.2f}"/>'
        "</pattern>"
    )


def _tokens(patches: Patches) -> list[Array]:
    """For each grid [rows, columns] the numbers of its image tokens, -1 where there is none."""
    grid, row, column = (tensor[0].cpu().numpy() for tensor in (patches.grid, patches.row, patches.column))
    found = []
    for n, own in enumerate(patches.grids[0]):
        tokens = np.full(own.size, -1)
        mine = np.flatnonzero(grid == n)
        tokens[row[mine], column[mine]] = mine
        found.append(tokens)
    return found


def _panels(places: Sequence[Place | None], tokens: Sequence[Array], images: Sequence[Image.Image]) -> list[Panel]:
    """One panel for each picture's tiles together, and one for each other grid; what has no place comes last."""
    placed = [place for place in places if place is not None]
    said = iter(names(placed, len(images)))
    panels: dict[Any, Panel] = {}
    for n, (place, own) in enumerate(zip(places, tokens, strict=True)):
        if place is None:
            columns = int(np.ceil(np.sqrt(own.size)))
            square = np.append(own, np.full(-own.size % columns, -1)).reshape(-1, columns)
            box = (0.0, 0.0, float(square.shape[1]), float(square.shape[0]))
            panels["nowhere", n] = Panel("tokens without a place, in reading order", None, box, (Part(box, square),))
            continue
        name, part = next(said), Part(place.box, own)
        tile = place.grid.kind == "tile"
        key = ("tiles", place.picture) if tile else (n,)
        if key in panels:
            old = panels[key]
            panels[key] = replace(old, box=_round(old.box, place.box), parts=(*old.parts, part))
        else:
            which = f"image {place.picture + 1}, " if len(images) > 1 else ""
            whole = (0.0, 0.0, float(images[place.picture].width), float(images[place.picture].height))
            panels[key] = Panel(f"{which}all tiles" if tile else name, place.picture, _round(whole, place.box), (part,))
    return list(panels.values())


def _round(one: Box, other: Box) -> Box:
    """The least box round both."""
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _edges(chosen: Array, box: Box) -> str:
    """The borders between chosen cells [rows, columns] and others, as an SVG path."""
    rows, columns = chosen.shape
    wide, high = (box[2] - box[0]) / columns, (box[3] - box[1]) / rows
    padded = np.pad(chosen.astype(int), 1)
    down = np.argwhere(np.diff(padded, axis=1)[1:-1])  # (row, column) of upright borders, left of that column
    level = np.argwhere(np.diff(padded, axis=0)[:, 1:-1])  # of level borders, above that row
    upright = "".join(f"M{box[0] + c * wide:.2f} {box[1] + r * high:.2f}v{high:.2f}" for r, c in down)
    return upright + "".join(f"M{box[0] + c * wide:.2f} {box[1] + r * high:.2f}h{wide:.2f}" for r, c in level)


def _png(painted: Array, tokens: Array) -> str:
    """A grid's cells as a picture, each enlarged; cells without a token are clear."""
    clear = np.zeros((1, 4), np.uint8)
    cells = np.concatenate([painted, clear])[tokens]  # -1 is the clear one
    times = max(1, -(-_CELL // max(tokens.shape)))
    return _uri(Image.fromarray(cells.repeat(times, 0).repeat(times, 1)), "PNG", optimize=True)


def _photo(image: Image.Image) -> str:
    """A picture for the page: small ones as they are, large ones made smaller."""
    if image.width * image.height <= 200 * 200:
        return _uri(image, "PNG", optimize=True)
    image = image.copy()
    image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return _uri(image, "JPEG", quality=85)


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    held = BytesIO()
    image.save(held, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"
