"""The teacher: how much flows from each image token in the layers where flow converges, for a whole batch at once.

No map of attention is ever held: attention is read as the few rows that are asked for, and for saliency one layer's graph is
held at a time, as in :mod:`simignore.flow.sweep`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from simignore.families import UnsupportedModelError
from simignore.flow.capture import Tail, record
from simignore.flow.maths import Attended, mean_rows
from simignore.flow.sweep import back, log_odds
from simignore.layout import Layout
from simignore.observe import AttentionRow
from simignore.parts import Parts
from simignore.splice.tensors import take
from simignore.train.cut import entering, images

Measure = Literal["attention", "saliency"]
IGNORED = -100  # the label of what is not to be predicted, as everywhere in transformers


class _Enough(Exception):
    """All that was wanted of a forward is known."""


def attention_flow(
    parts: Parts, found: Layout, inputs: Mapping[str, Any], into: Tensor, layers: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """What some places pay to each image token, mean over places, heads and layers; and the image tokens as they entered.

    into: [B, Q] places of the batch's tokens, -1 padding. layers: decoder layers with attention. Layers behind the last of them
    do not run. Returns [B, N] and [B, N, D].
    """
    rows = [AttentionRow(_attention(parts, layer)) for layer in layers]
    seen: list[Tensor] = []

    def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(images(entering(module, kwargs), found)[0])

    def leave(*_: Any) -> None:
        raise _Enough

    hooks: list[Any] = [parts.decoder.register_forward_pre_hook(enter, with_kwargs=True)]
    hooks.append(parts.layers[max(layers)].register_forward_hook(leave))
    try:
        for row in rows:
            row.install()
            row.ask([(into.clamp(min=0), (into >= 0).float())])
        with torch.no_grad():
            parts.model(**inputs, use_cache=False)
    except _Enough:
        pass
    finally:
        for hook in (*hooks, *rows):
            hook.remove()
    paid = torch.stack([row.row() for row in rows]).mean(0)  # [B, T]
    return take(paid, found.image.clamp(min=0)), seen[0]


def saliency_flow(
    parts: Parts,
    found: Layout,
    inputs: Mapping[str, Any],
    into: Tensor,
    layers: Sequence[int],
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same of saliency, |attention x gradient of the answer's log-odds| summed over heads, mean over places and layers.

    labels: [B, T] with the answer's ids in their places and -100 elsewhere.
    """
    for layer in layers:
        _attention(parts, layer)
    tape = record(parts, inputs)
    end = tape.entered(len(parts.layers))
    predicts = labels[:, 1:] != IGNORED  # [B, T-1] places whose next token is the answer's
    states = end[:, :-1][predicts].detach()  # [P, D]
    upstream = torch.zeros_like(end)
    word = next(token for token in found.text(0) if token not in parts.placeholders)
    with torch.enable_grad():
        leaf = states.requires_grad_()
        score = log_odds(Tail(parts, word)(leaf), labels[:, 1:][predicts]).sum()
        (slope,) = torch.autograd.grad(score, leaf)
    upstream[:, :-1][predicts] = slope.to(upstream.dtype)
    visual, _ = images(tape.entered(0), found)
    flow = torch.zeros(found.image.shape, device=end.device)
    given = [upstream]
    for number in reversed(range(min(layers), len(parts.layers))):
        seen, slopes, given = back(parts, tape, number, given)
        if number in layers and seen is not None:
            flow += take(_salient(seen, into, slopes[0]), found.image.clamp(min=0))
    return flow / len(layers), visual


def _salient(seen: Attended, into: Tensor, slope: Tensor) -> Tensor:
    """[B, T] saliency into each sample's places [B, Q], mean over those. slope: [B, T, H, dv]."""
    rows = []
    for b, places in enumerate(into):
        own = slice(b, b + 1)
        mask = seen.mask if seen.mask is None or len(seen.mask) == 1 else seen.mask[own]
        one = Attended(
            seen.query[own], seen.key[own], seen.value[own], mask, seen.scaling, seen.softcap, seen.output[own]
        )
        with torch.no_grad():
            rows.append(mean_rows(one, places[places >= 0], slope[own])[1])
    return torch.stack(rows)


def answer_places(labels: Tensor) -> Tensor:
    """[B, Q] places that predict the answer's tokens, -1 padding, from labels [B, T]."""
    predicts = torch.cat([labels[:, 1:] != IGNORED, torch.zeros_like(labels[:, :1], dtype=torch.bool)], 1)
    most = max(1, int(predicts.sum(1).max()))
    places = torch.where(predicts, torch.arange(labels.shape[1], device=labels.device), labels.shape[1])
    ordered = places.sort(1).values[:, :most]
    return ordered.masked_fill(ordered == labels.shape[1], -1)


def _attention(parts: Parts, layer: int) -> nn.Module:
    attention = parts.attentions[layer] if layer < len(parts.attentions) else None
    if attention is None:
        there = [number for number, module in enumerate(parts.attentions) if module is not None]
        raise UnsupportedModelError(
            f"layer {layer} of this decoder has no attention to learn from; layers {', '.join(map(str, there))} have"
        )
    return attention
