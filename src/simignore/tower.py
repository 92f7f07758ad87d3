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

from simignore.callers import generation_frame
from simignore.clock import Clock
from simignore.families import UnsupportedModelError
from simignore.layout import Layout
from simignore.paid import class_attention, received
from simignore.parts import Parts
from simignore.types import Look

_NAME = "simignore_tower"


class Tower:
    """Records what some looks want to see in the vision tower of a model, between :meth:`install` and :meth:`remove`.

    Each forward of the tower in a thread adds to what :meth:`shown` reads, until :meth:`forget`: images and videos may be
    encoded one after the other, and before the model's own forward begins. What was seen in a ``generate`` and outside of it is
    kept apart: the first forward of the tower on the other side begins anew.
    Raises UnsupportedModelError for a family whose image tokens cannot be traced to patches.
    """

    def __init__(self, parts: Parts, looks: Collection[Look]) -> None:
        self.parts = parts
        family = parts.family
        if family.patches is None or parts.vision is None:
            raise UnsupportedModelError(
                f"its tower's {', '.join(sorted({look.what for look in looks}))} cannot be had in {family.title}: of which of "
                "its patches an image token is made is not known. Use a method that does not look into the vision tower, such "
                "as Simignore or DivPrune."
            )
        self.patching = family.patches
        self.vision: Any = parts.vision
        self.windowed = hasattr(self.vision, "permute_input_for_window_attn")
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
        self._hooks.append(self.vision.register_forward_pre_hook(self._on_begin))
        if self.windowed:
            self._hooks.append(self.vision.register_forward_pre_hook(self._on_windows, with_kwargs=True))
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
        self._thread.seen, self._thread.clock, self._thread.generating = {}, None, None

    def seconds(self) -> Callable[[], float]:
        """Reads how long this thread's forwards of the tower took to compute what was looked at, beside their own work."""
        clock: Clock | None = getattr(self._thread, "clock", None)
        return (lambda: 0.0) if clock is None else clock.seconds

    def _clock(self, device: torch.device) -> Clock:
        clock: Clock | None = getattr(self._thread, "clock", None)
        if clock is None:
            clock = self._thread.clock = Clock(device)
        return clock

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

    def _on_begin(self, *_: Any) -> None:
        """Begin anew where another ``generate`` is at work, or none any more. Its frame is held until the next ``forget``, so
        that no other can be taken for it."""
        frame = generation_frame("generate")
        if frame is not getattr(self._thread, "generating", None):
            self.forget()
            self._thread.generating = frame

    def _on_windows(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._see(-1, "grid_thw", kwargs.get("grid_thw", args[1] if len(args) > 1 else None))

    def _on_keys(self, number: int, layer: nn.Module) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            heads = _heads(_attention(layer))
            keys = output.detach()
            if keys.shape[-1] == 3 * args[0].shape[-1]:  # queries, keys and values in one
                keys = keys.chunk(3, -1)[1]
            self._see(number, "keys", keys.reshape(*keys.shape[:-1], heads, -1))

        return keep

    def _on_features(self, number: int) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            self._see(number, "features", (output[0] if isinstance(output, tuple) else output).detach())

        return keep

    def _see(self, number: int, what: str, x: Tensor) -> None:
        if what in ("keys", "features") and x.dim() == (3 if what == "keys" else 2):
            x = x[None]  # some towers take all pictures in one row, without a batch
        seen = getattr(self._thread, "seen", None)
        if seen is None:
            seen = self._thread.seen = {}
        seen.setdefault((number, what), []).append(x)

    # what was seen

    def _patches(self, x: Tensor) -> Tensor:
        """[S, ...] one picture without its class token."""
        return x if not self.has_class else x[:-1] if self.parts.family.class_last else x[1:]

    def _unwindowed(self, row: Tensor) -> Tensor:
        """[S, ...] patches that the tower put in order of its windows (Qwen2.5-VL), as they were before."""
        from transformers.vision_utils import get_vision_window_index

        v, found, start = self.vision, [], 0
        for grid_thw in self._thread.seen[-1, "grid_thw"]:
            index, _ = get_vision_window_index(
                grid_thw, spatial_merge_size=v.spatial_merge_size, window_size=v.window_size, patch_size=v.patch_size
            )
            size = v.spatial_merge_size**2
            own = row[start : start + len(index) * size].reshape(-1, size, *row.shape[1:])
            found.append(own[index.to(row.device).argsort()].flatten(0, 1))
            start += len(index) * size
        return torch.cat(found)

    def shown(self, look: Look, read: Layout) -> Tensor:
        """[B, N, ...] what a look shows of every image token of a prompt, zeros in the padding.

        Raises ValueError if the tower did not run, or ran on other images than the prompt's.
        """
        calls: list[Tensor] = getattr(self._thread, "seen", {}).get((self.looks[look], self._meant(look)), [])
        if not calls:
            raise ValueError(
                "the vision tower did not run in this forward, so there is nothing to look at: pixel_values are missing, or a "
                "video passed a tower of its own (Video-LLaVA). Use a method that does not look into the vision tower, such as "
                "DivPrune."
            )
        pictures = [self._patches(picture) for call in calls for picture in call]
        if self.windowed:
            pictures = [self._unwindowed(torch.cat(pictures))]
        keys = _keys(read)
        told = self.patching(self.parts.model.config, pictures, [read.patches.grids[b][n] for b, n in keys])
        held = dict(zip(keys, told, strict=True))
        rows = []
        for b in range(len(read.image)):
            first = b - b % read.repeats  # `generate` repeats prompts, while their images are encoded once
            own = [held[first, number] for number in range(len(read.patches.grids[b]))]
            rows.append(torch.cat(own) if own else calls[0].new_zeros(0, *pictures[0].shape[1:]))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _keys(read: Layout) -> list[tuple[int, int]]:
    """(sample, grid) of every grid in the order in which the tower sees them: images first, then the frames of videos."""
    every = [(b, n) for b in range(0, len(read.image), read.repeats) for n in range(len(read.patches.grids[b]))]
    return sorted(every, key=lambda key: read.patches.grids[key[0]][key[1]].kind == "frame")


def _layers(vision: nn.Module) -> list[nn.Module]:
    """The tower's layers: its longest list of modules that attend."""
    lists = [m for m in vision.modules() if isinstance(m, nn.ModuleList) and len(m) and _has_attention(m[0])]
    if not lists:
        raise UnsupportedModelError(
            f"the vision tower {type(vision).__name__} has no list of layers that attend, so nothing can be seen in it. Use a "
            "method that does not look into the vision tower, such as Simignore or DivPrune."
        )
    return max((list(found) for found in lists), key=len)


def _has_attention(layer: nn.Module) -> bool:
    return any(hasattr(layer, name) for name in ("self_attn", "attn", "attention"))


def _attention(layer: nn.Module) -> Any:
    return next(getattr(layer, name) for name in ("self_attn", "attn", "attention") if hasattr(layer, name))


def _heads(attention: Any) -> int:
    holders = ((attention, "num_heads"), (attention, "num_attention_heads"), (attention.config, "num_attention_heads"))
    found: int = next(getattr(holder, name) for holder, name in holders if hasattr(holder, name))
    return found


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
    named = getattr(parts.model.config, "vision_feature_layer", None) or getattr(
        parts.model.config, "vision_feature_layers", None
    )
    if named is None:
        return depth - 1
    several: list[int] = list(named) if isinstance(named, list | tuple) else [named]
    return max((layer if layer < 0 else layer - 1) % depth for layer in several)  # hidden_states[0] goes into layer 0


def _observed(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **kwargs: Any) -> Any:
    tower, number, paid, config = cast(Any, module.config._simignore_tower)
    scaling = kwargs.get("scaling")
    with tower._clock(query.device).span(), torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        for what in paid:
            if what == "class":
                place = query.shape[2] - 1 if tower.parts.family.class_last else 0
                tower._see(number, what, class_attention(query, key, attention_mask, scaling, place))
            else:
                tower._see(number, what, received(query, key, attention_mask, scaling))
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    inner = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager)
    return inner(module, query, key, value, attention_mask, **kwargs)
