"""DeepStack (Qwen3-VL): image features that are added to the hidden states behind each of the first decoder layers.

The decoder keeps them, and where they go, in variables of its own. So they are taken out of its arguments and added here, at
the doors of the layers, to the tokens that are still there.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from simignore.types import PAD

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
