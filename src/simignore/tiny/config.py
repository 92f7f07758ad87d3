"""Sizes of the bundled model, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TinyConfig:
    """Widths, depths and heads of the tower and the decoder; 3.2 M parameters as they stand.

    The projector reads the tower's layer before the last, as LLaVA does, so the tower's last layer serves CLS alone.
    """

    vision_width: int = 128
    vision_layers: int = 5
    vision_heads: int = 4
    vision_inner: int = 384
    width: int = 192
    layers: int = 6
    heads: int = 4
    inner: int = 384
    positions: int = 2048  # longest prompt and answer, in tokens
    look_back: tuple[int, ...] = (0, 1)  # decoder layers with a head that starts by looking one token back
    match: tuple[int, ...] = (1, 2, 3)  # decoder layers with heads that start by matching equal words


TINY = TinyConfig()
