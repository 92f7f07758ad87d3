"""Attention in which some tokens cannot look at some others, in chosen layers of an unmodified model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from simignore.families import UnsupportedModelError
from simignore.observe import AttentionRow
from simignore.parts import Parts

IMPLEMENTATIONS = ("sdpa", "eager")  # those that are told by a mask who may look where


@dataclass(frozen=True)
class Ways:
    """What is cut in one copy of a prompt: the ``queries`` [T] bool cannot look at the ``keys`` [T] bool in ``layers``."""

    queries: Tensor
    keys: Tensor
    layers: frozenset[int]


@contextmanager
def severed(parts: Parts, ways: Sequence[Ways]) -> Iterator[None]:
    """Within it, copy b of a prompt runs with ``ways[b]`` cut: those pairs get minus infinity before the softmax.

    A token can always look at itself, so none is left without any key. Layers without attention have nothing to cut.
    Raises UnsupportedModelError for attention that takes no mask, or does not go through transformers' interface.
    """
    layers = sorted(set().union(*(way.layers for way in ways)))
    wanted: list[tuple[int, Any]] = [(n, module) for n in layers if (module := parts.attentions[n]) is not None]
    for layer, module in wanted:
        found = str(module.config._attn_implementation)
        if found not in IMPLEMENTATIONS:
            raise UnsupportedModelError(
                f"layer {layer} computes attention by {found!r}, which cannot be told pair by pair who looks where; call "
                "model.set_attn_implementation('sdpa') before, and set it back afterwards"
            )
    cuts = [CutAttention(module, layer, ways) for layer, module in wanted]
    with ExitStack() as stack:
        for cut in cuts:
            stack.callback(cut.remove)
            cut.install()
        yield
    for cut in cuts:
        if not cut.ran:
            raise UnsupportedModelError(
                f"{type(cut.attention).__name__} did not compute its attention through transformers' attention interface, so "
                "nothing was cut in it; this architecture's attention cannot be knocked out"
            )


class CutAttention(AttentionRow):
    """One attention module in which the ways are cut that this layer has a part in."""

    def __init__(self, attention: Any, layer: int, ways: Sequence[Ways]) -> None:
        super().__init__(attention)
        self.ran = False
        here = torch.tensor([layer in way.layers for way in ways])[:, None]  # [B, 1]
        self.queries = torch.stack([way.queries for way in ways]) & here  # [B, T]
        self.keys = torch.stack([way.keys for way in ways])  # [B, T]

    def run(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        """The module's own attention with a mask that cuts the ways."""
        self.ran = True
        length = self.queries.shape[1]
        if key.shape[2] != length or len(query) != len(self.queries):
            raise UnsupportedModelError(
                f"{type(module).__name__} looks at {key.shape[2]} keys of {len(query)} prompts where {length} of "
                f"{len(self.queries)} were expected, so which pairs to cut is not known"
            )
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        blocked = self._blocked(query)
        return self.inner()(module, query, key, value, without(mask, blocked, causal), **kwargs)

    def _blocked(self, query: Tensor) -> Tensor:
        """[B, 1, q, T] True for pairs that are cut; the queries [B, H, q, d] are those of the last q tokens."""
        pairs = self.queries.to(query.device)[:, :, None] & self.keys.to(query.device)[:, None]  # [B, T, T]
        pairs.diagonal(dim1=1, dim2=2).fill_(False)
        return pairs[:, None, pairs.shape[1] - query.shape[2] :]


def without(mask: Tensor | None, blocked: Tensor, causal: bool = True) -> Tensor:
    """An attention mask that also hides the pairs ``blocked`` [B, 1, q, kv].

    mask: [B or 1, H or 1, q, kv] boolean (True = may look) or additive; None: causal, or all to all if not ``causal``.
    """
    if mask is None:
        q, kv = blocked.shape[-2:]
        everyone = torch.ones(q, kv, dtype=torch.bool, device=blocked.device)
        return ~blocked & (everyone.tril(kv - q) if causal else everyone)
    if mask.dtype == torch.bool:
        return mask & ~blocked
    return mask.masked_fill(blocked, float("-inf"))


__all__ = ["IMPLEMENTATIONS", "CutAttention", "Ways", "severed", "without"]
