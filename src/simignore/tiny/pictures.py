"""Rendered training pictures: drawn once, kept as plain arrays on disk, mapped into every training process.

Rendering takes 2 ms a picture and a training picture is looked at several times, so pictures are drawn ahead. Only
pixels and patch owners are stored: the things themselves follow from the seed in 50 microseconds.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .scenes import (
    COLOURS,
    NUMBERS,
    PATTERNS,
    SHAPES,
    SIDE,
    SIZES,
    SPLITS,
    Scene,
    Thing,
    patch_owner,
    render,
    sample_scene,
)

CHUNK = 250  # pictures that one rendering task draws
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's normalisation, as in the exported processor
STD = (0.26862954, 0.26130258, 0.27577711)
UNNUMBERED = "none"
ATTRIBUTES = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": SIZES,
    "pattern": PATTERNS,
    "number": (UNNUMBERED, *NUMBERS),
}


@dataclass(frozen=True)
class Pictures:
    """The first pictures of a split: `pixels [count, side, side, 3]` uint8 and `owner [count, N]` int8."""

    split: str
    pixels: NDArray[np.uint8]
    owner: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.owner)

    def scene(self, index: int) -> Scene:
        """The scene that picture `index` shows."""
        return _scene(SPLITS[self.split][index])

    def batch(self, indices: list[int]) -> Tensor:
        """Pictures as a CLIP image processor would give them, float `[B, 3, side, side]`."""
        return normalise(torch.from_numpy(self.pixels[np.array(indices)]))

    def labels(self, indices: list[int]) -> Tensor:
        """For each patch its owner's attributes, `[B, N, 5]`: 0 for background, 1 + place among the words."""
        rows = []
        for index in indices:
            table = np.array([[0] * len(ATTRIBUTES), *(attributes(thing) for thing in self.scene(index).things)])
            rows.append(table[self.owner[index]])
        return torch.from_numpy(np.stack(rows))  # [B, N, 5]


@lru_cache(maxsize=65536)
def _scene(seed: int) -> Scene:
    return sample_scene(seed)


def attributes(thing: Thing) -> list[int]:
    """A thing's five attributes as numbers from 1, in the order of `ATTRIBUTES`."""
    return [1 + words.index(getattr(thing, kind) or UNNUMBERED) for kind, words in ATTRIBUTES.items()]


def normalise(pixels: Tensor) -> Tensor:
    """uint8 `[B, side, side, 3]` to CLIP's normalised float `[B, 3, side, side]`."""
    scaled = (pixels.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return scaled.permute(0, 3, 1, 2).contiguous()  # [B, 3, side, side]


def load(folder: Path, split: str, count: int, processes: int, scale: int = 1, patch: int = 8) -> Pictures:
    """Map the split's first `count` pictures, drawing them with `processes` processes if the folder lacks them."""
    name = f"{split}-{count}-{SIDE * scale}"
    pixel_file, owner_file = folder / f"{name}-pixels.npy", folder / f"{name}-owner.npy"
    if not owner_file.exists():
        _draw(split, count, processes, scale, patch, pixel_file, owner_file)
    return Pictures(split, np.load(pixel_file, mmap_mode="r"), np.load(owner_file))


def _draw(split: str, count: int, processes: int, scale: int, patch: int, pixel_file: Path, owner_file: Path) -> None:
    if count % CHUNK:
        raise ValueError(f"{count} pictures cannot be drawn in chunks of {CHUNK}; ask for a multiple of {CHUNK}")
    pixel_file.parent.mkdir(parents=True, exist_ok=True)
    side = SIDE * scale
    pixels = np.lib.format.open_memmap(pixel_file, "w+", np.uint8, (count, side, side, 3))
    owner = np.zeros((count, (side // patch) ** 2), np.int8)
    starts = [SPLITS[split][i] for i in range(0, count, CHUNK)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, (some_pixels, some_owner) in enumerate(pool.imap(partial(_chunk, scale, patch), starts)):
            where = slice(number * CHUNK, (number + 1) * CHUNK)
            pixels[where], owner[where] = some_pixels, some_owner
    pixels.flush()
    np.save(owner_file, owner)  # last: its presence says that the pixels are complete


def _chunk(scale: int, patch: int, start: int) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    pixels, owner = [], []
    for seed in range(start, start + CHUNK):
        picture, owners = render(sample_scene(seed), scale)
        pixels.append(np.asarray(picture))
        owner.append(patch_owner(owners, patch).astype(np.int8))
    return np.stack(pixels), np.stack(owner)
