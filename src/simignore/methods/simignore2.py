"""Simignore2: what the question is about and the vision tower looks at, nothing of it twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, get_args

from torch import Tensor

from simignore.budget import check_number
from simignore.diversity import both, diverse
from simignore.methods.base import Scorer, check_choice, looked, needed
from simignore.similarity import SIMILARITY_NAMES, Similarity, best_similarity
from simignore.types import Look, Selection, View
from simignore.wording import SPANS


@dataclass(frozen=True)
class Simignore2(Scorer):
    """Choose under a determinantal point process whose quality is the geometric mean of two scores, each between 0 and 1:
    Simignore's largest similarity to any token of the text, and the attention that the vision tower pays to the token.

    Why it works: similarity finds what the question names, where image tokens resemble words; the tower's attention finds
    what there is to see, also where they do not; and tokens that show the same thing are taken once, so that few are enough to
    cover all that a question needs. Source: this project; ablation in docs/methods.md. It is
    ``Diverse(Product(Simignore(keep=64), FasterVLM(keep=64)))`` in one name. In towers without a class token the attention
    is the mean that all patches pay.

    keep: see :class:`Method`. similarity, span: as in :class:`Simignore`.
    attention: the weight of the tower's attention in [0, 1]; with 0 the tower is not looked into, for families in which image
        tokens cannot be traced to patches.
    """

    attention: float = 0.5
    similarity: Similarity = "cosine"
    span: str = "auto"

    source: ClassVar[str] = "this project"
    needs: ClassVar[tuple[str, ...]] = ("visual", "text")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "similarity", get_args(Similarity))
        check_choice(self, "span", SPANS)
        object.__setattr__(self, "attention", check_number("attention", self.attention))
        if not 0 <= self.attention <= 1:
            raise ValueError(f"attention={self.attention:g} is a weight in [0, 1]")

    @property
    def looks(self) -> tuple[Look, ...]:
        return (Look("attention"),) if self.attention else ()

    @property
    def score_kind(self) -> str:
        similar = SIMILARITY_NAMES[self.similarity]
        return f"geometric mean of {similar} and attention in the vision tower" if self.attention else similar

    def score(self, view: View) -> Tensor:
        visual, text = needed(view.visual, "visual"), needed(view.text, "text")
        similar = best_similarity(visual, text, needed(view.text_valid, "text_valid"), self.similarity)
        if not self.attention:
            return similar
        return both(similar, looked(view, Look("attention")).to(similar.device), view.valid, self.attention)

    def choose(self, view: View) -> Selection:
        score = self.score(view)
        counts, notes = self.counted(view, score)
        return replace(diverse(view, score, needed(view.visual, "visual"), counts), notes=notes)
