"""Read-only observation of the vision tower: what its layers show of each patch, brought to the image tokens made of them.

Attention is computed beside the tower's own, from the very queries and keys that it uses, a few queries at a time; so the tower
stays on SDPA or flash attention and no map of S x S is ever held.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from simignore.families import UnsupportedModelError
from simignore.layout import Layout
from simignore.parts import Parts
from simignore.types import Look

_NAME = "simignore_tower"
CHUNK = 256  # queries whose attention is held at once


class Tower:
    """Records what some looks want to see in the vision tower of a model, between :meth:`install` and :meth:`remove`.

    Each forward of the tower in a thread adds to what :meth:`shown` reads, until :meth:`forget`: images and videos may be
    encoded one after the other, and before the model's own forward begins.
    Raises UnsupportedModelError for a family whose image tokens cannot be traced to patches.
    """

    def __init__(self, parts: Parts, looks: Collection[Look]) -> None:
        self.parts = parts
        family = parts.family
        if family.patches is None or parts.vision is None:
            raise UnsupportedModelError(
                f"{', '.join(sorted({look.what for look in looks}))} of the vision tower cannot be had in {family.title}: which of "
                "its patches make an image token is not known. Use a method that does not look into the vision tower, such as "
                "Simignore or DivPrune."
            )
        self.layers = _layers(parts.vision)
        self.has_class = any(
            hasattr(m, name) for m in parts.vision.modules() for name in ("class_embedding", "cls_token")
        )
        self.used = _used(parts, len(self.layers))
        self.looks = {look: self._number(look) for look in looks}
        self._thread = threading.local()
        self._configs: list[tuple[Any, Any]] = []
        self._hooks: list[Any] = []

    def _number(self, look: Look) -> int:
        """The layer that a look names, counted from 0."""
        depth = len(self.layers)
        if look.layer is None:
            return self.used
        if isinstance(look.layer, float):
            return min(depth - 1, round(look.layer * depth))
        if not -depth <= look.layer < depth:
            raise ValueError(f"{look!r}: this vision tower has {depth} layers, counted from 0, or from the end from -1")
        return look.layer % depth

    # hooks

    def install(self) -> None:
        """Begin to record."""
        if _NAME not in ALL_ATTENTION_FUNCTIONS:
            ALL_ATTENTION_FUNCTIONS.register(_NAME, _observed)
        wanted: dict[int, set[str]] = {}
        for look, number in self.looks.items():
            wanted.setdefault(number, set()).add(self._meant(look))
        for number, whats in wanted.items():
            layer = self.layers[number]
            if paid := whats & {"class", "received"}:
                self._swap(_attention(layer), number, paid)
            if "keys" in whats:
                self._hooks.append(_key_source(layer, self.parts).register_forward_hook(self._on_keys(number, layer)))
            if "features" in whats:
                self._hooks.append(layer.register_forward_hook(self._on_features(number)))

    def remove(self) -> None:
        """Leave the tower as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for attention, config in self._configs:
            attention.config = config
        self._configs.clear()

    def forget(self) -> None:
        """Drop what this thread's forwards have shown."""
        self._thread.seen = {}

    def _meant(self, look: Look) -> str:
        if look.what != "attention":
            return look.what
        return "class" if self.has_class else "received"

    def _swap(self, attention: Any, number: int, paid: set[str]) -> None:
        config = attention.config
        self._configs.append((attention, config))
        attention.config = copy.copy(config)
        attention.config._attn_implementation_internal = _NAME
        attention.config._simignore_tower = self, number, paid, config

    def _on_keys(self, number: int, layer: nn.Module) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            heads = _heads(_attention(layer))
            keys = output.detach()
            if keys.shape[-1] == 3 * args[0].shape[-1]:  # queries, keys and values in one
                keys = keys.chunk(3, -1)[1]
            self._see(number, "keys", keys.unflatten(-1, (heads, -1)))

        return keep

    def _on_features(self, number: int) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            self._see(number, "features", (output[0] if isinstance(output, tuple) else output).detach())

        return keep

    def _see(self, number: int, what: str, x: Tensor) -> None:
        seen = getattr(self._thread, "seen", None)
        if seen is None:
            seen = self._thread.seen = {}
        seen.setdefault((number, what), []).append(x)

    # what was seen

    def shown(self, look: Look, read: Layout) -> Tensor:
        """[B, N, ...] what a look shows of every image token of a prompt, zeros in the padding.

        Raises ValueError if the tower did not run, or ran on other images than the prompt's.
        """
        calls: list[Tensor] = getattr(self._thread, "seen", {}).get((self.looks[look], self._meant(look)), [])
        if not calls:
            raise ValueError(
                "the vision tower did not run in this forward, so there is nothing to look at. Pass pixel_values, not "
                "inputs_embeds, or use a method that does not look into the vision tower."
            )
        whole = self.parts.family.patches is not None
        assert whole
        pictures = [self._patches(x) for call in calls for x in call]
        prompts = len(read.image)
        device = calls[0].device
        shape = pictures[0].shape[1:]
        rows: list[Tensor] = []
        repeats = self._repeats(pictures, read)
        start = 0
        for b in range(0, prompts, repeats):
            own: list[Tensor] = []
            for grid in read.patches.grids[b]:
                picture = pictures[start]
                start += 1
                own.append(_blocks(picture, grid.rows, grid.columns))
            rows += [torch.cat(own) if own else torch.zeros(0, *shape, device=device)] * repeats
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def _repeats(self, pictures: list[Tensor], read: Layout) -> int:
        """How often `generate` repeats each prompt while its images were encoded once."""
        grids = sum(len(own) for own in read.patches.grids)
        if not len(pictures) or grids % len(pictures):
            raise ValueError(
                f"the vision tower saw {len(pictures)} images, and the prompts hold {grids}; pass both to the same call"
            )
        return grids // len(pictures)

    def _patches(self, x: Tensor) -> Tensor:
        """[S, ...] one image's patches, without the class token."""
        return x[1:] if self.has_class else x


