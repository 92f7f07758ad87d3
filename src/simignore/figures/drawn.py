"""A trace on the user's own pictures, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from simignore.figures.kept import kept_picture
from simignore.places import Pictures, Place, locate, opened
from simignore.types import Trace


def draw(
    trace: Trace, pictures: Pictures, processor: Any, *, sample: int = 0, prefill: int = 0, **captions: Any
) -> Image.Image:
    """Draw which image tokens of a sample stayed: ``draw(trace, "photo.png", processor).save("kept.png")``.

    pictures: the images of that sample's prompt, as they were passed. A path will do for a photo that is not turned by its EXIF
    data: a file is turned as they say, what you opened for the processor is not. processor: the model's. sample, prefill: which
    of the batch, and which of the trace's prefills. captions: of :func:`kept_picture`: question, answers, method ...
    Raises ValueError for tokens that have no places on a picture, such as those of learned queries.
    """
    placed, images = locate(trace.patches[prefill], pictures, processor, sample=sample), opened(pictures)
    places = [place for place in placed if place is not None]
    if not places:
        raise ValueError(
            "the image tokens of this model have no places on a picture (they are learned queries, or the family is not in "
            "the table), so they cannot be drawn"
        )
    return kept_picture(
        [place.cut_out(images) for place in places],
        trace.selections[prefill],
        [place.grid.size for place in places],
        sample=sample,
        names=names(places, len(images)) if len(places) > 1 else (),
        **captions,
    )


def names(places: Sequence[Place], pictures: int) -> list[str]:
    """What each panel shows, such as `image 2, tile 1 of 3`."""
    found = []
    tiles = [(place.picture, place.grid.kind) for place in places]
    for number, place in enumerate(places):
        of_image = [n for n, key in enumerate(tiles) if key == (place.picture, "tile")]
        beside_overview = any(key == (place.picture, "overview") for key in tiles)
        what = {
            "image": "full resolution" if beside_overview else "",
            "overview": "overview",
            "tile": f"tile {of_image.index(number) + 1} of {len(of_image)}" if number in of_image else "",
            "frame": f"frame {place.grid.time + 1}",
            "tokens": "",
        }[place.grid.kind]
        which = f"image {place.picture + 1}" if pictures > 1 else ""
        found.append(", ".join(part for part in (which, what) if part) or "image")
    return found
