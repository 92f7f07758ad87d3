"""Symbols: stand-ins for image tokens, with which the decoder learns to reason before it sees a picture.

A symbol is the sum of the word embeddings of its owner's four attributes, plus where it stands; a background symbol is
one vector of the same length. The decoder learns from at most 30 symbols a scene, a fifth of a picture's tokens, and
the projector then learns to say the same about patches. (The joint stage does not keep the lengths equal: in the
bundled model background tokens are longer than those of things, 25 against 15.)
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from .packing import PREFIX
from .pictures import ATTRIBUTES, Pictures
from .scenes import GRID, PATCHES
from .words import VOCABULARY

SYMBOLS = 30  # most symbols of a scene


class Symbols(nn.Module):
    """Attributes and places to vectors of the decoder's width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.background = nn.Parameter(torch.randn(width))
        self.across, self.down = nn.Embedding(GRID, width), nn.Embedding(GRID, width)
        for table in (self.across, self.down):
            nn.init.normal_(table.weight, std=0.15)
        for number, names in enumerate(ATTRIBUTES):
            ids = torch.tensor([0, *(VOCABULARY[name] for name in names)])
            self.register_buffer(f"words{number}", ids, persistent=False)

    def forward(self, labels: Tensor, place: Tensor, words: nn.Embedding) -> Tensor:
        """`labels [B, S, 4]` as of `Pictures.labels`, patch numbers `place [B, S]`, the decoder's word embeddings
        -> `[B, S, D]`."""
        middle = words.weight[: len(VOCABULARY)].mean(0)  # what all words share counts once, not four times
        ids = torch.stack([self.get_buffer(f"words{k}")[labels[..., k]] for k in range(4)], -1)  # [B, S, 4]
        thing: Tensor = (words(ids) - middle).sum(-2)  # [B, S, D]
        owned = (labels[..., :1] > 0).float()  # [B, S, 1]
        length = (thing.norm(dim=-1, keepdim=True) * owned).sum() / owned.sum().clamp(min=1)
        empty = self.background / self.background.norm() * length.detach()
        x, y = place % GRID, place // GRID
        here: Tensor = owned * thing + (1 - owned) * empty
        return here + middle + self.across(x) + self.down(y) + _lean(x, y, words)  # type: ignore[no-any-return]


def _lean(x: Tensor, y: Tensor, words: nn.Embedding) -> Tensor:
    """The further right, the more of `right` and the less of `left`; likewise up and down. `[B, S, D]`."""
    left, right, top, bottom = (words.weight[VOCABULARY[word]] for word in ("left", "right", "top", "bottom"))
    centre = (GRID - 1) / 2
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


def every_place(batch: int) -> Tensor:
    """All patch numbers, `[B, PATCHES]`."""
    return torch.arange(PATCHES).expand(batch, PATCHES)


def positions(places: Tensor) -> Tensor:
    """The position that a picture's patch has in a prompt."""
    return places + len(PREFIX)
