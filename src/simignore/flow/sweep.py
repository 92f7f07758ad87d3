"""One sweep back through the decoder: everything that is known from attention and gradients, in bounded memory.

The forward is taken down layer by layer (what entered each), then the layers are run once more from the last to the first, each
with a graph of its own that is dropped before the next. So one layer's graph is held at a time, and no T x T map at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simignore.families import UnsupportedModelError
from simignore.flow.capture import Tail, Tape, answered, record
from simignore.flow.maths import Attended, mean_rows, relevancy_step, rollout_step, rows
from simignore.observe import AttentionRow
from simignore.parts import Parts

GROUP = 512 * 2**20  # bytes of gradients that may be held at once; more answer tokens go through in groups


@dataclass(frozen=True)
class Swept:
    """What a sweep found, on the model's device, in float32; T places of prompt and answer but its last token.

    Not a number in layers without attention. attention, saliency: [A, L, T] into the place that predicts each answer token.
    question_attention, question_saliency: [L, T] into the question's tokens, mean over those, the saliency that of the first
    answer token. rollout, relevancy: [A, T]. logits: [A, V] of each answer token. tape: the forward.
    """

    attention: Tensor
    saliency: Tensor
    question_attention: Tensor
    question_saliency: Tensor
    rollout: Tensor
    relevancy: Tensor
    logits: Tensor
    tape: Tape


class Watched(AttentionRow):
    """Takes down what an attention module works with in its next forward."""

    seen: Attended | None = None

    def run(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        out = self.inner()(module, query, key, value, mask, **kwargs)
        told = (query.detach(), key.detach(), value.detach(), mask)
        self.seen = Attended(*told, kwargs.get("scaling"), kwargs.get("softcap"), out[0])
        return out


def sweep(parts: Parts, inputs: Mapping[str, Any], answer: Tensor, question: Tensor) -> Swept:
    """Everything that attention and gradients tell of an answer.

    inputs: what the processor returned for one prompt, on the model's device. answer: [A] token ids. question: [Q] places of
    the question's tokens in the prompt.
    Raises UnsupportedModelError for a model whose attention cannot be read.
    """
    prompt = inputs["input_ids"].shape[1]
    tape = record(parts, answered(inputs, answer[:-1]))
    length, layers = prompt + len(answer) - 1, len(parts.layers)
    if (seen := tape.entered(layers).shape[1]) != length:
        raise UnsupportedModelError(
            f"the decoder saw {seen} of the {length} tokens of this prompt and answer: something shortens it. Explain the "
            "model outside of `with method(model)`, and pass the method as method="
        )
    places = torch.arange(len(answer), device=answer.device) + prompt - 1
    tail = Tail(parts, int(inputs["input_ids"][0, question[-1]]))
    end = tape.entered(layers)
    size = max(1, GROUP // (2 * end.element_size() * end.shape[1] * end.shape[2]))
    found = [_group(parts, tape, tail, answer[some], places[some], question) for some in _groups(len(answer), size)]
    joined = {name: torch.cat([part[name] for part in found]) for name in _JOINED}
    asked = {name: found[0][name] for name in ("question_attention", "question_saliency")}
    return Swept(**joined, **asked, tape=tape)


_JOINED = ("attention", "saliency", "rollout", "relevancy", "logits")


def _groups(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _group(parts: Parts, tape: Tape, tail: Tail, answer: Tensor, places: Tensor, question: Tensor) -> dict[str, Tensor]:
    """The sweep for some of the answer's tokens."""
    layers, (_, length, _) = len(parts.layers), tape.entered(0).shape
    logits, upstream = _beginning(tape, tail, answer, places, layers)
    kind: dict[str, Any] = {"device": answer.device, "dtype": torch.float32}
    nothing = torch.full((len(answer), layers, length), float("nan"), **kind)
    found = {"attention": nothing, "saliency": nothing.clone(), "logits": logits}
    found |= {f"question_{name}": nothing[0].clone() for name in ("attention", "saliency")}
    rolled = torch.zeros(len(answer), length, **kind).scatter(1, places[:, None], 1.0)
    relevant = rolled.clone()
    for number in reversed(range(layers)):
        seen, given, upstream = back(parts, tape, number, upstream)
        if seen is None:
            continue
        with torch.no_grad():
            found["attention"][:, number], found["saliency"][:, number] = rows(seen, places, given)
            asked = mean_rows(seen, question, given[0])
            found["question_attention"][number], found["question_saliency"][number] = asked
            rolled, relevant = rollout_step(rolled, seen), relevancy_step(relevant, seen, given)
    return {**found, "rollout": rolled, "relevancy": relevant}


def _beginning(tape: Tape, tail: Tail, answer: Tensor, places: Tensor, layers: int) -> tuple[Tensor, list[Tensor]]:
    """Logits [A, V], and for each answer token the gradient [1, T, D] of its log-odds at the decoder's end."""
    end = tape.entered(layers)
    with torch.enable_grad():
        leaf = end[0, places].detach().requires_grad_()  # [A, D]
        logits = tail(leaf)
        (slope,) = torch.autograd.grad(log_odds(logits, answer).sum(), leaf)
    upstream = []
    for a, place in enumerate(places):
        own = torch.zeros_like(end)
        own[0, place] = slope[a]
        upstream.append(own)
    return logits.detach(), upstream


def log_odds(logits: Tensor, answer: Tensor) -> Tensor:
    """[A] log p / (1 - p) of each answer token, in float32, from logits [A, V].

    Its gradient is that of the log-probability over 1 - p: the same shares, but it does not vanish where the model is sure.
    """
    logits = logits.float()
    own = torch.zeros_like(logits, dtype=torch.bool).scatter(1, answer[:, None], True)
    return logits.gather(1, answer[:, None])[:, 0] - logits.masked_fill(own, float("-inf")).logsumexp(-1)


def back(
    parts: Parts, tape: Tape, number: int, upstream: list[Tensor]
) -> tuple[Attended | None, list[Tensor], list[Tensor]]:
    """One layer once more: what its attention worked with, the gradients of each answer token with respect to what its heads
    gave out, and with respect to what entered it."""
    layer, attention = parts.layers[number], parts.attentions[number]
    watched = None if attention is None else Watched(attention)
    with torch.enable_grad():
        hidden = tape.entered(number).detach().requires_grad_()
        out = _watched(tape, layer, number, hidden, watched)
        seen = None if watched is None else watched.seen
        if watched is not None and seen is None:
            raise UnsupportedModelError(
                f"{type(attention).__name__} did not compute its attention through transformers' attention interface, so its "
                "flow cannot be read. Load the model with attn_implementation='eager' or 'sdpa'; if it stays so, this "
                "architecture cannot be explained."
            )
        wanted = [hidden] if seen is None else [hidden, seen.output]
        slopes = [
            torch.autograd.grad(out, wanted, given, retain_graph=a + 1 < len(upstream))
            for a, given in enumerate(upstream)
        ]
    return seen, [slope[-1] for slope in slopes], [slope[0] for slope in slopes]


def _watched(tape: Tape, layer: nn.Module, number: int, hidden: Tensor, watched: Watched | None) -> Tensor:
    if watched is None:
        return tape.again(layer, number, hidden)
    watched.install()
    try:
        return tape.again(layer, number, hidden)
    finally:
        watched.remove()
