"""DeepStack (Qwen3-VL): image features that are added to the hidden states behind each of the first decoder layers.

The decoder keeps them, and where they go, in variables of its own. So they are taken out of its arguments and added here, at
the doors of the layers, to the tokens that are still there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from simignore.merge import blended
from simignore.types import PAD, Blend

MASK, FEATURES = "visual_pos_masks", "deepstack_visual_embeds"


class DeepStack:
    """mask: [B, T] True where features go. features: one [n, D] for each of the first layers, a row for each True."""

    def __init__(self, mask: Tensor, features: list[Tensor]) -> None:
        self.mask, self.features = mask, features

    @classmethod
    def of(cls, kwargs: dict[str, Any]) -> DeepStack | None:
        """What the decoder's arguments hold; None for other models and for prompts without an image."""
        mask, features = kwargs.get(MASK), kwargs.get(FEATURES)
        return None if mask is None or not features else cls(mask, list(features))

    def taken_out(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments without them."""
        return {**kwargs, MASK: None, FEATURES: None}

    def blend(self, blend: Blend) -> None:
        """The features of tokens that take in others become the same sums; ``blend`` counts in the caller's places."""
        mask = self.mask.to(self.features[0].device)
        number = (mask.flatten().long().cumsum(0) - 1).view_as(mask)  # [B, T] row of the features
        ends = [number.gather(1, x.to(mask.device).clamp(min=0)) for x in (blend.target, blend.origin)]
        there = blend.target.to(mask.device) != PAD
        target, origin = (x.masked_fill(~there, PAD).reshape(1, -1) for x in ends)
        rows = Blend(target, origin, blend.weight.reshape(1, -1))
        self.features = [blended(x[None], rows)[0] for x in self.features]

    def add(self, hidden: Tensor, layer: int, rows: Tensor) -> Tensor:
        """``hidden`` [B, Q, D], the output of ``layer``, with its features added; ``rows`` [B, Q] are the caller's places of
        its tokens, -1 = padding."""
        if layer >= len(self.features):
            return hidden
        rows = rows.to(hidden.device)
        mask = self.mask.to(hidden.device)
        here = mask.gather(1, rows.clamp(min=0)) & (rows != PAD)  # [B, Q]
        number = (mask.flatten().long().cumsum(0) - 1).view_as(mask)  # [B, T] row of the features
        wanted = number.gather(1, rows.clamp(min=0))[here]
        hidden = hidden.clone()
        hidden[here] = hidden[here] + self.features[layer].to(hidden)[wanted]
        return hidden
