"""Which image tokens stayed: kept patches bright, dropped ones dark, and beside them the scores that decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from simignore.figures.paint import (
    ACCENT,
    HAIRLINE,
    INK,
    PAPER,
    QUIET,
    UNSCORED,
    Array,
    Colour,
    Sheet,
    length,
    put,
    viridis,
    wrap,
)
from simignore.types import Selection

Grid = tuple[int, int]
_MARGIN, _GAP, _BAR_GAP, _BAR = 28, 28, 14, 18
_LABELS = 96  # room for the numbers beside the colour bar
_DIM, _COLOUR_LEFT = 0.40, 0.15  # of a dropped patch: how bright it stays, how much of its colour is left


def kept_picture(
    images: Image.Image | Sequence[Image.Image],
    selection: Selection,
    grids: Grid | Sequence[Grid],
    *,
    sample: int = 0,
    question: str = "",
    subtitle: str = "",
    answers: Sequence[tuple[str, str]] = (),
    method: str = "",
    score: str = "score",
    names: Sequence[str] = (),
    mark_lowest: bool = True,
    size: int = 480,
) -> Image.Image:
    """Draw what a selection kept of the images of one prompt.

    Kept patches keep their colours, dropped ones are dark and grey, and a line runs round every kept region. Where the
    selection has scores, a heat map beside each image shows them, with the range and the lowest kept score on its bar;
    patches that an earlier cut had dropped have no score and are hatched. All images share one scale.

    images: what each grid shows (:meth:`simignore.places.Place.cut_out`). grids: (rows, columns) of patches of each.
    sample: row of the selection. question, subtitle, answers, method: captions; answers are pairs such as
        ("144 image tokens", "red"). score: what the scores are, with their unit, such as "cosine similarity".
    names: what each image is, where there are several. mark_lowest: whether one lowest kept score holds for all of them.
    size: pixels of a panel's longer side.
    Raises ValueError if the grids do not hold as many patches as the selection has tokens.
    """
    panels = _panels(images, selection, grids, sample)
    scores = _scores(panels, mark_lowest)
    widest = max(_cell(p, size)[1] * p.grid[1] for p in panels)
    width = 2 * _MARGIN + widest + (_GAP + widest + _BAR_GAP + _BAR + _LABELS if scores else 0)
    sheet = Sheet(max(width, 480 + 2 * _MARGIN), _MARGIN, most=sum(2 * size for _ in panels) + 2000)
    for line, font_size in ((question, 22), (subtitle, 17)):
        if line:
            sheet.paragraph(line, font_size)
    sheet.y += 14 if question or subtitle else 0
    for number, panel in enumerate(panels):
        _row(sheet, panel, scores, widest, size, score, _named(number, names) if len(panels) > 1 else "")
    _answers(sheet, answers)
    if method:
        sheet.paragraph(method, 13, QUIET)
    return sheet.finished()


@dataclass(frozen=True)
class _Panel:
    """One image with what was kept [rows, columns] and the scores [rows, columns], NaN where there is none."""

    image: Image.Image
    grid: Grid
    kept: Array
    score: Array | None


@dataclass(frozen=True)
class _Scores:
    """The range of the scores of all images, and the lowest of a kept patch (None if no kept patch has one).

    log: colours follow the logarithm, because most scores are tiny beside the highest, as attention is.
    cut: there are scores below ``low``, which look like it.
    """

    low: float
    high: float
    lowest_kept: float | None
    log: bool
    cut: bool

    def part(self, score: Array) -> Array:
        """Where scores lie in the range, 0..1; one half everywhere if all are equal."""
        if self.high <= self.low:
            return np.full(np.shape(score), 0.5)
        if self.log:
            return np.asarray(np.log(np.maximum(score, self.low) / self.low) / np.log(self.high / self.low))
        return (score - self.low) / (self.high - self.low)


def _panels(
    images: Image.Image | Sequence[Image.Image], selection: Selection, grids: Grid | Sequence[Grid], sample: int
) -> list[_Panel]:
    pictures = [images] if isinstance(images, Image.Image) else list(images)
    shapes = [(int(r), int(c)) for r, c in np.reshape(np.asarray(grids, dtype=int), (-1, 2))]
    if len(pictures) != len(shapes) or not pictures:
        raise ValueError(f"{len(pictures)} images but {len(shapes)} patch grids; one grid for each image")
    kept = selection.kept[sample].cpu().numpy()
    score = None if selection.score is None else selection.score[sample].detach().double().cpu().numpy()
    patches = sum(rows * columns for rows, columns in shapes)
    if patches > len(kept) or kept[patches:].any():
        raise ValueError(f"the grids {shapes} hold {patches} patches, the selection {len(kept)} image tokens")
    panels, start = [], 0
    for picture, (rows, columns) in zip(pictures, shapes, strict=True):
        own = slice(start, start + rows * columns)
        scores = None if score is None else score[own].reshape(rows, columns)
        panels.append(_Panel(picture.convert("RGB"), (rows, columns), kept[own].reshape(rows, columns), scores))
        start = own.stop
    return panels


def _named(number: int, names: Sequence[str]) -> str:
    return names[number] if names else f"image {number + 1}"


def _scores(panels: Sequence[_Panel], mark_lowest: bool) -> _Scores | None:
    """What the colour bar shows; None where nothing was scored."""
    scored = [(p.score, p.kept) for p in panels if p.score is not None]
    known = np.concatenate([score[np.isfinite(score)] for score, _ in scored] or [np.empty(0)])
    if not known.size:
        return None
    stayed = np.concatenate([score[kept & np.isfinite(score)] for score, kept in scored])
    low, high = float(known.min()), float(known.max())
    log = low >= 0 and high > 100 * float(np.median(known))
    # six powers of ten are told apart, what is smaller looks like the lowest of them
    floor = max(low, high * 1e-6) if log else low
    lowest = float(stayed.min()) if stayed.size and mark_lowest else None
    return _Scores(floor, high, lowest, log, cut=low < floor)


def _row(
    sheet: Sheet,
    panel: _Panel,
    scores: _Scores | None,
    widest: int,
    size: int,
    unit: str,
    name: str,
) -> None:
    """One image, its caption above, and its heat map and colour bar to the right."""
    left, cell = sheet.margin, _cell(panel, size)
    right = left + widest + _GAP
    sheet.text(
        left, f"{name}{': ' if name else ''}{int(panel.kept.sum())} of {panel.kept.size} image tokens kept", 15, QUIET
    )
    if scores:
        told = f"score of each image token: {unit}{' (log scale)' if scores.log else ''}"
        sheet.text(right, wrap(told, 15, sheet.width - sheet.margin - right, 1)[0], 15, QUIET)
    sheet.y += 24
    sheet.image.paste(bright_and_dark(panel.image, panel.kept, cell), (left, sheet.y))
    if scores and panel.score is not None:
        sheet.image.paste(_heat(panel.score, panel.kept, scores, cell), (right, sheet.y))
        _colour_bar(sheet, right + widest + _BAR_GAP, cell[0] * panel.grid[0], scores)
    sheet.y += cell[0] * panel.grid[0] + 20


def bright_and_dark(image: Image.Image, kept: Array, cell: tuple[int, int]) -> Image.Image:
    """The image with patches of ``cell`` (height, width) pixels: kept ones as they are, dropped ones dark and nearly grey."""
    rows, columns = kept.shape
    size = columns * cell[1], rows * cell[0]
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS), dtype=float)  # [height, width, 3]
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    dark = _DIM * (grey[..., None] * (1 - _COLOUR_LEFT) + pixels * _COLOUR_LEFT)
    shown = np.where(_enlarged(kept, cell)[..., None], pixels, dark).round().astype(np.uint8)
    return _outlined(shown, kept, cell, ACCENT)


def _outlined(pixels: Array, kept: Array, cell: tuple[int, int], colour: Colour) -> Image.Image:
    """The pixels with a thin line round every connected region of kept patches, drawn inside it."""
    thick = 2 if min(cell) >= 12 else 1
    inside = _enlarged(kept, cell)  # [height, width]
    around = np.pad(inside, thick)
    reach = range(2 * thick + 1)
    height, width = inside.shape
    inner = np.logical_and.reduce([around[y : y + height, x : x + width] for y in reach for x in reach])
    return Image.fromarray(np.where((inside & ~inner)[..., None], np.array(colour, dtype=np.uint8), pixels))


def _enlarged(patches: Array, cell: tuple[int, int]) -> Array:
    """Every patch repeated to ``cell`` (height, width) pixels."""
    return patches.repeat(cell[0], axis=0).repeat(cell[1], axis=1)


def _heat(score: Array, kept: Array, scores: _Scores, cell: tuple[int, int]) -> Image.Image:
    """The scores in colour, hatched where there is none, with the kept regions outlined as in the picture."""
    scored = np.isfinite(score)
    colours = _enlarged(viridis(scores.part(np.where(scored, score, scores.low))), cell)
    y, x = np.indices(colours.shape[:2])
    striped: Array = np.asarray((x + y) % 10 < 3)[..., None]
    plain, stripe = np.array(UNSCORED, dtype=np.uint8)
    stripes = np.where(striped, stripe, plain)
    return _outlined(np.where(_enlarged(scored, cell)[..., None], colours, stripes), kept, cell, PAPER)


def _colour_bar(sheet: Sheet, x: int, height: int, scores: _Scores) -> None:
    """The map's colours from high to low at ``x``, with both ends and the lowest kept score in numbers."""
    ramp = viridis(np.linspace(1, 0, height))[:, None].repeat(_BAR, axis=1)  # [height, _BAR, 3]
    sheet.image.paste(Image.fromarray(ramp), (x, sheet.y))
    draw, label = sheet.draw, x + _BAR + 8
    put(draw, (label, sheet.y), _number(scores.high), 14, INK, "lt")
    put(draw, (label, sheet.y + height - 1), ("<= " if scores.cut else "") + _number(scores.low), 14, INK, "lb")
    if scores.lowest_kept is None:
        return
    lowest = max(scores.lowest_kept, scores.low)
    at = sheet.y + round((1 - float(scores.part(np.array(lowest)))) * (height - 1))
    draw.rectangle((x - 3, at - 1, x + _BAR + 2, at + 1), fill=INK)
    middle = min(max(at, sheet.y + 28), sheet.y + height - 44)  # clear of the two ends' numbers
    put(draw, (label, middle), _number(scores.lowest_kept), 14, INK, "lm")
    put(draw, (label, middle + 16), "lowest kept", 13, QUIET, "lm")


def _answers(sheet: Sheet, answers: Sequence[tuple[str, str]]) -> None:
    """One line per answer: what it was made with, and the answer itself."""
    if not answers:
        return
    sheet.draw.line((sheet.margin, sheet.y, sheet.width - sheet.margin, sheet.y), fill=HAIRLINE)
    sheet.y += 14
    column = sheet.margin + 18 + round(max(length(name, 15) for name, _ in answers))
    for name, answer in answers:
        baseline = sheet.y + 18
        put(sheet.draw, (sheet.margin, baseline), name, 15, QUIET, "ls")
        for line in wrap(answer or "(nothing)", 18, sheet.width - sheet.margin - column):
            put(sheet.draw, (column, baseline), line, 18, INK, "ls")
            baseline += 24
        sheet.y = baseline - 14
    sheet.y += 8


def _cell(panel: _Panel, size: int) -> tuple[int, int]:
    """(height, width) in pixels of one patch; the panel has the image's proportions, its longer side about ``size``."""
    scale = size / max(panel.image.size)
    width, height = (max(1.0, scale * length) for length in panel.image.size)
    return max(1, round(height / panel.grid[0])), max(1, round(width / panel.grid[1]))


def _number(value: float) -> str:
    return f"{value:.3g}"
