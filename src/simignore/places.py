"""Where image tokens lie on the pictures that the user passed, however the processor scaled, cropped, padded or tiled them.

The processor itself is asked: it gets a picture whose red and green tell the column and the row of every pixel, and what
comes out says where each of its crops was taken. So nothing about any family has to be known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from simignore.prompt import open_image
from simignore.types import Grid, Patches

Box = tuple[float, float, float, float]
Pictures = Any  # one image or a list of them, each opened or a path


@dataclass(frozen=True)
class Place:
    """A grid on the picture it was made of.

    grid: its rows and columns. picture: the number of the picture among those that were passed. box: (left, top, right,
    bottom) in that picture's pixels, beyond its edges where the processor added padding.
    """

    grid: Grid
    picture: int
    box: Box

    def cut_out(self, pictures: Sequence[Image.Image]) -> Image.Image:
        """The part of the picture that the grid shows, at the picture's own resolution; padding is black."""
        left, top, right, bottom = (round(end) for end in self.box)
        return pictures[self.picture].convert("RGB").crop((left, top, max(right, left + 1), max(bottom, top + 1)))

    def cell(self, row: int, column: int) -> Box:
        """(left, top, right, bottom) of one token, in pixels of the picture."""
        left, top, right, bottom = self.box
        width, height = (right - left) / self.grid.columns, (bottom - top) / self.grid.rows
        return left + column * width, top + row * height, left + (column + 1) * width, top + (row + 1) * height


def locate(patches: Patches, pictures: Pictures, processor: Any, sample: int = 0, **options: Any) -> list[Place | None]:
    """Where each grid of image tokens lies on the pictures of one sample's prompt:

        places = simignore.locate(trace.patches[0], photo, processor)
        left, top, right, bottom = places[0].cell(row=3, column=5)  # one token, in pixels of the photo

    A :class:`Place` has its ``grid``, its ``picture`` (a number), its ``box``, ``cell(row, column)`` and ``cut_out(pictures)``;
    None stands for tokens without places (learned queries, a family that was discovered).

    patches: of a trace, ``trace.patches[0]``. pictures: the images of *that sample's* prompt, not the batch's, as they were
    passed and in reading order: paths, whose files are turned as EXIF says, or opened ones, which are not; or the frames of its
    only video, as the model sees them. processor: the model's. options: what its call was given for images, such as
    ``do_pan_and_scan=True``.
    Raises ValueError if the grids and what the processor makes of the pictures do not fit together. Pictures of the same
    number and shape in another order cannot be told from the right ones.
    """
    if not isinstance(patches, Patches):
        raise TypeError(f"patches is a {type(patches).__name__}; pass those of one prefill: trace.patches[0]")
    images, grids = opened(pictures), patches.grids[sample]
    videos = any(grid.kind == "frame" for grid in grids)
    asked = any(grid.box is None and grid.kind != "tokens" for grid in grids)
    crops = [(n, crop) for n, image in enumerate(images) if asked for crop in _crops(processor, image, options)]
    _check_numbers(grids, len(images), len(crops), videos)
    placed: list[Place | None] = []
    for grid in grids:
        if grid.kind == "tokens":
            placed.append(None)
        elif grid.box is not None:
            number = grid.time if videos else grid.image
            placed.append(Place(grid, number, _scaled(grid.box, images[number].size)))
        else:
            number, (left, top, right, bottom) = crops.pop(0)
            covered = left, top, left + (right - left) * grid.covers, top + (bottom - top) * grid.covers
            placed.append(Place(grid, number, covered))
    return placed


def opened(pictures: Pictures) -> list[Image.Image]:
    """One picture or several, opened or paths, as a list of opened ones."""
    several = pictures if isinstance(pictures, list | tuple) else [pictures]
    return [open_image(picture) for picture in several]


def _check_numbers(grids: Sequence[Grid], pictures: int, crops: int, videos: bool) -> None:
    """Raise ValueError where the pictures cannot be those that the grids were made of."""
    known = {grid.time if videos else grid.image for grid in grids if grid.box is not None}
    unknown = [grid for grid in grids if grid.box is None and grid.kind != "tokens"]
    expected = {grid.image for grid in grids if grid.kind != "tokens"}
    if known and not unknown and len(known) != pictures:
        raise ValueError(
            f"this sample's prompt was made of {len(known)} {'frames' if videos else 'images'}, and {pictures} were passed; "
            "pass those of this sample alone"
        )
    if unknown and crops != len(unknown):
        raise ValueError(
            f"this sample's prompt holds {len(unknown)} grids of image tokens for {len(expected)} images, and the processor "
            f"makes {crops} of the {pictures} passed; pass the pictures of this sample alone, as they were"
        )


def _scaled(box: Box, size: tuple[int, int]) -> Box:
    return box[0] * size[0], box[1] * size[1], box[2] * size[0], box[3] * size[1]


def _crops(processor: Any, picture: Image.Image, options: dict[str, Any]) -> list[Box]:
    """What each entry of the processor's `pixel_values` shows of a picture, in its pixels."""
    width, height = picture.size
    across, down = np.meshgrid(_ramp(width), _ramp(height))
    drawn = Image.fromarray(np.stack([across, down, np.full_like(across, 255)], -1).round().astype(np.uint8))
    settings = processor.image_processor
    usual = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {}).get("images_kwargs", {})
    usual = {**usual, **(getattr(processor, "images_kwargs", None) or {}), **options, "return_tensors": "pt"}
    made = settings(images=[drawn], **usual)
    pixels = torch.as_tensor(
        next(made[name] for name in ("pixel_values", "pixel_values_images") if name in made)
    ).float()
    pixels = pixels.reshape(-1, *pixels.shape[-3:])  # [crops, 3, h, w]
    return [_span(_plain(crop, settings), (width, height)) for crop in pixels]


def _ramp(length: int) -> np.ndarray[Any, Any]:
    """The middle of each of ``length`` pixels, from 0 to 255 over all of them."""
    return (np.arange(length) + 0.5) * 255 / length


def _plain(crop: Tensor, settings: Any) -> Tensor:
    """[3, h, w] pixels from 0 to 255, the processor's normalisation undone."""
    if getattr(settings, "do_normalize", True):
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (settings.image_mean, settings.image_std))
        crop = crop * std + mean
    return crop * 255 if getattr(settings, "do_rescale", True) else crop


def _span(crop: Tensor, size: tuple[int, int]) -> Box:
    """(left, top, right, bottom) of a crop in pixels of the picture, from lines laid through what its colours say."""
    inside = crop[2] > 250  # blue is full inside the picture; padding is of one colour
    ends = []
    for colour, length, axis in ((crop[0], size[0], 1), (crop[1], size[1], 0)):
        lanes = inside.float().mean(1 - axis) > 0.3
        told = (colour * inside).sum(1 - axis) / inside.sum(1 - axis).clamp(min=1) * length / 255
        at = torch.arange(len(lanes))[lanes].double() + 0.5
        value = told[lanes].double()
        if len(at) > 4:  # the outermost lanes are blurred by scaling
            at, value = at[1:-1], value[1:-1]
        slope = ((at - at.mean()) * (value - value.mean())).sum() / ((at - at.mean()) ** 2).sum().clamp(min=1e-9)
        start = float(value.mean() - slope * at.mean())
        ends.append((start, start + float(slope) * len(lanes)))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom
