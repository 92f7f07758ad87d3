"""A checkpoint folder as `save_pretrained` writes it: a random model of models.py with a processor that fits it."""

from __future__ import annotations

from pathlib import Path

import models
from processors import processor

SIDE, PATCH = 32, 8  # pixels; 4 x 4 patches


def save(folder: Path) -> Path:
    """Write model and processor to ``folder``, for `from_pretrained`."""
    models.fresh("clip-llama").save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


__all__ = ["PATCH", "SIDE", "processor", "save"]
