"""Choosing among the tokens of each image, or of each tile or frame, by itself: the view is split into one row per image, the
method chooses as it would among samples, and its selection is put together again. So every method can, unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from simignore.select import renumber
from simignore.splice.tensors import take
from simignore.types import PAD, Blend, Patches, Selection, View, Within


@dataclass(frozen=True)
class Parting:
    """samples: [R] the sample of each row. index: [R, n] its tokens in the sample, -1 padding. numbers: which image it is."""

    samples: Tensor
    index: Tensor
    numbers: tuple[int, ...]


def part(patches: Patches, within: Within) -> Parting:
    """One row for each image (``within="image"``) or each grid (``"grid"``) that still has tokens."""
    groups = patches.image if within == "image" else patches.grid  # [B, N]
    rows = [(b, number) for b in range(len(groups)) for number in sorted({*groups[b].tolist()} - {PAD})]
    index = [(groups[b] == number).nonzero()[:, 0] for b, number in rows]
    padded = torch.nn.utils.rnn.pad_sequence(index, batch_first=True, padding_value=PAD)
    return Parting(torch.tensor([b for b, _ in rows]), padded, tuple(number for _, number in rows))


def split(view: View, parting: Parting, whole: Patches, within: Within) -> View:
    """The same view with one row per image; seeds differ from image to image, the first image has its sample's.

    whole: where all image tokens of the samples lay before any cut.
    """
    samples, index = parting.samples, parting.index

    def rows(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[samples.to(x.device)]

    def tokens(x: Tensor | None) -> Tensor | None:
        return None if x is None else take(x[samples.to(x.device)], index.to(x.device))

    own = view.patches
    patches = Patches(
        tuple(own.grids[b] for b in samples.tolist()), own.grid[samples], own.row[samples], own.column[samples]
    )
    groups = whole.image if within == "image" else whole.grid
    of_rows = list(zip(samples.tolist(), parting.numbers, strict=True))
    return replace(
        view,
        valid=(index != PAD).to(view.valid.device),
        patches=patches.take(index),
        seeds=tuple(view.seeds[b] + 7919 * number for b, number in of_rows),
        totals=tuple(int((groups[b] == number).sum()) for b, number in of_rows),
        visual=tokens(view.visual),
        hidden=tokens(view.hidden),
        text=rows(view.text),
        text_valid=rows(view.text_valid),
        words=rows(view.words),
        words_valid=rows(view.words_valid),
        questions=tuple(view.questions[b] for b, _ in of_rows) if view.questions else (),
        attention=tokens(view.attention),
        tower={look: taken for look, x in view.tower.items() if (taken := tokens(x)) is not None},
    )


@contextmanager
def numbered(parting: Parting, within: Within) -> Iterator[None]:
    """Adds to a ValueError which samples the rows are that it takes for samples."""
    try:
        yield
    except ValueError as error:
        samples = ", ".join(map(str, parting.samples.tolist()[:12])) + ", ..." * (len(parting.samples) > 12)
        error.args = (f"{error} (within={within!r} takes each {within} for a sample; they are of samples {samples})",)
        raise


def join(chosen: Selection, parting: Parting, batch: int, tokens: int, what: Within) -> Selection:
    """What was chosen row by row, as a selection [B, N] of the samples."""
    source = torch.full((batch, tokens), PAD)
    score = None if chosen.score is None else torch.full((batch, tokens), float("nan"), dtype=chosen.score.dtype)
    notes = [""] * batch
    for r, b in enumerate(parting.samples.tolist()):
        own = parting.index[r]
        own = own[own != PAD]
        told = chosen.source[r, : len(own)].cpu()
        source[b, own] = torch.where(told == PAD, PAD, own[told.clamp(min=0)])
        if score is not None and chosen.score is not None:
            score[b, own] = chosen.score[r, : len(own)].cpu()
        if chosen.notes and chosen.notes[r]:
            notes[b] += f"{'; ' if notes[b] else ''}{what} {parting.numbers[r]}: {chosen.notes[r]}"
    kept = source == torch.arange(tokens)
    longest = int(kept.sum(1).max()) if tokens else 0
    order = torch.argsort((~kept).to(torch.uint8), dim=1, stable=True)[:, :longest]
    index = torch.where(kept.gather(1, order), order, PAD)
    blend = None if chosen.blend is None else _joined(chosen.blend, parting, batch)
    return Selection(index, source, score, tuple(notes) if any(notes) else (), blend)


def _joined(blend: Blend, parting: Parting, batch: int) -> Blend:
    """The entries of all rows of a sample one behind the other."""
    blend = renumber(blend, parting.index)
    rows = [(parting.samples == b).nonzero()[:, 0] for b in range(batch)]

    def together(x: Tensor, fill: float) -> Tensor:
        per_sample = [x[own.to(x.device)].flatten() for own in rows]
        return torch.nn.utils.rnn.pad_sequence(per_sample, batch_first=True, padding_value=fill)

    return Blend(together(blend.target, PAD), together(blend.origin, PAD), together(blend.weight, 0.0))
