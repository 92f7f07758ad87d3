"""FastV: after a few layers, keep the image tokens that the last prompt token attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from simignore.budget import Keep
from simignore.methods.base import Scorer, needed
from simignore.types import View


@dataclass(frozen=True)
class FastV(Scorer):
    """At the input of decoder layer ``layer`` keep the image tokens that the last prompt token attends to most in the
    layer before, mean over heads. Only that one row of attention is computed, so the model stays on SDPA.

    Why it works: past the first layers most attention to image tokens is spent on few of them.
    Source: arXiv 2403.06764 (ECCV 2024); published with layer 2 and half of the tokens.

    keep: a count, or a fraction of the image tokens that reach the layer. layer: counted from 0, from 1 on.
    """

    keep: Keep = 0.5
    layer: int | float | None = 2

    source: ClassVar[str] = "arXiv 2403.06764 (ECCV 2024)"
    score_name: ClassVar[str] = "attention of the last prompt token"
    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is None:
            raise ValueError("layer=None: FastV reads the layer before, so it cuts before layer 1 at the earliest")

    def score(self, view: View) -> Tensor:
        return needed(view.attention, "attention")  # [B, N]
