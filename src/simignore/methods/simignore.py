"""Simignore: ignore the image tokens that do not resemble the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

from torch import Tensor

from simignore.budget import Budget, check_count, check_keep
from simignore.methods.base import Scorer, check_choice, needed
from simignore.select import walk
from simignore.similarity import SIMILARITY_NAMES, Similarity, best_similarity, similarities
from simignore.types import Selection, View
from simignore.wording import SPANS


@dataclass(frozen=True)
class Simignore(Scorer):
    """Score each image token by its largest similarity to any token of the text; the highest stay.

    Why it works: in models such as LLaVA-1.5 image tokens that resemble the question gather the information flow to the
    answer, and the others hardly matter. Source: arXiv 2412.09817 (AAAI 2025).

    keep: see :class:`Method`; the paper's similarity threshold is ``keep=AtLeast(0.3)``, with a cap ``AtLeast(0.3, cap=64)``.
    similarity: "cosine" (the paper's best), "dot", or the negated distances "euclidean" and "manhattan".
    skip, stride: the published code's walk over the sorted image-text pairs: start at pair ``skip``, take every
        ``stride``-th. 0 and 1 are the plain rule.
    hide, positions, within: see :class:`Method`: drop or mask, positions kept or closed up, and what competes for the budget.
    span: the part of the prompt to compare with, where :func:`simignore.ask` or the command line builds the query: "auto"
        (question and options, or all that the user said where there are no options), or a span of ``Prompt.query``.
    """

    similarity: Similarity = "cosine"
    skip: int = 0
    stride: int = 1
    span: str = "auto"

    source: ClassVar[str] = "arXiv 2412.09817 (AAAI 2025)"
    needs: ClassVar[tuple[str, ...]] = ("visual", "text")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "similarity", get_args(Similarity))
        check_choice(self, "span", SPANS)
        for name, least in (("skip", 0), ("stride", 1)):
            object.__setattr__(self, name, check_count(name, getattr(self, name), least))
        if not self.plain and isinstance(self.keep, Budget):
            raise ValueError(
                f"keep={self.keep!r}: a walk (skip, stride) goes on until a count is reached; give a count or a fraction"
            )

    @property
    def plain(self) -> bool:
        return (self.skip, self.stride) == (0, 1)

    def choose(self, view: View) -> Selection:
        visual, text = needed(view.visual, "visual"), needed(view.text, "text")
        text_valid = needed(view.text_valid, "text_valid")
        if not self.plain:
            pairs = similarities(visual, text, self.similarity)
            return walk(pairs, view.valid, text_valid, check_keep(self.keep), self.skip, self.stride)
        return super().choose(view)

    @property
    def score_kind(self) -> str:
        return SIMILARITY_NAMES[self.similarity]

    def score(self, view: View) -> Tensor:
        visual, text = needed(view.visual, "visual"), needed(view.text, "text")
        return best_similarity(visual, text, needed(view.text_valid, "text_valid"), self.similarity)
