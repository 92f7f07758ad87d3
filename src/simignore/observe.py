"""Read-only observation: capture only what a method asks for, and leave no trace.

An attention row (what one query token pays to every key) is computed beside the model's own attention, from the very
queries and keys that it uses (after rotary positions, normalisation and the cache), so the model stays on SDPA or flash
attention, and one row costs one row.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from simignore.clock import Clock

_NAME = "simignore_observed"  # the name under which transformers' attention interface finds `_observed`


class AttentionRow:
    """Captures attention rows of one attention module, between :meth:`install` and :meth:`remove`.

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

    def run(self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        """What stands in for the module's attention function: look, and let its own do the work."""
        self._see(query, key, mask, kwargs.get("scaling"), kwargs.get("softcap"))
        return self.inner()(module, query, key, value, mask, **kwargs)

    def ask(self, wanted: Sequence[tuple[Tensor, Tensor]], clock: Clock | None = None) -> None:
        """The next forward of this module in this thread records one row for each pair of places [B, Q] in its input and
        weights [B, Q]: the weighted mean of the attention that those places pay. ``clock`` measures what that takes."""
        self._thread.wanted, self._thread.rows, self._thread.clock = list(wanted), None, clock

    def forget(self) -> None:
        """Record nothing until the next :meth:`ask`."""
        self._thread.wanted = self._thread.rows = self._thread.clock = None

    def row(self, number: int = 0) -> Tensor:
        """[B, kv] attention that the asked places pay to every key, mean over heads, float32; raises if none was computed."""
        rows: list[Tensor] | None = getattr(self._thread, "rows", None)
        if rows is None:
            raise RuntimeError(
                f"{type(self.attention).__name__} did not compute its attention through transformers' attention "
                "interface, so its attention cannot be read. Use a method that does not need decoder attention."
            )
        return rows[number]

    def _see(
        self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None, softcap: float | None
    ) -> None:
        wanted = getattr(self._thread, "wanted", None)
        if wanted is not None:
            clock = self._thread.clock or Clock(query.device)
            with clock.span(), torch.no_grad(), torch.autocast(query.device.type, enabled=False):
                self._thread.rows = [
                    attention_row(query, key, mask, places.to(query.device), weight.to(query.device), scaling, softcap)
                    for places, weight in wanted
                ]


def attention_row(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    places: Tensor,
    weight: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """[B, kv] softmax attention that some queries pay to all keys, mean over heads and weighted mean over queries, in float32.

    query: [B, H, q, d]. key: [B, Hkv, kv, d], heads grouped as in grouped-query attention. mask: [B, 1, q, kv] boolean or
    additive, [B, kv] (0 = padding), or None for causal. places: [B, Q] the queries' places among the q. weight: [B, Q]; queries
    of weight 0 may be anything. scaling: default d^-0.5.
    """
    paid = attention_rows(query, key, mask, places, scaling, softcap).mean(1)  # [B, Q, kv]
    weight = (weight / weight.sum(1, keepdim=True).clamp(min=1e-12))[..., None]
    return torch.where(weight > 0, paid * weight, 0).sum(1)  # [B, kv]


def attention_rows(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    places: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
) -> Tensor:
    """[B, H, Q, kv] softmax attention that the queries at ``places`` [B, Q] pay to all keys, head by head, in float32.

    The other arguments are those of :func:`attention_row`. A query that may not look anywhere gets what is not a number.
    """
    b, h, q, d = query.shape
    kv, asking = key.shape[2], places.shape[1]
    asked = query.gather(2, places[:, None, :, None].expand(b, h, asking, d))  # [B, H, Q, d]
    asked = asked.reshape(b, key.shape[1], -1, d)  # [B, Hkv, H/Hkv * Q, d]
    logits = (asked.float() @ key.float().transpose(2, 3)) * (scaling if scaling is not None else d**-0.5)
    logits = logits.view(b, h, asking, kv)  # [B, H, Q, kv]
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if mask is None or mask.dim() == 2:
        allowed = torch.arange(kv, device=key.device) <= (places + kv - q)[..., None]  # [B, Q, kv]
        allowed = allowed if mask is None else allowed & mask[:, None, -kv:].bool()
        logits = logits.masked_fill(~allowed[:, None], float("-inf"))
    else:
        rows = mask.expand(b, -1, q, -1)[..., :kv]
        rows = rows.gather(2, places[:, None, :, None].expand(b, rows.shape[1], asking, kv))  # [B, 1 or H, Q, kv]
        logits = logits.masked_fill(~rows, float("-inf")) if rows.dtype == torch.bool else logits + rows.float()
    return logits.softmax(-1)  # [B, H, Q, kv]


def _observed(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    observer: AttentionRow = module.config._simignore_row
    return observer.run(module, query, key, value, attention_mask, **kwargs)
