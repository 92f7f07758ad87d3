"""A key-value cache that knows what was cut from it.

After a cut the cache holds fewer places than the caller's token ids and attention mask have columns, and layers may hold
different numbers. The caller's side (``generate``, which slices new ids and counts positions by the cache's length) must
see the *logical* length, the decoder the *physical* one. A :class:`ShortCache` answers each side with its own, and keeps
the bookkeeping with the cache for its whole life: through decoding, beam reordering, rollback, copies and a chat's next turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache


class UnsupportedCallError(ValueError):
    """This use of the model cannot be shortened safely; the message says what to do instead."""


@dataclass
class Group:
    """Neighbouring decoder layers whose caches have the same length.

    first: the first of them. columns: [B, P] for each cached place its column in the mask that reaches these layers: the
    caller's mask for the first group, the first group's places for later ones; -1 for padding. seen: [B, P] False for
    padding and hidden tokens. dense: True if ``seen`` is known to be True throughout. gone: [B] how far positions have
    closed up (``positions="reindex"``).
    """

    first: int
    columns: Tensor
    seen: Tensor
    dense: bool
    gone: Tensor

    def batch(self, change: Any) -> Group:
        """The same group with ``change`` applied to each tensor, for reordered or repeated batches."""
        return Group(self.first, change(self.columns), change(self.seen), self.dense, change(self.gone))


@dataclass
class Ledger:
    """What a cache holds of what the caller passed: one :class:`Group` per run of equally long layers.

    length: tokens that the caller has passed so far. fixed: how many of them a rollback may not touch, because tokens
    were cut among them.
    """

    groups: list[Group]
    length: int
    fixed: int = 0

    @classmethod
    def plain(cls, batch: int, length: int, mask: Any, device: torch.device) -> Ledger:
        """The ledger of a cache from which nothing was cut; ``mask``, if it is [B, >= length], tells the padding."""
        columns = torch.arange(length, device=device).expand(batch, length)
        seen = torch.ones(batch, length, dtype=torch.bool, device=device)
        if isinstance(mask, Tensor) and mask.dim() == 2:
            seen = mask[:, :length].to(device).bool()
        return cls(
            [Group(0, columns, seen, bool(seen.all()), torch.zeros(batch, 1, dtype=torch.long, device=device))], length
        )

    def parts_at(self, layer: int) -> bool:
        """Whether the cache's lengths change at this decoder layer."""
        return any(group.first == layer for group in self.groups)

    def group(self, layer: int) -> Group:
        """The group that serves this decoder layer."""
        return [group for group in self.groups if group.first <= layer][-1]


class ShortCache(DynamicCache):  # type: ignore[misc]
    """A ``DynamicCache`` some of whose tokens were cut; made from a plain one by :func:`adopt`, never constructed."""

    ledger: Ledger
    inside: bool  # True while the decoder runs: lengths are physical then, logical otherwise

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens passed by the caller so far, or inside the decoder the places that this layer really holds."""
        if self.inside:
            return int(super().get_seq_length(layer_idx))
        return self.ledger.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Columns of a mask, and what they start with: of all that the caller passed where the model makes its masks outside
        the decoder, and inside it of what the first layers hold, from which later layers' masks are cut."""
        if not self.inside:
            return self.ledger.length + query_length, 0
        held, window = self.get_query_offset(layer_idx), None
        if layer_idx < len(self.layers):
            window = getattr(self.layers[layer_idx], "sliding_window", None)
        if window is None or held < window:
            return held + query_length, 0
        return window - 1 + query_length, held - window + 1

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """How many columns of a mask come before this call's."""
        return self.ledger.groups[0].columns.shape[1] if self.inside else self.ledger.length

    def update(self, *args: Any, **kwargs: Any) -> Any:
        if not self.inside:
            raise UnsupportedCallError(
                "this key-value cache was shortened by simignore, so the plain model would misread it. Continue inside "
                "`with method(model):`, or start again without past_key_values."
            )
        return super().update(*args, **kwargs)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._batch(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._batch(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._batch(lambda x: x[torch.as_tensor(indices, device=x.device)])

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the newest tokens (a negative number); raises if that would reach tokens that were cut."""
        remove = abs(tokens_to_remove) if tokens_to_remove <= 0 else self.ledger.length - tokens_to_remove
        if remove <= 0:
            return
        if self.ledger.length - remove < self.ledger.fixed:
            raise UnsupportedCallError(
                f"cannot take {remove} tokens back from a cache whose first {self.ledger.fixed} tokens were shortened; "
                "keep a copy.deepcopy of the cache from before, or prefill again."
            )
        super().crop(-remove)
        self.ledger.length -= remove
        for group in self.ledger.groups:
            group.columns, group.seen = group.columns[:, :-remove], group.seen[:, :-remove]

    def reset(self) -> None:
        super().reset()
        for layer in self.layers:  # transformers before 5.18 only zeroes them, at their shortened length
            layer.keys = layer.values = None
            layer.is_initialized = False
        self.__class__ = DynamicCache  # empty again: nothing is cut from it

    def _batch(self, change: Any) -> None:
        self.ledger.groups = [group.batch(change) for group in self.ledger.groups]


def check(cache: Any, has_image: bool) -> None:
    """Raise :class:`UnsupportedCallError` for a cache that cannot be shortened (unless there is nothing to shorten)."""
    if cache is None or type(cache) in (DynamicCache, ShortCache) or not has_image:
        return
    raise UnsupportedCallError(
        f"simignore cannot shorten a {type(cache).__name__}, whose places are fixed or packed. Use the default cache: "
        "leave out cache_implementation and past_key_values, or pass a transformers.DynamicCache."
    )


def ledger_of(cache: Any) -> Ledger | None:
    """The cache's ledger, or None if nothing was ever cut from it."""
    return cache.ledger if isinstance(cache, ShortCache) else None


def adopt(cache: Cache | None, ledger: Ledger) -> None:
    """Turn the cache that the decoder has just filled into a :class:`ShortCache` with this ledger, in place."""
    if cache is None:
        return
    check(cache, has_image=True)
    cache.__class__ = ShortCache
    cache.ledger, cache.inside = ledger, False
