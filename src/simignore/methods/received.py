"""Received: the image tokens that the whole vision tower attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from simignore.methods.base import Scorer, looked
from simignore.types import Look, View


@dataclass(frozen=True)
class Received(Scorer):
    """Keep the image tokens that receive most attention from all tokens of the vision tower, mean over heads, in the layer
    whose output the projector reads. The text plays no part.

    Why it works: what many patches look at is what they draw on, so it stands for more than itself. A baseline for rules told
    by the tower: no class token is needed, and nothing else is weighed. Source: HiPrune's last step (arXiv 2508.00553) alone.

    keep: a count, a fraction, or any budget that reads scores, such as ``Mass(0.9)``: the scores are means of attention.
    """

    source: ClassVar[str] = "baseline"
    score_name: ClassVar[str] = "attention received in the vision tower"

    @property
    def looks(self) -> tuple[Look, ...]:
        return (Look("received"),)

    def score(self, view: View) -> Tensor:
        return looked(view, Look("received"))  # [B, N]
