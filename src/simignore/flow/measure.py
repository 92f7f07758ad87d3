"""Curves by layer and heat maps: what one forward and one sweep back tell of a prompt, the quick part of an explanation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simignore.flow.asked import MOST, Asked, asked
from simignore.flow.capture import evaluating
from simignore.flow.curves import curves
from simignore.flow.embeddings import Embeddings, embeddings
from simignore.flow.report import MEASURES, SIMILARITY, Array, Curves
from simignore.flow.spans import Spans, partition
from simignore.flow.sweep import Swept, sweep
from simignore.prompt import Prompt

VIEWS = {
    "attention": "what the place that predicts the token pays to each image token, mean over heads and layers",
    "attention at convergence": "attention in the convergence layers alone, mean over heads and those layers",
    "question's attention": "what the question's tokens pay to each image token, mean over them, heads and layers",
    "saliency": "|attention x gradient| into the place that predicts the token, summed over heads, mean over layers",
    "rollout": "attention passed on from layer to layer, with the residual stream as its equal (arXiv 2005.00928)",
    "relevancy": "the positive part of attention x gradient passed on from layer to layer (arXiv 2103.15679)",
    "similarity": "largest cosine of the image token's embedding and a token of the text; the same for all answer tokens",
}


@dataclass(frozen=True)
class Measured:
    """What is quickly known of a prompt.

    asked: the prompt and its answer. prompt: with its tensors where the model is. asking: [Q] places of the question's tokens,
    on the model's device. swept, seen: what was found. curves: for each measure. views: [A, N] for each of ``VIEWS``.
    """

    asked: Asked
    prompt: Prompt
    asking: Tensor
    spans: Spans
    swept: Swept
    seen: Embeddings
    curves: Mapping[str, Curves]
    views: Mapping[str, Array]


def measure(
    model: nn.Module, inputs: Any, processor: Any = None, *, most: int = MOST, max_new_tokens: int = 48
) -> Measured:
    """Curves and views of one prompt; arguments and errors as for :func:`simignore.flow.explain`."""
    with torch.inference_mode(False), evaluating(model):
        own = asked(model, inputs, processor, max_new_tokens, most)
        spans = partition(own.parts, own.inputs, own.spans, len(own.answer))
        asking = torch.as_tensor(spans.places("question"), device=own.answer.device)
        prompt = _prompt(inputs, own, asking)
        swept = sweep(own.parts, own.inputs, own.answer, asking)
        seen = embeddings(model, own.inputs, prompt.query("auto"))
        lines = {name: _curves(name, swept, spans, own.image) for name in MEASURES}
        return Measured(own, prompt, asking, spans, swept, seen, lines, _views(swept, lines, own.image, seen))


def _curves(measure: str, swept: Swept, spans: Spans, image: Array) -> Curves:
    """Flow by layer, by one measure."""
    rows, asking = getattr(swept, measure), getattr(swept, f"question_{measure}")
    return curves(measure, _host(rows), _host(asking), spans, image)


def _views(swept: Swept, lines: Mapping[str, Curves], image: Array, seen: Embeddings) -> dict[str, Array]:
    """[A, N] of each view, see :data:`VIEWS`."""
    attention, saliency = lines["attention"], lines["saliency"]
    first, last = attention.convergence.first, attention.convergence.last
    answers = len(swept.logits)
    made = {
        "attention": np.nanmean(attention.tokens, 1),
        "attention at convergence": np.nanmean(attention.tokens[:, max(0, first) : max(0, last) + 1], 1),
        "question's attention": np.tile(np.nanmean(attention.question, 0), (answers, 1)),
        "saliency": np.nanmean(saliency.tokens, 1),
        "rollout": _host(swept.rollout)[:, image],
        "relevancy": _host(swept.relevancy)[:, image],
        SIMILARITY: np.tile(seen.similarity, (answers, 1)),
    }
    return {name: np.asarray(view, dtype=np.float32) for name, view in made.items()}


def _prompt(inputs: Any, own: Asked, question: Tensor) -> Prompt:
    """The prompt with its tensors where the model is; of raw inputs the only span that is known is the question."""
    if isinstance(inputs, Prompt):
        return replace(inputs, inputs=own.inputs)
    return Prompt(own.inputs, "", (), dict.fromkeys(("user", "question", "prompt"), question), (), own.tokenizer)


def _host(x: Tensor) -> Array:
    return x.float().cpu().numpy()
