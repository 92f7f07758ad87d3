"""A benchmark's pictures: opened when they are needed, and padded to squares for models that were trained so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from simignore.prompt import open_image

Picture = Path | Callable[[], Any]  # a file, or what draws the PIL image when it is needed
PADDING = (122, 116, 104)  # the mean colour of CLIP's images, with which LLaVA-1.5 pads


def opened(picture: Picture, square: bool = False) -> Image.Image:
    """An RGB image. Raises ValueError naming the file, the reason and the remedy."""
    image = open_image(picture() if callable(picture) else picture)
    return squared(image) if square else image


def squared(image: Image.Image) -> Image.Image:
    """The image in the middle of a square of the padding colour."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), PADDING)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
