"""Scenes: coloured shapes on clutter, as a description, as a picture and as a map of who owns which patch.

A scene is a list of things with exact attributes, so every question about it has a known answer and every image patch
a known owner. Everything follows from one integer seed: the same seed gives the same things, the same clutter and the
same noise, to the bit. The three splits are disjoint ranges of seeds.

Lengths are in units of which a scene is `SIDE` wide and high, x to the right and y downwards, as in Pillow. A picture
at `scale` 1 has one pixel a unit.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 112  # units of a scene's side

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "moon")
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (240, 225, 40),
    "green": (40, 170, 60),
    "cyan": (60, 215, 225),
    "blue": (45, 75, 225),
    "purple": (150, 50, 190),
    "pink": (250, 150, 195),
    "brown": (145, 85, 40),
    "white": (245, 245, 245),
}
SIZES = ("small", "medium", "large")
RADII = {"small": (6.5, 7.8), "medium": (10.0, 11.2), "large": (14.5, 16.0)}
PATTERNS = ("plain", "striped", "dotted", "checked")
NUMBERS = tuple("123456789")
NUMBERED = 0.6  # share of things with room for it that carry a number
PLATE = (4.0, 6.0)  # half width and half height of a number's plate
MOST = 8  # things of the fullest scene

SPLITS = {
    "train": range(10_000_000),
    "validation": range(10_000_000, 11_000_000),
    "test": range(11_000_000, 12_000_000),
}

_ROOMY = ("circle", "square")  # shapes that carry a number even at medium size
_OVERSAMPLE = 2  # drawn at twice the size, then averaged: smooth edges
_DIGITS = {  # three by five dots, row by row
    "1": "010110010010111",
    "2": "110001010100111",
    "3": "110001010001110",
    "4": "101101111001001",
    "5": "111100110001110",
    "6": "011100111101111",
    "7": "111001010010010",
    "8": "111101111101111",
    "9": "111101111001110",
}


@dataclass(frozen=True)
class Thing:
    """One object of a scene: the attributes that questions ask about, and where it stands.

    `number` is written on the thing, or None. `turn` is a rotation in radians that nothing asks about.
    """

    shape: str
    colour: str
    size: str
    pattern: str
    number: str | None
    x: float
    y: float
    radius: float
    turn: float

    @property
    def name(self) -> str:
        """Colour and shape, which together are unique within a scene: `blue star`."""
        return f"{self.colour} {self.shape}"

    @property
    def corner(self) -> str:
        """Quarter of the picture that holds the centre: `top left` and so on."""
        return f"{'top' if self.y < SIDE / 2 else 'bottom'} {'left' if self.x < SIDE / 2 else 'right'}"


@dataclass(frozen=True)
class Scene:
    """Things from back to front, and the seed that the clutter and the noise around them come from."""

    things: tuple[Thing, ...]
    seed: int


def sample_scene(seed: int, fewest: int = 3, most: int = MOST) -> Scene:
    """Place between `fewest` and `most` things at random; no two share both colour and shape.

    Things may overlap a little, but no number is covered. A crowded draw that does not fit is thrown away as a whole,
    so that positions stay unbiased by the order of placing. Raises ValueError for bounds that cannot be met.
    """
    if not 1 <= fewest <= most <= MOST:
        raise ValueError(
            f"a scene of {fewest} to {most} things cannot be placed; ask for 1 <= fewest <= most <= {MOST}"
        )
    rng = random.Random(seed)
    wanted = rng.randint(fewest, most)
    while True:
        things: list[Thing] = []
        for _ in range(60):
            thing = _sample_thing(rng)
            if all(_fit(thing, other) for other in things):
                things.append(thing)
            if len(things) == wanted:
                return Scene(tuple(things), seed)


def _sample_thing(rng: random.Random) -> Thing:
    shape, colour, size = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(SIZES)
    radius = rng.uniform(*RADII[size])
    room = size == "large" or (size == "medium" and shape in _ROOMY)
    number = rng.choice(NUMBERS) if room and rng.random() < NUMBERED else None
    x, y = (rng.uniform(radius + 1, SIDE - radius - 1) for _ in range(2))
    return Thing(shape, colour, size, rng.choice(PATTERNS), number, x, y, radius, rng.uniform(-0.26, 0.26))


def _fit(front: Thing, back: Thing) -> bool:
    """Whether `front` may stand in front of `back`: another name, most of `back` in sight, its number wholly."""
    apart = math.hypot(front.x - back.x, front.y - back.y)
    clear = front.radius + math.hypot(*PLATE) if back.number else 0.0
    return front.name != back.name and apart >= max(0.82 * (front.radius + back.radius), clear)


def render(scene: Scene, scale: int = 1) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Draw the scene; return the RGB picture `[scale * SIDE, scale * SIDE, 3]` and the owner map of that size.

    The owner map holds, for each pixel, 0 for background and i + 1 for the thing `scene.things[i]` seen there.
    """
    noise = np.random.default_rng(scene.seed)
    canvas = _clutter(noise, scale * _OVERSAMPLE)
    owner = Image.new("L", (scale * SIDE, scale * SIDE), 0)
    for number, thing in enumerate(scene.things, start=1):
        texture, mask, corner = _draw(thing, scale * _OVERSAMPLE, noise)
        canvas.paste(texture, corner, mask)
        _, mask, corner = _draw(thing, scale, None)
        owner.paste(number, (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)
    pixels = np.asarray(canvas.reduce(_OVERSAMPLE)).astype(np.float32)
    pixels += noise.normal(0, 10, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), np.array(owner)


def patch_owner(owner: NDArray[np.uint8], patch: int = 8, threshold: float = 0.12) -> NDArray[np.int64]:
    """Which thing owns each patch of `patch` pixels, in reading order: 0 for background, i + 1 for thing i.

    A thing owns a patch if it is seen on at least `threshold` of its area and on more than any other thing.
    """
    grid = len(owner) // patch
    tiles = owner.reshape(grid, patch, grid, patch).transpose(0, 2, 1, 3).reshape(grid * grid, patch * patch)
    numbers = np.arange(1, MOST + 1)
    cover = (tiles[:, :, None] == numbers).mean(1)  # [patches, things]
    return np.where(cover.max(1) >= threshold, cover.argmax(1) + 1, 0).astype(np.int64)


def _clutter(noise: np.random.Generator, k: int) -> Image.Image:
    """A dim background whose colour drifts, with thin lines, dots and crumbs in the things' own shapes and colours,
    which are too small to be things."""
    drift = np.clip(noise.uniform(35, 115, 3) + noise.normal(0, 22, (6, 6, 3)), 0, 255).astype(np.uint8)
    canvas = Image.fromarray(drift).resize((SIDE * k, SIDE * k), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for _ in range(noise.integers(5, 13)):
        fill = _rgb(noise.integers(20, 200, 3).astype(np.float64))
        x, y = noise.uniform(0, SIDE * k, 2)
        if noise.random() < 0.5:
            dx, dy = noise.uniform(-28 * k, 28 * k, 2)
            draw.line([x, y, x + dx, y + dy], fill=fill, width=round(noise.uniform(0.5, 1.5) * k))
        else:
            r = noise.uniform(0.8, 2.0) * k
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    for _ in range(noise.integers(2, 7)):
        shape = SHAPES[noise.integers(len(SHAPES))]
        colour = list(COLOURS)[noise.integers(len(COLOURS))]
        x, y = noise.uniform(4, SIDE - 4, 2).tolist()
        crumb = Thing(shape, colour, "", "plain", None, x, y, noise.uniform(2.2, 3.2), noise.uniform(-0.26, 0.26))
        texture, mask, corner = _draw(crumb, k, noise)
        canvas.paste(texture, corner, mask)
    return canvas


def _draw(thing: Thing, k: int, noise: np.random.Generator | None) -> tuple[Image.Image, Image.Image, tuple[int, int]]:
    """A thing alone at `k` pixels a unit: its texture, its mask, and the pixel where their top left corner goes.

    Without `noise` there is no texture worth looking at.
    """
    reach = math.ceil(thing.radius * k) + 1
    left, top = math.floor(thing.x * k) - reach, math.floor(thing.y * k) - reach
    size = (2 * reach + 2, 2 * reach + 2)
    x, y = thing.x * k - left, thing.y * k - top
    mask = Image.new("L", size, 0)
    _outline(ImageDraw.Draw(mask), thing, x, y, thing.radius * k)
    texture = Image.new("RGB", size, 0) if noise is None else _texture(thing, size, x, y, k, noise)
    if thing.number:
        w, h = (half * k for half in PLATE)
        ImageDraw.Draw(mask).rectangle([x - w, y - h, x + w, y + h], fill=255)
        if noise is not None:
            _write(ImageDraw.Draw(texture), thing.number, x, y, k, noise)
    return texture, mask, (left, top)


def _texture(
    thing: Thing, size: tuple[int, int], x: float, y: float, k: int, noise: np.random.Generator
) -> Image.Image:
    """The thing's colour, a little off, with dark stripes, dots or squares if its pattern asks for them."""
    colour = np.clip(np.array(COLOURS[thing.colour]) + noise.normal(0, 10, 3), 0, 255)
    texture = Image.new("RGB", size, _rgb(colour))
    dark, draw, r = _rgb(colour * 0.35), ImageDraw.Draw(texture), thing.radius * k
    if thing.pattern == "striped":
        for dy in np.arange(-r, r, 5.0 * k).tolist():
            draw.rectangle([x - r, y + dy, x + r, y + dy + 1.6 * k], fill=dark)
    elif thing.pattern == "dotted":
        d, steps = 1.3 * k, np.arange(-r, r, 5.0 * k).tolist()
        for dx in steps:
            for dy in steps:
                draw.ellipse([x + dx - d, y + dy - d, x + dx + d, y + dy + d], fill=dark)
    elif thing.pattern == "checked":
        steps = np.arange(-r, r, 3.5 * k).tolist()
        for i, dx in enumerate(steps):
            for j, dy in enumerate(steps):
                if (i + j) % 2:
                    draw.rectangle([x + dx, y + dy, x + dx + 3.5 * k, y + dy + 3.5 * k], fill=dark)
    return texture


def _write(draw: ImageDraw.ImageDraw, digit: str, x: float, y: float, k: int, noise: np.random.Generator) -> None:
    """A digit on a plate, dark on light or light on dark."""
    plate, ink = ((248, 248, 248), (10, 10, 10)) if noise.random() < 0.5 else ((10, 10, 10), (248, 248, 248))
    w, h = (half * k for half in PLATE)
    draw.rectangle([x - w, y - h, x + w, y + h], fill=plate)
    dot = 2.0 * k
    for place, bit in enumerate(_DIGITS[digit]):
        if bit == "1":
            u, v = x + (place % 3 - 1.5) * dot, y + (place // 3 - 2.5) * dot
            draw.rectangle([u, v, u + dot - 1, v + dot - 1], fill=ink)


def _rgb(colour: NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def _outline(draw: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, r: float) -> None:
    c, s = math.cos(thing.turn), math.sin(thing.turn)
    if thing.shape in ("circle", "ring", "moon"):
        draw.ellipse([x - r, y - r, x + r, y + r], fill=255)
        if thing.shape == "ring":
            draw.ellipse([x - r / 2, y - r / 2, x + r / 2, y + r / 2], fill=0)
        elif thing.shape == "moon":
            u, v, hole = x + 0.55 * r * c, y + 0.55 * r * s, 0.78 * r
            draw.ellipse([u - hole, v - hole, u + hole, v + hole], fill=0)
        return
    draw.polygon([(x + r * (u * c - v * s), y + r * (u * s + v * c)) for u, v in _corners(thing.shape)], fill=255)


@lru_cache
def _corners(shape: str) -> list[tuple[float, float]]:
    """Corners of an upright polygon in the unit circle."""
    if shape == "cross":
        w = 0.34
        arm = [(-w, -1.0), (w, -1.0), (w, -w), (1.0, -w), (1.0, w), (w, w)]
        return arm + [(-u, -v) for u, v in arm]
    if shape == "diamond":
        return [(0.0, -1.0), (0.62, 0.0), (0.0, 1.0), (-0.62, 0.0)]
    count, first = {"square": (4, -math.pi / 4), "triangle": (3, -math.pi / 2), "star": (10, -math.pi / 2)}[shape]
    corners = []
    for i in range(count):
        reach = 0.42 if shape == "star" and i % 2 else 1.0
        angle = first + i * 2 * math.pi / count
        corners.append((reach * math.cos(angle), reach * math.sin(angle)))
    return corners
