"""Opening images: checked before they are decoded, files the right way up, in RGB."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile, ImageOps

MAX_PIXELS = 100_000_000  # larger images are refused before they are decoded


def open_image(source: Any) -> Image.Image:
    """An RGB image from a path, an opened image, or a file's content as bytes.

    A camera may store a picture lying on its side and say so in its EXIF data. A file is turned as that says, and an opened
    image is taken as it is, as transformers' processors do with both: what is drawn of it is what they saw.
    Raises ValueError naming the file, the reason and the remedy.
    """
    if isinstance(source, Image.Image):
        return _rgb(_checked(source, "the image"))
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), "the image")
    path = Path(source)
    if str(source).startswith(("http://", "https://")):
        raise ValueError(f"{source} is an address, and nothing is fetched from the network; download the image first")
    if path.is_dir():
        raise ValueError(f"no image file at {path}: it is a folder; name a file in it")
    if not path.is_file():
        raise ValueError(f"no image file at {path}; check the path")
    return _read(path, str(path))


def _read(file: Path | io.BytesIO, name: str) -> Image.Image:
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # some packages switch it on for all
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return _rgb(upright(_checked(image, name)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} is too large to open safely ({error}); scale it down first") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(
            f"{name} cannot be read as an image ({error}); it may be truncated or of another type"
        ) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def upright(image: Image.Image) -> Image.Image:
    """An image just read from a file, turned as its EXIF data says; as it is stored where those are broken."""
    image.load()  # what is wrong with the picture itself is told
    try:
        turned = ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises whatever it stumbles over, struct.error and SyntaxError among it
        return image
    turned.format = image.format
    return turned


def _rgb(image: Image.Image) -> Image.Image:
    """RGB. Grey in 16 bits is scaled to 8, for Pillow's own conversion would cut all above 255 off; up to Pillow 10 a PNG of
    such grey is opened with 32 bits."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        image = image.convert("I").point(lambda grey: grey * (1 / 257) + 0.5).convert("L")
    return image.convert("RGB")


def _checked(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if not width or not height:
        raise ValueError(f"{name} is {width} x {height} pixels and shows nothing; use another")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name} has {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it down first")
    return image


__all__ = ["open_image", "upright"]
