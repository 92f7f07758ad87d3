"""SparseVLM: the words that look at the image rate its tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from simignore.budget import Budget, OfAll, Schedule
from simignore.clusters import density_peaks
from simignore.falling import Falling, check_layers, falling
from simignore.merge import averaged
from simignore.methods.base import Scorer, needed
from simignore.select import check_numbers, from_kept
from simignore.types import PAD, Cut, Selection, Site, View

CHUNK = 1024  # image tokens compared with the words at once
RECYCLED, CLUSTERED = 0.3, 0.1  # of the dropped tokens those that are recycled, and of these the clusters


@dataclass(frozen=True)
class SparseVLM(Scorer):
    """At each of ``layers`` keep the image tokens that the raters attend to most in the layer before, mean over raters and
    heads. Raters are the words that resemble the image: those whose mean over its tokens v of softmax_t(V_v . T_t) is at least
    the average over words t, with T the decoder's input embeddings of the prompt's text behind its first image.

    Why it works: the last prompt token alone is often a template's; the words that speak of the image know what to look for.
    Source: arXiv 2410.04417 (ICML 2025); version 2 without, version 1 with recycling; layers 2, 6, 15 are LLaVA-1.5-7B's.

    keep: what stays at the end: a count, or a fraction of all the sample's image tokens, reached by a falling share as in
        ``PyramidDrop``. A rule that reads scores decides at each layer (not with recycling). The published counts are a
        :class:`~simignore.budget.Schedule`, which names layers and steps itself, and then ``layers`` is not read.
    layers: where to cut, rising: numbers from 1 on, or shares of the decoder's depth.
    recycle: of the tokens that a cut drops, cluster the 30 % with the highest scores (density peaks, a tenth as many clusters)
        and keep the centre of each as the mean of its cluster. ``keep`` counts these centres too, so just as many stay.
    layer: makes one cut there instead of several; the cuts that it consists of are of this kind.
    """

    layers: tuple[int | float, ...] = (2 / 32, 6 / 32, 15 / 32)
    recycle: bool = False

    source: ClassVar[str] = "arXiv 2410.04417 (ICML 2025)"
    score_name: ClassVar[str] = "attention of the words that resemble the image"
    needs: ClassVar[tuple[str, ...]] = ("visual", "words", "attention")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers("SparseVLM", self.keep, self.layers))
        if not isinstance(self.recycle, bool):
            raise TypeError(f"recycle={self.recycle!r} is neither True nor False")
        if self.recycle:
            if isinstance(self.keep, Budget) and not isinstance(self.keep, OfAll | Falling):
                raise TypeError(f"keep={self.keep!r} reads scores, and recycle=True needs to know the count; give one")
            object.__setattr__(self, "needs", (*type(self).needs, "hidden"))
            object.__setattr__(self, "merges", True)

    @property
    def site(self) -> Site:
        """That of its first cut."""
        first = self.keep.steps[0][0] if isinstance(self.keep, Schedule) else self.layers[0]
        return "layer", first if self.layer is None else self.layer

    def cuts(self) -> Sequence[Cut]:
        if isinstance(self.keep, Schedule):
            return super().cuts()
        if self.layer is not None:
            return (self,)
        return tuple(replace(self, layer=layer, keep=keep) for layer, keep in falling(self.keep, self.layers))

    @property
    def plain(self) -> bool:
        return not self.recycle

    def raters(self, view: View) -> Tensor:
        words, there = needed(view.words, "words"), needed(view.words_valid, "words_valid")
        return raters(needed(view.visual, "visual"), view.valid, words, there)

    def score(self, view: View) -> Tensor:
        return needed(view.attention, "attention")  # [B, N]

    def choose(self, view: View) -> Selection:
        return self._recycling(view) if self.recycle else super().choose(view)

    def amounts(self, view: View) -> list[int]:
        if isinstance(self.keep, Falling):
            totals = view.totals or view.counts
            return [self.keep.count(torch.zeros(n), total)[0] for n, total in zip(view.counts, totals, strict=True)]
        return super().amounts(view)

    def _recycling(self, view: View) -> Selection:
        """Sources are found on the device, sample by sample, for all sizes are known on the host; one transfer brings them."""
        score, hidden = self.score(view), needed(view.hidden, "hidden")
        score = score.to(torch.promote_types(score.dtype, torch.float32))  # which holds the number of any token exactly
        score = score.masked_fill(hidden.isnan().any(-1), math.nan)
        source = torch.full_like(score, PAD, dtype=torch.long)  # [B, N]
        for b, (count, tokens) in enumerate(zip(self.amounts(view), view.counts, strict=True)):
            clusters = clusters_within(tokens, count)
            order = score[b, :tokens].argsort(descending=True, stable=True)
            best = order[: count - clusters]
            source[b, best] = best
            if clusters:
                recycled = order[len(best) :][: recycled_of(tokens - len(best))].sort().values
                source[b, recycled] = recycled[density_peaks(hidden[b, recycled], clusters)]
        told = torch.stack([score, source.to(score.dtype)]).cpu()
        score, source = told[0], told[1].long()
        check_numbers(score, view.real)
        kept = source == torch.arange(source.shape[1])
        return averaged(from_kept(kept, score.masked_fill(~view.real, math.nan)), source)


def raters(visual: Tensor, valid: Tensor, words: Tensor, words_valid: Tensor) -> Tensor:
    """[B, W] the words [B, W, D] whose mean over image tokens v [B, N, D] of softmax_t(v . t) is at least the average.

    A hair less than the average counts too, so that rounding does not decide between equal words; the largest is never less, so
    each sample with words has a rater. Where a feature is not a number, all words are; the attention is then none either.
    """
    exact = torch.promote_types(visual.dtype, torch.float32)
    words = words.to(exact).masked_fill(~words_valid[..., None], 0)
    rating = words.new_zeros(words.shape[:2])  # [B, W] summed over image tokens
    with torch.autocast(visual.device.type, enabled=False):
        for start in range(0, visual.shape[1], CHUNK):
            real = valid[:, start : start + CHUNK, None]  # [B, chunk, 1]
            own = visual[:, start : start + CHUNK].to(exact).masked_fill(~real, 0)
            share = (own @ words.transpose(1, 2)).masked_fill(~words_valid[:, None], -math.inf).softmax(-1)
            rating = rating + share.masked_fill(~(real & words_valid[:, None]), 0).sum(1)
    average = rating.sum(1, keepdim=True) / words_valid.sum(1, keepdim=True)  # [B, 1]
    return words_valid & ~(rating < average * (1 - 1e-6))


def recycled_of(dropped: int) -> int:
    """How many of the tokens that a cut does not keep by score are recycled."""
    return math.floor(RECYCLED * dropped + 0.5)


def clusters_within(tokens: int, count: int) -> int:
    """How many of the ``count`` tokens that stay of ``tokens`` are cluster centres: the fewest that are enough for the tokens
    that do not stay by their score. At least one stays by its score; a cut that drops one token or none recycles none."""
    clusters = 0
    while clusters < count - 1 and _wanted(recycled_of(tokens - count + clusters)) > clusters:
        clusters += 1
    return clusters


def _wanted(recycled: int) -> int:
    return max(1, math.floor(CLUSTERED * recycled + 0.5)) if recycled else 0
