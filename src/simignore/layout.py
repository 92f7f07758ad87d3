"""Where the image tokens and the text are among the tokens of one forward. Everything here is on the host."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from simignore.geometry import Picture, Run
from simignore.types import PAD, Grid, Patches

Geometry = Callable[[list[Run]], list[Picture]]


@dataclass(frozen=True)
class Layout:
    """A prompt as the splice sees it.

    image: [B, N] places of the image tokens, in reading order, -1 padding. patches: where each lies on its image.
    attended: [B, T] False for padding. placeholders: [B, T] True for image tokens and for what shares their ids without being
    a patch. ids: [B, T] token ids, or None if embeddings were passed. seeds: one number per sample, of its own text only.
    repeats: how often each prompt comes in turn, while its images are encoded once.
    """

    image: Tensor
    patches: Patches
    attended: Tensor
    placeholders: Tensor
    ids: Tensor | None
    seeds: tuple[int, ...]
    repeats: int = 1

    @classmethod
    def without_image(cls, batch: int, length: int) -> Layout:
        """The layout of tokens among which no image is."""
        none = torch.empty(batch, 0, dtype=torch.long)
        all_of_them = torch.ones(batch, length, dtype=torch.bool)
        return cls(none, Patches(((),) * batch, none, none, none), all_of_them, ~all_of_them, None, (0,) * batch)

    @property
    def length(self) -> int:
        """T, tokens of each sample, padding included."""
        return self.attended.shape[1]

    @property
    def counts(self) -> list[int]:
        """Image tokens of each sample."""
        return [int(count) for count in (self.image != PAD).sum(1)]

    @property
    def images(self) -> list[int]:
        """Images and videos of each sample."""
        return [len({grid.image for grid in grids}) for grids in self.patches.grids]

    def repeated(self, times: int) -> Layout:
        """The layout of a batch in which each prompt comes so many times in turn, while its images are encoded once."""
        own = self.patches
        grids = tuple(grids for grids in own.grids for _ in range(times))
        told = (x.repeat_interleave(times, 0) for x in (own.grid, own.row, own.column))
        image, attended, held = (x.repeat_interleave(times, 0) for x in (self.image, self.attended, self.placeholders))
        ids = None if self.ids is None else self.ids.repeat_interleave(times, 0)
        seeds = tuple(seed for seed in self.seeds for _ in range(times))
        return Layout(image, Patches(grids, *told), attended, held, ids, seeds, self.repeats * times)

    def text(self, sample: int, without: frozenset[int] = frozenset()) -> list[int]:
        """The sample's token ids without padding, image tokens and the tokens named. Raises ValueError without ids."""
        if self.ids is None:
            raise ValueError(
                "this method compares image tokens with the prompt's text, and inputs_embeds hides which tokens those are. "
                "Pass input_ids, or the text to compare with: `with method(model, query=ids)`."
            )
        ids = self.ids[sample][self.attended[sample] & ~self.placeholders[sample]].tolist()
        return [token for token in ids if token not in without]


def layout(
    places: Tensor,
    ids: Tensor | None,
    mask: Tensor | None,
    special: frozenset[int],
    geometries: Mapping[int, Geometry],
    repeats: int = 1,
) -> Layout:
    """Read a prompt.

    places: [B, T] the id of a placeholder, -1 elsewhere. ids: [B, T]. mask: [B, >= T] 2-D (others are ignored).
    geometries: for each placeholder id what tells its images apart. repeats: how often each prompt comes in turn, while its
    images were given once. Raises GeometryError where they do not fit.
    """
    places = places.cpu()
    ids = None if ids is None else ids.cpu()
    attended = torch.ones_like(places, dtype=torch.bool)
    if mask is not None and mask.dim() == 2:
        attended = mask[:, -places.shape[1] :].cpu().bool()
    held = places != PAD
    cells, grids = _cells(places[::repeats], None if ids is None else ids[::repeats], geometries)
    cells, grids = cells.repeat_interleave(repeats, 0), tuple(own for own in grids for _ in range(repeats))
    on_grid = attended & (cells[..., 0] != PAD)
    longest = int(on_grid.sum(1).max()) if on_grid.numel() else 0
    order = torch.argsort((~on_grid).to(torch.uint8), dim=1, stable=True)[:, :longest]  # [B, N]
    real = on_grid.gather(1, order)
    image = torch.where(real, order, PAD)
    told = [cells[..., k].gather(1, order).masked_fill(~real, PAD) for k in range(3)]
    patches = Patches(grids, *told)
    if ids is None:
        return Layout(image, patches, attended, held, None, (0,) * places.shape[0], repeats)
    own = attended & ~held & ~torch.isin(ids, torch.tensor(sorted(special)))  # [B, T] the sample's own text
    seeds = tuple(zlib.crc32(row[mine].long().numpy().tobytes()) for row, mine in zip(ids, own, strict=True))
    return Layout(image, patches, attended, held, ids, seeds, repeats)


def _cells(
    places: Tensor, ids: Tensor | None, geometries: Mapping[int, Geometry]
) -> tuple[Tensor, tuple[tuple[Grid, ...], ...]]:
    """[B, T, 3] each placeholder's (grid, row, column), -1 elsewhere, and the grids of each sample in reading order."""
    batch, length = places.shape
    cells = torch.full((batch, length, 3), PAD)
    found: list[list[tuple[int, Picture, Tensor]]] = [[] for _ in range(batch)]  # (first place, picture, places)
    for token, geometry in geometries.items():
        mine = (places == token).nonzero()  # [n, 2] in the order in which features enter
        if not len(mine):
            continue
        start = 0
        for picture in geometry(_runs(places == token, ids)):
            own = mine[start : start + len(picture.cells)]
            start += len(picture.cells)
            if len(own) < len(picture.cells) or len({*own[:, 0].tolist()}) != 1:
                raise _misfit(len(mine), token)
            found[int(own[0, 0])].append((int(own[0, 1]), picture, own[:, 1]))
        if start != len(mine):
            raise _misfit(len(mine), token)
    grids: list[tuple[Grid, ...]] = []
    for b, pictures in enumerate(found):
        own_grids: list[Grid] = []
        for number, (_, picture, where) in enumerate(sorted(pictures, key=lambda entry: entry[0])):
            shift = torch.tensor([len(own_grids), 0, 0]) * (picture.cells[:, :1] != PAD)
            cells[b, where] = picture.cells + shift
            own_grids += [replace(grid, image=number) for grid in picture.grids]
        grids.append(tuple(own_grids))
    return cells, tuple(grids)


def _runs(mine: Tensor, ids: Tensor | None) -> list[Run]:
    """The runs of True in [B, T], sample by sample."""
    found = []
    for b, row in enumerate(mine):
        at = row.nonzero()[:, 0]
        if not len(at):
            continue
        breaks = (at[1:] - at[:-1] > 1).nonzero()[:, 0] + 1
        for run in torch.tensor_split(at, breaks.tolist()):
            first = int(run[0])
            before = int(ids[b, first - 1]) if ids is not None and first > 0 else PAD
            found.append(Run(len(run), b, before))
    return found


def _misfit(count: int, token: int) -> ValueError:
    from simignore.geometry import GeometryError

    return GeometryError(
        f"the prompt holds {count} placeholder tokens (id {token}), and the images that came with it make another number, or "
        "are split among samples. Pass the processor's output for whole images, one placeholder for each feature."
    )
