"""One decoder layer's attention and its gradient, a few queries at a time: pure functions, no model in sight.

The gradient of a number with respect to an attention map needs no backward pass through the map: where a head's output is
O = A V, the gradient with respect to A is G V^T, with G the gradient with respect to O. So the model may run on SDPA or flash
attention, and no map of T x T is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from simignore.observe import attention_rows

HELD = 64 * 2**20  # bytes of one chunk of attention maps


@dataclass(frozen=True)
class Attended:
    """What one attention module worked with in one forward of batch 1.

    query: [1, H, T, d]; key, value: [1, Hkv, T, d] and [1, Hkv, T, dv]; mask, scaling, softcap: as in
    :func:`simignore.observe.attention_row`. output: [1, T, H, dv] before the output projection, a part of the graph.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float | None
    softcap: float | None
    output: Tensor

    def attention(self, places: Tensor) -> Tensor:
        """[H, Q, T] attention that the queries at ``places`` [Q] pay, after softmax, in float32."""
        paid = attention_rows(self.query, self.key, self.mask, places[None], self.scaling, self.softcap)
        return paid[0].nan_to_num(0.0)  # padding may look nowhere

    def gradient(self, places: Tensor, upstream: Tensor) -> Tensor:
        """[H, Q, T] gradient with respect to that attention. upstream: [1, T, H, dv] with respect to ``output``."""
        heads = self.query.shape[1]
        given = upstream[0].index_select(0, places).float().transpose(0, 1)  # [H, Q, dv]
        value = self.value[0].float().repeat_interleave(heads // self.value.shape[1], 0)  # [H, T, dv]
        return given @ value.transpose(1, 2)

    def chunks(self, most: int) -> Iterator[Tensor]:
        """The places of all queries, a few at a time, so that one chunk of maps stays within ``HELD``; ``most``: maps held."""
        heads, length = self.query.shape[1:3]
        size = max(1, HELD // (4 * heads * length * most))
        yield from torch.split(torch.arange(length, device=self.query.device), size)


def saliency(attention: Tensor, gradient: Tensor) -> Tensor:
    """[Q, T] |attention x gradient|, summed over heads. Both: [H, Q, T]."""
    return (attention * gradient).abs().sum(0)


def rollout_step(flow: Tensor, seen: Attended) -> Tensor:
    """One layer of attention rollout, from the end towards the beginning: flow (I + A) / 2, A the mean over heads.

    flow: [A, T] how much of each answer token comes from each place in this layer's output; returned: in its input. Source:
    arXiv 2005.00928.
    """
    before = torch.zeros_like(flow)
    for places in seen.chunks(2):
        if bool((part := flow[:, places]).any()):
            before += part @ seen.attention(places).mean(0)  # [A, Q] @ [Q, T]
    return (flow + before) / 2


def relevancy_step(flow: Tensor, seen: Attended, upstream: list[Tensor]) -> Tensor:
    """One layer of relevancy, from the end towards the beginning: flow (I + E), E the mean over heads of the positive part of
    attention x gradient.

    flow: [A, T] as in :func:`rollout_step`, of relevance. upstream: for each answer token [1, T, H, dv]. Source: arXiv
    2103.15679.
    """
    found = flow.clone()
    for places in seen.chunks(4):
        if not bool(flow[:, places].any()):
            continue
        attention = seen.attention(places)
        for a, given in enumerate(upstream):
            if bool((own := flow[a, places]).any()):
                found[a] += own @ (attention * seen.gradient(places, given)).clamp(min=0).mean(0)
    return found


def rows(seen: Attended, places: Tensor, upstream: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Attention [A, T] that the place of each answer token pays, mean over heads, and its saliency [A, T].

    places: [A]. upstream: for each answer token the gradient of its log-odds, [1, T, H, dv].
    """
    attention = seen.attention(places)  # [H, A, T]
    gradient = torch.cat([seen.gradient(place[None], g) for place, g in zip(places, upstream, strict=True)], 1)
    return attention.mean(0), saliency(attention, gradient)


def mean_rows(seen: Attended, places: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Attention [T] that some places pay, mean over heads and places, and their saliency [T], mean over places."""
    length = seen.query.shape[2]
    attended, salient = (torch.zeros(length, device=places.device, dtype=torch.float32) for _ in range(2))
    size = max(1, HELD // (16 * seen.query.shape[1] * length))
    for some in torch.split(places, size):
        attention = seen.attention(some)
        attended += attention.mean(0).sum(0)
        salient += saliency(attention, seen.gradient(some, upstream)).sum(0)
    return attended / max(1, len(places)), salient / max(1, len(places))
