"""Figures: one file each, pure functions from results to pictures."""

from __future__ import annotations

from simignore.figures.drawn import draw
from simignore.figures.kept import kept_picture

__all__ = ["draw", "kept_picture"]
