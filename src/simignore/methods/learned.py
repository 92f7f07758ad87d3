"""LearnedSimignore: similarity that was trained to know what the decoder needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from simignore.head import load_head
from simignore.methods.base import Scorer, check_choice, needed
from simignore.types import View
from simignore.wording import SPANS


@dataclass(frozen=True)
class LearnedSimignore(Scorer):
    """Score each image token by a trained head on its embedding and the text's; the highest stay.

    Why it works: what a question needs does not always resemble its words: nothing in "what colour is the object closest to the
    ring" resembles the object. The head learnt from the decoder's own flow, and from answers under the cut, which tokens are
    read. Source: this project, after arXiv 2412.09817; what was measured is in docs/learning.md.

    keep: see :class:`Method`; ``AtLeast(0)`` keeps what the head itself finds worth keeping, more for one question than for
        another, with a cap as ``AtLeast(0, cap=0.25)``.
    head: the folder that ``simignore train`` wrote, or a head's name on the Hugging Face hub; None: the bundled head, which
        serves the bundled model. Raises ValueError if it was trained for embeddings of another width.
    span: the part of the prompt to compare with, as in :class:`Simignore`; heads are trained on the question. Without a
        query that is all that the user said.
    """

    head: str | None = None
    span: str = "question"

    source: ClassVar[str] = "this project"
    needs: ClassVar[tuple[str, ...]] = ("visual", "text")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "span", SPANS)
        if isinstance(self.head, Path):
            object.__setattr__(self, "head", str(self.head))
        load_head(self.head)  # what is wrong with it is told before a model is

    def score(self, view: View) -> Tensor:
        visual, text = needed(view.visual, "visual"), needed(view.text, "text")
        found: Tensor = load_head(self.head, visual.device)(visual, text, needed(view.text_valid, "text_valid"))
        return found
