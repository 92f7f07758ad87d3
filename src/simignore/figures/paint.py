"""What every picture is painted with: a palette, a colour map, and text that wraps and can be measured."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Array = NDArray[Any]
Colour = tuple[int, int, int]

PAPER = (255, 255, 255)
INK = (28, 30, 36)
QUIET = (104, 110, 122)
HAIRLINE = (214, 218, 226)
ACCENT = (255, 176, 0)  # outlines: an orange that stays apart from the map and from dimmed pictures for every eye
UNSCORED = (226, 229, 235), (200, 204, 213)  # background and stripes of patches without a score

# Ten evenly spaced colours of viridis (Smith and van der Walt, CC0): equal steps look equal, also in grey and to
# colour-blind readers.
_VIRIDIS = np.array(
    [
        (0x44, 0x01, 0x54),
        (0x48, 0x28, 0x78),
        (0x3E, 0x4A, 0x89),
        (0x31, 0x68, 0x8E),
        (0x26, 0x82, 0x8E),
        (0x1F, 0x9E, 0x89),
        (0x35, 0xB7, 0x79),
        (0x6D, 0xCD, 0x59),
        (0xB4, 0xDE, 0x2C),
        (0xFD, 0xE7, 0x25),
    ],
    dtype=float,
)


def viridis(values: Array) -> Array:
    """Colours [..., 3] (uint8) of values in 0..1; what lies outside gets the colour of the nearer end."""
    at = np.clip(values, 0, 1) * (len(_VIRIDIS) - 1)
    places = np.arange(len(_VIRIDIS))
    return np.stack([np.interp(at, places, _VIRIDIS[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)


_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "−": "-", "…": "...", "ß": "ss"})
_SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "msyh.ttc", "arial.ttf")


@cache
def font(size: int, name: str | None = None) -> Any:
    """Pillow's own font, so that pictures look alike on every machine, or a font of this machine by name."""
    return ImageFont.load_default(size=size) if name is None else ImageFont.truetype(name, size)


def written(text: str) -> tuple[str, str | None]:
    """``text`` as it can be drawn, and the font to draw it with.

    Pillow's font knows ASCII only: accents are left out, and for other scripts one of the machine's fonts is taken.
    Where there is none, a question mark stands for each letter.
    """
    folded = "".join(c for c in unicodedata.normalize("NFKD", text.translate(_PLAIN)) if not unicodedata.combining(c))
    if folded.isascii():
        return folded, None
    name = _system_font()
    return (text, name) if name else (folded.encode("ascii", "replace").decode(), None)


@cache
def _system_font() -> str | None:
    for name in _SYSTEM_FONTS:
        try:
            font(12, name)
        except OSError:
            continue
        return name
    return None


def put(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour, anchor: str) -> None:
    """Draw one line of text; ``anchor`` is Pillow's, such as "la" for the top left corner."""
    text, name = written(text)
    draw.text(at, text, font=font(size, name), fill=colour, anchor=anchor)


def length(text: str, size: int) -> float:
    """Pixels that a line takes."""
    text, name = written(text)
    return float(font(size, name).getlength(text))


def wrap(text: str, size: int, width: int, lines: int = 4) -> list[str]:
    """``text`` broken into lines of at most ``width`` pixels; words longer than a line are cut, and after so many
    ``lines`` an ellipsis stands for the rest. Line breaks in the text are kept."""
    done: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            for piece in _pieces(word, size, width):
                longer = f"{line} {piece}".strip()
                if line and length(longer, size) > width:
                    done.append(line)
                    longer = piece
                line = longer
        if line:
            done.append(line)
        if len(done) > lines:
            break
    if len(done) > lines:
        done = [*done[: lines - 1], _shortened(done[lines - 1], size, width)]
    return done


def _pieces(word: str, size: int, width: int) -> list[str]:
    pieces = [""]
    for letter in word:
        if pieces[-1] and length(pieces[-1] + letter, size) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _shortened(line: str, size: int, width: int) -> str:
    while line and length(f"{line} ...", size) > width:
        line = line[:-1]
    return f"{line} ..."


class Sheet:
    """A white page that is written from top to bottom; ``y`` is where the next line goes."""

    def __init__(self, width: int, margin: int, most: int = 20_000) -> None:
        self.width, self.margin, self.y = width, margin, margin
        self.image = Image.new("RGB", (width, most), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def text(self, x: int, text: str, size: int, colour: Colour = INK, anchor: str = "la") -> None:
        """One line at ``x`` and the current height."""
        put(self.draw, (x, self.y), text, size, colour, anchor)

    def paragraph(self, text: str, size: int, colour: Colour = INK, lines: int = 4) -> None:
        """Wrapped text over the whole width; moves on below it."""
        for line in wrap(text, size, self.width - 2 * self.margin, lines):
            self.text(self.margin, line, size, colour)
            self.y += round(size * 1.3)

    def finished(self) -> Image.Image:
        """The page, cut off one margin below the last line."""
        return self.image.crop((0, 0, self.width, self.y + self.margin))
