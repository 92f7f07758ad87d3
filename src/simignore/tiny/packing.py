"""Several exchanges behind one picture, so that its many tokens are computed once for all of them.

Every exchange sees the picture and itself but no other exchange, and its positions go on from the picture's end: to the
model each is a prompt of its own.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from .curriculum import IGNORED, TASKS, Mix, draw
from .scenes import Scene
from .words import BOS, PAD, VOCABULARY

PREFIX = (BOS, VOCABULARY["user:"])  # what stands before the picture


@dataclass(frozen=True)
class Pack:
    """Exchanges of a batch, padded on the right to `[B, T]`.

    `segment` numbers the exchanges from 1 (-1: padding), `position` is each token's place in its own prompt, `label`
    the token to predict there, `task` the place in `TASKS`.
    """

    tokens: Tensor
    segment: Tensor
    position: Tensor
    label: Tensor
    task: Tensor

    def to(self, device: torch.device) -> Pack:
        """The same on another device."""
        return Pack(
            *(column.to(device) for column in (self.tokens, self.segment, self.position, self.label, self.task))
        )


def pack(scenes: list[Scene], patches: int, mix: Mix, length: int, rng: random.Random) -> Pack:
    """Fill `length` tokens behind the `patches` of each scene with exchanges drawn from `mix`; four that do not fit
    end a row."""
    rows = [_row(scene, len(PREFIX) + patches, mix, length, rng) for scene in scenes]
    return Pack(*(torch.tensor(column) for column in zip(*rows, strict=True)))


def _row(scene: Scene, first: int, mix: Mix, length: int, rng: random.Random) -> tuple[list[int], ...]:
    tokens: list[int] = []
    segments: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    tasks: list[int] = []
    misses = number = 0
    while misses < 4:
        segment = draw(scene, mix, rng)
        count = len(segment.tokens)
        if len(tokens) + count > length:
            misses += 1
            continue
        number += 1
        tokens += segment.tokens
        segments += [number] * count
        positions += range(first, first + count)
        labels += segment.labels
        tasks += [TASKS.index(segment.task)] * count
    rest = length - len(tokens)
    return (
        tokens + [PAD] * rest,
        segments + [-1] * rest,
        positions + [0] * rest,
        labels + [IGNORED] * rest,
        tasks + [0] * rest,
    )


def block_mask(segment: Tensor) -> Tensor:
    """Who may look at whom, `[B, 1, T, T]` bool: earlier tokens of segment 0 (prefix and picture) and of one's own
    segment; a padding token sees itself alone, so that its softmax is defined."""
    earlier = torch.ones(segment.shape[1], segment.shape[1], dtype=torch.bool, device=segment.device).tril()
    shared = segment[:, None, :] == 0
    own = (segment[:, None, :] == segment[:, :, None]) & (segment[:, None, :] > 0)
    alone = torch.eye(segment.shape[1], dtype=torch.bool, device=segment.device)
    return ((earlier & (shared | own)) | alone)[:, None]  # [B, 1, T, T]


def blind(mask: Tensor, segment: Tensor, rows: Tensor) -> Tensor:
    """`mask` with the picture hidden from the text in the given rows (`[B]` bool)."""
    picture = segment == 0
    picture[:, : len(PREFIX)] = False
    hidden = (segment > 0)[:, :, None] & picture[:, None, :] & rows[:, None, None]  # [B, T, T]
    return mask & ~hidden[:, None]
