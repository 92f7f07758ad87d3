"""Rendered training pictures: drawn once, kept as plain arrays on disk, mapped into every training process.

Rendering takes 3 ms a picture and a training picture is looked at several times, so pictures are drawn ahead. Only
pixels and patch owners are stored: the things themselves follow from the seed in 50 microseconds.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .scenes import COLOURS, PATCHES, PATTERNS, SHAPES, SIDE, SIZES, SPLITS, Scene, patch_owner, render, sample_scene

CHUNK = 250  # pictures that one rendering task draws
MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's normalisation, as in the exported processor
STD = (0.26862954, 0.26130258, 0.27577711)
ATTRIBUTES = (SHAPES, tuple(COLOURS), SIZES, PATTERNS)


@dataclass(frozen=True)
class Pictures:
    """The first pictures of a split: `pixels [count, SIDE, SIDE, 3]` uint8 and `owner [count, PATCHES]` int8."""

    split: str
    pixels: NDArray[np.uint8]
    owner: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.owner)

    def scene(self, index: int) -> Scene:
        """The scene that picture `index` shows."""
        return _scene(SPLITS[self.split][index])

    def batch(self, indices: list[int]) -> Tensor:
        """Pictures as a CLIP image processor would give them, float `[B, 3, SIDE, SIDE]`."""
        return normalise(torch.from_numpy(self.pixels[np.array(indices)]))

    def labels(self, indices: list[int]) -> Tensor:
        """For each patch its owner's attributes, `[B, PATCHES, 4]`: 0 for background, 1 + place in `ATTRIBUTES[k]`."""
        rows = []
        for index in indices:
            table = np.array([[0] * 4, *(attributes(thing) for thing in self.scene(index).things)])
            rows.append(table[self.owner[index]])
        return torch.from_numpy(np.stack(rows))  # [B, PATCHES, 4]


@lru_cache(maxsize=65536)
def _scene(seed: int) -> Scene:
    return sample_scene(seed)


def attributes(thing: object) -> list[int]:
    """A thing's shape, colour, size and pattern as numbers from 1."""
    words = (getattr(thing, kind) for kind in ("shape", "colour", "size", "pattern"))
    return [1 + names.index(word) for names, word in zip(ATTRIBUTES, words, strict=True)]


def normalise(pixels: Tensor) -> Tensor:
    """uint8 `[B, SIDE, SIDE, 3]` to CLIP's normalised float `[B, 3, SIDE, SIDE]`."""
    scaled = (pixels.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return scaled.permute(0, 3, 1, 2).contiguous()  # [B, 3, SIDE, SIDE]


def load(folder: Path, split: str, count: int, processes: int) -> Pictures:
    """Map the split's first `count` pictures, drawing them with `processes` processes if the folder lacks them."""
    pixel_file, owner_file = folder / f"{split}-{count}-pixels.npy", folder / f"{split}-{count}-owner.npy"
    if not owner_file.exists():
        _draw(split, count, processes, pixel_file, owner_file)
    return Pictures(split, np.load(pixel_file, mmap_mode="r"), np.load(owner_file))


def _draw(split: str, count: int, processes: int, pixel_file: Path, owner_file: Path) -> None:
    if count % CHUNK:
        raise ValueError(f"{count} pictures cannot be drawn in chunks of {CHUNK}; ask for a multiple of {CHUNK}")
    pixel_file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.lib.format.open_memmap(pixel_file, "w+", np.uint8, (count, SIDE, SIDE, 3))
    owner = np.zeros((count, PATCHES), np.int8)
    starts = [SPLITS[split][i] for i in range(0, count, CHUNK)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, (some_pixels, some_owner) in enumerate(pool.imap(_chunk, starts)):
            where = slice(number * CHUNK, (number + 1) * CHUNK)
            pixels[where], owner[where] = some_pixels, some_owner
    pixels.flush()
    np.save(owner_file, owner)  # last: its presence says that the pixels are complete


def _chunk(start: int) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    pixels, owner = [], []
    for seed in range(start, start + CHUNK):
        picture, owners = render(sample_scene(seed))
        pixels.append(np.asarray(picture))
        owner.append(patch_owner(owners).astype(np.int8))
    return np.stack(pixels), np.stack(owner)
