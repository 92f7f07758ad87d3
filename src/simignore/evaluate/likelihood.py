"""How likely a model finds a given answer to a prompt, with all image tokens or under a method.

The method sees the prompt alone, as when the model answers: the answer that is judged takes no part in which image tokens
stay. So the prompt is read once, and ``generate`` goes on with the answer's tokens one by one, in every family and with every
method as it does for an answer of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor

from simignore.evaluate.answering import Batch


class Likely(NamedTuple):
    """logprob: of an answer given its prompt, the sum over its tokens. greedy: whether greedy decoding would give it.
    tokens: how many it has."""

    logprob: float
    greedy: bool
    tokens: int


def likelihoods(generate: Callable[..., Any], tokenizer: Any, batch: Batch, answers: Sequence[str]) -> list[Likely]:
    """How likely each prompt of a batch makes its answer. An answer without tokens has the probability 1.

    generate: runs the model's ``generate`` on a batch, under the method if there is one.
    """
    own = [continuation(tokenizer, one.text, answer) for one, answer in zip(batch.asked, answers, strict=True)]
    longest = max(map(len, own))
    if not longest:
        return [Likely(0.0, True, 0)] * len(own)
    ids = torch.tensor([(some + some[-1:] * longest)[:longest] or [0] * longest for some in own])  # [B, C]
    told = {token for some in own for token in some}
    output = generate(
        batch,
        do_sample=False,
        num_beams=1,
        max_new_tokens=longest,
        eos_token_id=next(i for i in count() if i not in told),  # the model's own may be among the answer's
        logits_processor=[_Told(ids)],
        return_dict_in_generate=True,
        output_logits=True,
    )
    likely, greedy = [], []  # both [C, B]
    for step, logits in enumerate(output.logits):
        token = ids[:, step].to(logits.device)
        likely.append(logits.float().log_softmax(-1).gather(1, token[:, None])[:, 0].tolist())
        greedy.append((logits.argmax(-1) == token).tolist())
    return [
        Likely(sum(row[b] for row in likely[:n]), all(row[b] for row in greedy[:n]), n)
        for b, n in enumerate(map(len, own))
    ]


def continuation(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """The tokens that an answer adds to a prompt; its own where its beginning would merge with the prompt's last token."""
    before, whole = (list(tokenizer(text)["input_ids"]) for text in (prompt, prompt + answer))
    if whole[: len(before)] == before:
        return whole[len(before) :]
    return list(tokenizer(answer, add_special_tokens=False)["input_ids"])


class _Told(LogitsProcessor):  # type: ignore[misc]
    """Lets generation go on with given tokens [B, C], whatever the model would say."""

    def __init__(self, ids: Tensor) -> None:
        self.ids, self.step = ids, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = self.ids[:, self.step, None].to(scores.device)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


__all__ = ["Likely", "continuation", "likelihoods"]
