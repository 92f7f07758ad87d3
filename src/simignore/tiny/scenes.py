"""Scenes: a few coloured shapes on clutter, as a description, as a picture and as a map of who owns which patch.

A scene is a list of things with exact attributes, so every question about it has a known answer and every image patch
a known owner. Everything follows from one integer seed: the same seed gives the same things, the same clutter and the
same noise, to the bit. The three splits are disjoint ranges of seeds.

Lengths are in pixels, x to the right and y downwards, as in Pillow.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 96  # pixels of a picture's side
PATCH = 8  # pixels of a patch's side
GRID = SIDE // PATCH  # patches along a side
PATCHES = GRID * GRID  # image tokens of a picture

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (240, 225, 40),
    "green": (40, 170, 60),
    "cyan": (60, 215, 225),
    "blue": (45, 75, 225),
    "purple": (150, 50, 190),
    "white": (245, 245, 245),
}
SIZES = ("small", "large")
RADII = {"small": (8.5, 10.0), "large": (13.5, 15.5)}
PATTERNS = ("plain", "striped", "dotted")

SPLITS = {
    "train": range(10_000_000),
    "validation": range(10_000_000, 11_000_000),
    "test": range(11_000_000, 12_000_000),
}

_OVERSAMPLE = 2  # drawn at twice the size, then averaged: smooth edges


@dataclass(frozen=True)
class Thing:
    """One object of a scene: four attributes that questions ask about, and where it stands.

    `x`, `y` and `radius` are in pixels; `turn` is a rotation in radians that nothing asks about.
    """

    shape: str
    colour: str
    size: str
    pattern: str
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
    """Things, none of which touch, and the seed that the clutter and the noise around them come from."""

    things: tuple[Thing, ...]
    seed: int


def sample_scene(seed: int, fewest: int = 3, most: int = 5) -> Scene:
    """Place between `fewest` and `most` things at random; no two share both colour and shape.

    A crowded draw that does not fit is thrown away as a whole, so that positions stay unbiased by the order of placing.
    Raises ValueError for bounds that cannot be met.
    """
    if not 1 <= fewest <= most <= 8:
        raise ValueError(f"a scene of {fewest} to {most} things cannot be placed; ask for 1 <= fewest <= most <= 8")
    rng = random.Random(seed)
    wanted = rng.randint(fewest, most)
    while True:
        things: list[Thing] = []
        for _ in range(200):
            thing = _sample_thing(rng)
            if all(_fit(thing, other) for other in things):
                things.append(thing)
            if len(things) == wanted:
                return Scene(tuple(things), seed)


def _sample_thing(rng: random.Random) -> Thing:
    shape, colour, size = rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(SIZES)
    radius = rng.uniform(*RADII[size])
    x, y = (rng.uniform(radius + 1, SIDE - radius - 1) for _ in range(2))
    return Thing(shape, colour, size, rng.choice(PATTERNS), x, y, radius, rng.uniform(-0.26, 0.26))


def _fit(one: Thing, other: Thing) -> bool:
    apart = math.hypot(one.x - other.x, one.y - other.y) >= one.radius + other.radius + 2
    return apart and one.name != other.name


def render(scene: Scene) -> tuple[Image.Image, NDArray[np.uint8]]:
    """Draw the scene; return the RGB picture `[SIDE, SIDE, 3]` and the owner map `[SIDE, SIDE]`.

    The owner map holds, for each pixel, 0 for background and i + 1 for `scene.things[i]`.
    """
    noise = np.random.default_rng(scene.seed)
    canvas = _clutter(noise)
    owner = Image.new("L", (SIDE, SIDE), 0)
    for number, thing in enumerate(scene.things, start=1):
        mask = Image.new("L", canvas.size, 0)
        _outline(ImageDraw.Draw(mask), thing, 255, _OVERSAMPLE)
        canvas.paste(_texture(thing, canvas.size, noise), (0, 0), mask)
        _outline(ImageDraw.Draw(owner), thing, number, 1)
    pixels = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX)).astype(np.float32)
    pixels += noise.normal(0, 10, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), np.array(owner)


def patch_owner(owner: NDArray[np.uint8], threshold: float = 0.12) -> NDArray[np.int64]:
    """Which thing owns each patch, `[PATCHES]` in reading order: 0 for background, i + 1 for thing i.

    A thing owns a patch if it covers at least `threshold` of its area and more than any other thing does. Things never
    overlap in the owner map, so coverage is exact.
    """
    tiles = owner.reshape(GRID, PATCH, GRID, PATCH).transpose(0, 2, 1, 3).reshape(PATCHES, PATCH * PATCH)
    numbers = np.arange(1, int(owner.max()) + 1)
    if not len(numbers):
        return np.zeros(PATCHES, dtype=np.int64)
    cover = (tiles[:, :, None] == numbers).mean(1)  # [PATCHES, things]
    return np.where(cover.max(1) >= threshold, cover.argmax(1) + 1, 0).astype(np.int64)


def _clutter(noise: np.random.Generator) -> Image.Image:
    """A dim background whose colour drifts, with thin lines and small dots that belong to no thing."""
    side = SIDE * _OVERSAMPLE
    drift = np.clip(noise.uniform(35, 115, 3) + noise.normal(0, 22, (6, 6, 3)), 0, 255).astype(np.uint8)
    canvas = Image.fromarray(drift).resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for _ in range(noise.integers(5, 13)):
        red, green, blue = (int(value) for value in noise.integers(20, 200, 3))
        x, y = noise.uniform(0, side, 2)
        if noise.random() < 0.5:
            dx, dy = noise.uniform(-50, 50, 2)
            draw.line([x, y, x + dx, y + dy], fill=(red, green, blue), width=int(noise.integers(1, 4)))
        else:
            r = noise.uniform(1.5, 4)
            draw.ellipse([x - r, y - r, x + r, y + r], fill=(red, green, blue))
    return canvas


def _texture(thing: Thing, size: tuple[int, int], noise: np.random.Generator) -> Image.Image:
    """The thing's colour, a little off, with dark stripes or dots if its pattern asks for them."""
    colour = np.clip(np.array(COLOURS[thing.colour]) + noise.normal(0, 10, 3), 0, 255)
    texture = Image.new("RGB", size, _rgb(colour))
    dark, draw = _rgb(colour * 0.35), ImageDraw.Draw(texture)
    k = _OVERSAMPLE
    x, y, r = thing.x * k, thing.y * k, thing.radius * k
    steps = np.arange(-r, r, 5.0 * k).tolist()
    if thing.pattern == "striped":
        for dy in steps:
            draw.line([x - r, y + dy, x + r, y + dy], fill=dark, width=2 * k - 1)
    elif thing.pattern == "dotted":
        d = 1.3 * k
        for dx in steps:
            for dy in steps:
                draw.ellipse([x + dx - d, y + dy - d, x + dx + d, y + dy + d], fill=dark)
    return texture


