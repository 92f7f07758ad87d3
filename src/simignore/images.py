"""Opening images: checked before they are decoded, the right way up, in RGB."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, ImageOps

MAX_PIXELS = 100_000_000  # larger images are refused before they are decoded


def open_image(source: Any) -> Image.Image:
    """An RGB image, the right way up, from a path or an opened image.

    A camera may store a picture lying on its side and say so in its EXIF data; it is turned as that says, as transformers does.
    Raises ValueError naming the file, the reason and the remedy.
    """
    if isinstance(source, Image.Image):
        return _upright(_checked(source, "the image"))
    path = Path(source)
    if str(source).startswith(("http://", "https://")):
        raise ValueError(f"{source} is an address, and nothing is fetched from the network; download the image first")
    if path.is_dir():
        raise ValueError(f"no image file at {path}: it is a folder; name a file in it")
    if not path.is_file():
        raise ValueError(f"no image file at {path}; check the path")
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # some packages switch it on for all
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _upright(_checked(image, str(path)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} is too large to open safely ({error}); scale it down first") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}); it may be truncated or of another type"
        ) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _upright(image: Image.Image) -> Image.Image:
    """RGB, turned as EXIF says. Grey in 16 bits is scaled to 8, for Pillow's own conversion would cut all above 255 off."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16"):
        turned = turned.convert("I").point(lambda grey: grey * (1 / 257) + 0.5).convert("L")
    return turned.convert("RGB")


def _checked(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if not width or not height:
        raise ValueError(f"{name} is {width} x {height} pixels and shows nothing; use another")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name} has {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it down first")
    return image


__all__ = ["open_image"]
