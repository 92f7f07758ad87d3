"""Image and text embeddings of one prompt as the decoder gets them, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simignore.methods.base import Method, needed
from simignore.select import identity
from simignore.similarity import best_similarity
from simignore.types import Patches, Selection, View


@dataclass(frozen=True)
class Embeddings:
    """image: [N, D]; text: [M, D], float32 on the host. similarity: [N] the largest cosine of an image token with any token of
    the text. patches: where the image tokens lie."""

    image: Tensor
    text: Tensor
    similarity: NDArray[np.float32]
    patches: Patches


@dataclass(frozen=True)
class _Looking(Method):
    """Keeps everything and takes down what it was shown."""

    keep: int | float = 1.0
    shown: list[View] = field(default_factory=list, kw_only=True, compare=False)

    needs: ClassVar[tuple[str, ...]] = ("visual", "text")

    def choose(self, view: View) -> Selection:
        self.shown.append(view)
        return identity(view.real)


def embeddings(model: nn.Module, inputs: Mapping[str, Any], query: Tensor) -> Embeddings:
    """The embeddings of one prompt's image tokens and of a text.

    inputs: what the processor returned for one prompt. query: [M] token ids of the text.
    """
    looking = _Looking()
    with torch.no_grad(), looking(model, query=query):
        model(**inputs, use_cache=False, logits_to_keep=1)
    view = looking.shown[0]
    visual, text = needed(view.visual, "visual"), needed(view.text, "text")
    similarity = best_similarity(visual, text, needed(view.text_valid, "text_valid"), "cosine")[0]
    return Embeddings(visual[0].float().cpu(), text[0].float().cpu(), similarity.float().cpu().numpy(), view.patches)
