"""LearnedSimignore: similarity that was trained to know what the decoder needs, and nothing of it twice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from simignore.budget import check_number
from simignore.diversity import diverse
from simignore.head import load_head
from simignore.methods.base import Scorer, check_choice, needed
from simignore.types import Selection, View
from simignore.wording import SPANS


@dataclass(frozen=True)
class LearnedSimignore(Scorer):
    """Score each image token by a trained head on its embedding and the text's, and choose greedily among the best under a
    determinantal point process, so that nothing is taken twice.

    Why it works: what a question needs does not always resemble its words: nothing in "what colour is the object closest to the
    ring" resembles the object. The head learnt, from the decoder's own flow, from answers under the cut, or from regions that
    questions need, which tokens are read; and a second token of the same thing tells little, so few are enough for all that
    is needed. Source: this project, after arXiv 2412.09817; what was measured is in docs/learning.md.

    keep: see :class:`Method`; ``AtLeast(0)`` keeps what the head itself finds worth keeping, more for one question than for
        another, with a cap as ``AtLeast(0, cap=0.25)``.
    head: the folder that ``simignore train`` wrote, or a head's name on the Hugging Face hub; None: the bundled head, which
        serves the bundled model. Raises ValueError if it was trained for embeddings of another width.
    span: the part of the prompt to compare with, as in :class:`Simignore`; heads are trained on the question. Without a
        query that is all that the user said.
    sharpness: the power to which scores, put between 0 and 1 per sample, are raised as quality beside diversity, as in
        :class:`Diverse`; None: the highest scores stay, whatever they show twice.
    """

    head: str | None = None
    span: str = "question"
    sharpness: float | None = 4.0

    source: ClassVar[str] = "this project"
    needs: ClassVar[tuple[str, ...]] = ("visual", "text")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "span", SPANS)
        if self.sharpness is not None:
            object.__setattr__(self, "sharpness", check_number("sharpness", self.sharpness))
            if self.sharpness < 0:
                raise ValueError(f"sharpness={self.sharpness:g} must be at least 0; None leaves diversity out")
        if isinstance(self.head, Path):
            object.__setattr__(self, "head", str(self.head))
        load_head(self.head)  # what is wrong with it is told before a model is

    def score(self, view: View) -> Tensor:
        visual, text = needed(view.visual, "visual"), needed(view.text, "text")
        found: Tensor = load_head(self.head, visual.device)(visual, text, needed(view.text_valid, "text_valid"))
        return found

    def choose(self, view: View) -> Selection:
        if self.sharpness is None:
            return super().choose(view)
        score, visual = self.score(view), needed(view.visual, "visual")
        counts, notes = self.counted(view, score)
        return replace(diverse(view, score, visual, counts, sharpness=self.sharpness), notes=notes)
