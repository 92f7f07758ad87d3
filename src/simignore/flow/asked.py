"""One prompt made ready for an explanation: checked, on the model's device, answered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simignore.families import UnsupportedModelError
from simignore.flow.capture import without_labels
from simignore.flow.report import AnswerToken, Array
from simignore.parts import Parts, parts
from simignore.prompt import Prompt
from simignore.splice.reading import read

MOST = 16  # tokens of an answer that are explained, unless the caller says otherwise
RUNNERS_UP = 4


@dataclass(frozen=True)
class Asked:
    """A prompt as the model gets it, and the model's own answer.

    inputs: what the processor returned, on the model's device. spans: places [M] of each known part of the text, or None.
    image: [N] places of the image tokens. answer: [A] token ids that are explained. cut: how many more the answer had. text:
    the answer in words.
    """

    parts: Parts
    inputs: dict[str, Any]
    spans: Mapping[str, Tensor] | None
    image: Array
    answer: Tensor
    cut: int
    text: str
    tokenizer: Any

    @property
    def word(self) -> int:
        """The id of some word of the prompt."""
        known = {*self.parts.special, *self.parts.placeholders}
        return next((token for token in self.inputs["input_ids"][0].tolist()[::-1] if token not in known), 0)

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return int(self.inputs["input_ids"].shape[1])


def asked(model: nn.Module, inputs: Any, processor: Any, max_new_tokens: int, most: int) -> Asked:
    """Check a prompt and answer it, greedily, with all image tokens.

    Raises ValueError for a batch, a prompt without an image and missing ids, UnsupportedModelError for models without
    attention.
    """
    if most < 1 or max_new_tokens < 1:
        raise ValueError(
            f"most={most}, max_new_tokens={max_new_tokens}: at least one token must be answered and explained"
        )
    p = parts(model)
    if all(attention is None for attention in p.attentions):
        raise UnsupportedModelError(
            f"no layer of this {p.family.model_type!r} decoder has attention, so there is no flow to see"
        )
    given = inputs.inputs if isinstance(inputs, Prompt) else inputs
    _check(given)
    ready = placed(given, model)
    found = read(p, ready)
    if found is None or not found.counts[0]:
        raise ValueError(
            "this prompt holds no image, so there is no flow from image tokens to explain; pass what the processor made of an "
            "image and a question, or simignore.build(processor, image, question)"
        )
    spans = inputs.spans if isinstance(inputs, Prompt) else None
    tokenizer = inputs.tokenizer if isinstance(inputs, Prompt) else getattr(processor, "tokenizer", processor)
    how = generation(model, p, max_new_tokens)
    with torch.inference_mode():
        out = model.generate(**ready, **how, return_dict_in_generate=False)  # type: ignore[operator]
    answer = _said(out[0, ready["input_ids"].shape[1] :].clone(), p.special)
    text = str(tokenizer.decode(answer, skip_special_tokens=True)).strip() if tokenizer is not None else ""
    return Asked(p, ready, spans, found.image[0].numpy(), answer[:most], max(0, len(answer) - most), text, tokenizer)


def generation(model: nn.Module, p: Parts, max_new_tokens: int) -> dict[str, Any]:
    """How every answer of an explanation is generated: greedily, and without placeholders, whose images would be lacking."""
    held = getattr(getattr(model, "generation_config", None), "suppress_tokens", None) or ()
    return {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": max_new_tokens,
        "suppress_tokens": [*held, *p.placeholders],
    }


def placed(inputs: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """What a processor returned, on the model's device and in its type."""
    weights = next(model.parameters())
    return {
        name: value.to(weights.device, weights.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, Tensor)
        else value
        for name, value in without_labels(inputs).items()
    }


def told(answer: Tensor, logits: Tensor, tokenizer: Any) -> tuple[AnswerToken, ...]:
    """The answer's tokens with their probabilities and the runners-up, from logits [A, V]."""
    likely = logits.float().softmax(-1)
    best = likely.topk(min(RUNNERS_UP + 1, likely.shape[-1]), -1)
    found = []
    for a, token in enumerate(answer.tolist()):
        others = zip(best.indices[a].tolist(), best.values[a].tolist(), strict=True)
        runners = tuple((word(tokenizer, other), value) for other, value in others if other != token)
        found.append(AnswerToken(token, word(tokenizer, token), float(likely[a, token]), runners[:RUNNERS_UP]))
    return tuple(found)


def word(tokenizer: Any, token: int) -> str:
    """One token as a person reads it; its number where there is no tokenizer."""
    return f"#{token}" if tokenizer is None else str(tokenizer.decode([token])) or f"#{token}"


def _said(answer: Tensor, special: frozenset[int]) -> Tensor:
    """The answer without the special tokens at its end; the first of them where there is nothing else."""
    length = len(answer)
    while length > 1 and int(answer[length - 1]) in special:
        length -= 1
    return answer[:length]


def _check(inputs: Any) -> None:
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("input_ids"), Tensor):
        raise ValueError(
            f"an explanation needs the prompt's token ids, and got {type(inputs).__name__}"
            f"{f' with {sorted(inputs)}' if isinstance(inputs, Mapping) else ''}; pass what the processor returned "
            "(input_ids, pixel_values ...) or a prompt of simignore.build"
        )
    if (batch := inputs["input_ids"].shape[0]) != 1:
        raise ValueError(f"one prompt is explained at a time, and input_ids has {batch} rows; explain them in a loop")
    if inputs.get("past_key_values") is not None:
        raise ValueError(
            "past_key_values was passed; an explanation reads the whole prompt, so pass that without a cache"
        )
    mask = inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.dim() == 2 and not bool(mask.bool().all()):
        raise ValueError("attention_mask hides some tokens of this prompt; pass the prompt without padding")
