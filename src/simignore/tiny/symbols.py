"""Symbols: stand-ins for image tokens, with which the decoder learns to reason before it sees a picture.

A symbol is the sum of the word embeddings of its owner's attributes, plus where it stands; a background symbol is one
vector of the same length. The decoder learns from at most 40 symbols a scene, a fifth of a picture's tokens, and the
projector then learns to say the same about patches. So image and word embeddings are aligned by construction; without
it (`aligned=False`, the control) attributes have vectors of their own, which share nothing with the words.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from .packing import PREFIX
from .pictures import ATTRIBUTES, UNNUMBERED, Pictures
from .start import start_places
from .words import VOCABULARY

SYMBOLS = 40  # most symbols of a scene


class Symbols(nn.Module):
    """Attributes and places to vectors of the decoder's width."""

    def __init__(self, width: int, grid: int, aligned: bool = True) -> None:
        super().__init__()
        self.grid = grid
        self.background = nn.Parameter(torch.randn(width))
        self.across, self.down = nn.Embedding(grid, width), nn.Embedding(grid, width)
        for table in (self.across, self.down):
            start_places(table.weight)
        self.own = None if aligned else nn.Embedding(len(VOCABULARY), width)
        if self.own is not None:
            nn.init.normal_(self.own.weight, std=0.15)
        for number, names in enumerate(ATTRIBUTES.values()):
            ids = torch.tensor([0, *(VOCABULARY[name] for name in names)])
            self.register_buffer(f"words{number}", ids, persistent=False)

    def forward(self, labels: Tensor, place: Tensor, words: nn.Embedding) -> Tensor:
        """`labels [B, S, 5]` as of `Pictures.labels`, patch numbers `place [B, S]`, the decoder's word embeddings
        -> `[B, S, D]`."""
        source = words if self.own is None else self.own
        middle = source.weight[: len(VOCABULARY)].mean(0)  # what all words share counts once, not five times
        ids = torch.stack([self.get_buffer(f"words{k}")[labels[..., k]] for k in range(len(ATTRIBUTES))], -1)
        told = (ids != VOCABULARY[UNNUMBERED])[..., None]  # [B, S, 5, 1]
        thing: Tensor = ((source(ids) - middle) * told).sum(-2)  # [B, S, D]
        owned = (labels[..., :1] > 0).float()  # [B, S, 1]
        length = (thing.norm(dim=-1, keepdim=True) * owned).sum() / owned.sum().clamp(min=1)
        empty = self.background / self.background.norm() * length.detach()
        x, y = place % self.grid, place // self.grid
        here: Tensor = owned * thing + (1 - owned) * empty
        return here + middle + self.across(x) + self.down(y) + self._lean(x, y, source)  # type: ignore[no-any-return]

    def _lean(self, x: Tensor, y: Tensor, words: nn.Embedding) -> Tensor:
        """The further right, the more of `right` and the less of `left`; likewise up and down. `[B, S, D]`."""
        left, right, top, bottom = (words.weight[VOCABULARY[word]] for word in ("left", "right", "top", "bottom"))
        centre = (self.grid - 1) / 2
        return ((x - centre) / centre)[..., None] * (right - left) + ((y - centre) / centre)[..., None] * (bottom - top)


def sample_places(pictures: Pictures, indices: list[int], rng: random.Random) -> tuple[Tensor, Tensor]:
    """Some patches of each picture: 2 to 5 of every thing and 2 to 8 of the background, in reading order.

    Returns patch numbers `[B, SYMBOLS]` and whether they count `[B, SYMBOLS]` bool (rows are padded).
    """
    places = torch.zeros(len(indices), SYMBOLS, dtype=torch.long)
    valid = torch.zeros(len(indices), SYMBOLS, dtype=torch.bool)
    for row, index in enumerate(indices):
        by_owner: dict[int, list[int]] = {}
        for patch, owner in enumerate(pictures.owner[index].tolist()):
            by_owner.setdefault(owner, []).append(patch)
        background = by_owner.pop(0, [])
        chosen = [patch for some in by_owner.values() for patch in _some(some, rng.randint(2, 5), rng)]
        chosen += _some(background, rng.randint(2, 8), rng)
        chosen = sorted(chosen[:SYMBOLS])
        places[row, : len(chosen)] = torch.tensor(chosen)
        valid[row, : len(chosen)] = True
    return places, valid


def _some(patches: list[int], count: int, rng: random.Random) -> list[int]:
    return rng.sample(patches, min(count, len(patches)))


def positions(places: Tensor) -> Tensor:
    """The position that a picture's patch has in a prompt."""
    return places + len(PREFIX)
