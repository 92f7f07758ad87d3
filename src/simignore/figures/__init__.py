"""Figures: one file each, pure functions from results to pictures."""

from __future__ import annotations

from simignore.figures.accuracy import by_group, by_prefill, by_tokens
from simignore.figures.drawn import draw
from simignore.figures.flow import flow_page
from simignore.figures.kept import kept_picture

__all__ = ["by_group", "by_prefill", "by_tokens", "draw", "flow_page", "kept_picture"]