def _blocks(x: Tensor, rows: int, columns: int) -> Tensor:
    """[rows * columns, ...] means over equal blocks of a square of patches [S, ...]."""
    side = round(len(x) ** 0.5)
    if rows * columns == len(x):
        return x
    if side * side != len(x) or side % rows or side % columns:
        raise ValueError(f"{len(x)} patches cannot be brought to a grid of {rows} x {columns} image tokens")
    x = x.unflatten(0, (rows, side // rows, columns, side // columns))
    return x.mean(3).mean(1).flatten(0, 1)


def _layers(vision: nn.Module) -> list[nn.Module]:
    """The tower's layers: its longest list of modules that attend."""
    lists = [m for m in vision.modules() if isinstance(m, nn.ModuleList) and len(m) and _has_attention(m[0])]
    if not lists:
        raise UnsupportedModelError(
            f"the vision tower {type(vision).__name__} has no list of layers that attend, so nothing can be seen in it. Use a "
            "method that does not look into the vision tower, such as Simignore or DivPrune."
        )
    return list(max(lists, key=len))


def _has_attention(layer: nn.Module) -> bool:
    return any(hasattr(layer, name) for name in ("self_attn", "attn", "attention"))


def _attention(layer: nn.Module) -> Any:
    return next(getattr(layer, name) for name in ("self_attn", "attn", "attention") if hasattr(layer, name))


def _heads(attention: Any) -> int:
    return int(
        next(getattr(attention, name) for name in ("num_heads", "num_attention_heads") if hasattr(attention, name))
    )


def _key_source(layer: nn.Module, parts: Parts) -> nn.Module:
    attention = _attention(layer)
    for name in ("k_proj", "qkv", "key"):
        if isinstance(found := getattr(attention, name, None), nn.Module):
            return found
    raise UnsupportedModelError(
        f"the keys of {type(attention).__name__} in {parts.family.title} cannot be had; use a method that does not compare keys"
    )


def _used(parts: Parts, depth: int) -> int:
    """The layer whose output the projector reads."""
    layer = getattr(parts.model.config, "vision_feature_layer", -1)
    layer = layer[-1] if isinstance(layer, list | tuple) else layer
    return (layer if layer < 0 else layer - 1) % depth  # hidden_states[0] is what goes into layer 0


def _observed(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    tower, number, paid, config = cast(Any, module.config._simignore_tower)
    scaling = kwargs.get("scaling")
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        for what in paid:
            tower._see(number, what, received(query[:, :, :1] if what == "class" else query, key, scaling))
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    inner = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)
    return inner(module, query, key, value, attention_mask, **kwargs)


def received(query: Tensor, key: Tensor, scaling: float | None) -> Tensor:
    """[B, S] attention that each key receives: after softmax, mean over heads and queries, in float32.

    query: [B, H, q, d], key: [B, H, S, d]; taken in chunks of queries.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    total = key.new_zeros(key.shape[0], key.shape[2], dtype=torch.float32)
    for part in query.split(CHUNK, 2):
        total += ((part.float() @ key.float().transpose(2, 3)) * scale).softmax(-1).sum(2).mean(1)
    return total / query.shape[2]
