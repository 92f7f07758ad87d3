"""The parts of a picture that no image token covers, as where a processor crops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from simignore.places import Box

_SLIVER = 0.01  # of a picture's side; thinner strips are rounding


def gaps(size: tuple[int, int], boxes: Sequence[Box]) -> list[Box]:
    """The parts of a picture of ``size`` (width, height) outside all boxes, as rectangles beside each other."""
    across = _ends([end for box in boxes for end in (box[0], box[2])], size[0])
    down = _ends([end for box in boxes for end in (box[1], box[3])], size[1])
    found = []
    for top, bottom in pairwise(down):
        for left, right in pairwise(across):
            x, y = (left + right) / 2, (top + bottom) / 2
            if not any(box[0] <= x <= box[2] and box[1] <= y <= box[3] for box in boxes):
                found.append((left, top, right, bottom))
    thin = _SLIVER * size[0], _SLIVER * size[1]
    return [box for box in found if box[2] - box[0] > thin[0] and box[3] - box[1] > thin[1]]


def seen(size: tuple[int, int], boxes: Sequence[Box]) -> float:
    """The share of a picture that boxes cover together."""
    return 1 - sum((box[2] - box[0]) * (box[3] - box[1]) for box in gaps(size, boxes)) / (size[0] * size[1])


def _ends(ends: list[float], length: int) -> list[float]:
    return [float(end) for end in np.unique(np.clip([0, *ends, length], 0, length))]