def _rgb(colour: NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def _outline(draw: ImageDraw.ImageDraw, thing: Thing, fill: int, scale: int) -> None:
    x, y, r = thing.x * scale, thing.y * scale, thing.radius * scale
    if thing.shape in ("circle", "ring"):
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        if thing.shape == "ring":
            draw.ellipse([x - r / 2, y - r / 2, x + r / 2, y + r / 2], fill=0)
        return
    c, s = math.cos(thing.turn), math.sin(thing.turn)
    draw.polygon([(x + r * (u * c - v * s), y + r * (u * s + v * c)) for u, v in _corners(thing.shape)], fill=fill)


def _corners(shape: str) -> list[tuple[float, float]]:
    """Corners of an upright polygon in the unit circle."""
    if shape == "cross":
        w = 0.34
        arm = [(-w, -1.0), (w, -1.0), (w, -w), (1.0, -w), (1.0, w), (w, w)]
        return arm + [(-u, -v) for u, v in arm]
    count, first = {"square": (4, -math.pi / 4), "triangle": (3, -math.pi / 2), "star": (10, -math.pi / 2)}[shape]
    corners = []
    for i in range(count):
        reach = 0.42 if shape == "star" and i % 2 else 1.0
        angle = first + i * 2 * math.pi / count
        corners.append((reach * math.cos(angle), reach * math.sin(angle)))
    return corners
