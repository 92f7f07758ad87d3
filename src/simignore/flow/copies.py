"""One prompt read once, and its decoder run on several copies of it, each with a counterfactual of its own.

The copies are made at the decoder's door, behind the vision tower: images are encoded once, and what processors make of them
(pixels, tiles, grids, sizes), which every family holds in another way, need not be repeated at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simignore.flow.capture import answered
from simignore.parts import Parts, parts
from simignore.splice.deepstack import FEATURES
from simignore.splice.reading import read

TOKENS = 8192  # of all copies that run at once: more hardly go faster, and memory grows with them


@dataclass(frozen=True)
class Forced:
    """One prompt with an answer behind it, as in teacher forcing.

    inputs: of both, for a forward. answer: [A] token ids. prompt: T, tokens of the prompt. image: [N] places of its image
    tokens, on the host.
    """

    parts: Parts
    inputs: dict[str, Any]
    answer: Tensor
    prompt: int
    image: Tensor

    @property
    def last(self) -> Tensor:
        """[A] the places that predict the answer's tokens: the prompt's last, and each of the answer but the last."""
        return torch.arange(len(self.answer)) + self.prompt - 1

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return self.prompt + len(self.answer)


def forced(model: nn.Module, inputs: Mapping[str, Any], answer: Tensor) -> Forced:
    """Put an answer [A] behind a prompt, both checked.

    Raises ValueError for more prompts than one, a prompt without image tokens or one that ends in them, and an answer that is
    empty, not a row of ids, or holds an image token; UnsupportedModelError for a model that no family serves.
    """
    p = parts(model)
    prompt = single(inputs)
    if answer.dim() != 1 or not len(answer) or answer.is_floating_point():
        raise ValueError(
            f"an answer is a row of token ids, got {answer.dtype} of shape {tuple(answer.shape)}; pass the ids that the model "
            "answered, such as output[0, prompt_length:]"
        )
    placeholders = torch.tensor(p.placeholders)
    if bool(torch.isin(answer.cpu(), placeholders).any()):
        raise ValueError("the answer holds an image token's id, and no image comes with it; take an answer in words")
    found = read(p, inputs)
    image = torch.empty(0, dtype=torch.long) if found is None else found.image[0]
    if not len(image):
        raise ValueError("the prompt holds no image tokens, so there is nothing to drop; pass a prompt with an image")
    if int(inputs["input_ids"][0, -1]) in p.placeholders:
        raise ValueError(
            "the prompt ends in an image token, which would have to predict the answer when it is dropped; put text behind it"
        )
    answer = answer.to(inputs["input_ids"].device)
    return Forced(p, answered(inputs, answer), answer, prompt, image)


def single(inputs: Mapping[str, Any]) -> int:
    """T, the tokens of the one prompt in a processor's output; raises ValueError for several, or for none."""
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor):
        raise ValueError("the inputs hold no input_ids; pass what the processor returned for one prompt")
    if ids.dim() != 2 or len(ids) != 1:
        raise ValueError(
            f"{len(ids)} prompts came in (input_ids {tuple(ids.shape)}), and one is explained at a time; call the processor "
            "for each prompt by itself"
        )
    return int(ids.shape[1])


def log_probability(prompt: Forced, copies: int) -> Tensor:
    """[copies] the mean log-probability of an answer token in each copy, in nats, in float32, on the host."""
    ids = prompt.answer[:, None]
    with copied(prompt.parts, copies), torch.no_grad():
        keep = len(ids) + 1
        logits = prompt.parts.model(**prompt.inputs, use_cache=False, logits_to_keep=keep).logits[:, -keep:-1]
    # copy by copy, so that only one is held in float32
    return torch.stack([own.float().log_softmax(-1).gather(1, ids).mean() for own in logits]).cpu()


@contextmanager
def copied(parts: Parts, count: int) -> Iterator[None]:
    """Within it, a forward on one prompt goes on with so many copies of it from the decoder's door."""

    def many(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return tuple(_many(value, "", count) for value in args), {
            name: _many(value, name, count) for name, value in kwargs.items()
        }

    if count == 1:
        yield
        return
    hook = parts.decoder.register_forward_pre_hook(many, with_kwargs=True, prepend=True)  # a method chooses behind it
    try:
        yield
    finally:
        hook.remove()


def _many(value: Any, name: str, count: int) -> Any:
    """An argument of the decoder for ``count`` copies of one prompt."""
    if isinstance(value, dict):  # masks by the layers' kind
        return {kind: _many(own, name, count) for kind, own in value.items()}
    if name == FEATURES and value is not None:  # [n, D] for each layer: rows of all image tokens, copy after copy
        return [own.repeat(count, 1) for own in value]
    if not isinstance(value, Tensor) or value.dim() < 2:
        return value
    batch = 1 if name == "position_ids" and value.dim() == 3 else 0  # the parts of M-RoPE come first
    if value.shape[batch] != 1:
        return value
    if name == "attention_mask":
        return value.expand(count, *value.shape[1:])  # the largest, and only read
    return value.repeat_interleave(count, batch)


__all__ = ["TOKENS", "Forced", "copied", "forced", "log_probability", "single"]
