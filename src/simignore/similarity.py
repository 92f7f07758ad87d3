"""How alike image tokens and text tokens are: pure functions, no model in sight."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

TINY = 1e-12  # as in torch.nn.functional.normalize
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
SIMILARITY_NAMES: dict[Similarity, str] = {
    "cosine": "cosine similarity",
    "dot": "dot product",
    "euclidean": "minus euclidean distance",
    "manhattan": "minus manhattan distance",
}


def similarities(visual: Tensor, text: Tensor, kind: Similarity) -> Tensor:
    """[B, N, M] similarity of every image token [B, N, D] with every text token [B, M, D], in float32 or better."""
    exact = torch.promote_types(visual.dtype, torch.float32)
    with torch.autocast(visual.device.type, enabled=False):
        return _similarities(visual.to(exact), text.to(exact), kind)


def _similarities(visual: Tensor, text: Tensor, kind: Similarity) -> Tensor:
    if kind == "cosine":  # image tokens are divided by their lengths afterwards: they are many, and text tokens few
        length = torch.linalg.vector_norm(visual, dim=-1, keepdim=True).clamp(min=TINY)
        found: Tensor = visual @ normalize(text, dim=-1).transpose(1, 2) / length
        return found
    if kind == "dot":
        return visual @ text.transpose(1, 2)
    return -torch.cdist(
        visual, text, p=2.0 if kind == "euclidean" else 1.0, compute_mode="donot_use_mm_for_euclid_dist"
    )


def best_similarity(visual: Tensor, text: Tensor, text_valid: Tensor, kind: Similarity) -> Tensor:
    """[B, N] each image token's largest similarity to a real text token."""
    pairs = similarities(visual, text, kind)
    return pairs.masked_fill(~text_valid[:, None], -math.inf).amax(-1)  # [B, N]
