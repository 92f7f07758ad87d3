"""What image embeddings say of themselves, measured where the truth is known: in a scene each patch has an owner."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simignore.wording import lettered

from .model import scale_of
from .questions import Question
from .scenes import COLOURS, SHAPES, Scene, patch_owner, render
from .words import VOCABULARY, encode


def areas(model: Any, processor: Any, scene: Scene, asked: Question) -> dict[str, float]:
    """Areas under the ROC curve over the patches of one scene; NaN where there is nothing to tell apart.

    See `evaluate.embeddings` for what each is.
    """
    image, owner = render(scene, scale_of(model))
    owner_of = patch_owner(owner, model.config.vision_config.patch_size)  # [N]
    seen, attention = _image(model, processor, image)
    embedding = model.model.language_model.embed_tokens.weight.float()
    words = embedding[encode(f"{asked.question} {lettered(asked.options)}")]
    similarity = _cosine(seen, words).amax(1).numpy()
    needed = np.isin(owner_of, [1 + i for i in asked.needs])
    found = {
        "similarity": auc(similarity, needed),
        "length": auc(seen.norm(dim=1).numpy(), owner_of > 0),
        "cls": auc(attention.numpy(), owner_of > 0),
    }
    named = []
    for kind, names in (("colour", COLOURS), ("shape", SHAPES)):
        for name in names:
            told = [1 + i for i, thing in enumerate(scene.things) if getattr(thing, kind) == name]
            cosine = _cosine(seen, embedding[[VOCABULARY[name]]])[:, 0].numpy()
            named.append(auc(cosine, np.isin(owner_of, told)))
    return {**found, "word": float(np.nanmean(named))}


def auc(score: NDArray[Any], positive: NDArray[np.bool_]) -> float:
    """Chance that a positive scores higher than a negative, ties counting half; NaN without one of either.

    `score [N]`, `positive [N]` bool.
    """
    ones, zeros = score[positive], score[~positive]
    if not len(ones) or not len(zeros):
        return float("nan")
    below = np.searchsorted(np.sort(zeros), ones, side="left")
    upto = np.searchsorted(np.sort(zeros), ones, side="right")
    return float((below + upto).mean() / 2 / len(zeros))


def _image(model: Any, processor: Any, image: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Image embeddings `[N, D]`, and CLS's attention to them in the layer that LLaVA reads, mean over heads `[N]`."""
    tower = model.model.vision_tower
    pixels = processor.image_processor(images=image, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    try:
        out = tower(pixels, output_hidden_states=True, output_attentions=True)
    finally:
        tower.set_attn_implementation(before)
    attention = out.attentions[-2][0, :, 0, 1:].float().mean(0).cpu()  # [N]
    features = out.hidden_states[-2][:, 1:]
    return model.model.multi_modal_projector(features)[0].float().cpu(), attention  # [N, D], [N]


def _cosine(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    others = others.cpu()
    return torch.nn.functional.normalize(some, dim=-1) @ torch.nn.functional.normalize(others, dim=-1).T
