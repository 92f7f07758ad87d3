"""Simignore: ignore the image tokens that do not resemble the text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from simignore.methods.base import Method, check_choice, needed
from simignore.select import check_count, check_number, threshold, top_k, walk
from simignore.types import Selection, View
from simignore.wording import SPANS

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]


@dataclass(frozen=True)
class Simignore(Method):
    """Score each image token by its largest similarity to any token of the text; the highest stay.

    Why it works: in models such as LLaVA-1.5 image tokens that resemble the question gather the information flow to the
    answer, and the others hardly matter. Source: arXiv 2412.09817 (AAAI 2025).

    keep: image tokens kept per sample, a count or a fraction; with a threshold, the most that may stay.
    similarity: "cosine" (the paper's best), "dot", or the negated distances "euclidean" and "manhattan".
    threshold: keep what is at least this similar (at least one token). One of keep and threshold must be given.
    skip, stride: the published code's walk over the sorted image-text pairs: start at pair ``skip``, take every
        ``stride``-th. 0 and 1 are the plain rule.
    hide, positions, within: see :class:`Method`: drop or mask, positions kept or closed up, and what competes for the budget.
    span: the part of the prompt to compare with, where :func:`simignore.ask` or the command line builds the query: "auto"
        (question and options, or all that the user said where there are no options), or a span of ``Prompt.query``.
    """

    keep: int | float = None  # type: ignore[assignment]
    similarity: Similarity = "cosine"
    threshold: float | None = None
    skip: int = 0
    stride: int = 1
    span: str = "auto"

    needs: ClassVar[tuple[str, ...]] = ("visual", "text")

    def __post_init__(self) -> None:
        if self.keep is None and self.threshold is None:
            raise ValueError("say how much to keep: keep=64, keep=0.25 or threshold=0.3")
        if self.keep is None:
            object.__setattr__(self, "keep", 1.0)  # no cap
        super().__post_init__()
        check_choice(self, "similarity", get_args(Similarity))
        check_choice(self, "span", SPANS)
        if self.threshold is not None:
            object.__setattr__(self, "threshold", check_number("threshold", self.threshold))
        for name, least in (("skip", 0), ("stride", 1)):
            object.__setattr__(self, name, check_count(name, getattr(self, name), least))
        if self.threshold is not None and (self.skip, self.stride) != (0, 1):
            raise ValueError(
                "a walk (skip, stride) goes on until a count is reached and has no threshold; leave one of them out"
            )

    def choose(self, view: View) -> Selection:
        visual, text = needed(view.visual, "visual"), needed(view.text, "text")
        text_valid = needed(view.text_valid, "text_valid")
        if (self.skip, self.stride) != (0, 1):
            pairs = similarities(visual, text, self.similarity)
            return walk(pairs, view.valid, text_valid, self.keep, self.skip, self.stride)
        score = best_similarity(visual, text, text_valid, self.similarity)
        if self.threshold is not None:
            return threshold(score, view.valid, self.threshold, self.keep)
        return top_k(score, view.valid, self.keep)


def similarities(visual: Tensor, text: Tensor, kind: Similarity) -> Tensor:
    """[B, N, M] similarity of every image token [B, N, D] with every text token [B, M, D], in float32 or better."""
    exact = torch.promote_types(visual.dtype, torch.float32)
    with torch.autocast(visual.device.type, enabled=False):
        return _similarities(visual.to(exact), text.to(exact), kind)


def _similarities(visual: Tensor, text: Tensor, kind: Similarity) -> Tensor:
    if kind == "cosine":
        return normalize(visual, dim=-1) @ normalize(text, dim=-1).transpose(1, 2)
    if kind == "dot":
        return visual @ text.transpose(1, 2)
    return -torch.cdist(
        visual, text, p=2.0 if kind == "euclidean" else 1.0, compute_mode="donot_use_mm_for_euclid_dist"
    )


def best_similarity(visual: Tensor, text: Tensor, text_valid: Tensor, kind: Similarity) -> Tensor:
    """[B, N] each image token's largest similarity to a real text token."""
    pairs = similarities(visual, text, kind)
    return pairs.masked_fill(~text_valid[:, None], -math.inf).amax(-1)  # [B, N]
