"""Counterfactuals: other image tokens kept, and whether the answer changes. What a choice is worth shows in its opposite."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from simignore.flow.asked import generation
from simignore.flow.capture import evaluating, without_labels
from simignore.flow.copies import forced
from simignore.flow.given import Given
from simignore.flow.likely import likely
from simignore.flow.report import Swap

ALL = "all image tokens"
KEPT = "the kept ones alone"
RESTORED = "the dropped ones back beside them"
OPPOSITE = "the dropped ones alone"
NONE = "no image token"
RANDOM = "as many at random"


def swaps(
    model: nn.Module,
    processor: Any,
    inputs: Mapping[str, Any],
    answer: Tensor,
    kept: Tensor,
    *,
    max_new_tokens: int = 48,
    layer: int | float | None = None,
    seed: int = 0,
) -> tuple[Swap, ...]:
    """The model's own answer with all image tokens, with the kept ones, and with what else could have been kept.

    In this order: all image tokens, the model by itself; the kept ones alone; the dropped ones back beside them, which must
    give the first answer again; the dropped ones alone; none; and as many as were kept, at random. The others are really
    dropped, and those that stay keep their positions.

    processor: decodes. inputs: what it returned for one prompt, on the model's device. answer: [A] the token ids of the answer
    with all image tokens, whose probability is told in each. kept: [N] bool; where all are, only all and none are asked.
    max_new_tokens: of each answer (greedy). layer: where tokens are dropped: None before the decoder, else before that decoder
    layer; where none stays, before the decoder in any case. seed: of the random ones.
    Raises ValueError for another shape of ``kept``, and as :func:`~simignore.flow.copies.forced` does.
    """
    prompt = forced(model, inputs, answer)
    if kept.shape != prompt.image.shape or kept.dtype != torch.bool:
        raise ValueError(
            f"kept has shape {tuple(kept.shape)} and type {kept.dtype}; the prompt has {len(prompt.image)} image tokens, so "
            f"pass bool [{len(prompt.image)}]"
        )
    kept = kept.cpu()
    every, none = torch.ones_like(kept), torch.zeros_like(kept)
    drawn = torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed)) < int(kept.sum())
    if bool(kept.all()):
        sets = {ALL: every, NONE: none}
    else:
        sets = {ALL: every, KEPT: kept, RESTORED: every, OPPOSITE: ~kept, NONE: none, RANDOM: drawn}
    places = {what: None if what == NONE else layer for what in sets}  # none: the decoder never sees the picture
    likelihood = [float(likely(prompt, own[None], layer=places[what])[0]) for what, own in sets.items()]
    settings = {**generation(model, prompt.parts, max_new_tokens), "return_dict_in_generate": False}
    given = without_labels(inputs) | settings
    found: list[Swap] = []
    for (what, own), probability in zip(sets.items(), likelihood, strict=True):
        laid = nullcontext() if what == ALL else Given.mask(own[None], places[what])(model)
        with evaluating(model), torch.no_grad(), laid:
            ids = model.generate(**given)[0, prompt.prompt :]  # type: ignore[operator]
        text = processor.decode(ids, skip_special_tokens=True).strip()
        same = text == (found[0].answer if found else text)
        found.append(Swap(what, int(own.sum()), text, same, probability))
    return tuple(found)


__all__ = ["swaps"]
