"""FasterVLM: the image tokens that the vision tower's class token attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from simignore.methods.base import Scorer, looked
from simignore.types import Look, View


@dataclass(frozen=True)
class FasterVLM(Scorer):
    """Keep the image tokens to which the vision tower's class token (CLS) pays most attention, mean over heads, in the layer
    whose output the projector reads (the last but one in LLaVA-1.5). The text plays no part.

    Why it works: the class token sums the image up, so it looks where the content is; the decoder's own attention to image
    tokens is blurred by their positions. Source: arXiv 2412.01818, published with 50, 25, 10 and 5 % of the tokens.
    In towers without a class token the mean attention that all patches pay to a token stands in for it.

    keep: a count, a fraction, or any budget that reads scores, such as ``Mass(0.9)``: the scores are shares of attention.
    """

    source: ClassVar[str] = "arXiv 2412.01818"
    score_name: ClassVar[str] = "attention in the vision tower"

    @property
    def looks(self) -> tuple[Look, ...]:
        return (Look("attention"),)

    def score(self, view: View) -> Tensor:
        return looked(view, Look("attention"))  # [B, N]
