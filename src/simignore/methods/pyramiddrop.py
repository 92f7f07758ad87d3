"""PyramidDrop: a falling share of the image tokens from stage to stage of the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from simignore.budget import Keep, Schedule
from simignore.falling import check_layers, falling
from simignore.methods.base import Scorer, needed
from simignore.types import Cut, Site, View


@dataclass(frozen=True)
class PyramidDrop(Scorer):
    """At each of ``layers`` keep the image tokens that the last prompt token attends to most in the layer before, mean over
    heads; how many stay falls by the same factor at each, down to ``keep``.

    Why it works: shallow layers use nearly all image tokens, deeper ones fewer and fewer; so little goes early and much late.
    Source: arXiv 2410.17247 (CVPR 2025); published with 0.5, 0.25 and 0.125 of all tokens at layers 8, 16 and 24 of 32.

    keep: what stays at the end: a count, or a fraction of all the sample's image tokens. A rule that reads scores decides at
        each layer; a :class:`~simignore.budget.Schedule` names layers and steps itself, and ``layers`` is not read.
    layers: where to cut, rising: numbers from 1 on, or shares of the decoder's depth.
    layer: makes one cut there instead of several; the cuts that a pyramid consists of are of this kind.
    """

    keep: Keep = 0.125
    layers: tuple[int | float, ...] = (0.25, 0.5, 0.75)

    source: ClassVar[str] = "arXiv 2410.17247 (CVPR 2025)"
    score_name: ClassVar[str] = "attention of the last prompt token"
    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers("PyramidDrop", self.keep, self.layers))

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

    def score(self, view: View) -> Tensor:
        return needed(view.attention, "attention")  # [B, N]
