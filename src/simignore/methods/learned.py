"""LearnedSimignore: similarity that was trained to know what the decoder needs, and nothing of it twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from simignore.budget import AtLeast, Budget, OfAll, check_number
from simignore.diversity import arranged
from simignore.head import load_head
from simignore.hops import spots
from simignore.methods.base import Scorer, check_choice, needed
from simignore.select import by_order, ranked
from simignore.types import Selection, View
from simignore.wording import SPANS

Fill = Literal["lowest", "highest"]


UNJUDGED = (
    "this head was trained without a threshold (--goal separate=1), so its plain scores are compared with the budget's"
)


@dataclass(frozen=True)
class LearnedSimignore(Scorer):
    """Score each image token by a trained head on its embedding, its place and the text's embedding; of those that the head
    finds worth keeping at all, choose greedily under a determinantal point process, so that nothing is taken twice.

    Why it works: what a question needs does not always resemble its words: nothing in "what colour is the object closest to the
    ring" resembles the object. The head learnt, from the decoder's own flow, from answers under the cut, or from regions that
    questions need, which tokens are read; a second token of the same thing tells little; and tokens of other things do harm.
    Source: this project, after arXiv 2412.09817; what was measured is in
    docs/learning.md.

    keep: see :class:`Method`. ``AtLeast(0)`` keeps what the head itself finds worth keeping, more for one question than for
        another, and ``AtLeast(0, cap=0.25)`` of that at most a quarter.
    head: the folder that ``simignore train`` wrote, or a head's name on the Hugging Face hub; None: the bundled head, which
        serves the bundled model. Raises ValueError if it was trained for embeddings of another width.
    span: the part of the prompt to compare with, as in :class:`Simignore`; heads are trained on the question. Without a
        query that is all that the user said.
    sharpness: how much a score counts beside diversity: quality is exp(sharpness x score). None: the highest scores stay,
        whatever they show twice.
    fill: what a count or a fraction is filled with when it is larger than the number of tokens that reach the head's threshold.
        "lowest": those that the head is surest about, the plain background; "highest": those that nearly reached it, mostly
        things that the question might have asked about, which distract. Of a head whose threshold was not learnt the highest
        scores stay.
    Laid under another method's rule (``Diverse``, ``Product``, ``FrameBudget``), which reads nothing but scores, it wants
    ``sharpness=None, fill="highest"``, so that nothing is lost silently.
    """

    head: str | None = None
    span: str = "question"
    sharpness: float | None = 5.0
    fill: Fill = "lowest"

    source: ClassVar[str] = "this project"
    score_name: ClassVar[str] = "learned similarity above the head's threshold"
    needs: ClassVar[tuple[str, ...]] = ("visual", "text")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "span", SPANS)
        check_choice(self, "fill", get_args(Fill))
        if self.sharpness is not None:
            object.__setattr__(self, "sharpness", check_number("sharpness", self.sharpness))
            if self.sharpness < 0:
                raise ValueError(f"sharpness={self.sharpness:g} must be at least 0; None leaves diversity out")
        if isinstance(self.head, Path):
            object.__setattr__(self, "head", str(self.head))
        load_head(self.head)  # what is wrong with it is told before a model is

    @property
    def weights_sha256(self) -> str:
        return load_head(self.head).digest()

    def score(self, view: View) -> Tensor:
        visual, text = needed(view.visual, "visual"), needed(view.text, "text")
        head = load_head(self.head, visual.device)
        where = spots(view.patches) if head.hops else None
        found: Tensor = head(visual, text, needed(view.text_valid, "text_valid"), where)
        return found

    @property
    def plain(self) -> bool:
        filling = self.fill == "lowest" and self._counting and load_head(self.head).judges
        return self.sharpness is None and not filling

    @property
    def _counting(self) -> bool:
        """Whether the budget says how many stay, so that it may ask for more than are worth keeping."""
        return not isinstance(self.keep, Budget) or isinstance(self.keep, OfAll)

    def choose(self, view: View) -> Selection:
        score, visual = self.score(view), needed(view.visual, "visual")
        counts, notes = self.counted(view, score)
        judges = load_head(self.head).judges
        if isinstance(self.keep, AtLeast) and not judges:
            notes = tuple(note or UNJUDGED for note in notes or [""] * len(counts))
        if self.sharpness is None:
            order, told = ranked(score, view.real)
        else:
            best = score.masked_fill(~view.valid, -torch.inf).amax(1, keepdim=True)
            quality = (self.sharpness * (score - best)).exp().clamp(min=torch.finfo(score.dtype).tiny)
            if judges:
                quality = quality.masked_fill(score < best.clamp(max=0), 0)  # the best one has a chance at any rate
            order, told = arranged(view, score, visual, quality, max(counts, default=0))
        if judges:
            order = filled(order, told, view.real, self._counting and self.fill == "lowest")
        return replace(by_order(order, view.real, counts, told), notes=notes)


def filled(order: Tensor, score: Tensor, real: Tensor, lowest: bool) -> Tensor:
    """[B, N] tokens, first those worth keeping in their ``order`` [B, K], whose score is at least 0 or the sample's best, and
    then the others, by rising score if ``lowest``, else by falling score. All on the host; padding comes last.

    order names those worth keeping before all others, or K of them.
    """
    n = score.shape[1]
    score = score.masked_fill(~real, -torch.inf)
    worth = real & (score >= score.amax(1, keepdim=True).clamp(max=0))
    others = (score if lowest else -score).masked_fill(worth | ~real, torch.inf)
    place = n + others.argsort(dim=1, stable=True).argsort(dim=1)  # behind those worth keeping
    own = torch.full_like(place, n).scatter(1, order, torch.arange(order.shape[1]).expand_as(order))
    return torch.where(worth, own, place.masked_fill(~real, 3 * n)).argsort(dim=1, stable=True)
