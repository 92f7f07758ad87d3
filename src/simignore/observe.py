"""Read-only observation: capture only what a method asks for, and leave no trace.

An attention row (what one query token pays to every key) is computed beside the model's own attention, from the very
queries and keys that it uses (after rotary positions, normalisation and the cache), so the model stays on SDPA or flash
attention, and one row costs one row.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_NAME = "simignore_observed"  # the name under which transformers' attention interface finds `_observed`


class AttentionRow:
    """Captures one attention row per sample of one attention module, between :meth:`install` and :meth:`remove`.

    Only the module's own reference to its config is swapped meanwhile, for a shallow copy that names another attention
    function; the config itself is never written to.
    """

    def __init__(self, attention: nn.Module) -> None:
        self.attention: Any = attention
        self._thread = threading.local()
        self._config: Any = None

    def install(self) -> None:
        """Swap the module's config for one that names the observing attention function."""
        if _NAME not in ALL_ATTENTION_FUNCTIONS:
            ALL_ATTENTION_FUNCTIONS.register(_NAME, _observed)
        self._config = self.attention.config
        self.attention.config = copy.copy(self._config)
        self.attention.config._attn_implementation_internal = _NAME
        self.attention.config._simignore_row = self

    def remove(self) -> None:
        """Give the module its own config back."""
        if self._config is not None:
            self.attention.config, self._config = self._config, None

    def inner(self) -> Callable[..., Any]:
        """The attention function that the module would use by itself, also if the implementation was changed meanwhile."""
        eager = getattr(sys.modules[type(self.attention).__module__], "eager_attention_forward", None)
        return ALL_ATTENTION_FUNCTIONS.get_interface(self._config._attn_implementation, eager)  # type: ignore[no-any-return]

    def ask(self, query: Tensor) -> None:
        """The next forward of this module in this thread records the row of ``query`` [B] (places in its input)."""
        self._thread.query, self._thread.row = query, None

    def forget(self) -> None:
        """Record nothing until the next :meth:`ask`."""
        self._thread.query = self._thread.row = None

    def row(self) -> Tensor:
        """[B, kv] attention of the asked query to every key, mean over heads, float32; raises if none was computed."""
        row: Tensor | None = getattr(self._thread, "row", None)
        if row is None:
            raise RuntimeError(
                f"{type(self.attention).__name__} did not compute its attention through transformers' attention "
                "interface, so its attention cannot be read. Use a method that does not need decoder attention."
            )
        return row

    def _see(
        self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None, softcap: float | None
    ) -> None:
        place = getattr(self._thread, "query", None)
        if place is not None:
            with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
                self._thread.row = attention_row(query, key, mask, place.to(query.device), scaling, softcap)


def attention_row(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    place: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """[B, kv] softmax attention of one query per sample over all keys, mean over heads, in float32.

    query: [B, H, q, d]. key: [B, Hkv, kv, d], heads grouped as in grouped-query attention. mask: [B, 1, q, kv] boolean or
    additive, [B, kv] (0 = padding), or None for causal. place: [B] the query's place among the q. scaling: default d^-0.5.
    """
    b, h, q, d = query.shape
    kv = key.shape[2]
    asked = query.gather(2, place.view(b, 1, 1, 1).expand(b, h, 1, d)).view(
        b, key.shape[1], -1, d
    )  # [B, Hkv, H/Hkv, d]
    logits = (asked.float() @ key.float().transpose(2, 3)) * (scaling if scaling is not None else d**-0.5)
    logits = logits.view(b, h, kv)  # [B, H, kv]
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if mask is None or mask.dim() == 2:
        reach = torch.arange(kv, device=key.device) <= (place + kv - q)[:, None]  # [B, kv]
        allowed = reach if mask is None else reach & mask[:, -kv:].bool()
        logits = logits.masked_fill(~allowed[:, None], float("-inf"))
    else:
        row = mask.expand(b, -1, q, -1)[..., :kv]
        row = row.gather(2, place.view(b, 1, 1, 1).expand(b, row.shape[1], 1, kv))[:, :, 0]  # [B, 1 or H, kv]
        logits = logits.masked_fill(~row, float("-inf")) if row.dtype == torch.bool else logits + row.float()
    return logits.softmax(-1).mean(1)  # [B, kv]


def _observed(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    observer: AttentionRow = module.config._simignore_row
    observer._see(query, key, attention_mask, kwargs.get("scaling"), kwargs.get("softcap"))
    return observer.inner()(module, query, key, value, attention_mask, **kwargs)
