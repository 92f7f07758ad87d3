"""CDPruner: relevance to the instruction and diversity, weighed by a determinantal point process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from simignore.diversity import diverse, levelled
from simignore.methods.base import Scorer, check_choice, looked, needed
from simignore.similarity import similarities
from simignore.types import Look, Selection, View
from simignore.wording import SPANS


@dataclass(frozen=True)
class CDPruner(Scorer):
    """Choose greedily under the determinantal point process with kernel L = diag(r) cos(V, V) diag(r), where r is how relevant
    a token is to the instruction, between 0 and 1 in each image.

    Why it works: det L grows with relevant tokens and with tokens unlike each other, so a second copy of the most relevant one
    is worth little. Source: arXiv 2506.10967 (NeurIPS 2025).

    keep: see :class:`Method`.
    clip: None takes r from the mean cosine of an image token and the decoder's embeddings of the text's tokens, which any model
        has. The paper's own r comes from CLIP: the name or folder of the CLIP checkpoint whose vision tower the model has, such
        as "openai/clip-vit-large-patch14-336"; then r is the *negated* cosine of each patch of the tower's last layer and the
        question, both projected by CLIP (patches of CLIP resemble what they do not show). Towers without a class token, such as
        SigLIP's, are served by the decoder's embeddings.
    span: the part of the prompt to compare with, as in :class:`Simignore`.
    """

    clip: str | None = None
    span: str = "auto"

    source: ClassVar[str] = "arXiv 2506.10967 (NeurIPS 2025)"
    needs: ClassVar[tuple[str, ...]] = ("visual", "text")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "span", SPANS)
        if self.clip is not None:
            if not isinstance(self.clip, str) or not self.clip:
                raise ValueError(f"clip={self.clip!r} is no name or folder of a CLIP checkpoint")
            object.__setattr__(self, "needs", ("visual", "question"))

    @property
    def looks(self) -> tuple[Look, ...]:
        return () if self.clip is None else (Look("features", -1),)

    @property
    def score_kind(self) -> str:
        return "relevance to the text, 0 to 1" if self.clip is None else "relevance to the text by CLIP, 0 to 1"

    def score(self, view: View) -> Tensor:
        if self.clip is None:
            words = needed(view.text_valid, "text_valid")[:, None]  # [B, 1, M]
            pairs = similarities(needed(view.visual, "visual"), needed(view.text, "text"), "cosine")
            relevance = pairs.masked_fill(~words, 0).sum(-1) / words.sum(-1)  # [B, N]
        else:
            relevance = -_clip_similarity(self.clip, looked(view, Look("features", -1)), view.questions)
        images = view.patches.image
        return levelled(relevance, view.valid, images)

    def choose(self, view: View) -> Selection:
        score = self.score(view)
        counts, notes = self.counted(view, score)
        return replace(diverse(view, score, needed(view.visual, "visual"), counts), notes=notes)


def _clip_similarity(name: str, features: Tensor, questions: tuple[str, ...]) -> Tensor:
    """[B, N] cosine, in CLIP's space, of patches [B, N, C] as the tower's last layer gives them out and of each question."""
    model, tokenizer = _clip(name, str(features.device))
    norm = model.vision_model.post_layernorm
    if norm.normalized_shape[-1] != features.shape[-1]:
        raise ValueError(
            f"clip={name!r} has a vision tower of width {norm.normalized_shape[-1]}, and this model's has "
            f"{features.shape[-1]}; name the CLIP checkpoint that the model's tower comes from, or leave clip out"
        )
    longest = model.config.text_config.max_position_embeddings
    ids = tokenizer(list(questions), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        text = model.text_model(**ids.to(features.device)).pooler_output
        text = normalize(model.text_projection(text), dim=-1)  # [B, d]
        patches = normalize(model.visual_projection(norm(features.float())), dim=-1)  # [B, N, d]
        return (patches @ text[..., None])[..., 0]


@lru_cache(maxsize=4)  # one for each device: moving a shared one would pull it from under another thread
def _clip(name: str, device: str) -> tuple[Any, Any]:
    """The text tower and the projections of a CLIP checkpoint, in float32, and its tokenizer."""
    from transformers import AutoTokenizer, CLIPModel

    model = CLIPModel.from_pretrained(name, dtype=torch.float32).eval().to(device)
    if not hasattr(model, "visual_projection"):
        raise ValueError(f"clip={name!r} is no CLIP checkpoint with projections")
    return model, AutoTokenizer.from_pretrained(name)
