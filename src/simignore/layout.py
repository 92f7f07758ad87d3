"""Where the image tokens and the text are among the tokens of one forward. Everything here is on the host."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from simignore.types import PAD


@dataclass(frozen=True)
class Layout:
    """A prompt as the splice sees it.

    image: [B, N] places of the image tokens, in reading order, -1 padding. attended: [B, T] False for padding.
    ids: [B, T] token ids, or None if embeddings were passed. seeds: one number per sample, made of its own text only.
    """

    image: Tensor
    attended: Tensor
    ids: Tensor | None
    seeds: tuple[int, ...]

    @classmethod
    def without_image(cls, batch: int, length: int) -> Layout:
        """The layout of tokens among which no image is."""
        nothing = torch.empty(batch, 0, dtype=torch.long)
        return cls(nothing, torch.ones(batch, length, dtype=torch.bool), None, (0,) * batch)

    @property
    def length(self) -> int:
        """T, tokens of each sample, padding included."""
        return self.attended.shape[1]

    @property
    def counts(self) -> list[int]:
        """Image tokens of each sample."""
        return [int(count) for count in (self.image != PAD).sum(1)]

    def grids(self, grid: tuple[int, int] | None) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each sample the (rows, columns) of its images, all of size ``grid``; empty where that is unknown."""
        if grid is None:
            return ((),) * len(self.counts)
        return tuple((grid,) * (count // (grid[0] * grid[1])) for count in self.counts)

    @property
    def images(self) -> list[int]:
        """Separate runs of image tokens in each sample."""
        gaps = (self.image[:, 1:] - self.image[:, :-1] > 1) & (self.image[:, 1:] != PAD)
        return [int(gap) + (count > 0) for gap, count in zip(gaps.sum(1), self.counts, strict=True)]

    def text(self, sample: int, without: int | frozenset[int]) -> list[int]:
        """The sample's token ids without padding and without the token or tokens named. Raises ValueError without ids."""
        if self.ids is None:
            raise ValueError(
                "this method compares image tokens with the prompt's text, and inputs_embeds hides which tokens those are. "
                "Pass input_ids, or the text to compare with: `with method(model, query=ids)`."
            )
        ids = self.ids[sample][self.attended[sample]].tolist()
        out = frozenset([without]) if isinstance(without, int) else without
        return [token for token in ids if token not in out]


def layout(places: Tensor, ids: Tensor | None, mask: Tensor | None, special: frozenset[int]) -> Layout:
    """Read a prompt: ``places`` [B, T] True for image tokens, ``ids`` [B, T], ``mask`` [B, >= T] 2-D (others are ignored)."""
    places = places.cpu()
    attended = torch.ones_like(places)
    if mask is not None and mask.dim() == 2:
        attended = mask[:, -places.shape[1] :].cpu().bool()
    places = places & attended
    longest = int(places.sum(1).max()) if places.numel() else 0
    order = torch.argsort((~places).to(torch.uint8), dim=1, stable=True)[:, :longest]  # [B, N]
    image = torch.where(places.gather(1, order), order, PAD)
    if ids is None:
        return Layout(image, attended, None, (0,) * places.shape[0])
    ids = ids.cpu()
    own = attended & ~torch.isin(ids, torch.tensor(sorted(special)))  # [B, T] the sample's own text
    seeds = tuple(zlib.crc32(row[mine].long().numpy().tobytes()) for row, mine in zip(ids, own, strict=True))
    return Layout(image, attended, ids, seeds)
