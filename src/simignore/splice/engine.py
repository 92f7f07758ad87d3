"""The one surgeon: hooks on an unmodified model that take image tokens out before the decoder, or on their way through it.

A forward passes three doors. The *merger* (token ids and pixels come in) tells where the image tokens are; the *decoder*
gets a shorter sequence, with the mask, positions and cache lengths to match; a *layer* may shorten it further. On the
way out the hidden states go back to their old places, so the caller gets outputs of the length it passed in (zeros, which
carry no meaning, where tokens were dropped). Everything that belongs to one forward lives in a :class:`~.call.Call`,
everything that must outlive it in the cache's ledger; so threads, interleaved generations and chats do not meet.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from simignore.discover import DISCOVERED
from simignore.families import UnsupportedModelError
from simignore.layout import Layout
from simignore.observe import AttentionRow
from simignore.parts import Parts, parts
from simignore.query import Query
from simignore.splice.cache import ShortCache, UnsupportedCallError, ledger_of
from simignore.splice.call import Call
from simignore.splice.reading import brings_pixels, read
from simignore.splice.run import given_tokens
from simignore.tower import Tower
from simignore.types import Cut, Trace

NEEDS = {"visual", "hidden", "text", "question", "words", "attention"}
_engaged: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_lock = threading.Lock()


class Splice:
    """Context manager that applies cuts to a model and restores it on the way out, also after an exception.

    model: an unmodified Hugging Face VLM. cuts: in the order of their sites; two at one site run one after the other.
    query: the token ids that the image tokens are compared with, see :class:`~simignore.query.Query`.
    Raises UnsupportedModelError for a model that no family serves and ValueError for cuts that do not fit it.
    """

    def __init__(self, model: nn.Module, cuts: Sequence[Cut], query: Query) -> None:
        self.parts = parts(model)
        self.query = query
        for cut in cuts:
            if unknown := set(cut.needs) - NEEDS:
                raise ValueError(f"{cut!r} needs {sorted(unknown)}; a view can hold {', '.join(sorted(NEEDS))}")
            if cut.hide == "mask" and self.parts.recurrent:
                raise ValueError(
                    f"{cut} hides tokens, but some layers of this decoder ({self.parts.family.title}) carry a state from "
                    'token to token and see every one that is there. Use hide="drop".'
                )
        self.cuts = _by_layer(cuts, self.parts)
        self.observers = {
            layer: _observer(self.parts, layer, group)
            for layer, group in self.cuts.items()
            if any("attention" in cut.needs for cut in group)
        }
        looks = {look for cut in cuts for look in cut.looks}
        self.tower = Tower(self.parts, looks) if looks else None
        self.trace = Trace()
        self._hooks: list[Any] = []
        self._thread = threading.local()
        self._checked = self.parts.family.source != DISCOVERED

    def __enter__(self) -> Trace:
        decoder = self.parts.decoder
        with _lock:
            if decoder in _engaged:
                raise UnsupportedCallError(
                    "this model is inside another `with method(model):` already, and two would cut each other's "
                    "tokens. Leave the first, or combine them: `with Chain(first, second)(model):`."
                )
            _engaged.add(decoder)
        self.trace = Trace()
        self._forget_tower()  # a thread may have been interrupted in the last use
        try:
            self._install()
        except BaseException:
            self.__exit__()
            raise
        return self.trace

    def __exit__(self, *exception: Any) -> None:
        self._forget()
        self._forget_tower()
        if not self._hooks:
            return  # never entered
        for hook in reversed(self._hooks):
            hook.remove()
        self._hooks.clear()
        _engaged.discard(self.parts.decoder)

    def __deepcopy__(self, memo: Any) -> Splice:
        raise UnsupportedCallError(
            "a model cannot be copied inside `with method(model):`; copy it before or afterwards"
        )

    def _forget(self) -> None:
        """Drop what is known of this thread's forward; after a KeyboardInterrupt no hook has done so."""
        if (call := getattr(self._thread, "call", None)) is not None:
            call.release()
        self._thread.call = self._thread.layout = self._thread.labels = self._thread.ids = None
        for observer in self.observers.values():
            observer.forget()

    def _forget_tower(self) -> None:
        """Drop what the vision tower showed: of one prefill it must be kept together, and of two kept apart."""
        if self.tower is not None:
            self.tower.forget()

    def _install(self) -> None:
        p, hooks = self.parts, self._hooks
        if p.model is not p.merger:
            hooks.append(p.model.register_forward_pre_hook(self._model_in, with_kwargs=True))
            hooks.append(p.model.register_forward_hook(self._model_out, always_call=True))
        hooks.append(p.merger.register_forward_pre_hook(self._merger_in, with_kwargs=True))
        hooks.append(p.merger.register_forward_hook(self._merger_out, always_call=True))
        hooks.append(p.embed.register_forward_pre_hook(self._embed_in))
        hooks.append(p.decoder.register_forward_pre_hook(self._decoder_in, with_kwargs=True))
        hooks.append(p.decoder.register_forward_hook(self._decoder_out, with_kwargs=True, always_call=True))
        for number, layer in enumerate(p.layers):
            hooks.append(layer.register_forward_pre_hook(_LayerDoor(self, number), with_kwargs=True))
        observers: list[Any] = [*self.observers.values(), *([self.tower] if self.tower else [])]
        for observer in observers:
            hooks.append(observer)
            observer.install()

    # the model's own door: the caller's labels pass here

    def _model_in(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._forget()
        self._thread.labels = _named(module, args, kwargs).get("labels")

    def _model_out(self, *_: Any) -> None:
        self._thread.labels = None

    # the merger's door: token ids, pixels, the attention mask and the cache pass here

    def _merger_in(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        named = _named(module, args, kwargs)
        if self.parts.model is self.parts.merger:
            self._forget()
            self._thread.labels = named.get("labels")
        if brings_pixels(named):
            self._forget_tower()
        self._thread.layout = read(self.parts, named)

    def _merger_out(self, *_: Any) -> None:
        """Also after an error, when no decoder has seen what the tower showed."""
        self._thread.layout = None
        self._forget_tower()

    # the door of the input embeddings: BLIP-2 generates past its own forward, and only here the token ids pass

    def _embed_in(self, module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor) and args[0].dim() == 2:
            self._thread.ids = args[0]

    def _read_past_the_merger(self, embeds: Tensor, kwargs: dict[str, Any]) -> Layout | None:
        ids: Tensor | None = getattr(self._thread, "ids", None)
        if ids is None or self.parts.family.merger or ids.shape[1] != embeds.shape[1] or embeds.shape[0] % len(ids):
            return None
        ids = ids.repeat_interleave(embeds.shape[0] // len(ids), 0)  # beams and samples repeat their prompt
        return read(self.parts, {**kwargs, "input_ids": ids, "inputs_embeds": None})

    # the decoder's door: the sequence gets shorter here, and long again on the way out

    def _decoder_in(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._thread.call = None
        if module.training and getattr(module, "gradient_checkpointing", False) and max(self.cuts, default=0) > 0:
            raise UnsupportedCallError(
                "gradient checkpointing runs decoder layers a second time, after the choice inside them is forgotten. Call "
                "model.gradient_checkpointing_disable(), or cut before the decoder."
            )
        kwargs = _named(module, args, kwargs)
        cache, embeds = kwargs.get("past_key_values"), kwargs.get("inputs_embeds")
        here: Layout | None = getattr(self._thread, "layout", None)
        if here is None and embeds is not None:
            here = self._read_past_the_merger(embeds, kwargs)
        if here is None and (ledger_of(cache) is None or given_tokens(kwargs) is None):
            return None  # the decoder is used by itself, without the model around it: not ours
        if here is not None and embeds is None:
            if here.image.shape[1]:
                raise UnsupportedCallError(
                    f"{type(module).__name__} got token ids, not embeddings with the image in them, so nothing can be cut. Run "
                    "this model without a method."
                )
            return None
        here = here or Layout.without_image(*given_tokens(kwargs).shape[:2])
        if embeds is not None and len(embeds) > len(here.image) and len(embeds) % len(here.image) == 0:
            here = here.repeated(len(embeds) // len(here.image))  # a hook in front of this one copied the prompts
        self._check_entry(here, embeds)
        call = Call(
            self.parts,
            self.cuts,
            self.observers,
            self.tower,
            self.query,
            here,
            getattr(self._thread, "labels", None),
            kwargs,
        )
        self._thread.call = call
        if isinstance(cache, ShortCache):
            cache.inside = True
        return (), call.enter()

    def _check_entry(self, read: Layout, embeds: Tensor | None) -> None:
        """For a family that was discovered: the features must have entered where the placeholders are, and nowhere else."""
        if self._checked or embeds is None or read.ids is None:
            return
        if not read.image.shape[1]:
            return
        ids = read.ids.to(embeds.device)
        text = ids.masked_fill(read.placeholders.to(ids.device), 0).clamp(max=self.parts.embed.num_embeddings - 1)
        same = (self.parts.embed(text).to(embeds) == embeds).all(-1).cpu()  # [B, T]
        known = ~read.placeholders & read.attended
        if not bool(same[known].all()) or bool(same[read.placeholders].any()):
            raise UnsupportedModelError(
                f"model type {self.parts.family.model_type!r} is not in the table, and its image features do not enter where "
                f"its image tokens (id {self.parts.image_token}) are, so nothing can be cut safely. Add an entry in "
                "simignore/families.py (see CONTRIBUTING.md)."
            )
        self._checked = True

    def _decoder_out(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        call: Call | None = getattr(self._thread, "call", None)
        self._forget()
        self._forget_tower()
        return None if call is None or output is None else call.leave(output, self.trace, _lock)

    def layer_in(self, number: int, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """The door of decoder layer ``number``; called by its hook."""
        call: Call | None = getattr(self._thread, "call", None)
        return None if call is None else call.layer(number, args, kwargs)


class _LayerDoor:
    """A layer's pre-hook that knows the layer's number."""

    def __init__(self, splice: Splice, number: int) -> None:
        self.splice, self.number = splice, number

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        return self.splice.layer_in(self.number, args, kwargs)


def _observer(p: Parts, layer: int, cuts: Sequence[Cut]) -> AttentionRow:
    attention = p.attentions[layer - 1]
    if attention is None:
        there = [number + 1 for number, module in enumerate(p.attentions[: p.last_cut]) if module is not None]
        raise ValueError(
            f"{cuts[0]} reads the attention of layer {layer - 1}, and that layer of this decoder has none (it is linear "
            f"attention or a convolution). It can cut before layer {', '.join(map(str, there))}."
        )
    return AttentionRow(attention)


def _by_layer(cuts: Sequence[Cut], p: Parts) -> dict[int, list[Cut]]:
    """Cuts by the decoder layer before which they are made, 0 = before the decoder; checks order and range."""
    found: dict[int, list[Cut]] = {}
    last, layers = 0, len(p.layers)
    for cut in cuts:
        layer = 0 if cut.site == "projector" else cut.site[1]
        layer = max(1, round(layer * layers)) if isinstance(layer, float) else layer  # a share of the depth
        if not 0 <= layer < layers or (layer == 0 and cut.site != "projector"):
            raise ValueError(
                f"{cut!r} cuts before decoder layer {layer}; this decoder has layers 1 to {layers - 1} to cut at"
            )
        if layer > p.last_cut:
            raise ValueError(
                f"{cut!r} cuts before decoder layer {layer}, but this decoder's last layers look at the keys of earlier ones, "
                f"so they must hold the same tokens; cut before layer {p.last_cut} at the latest"
            )
        if layer < last:
            raise ValueError(
                f"{cut!r} cuts before layer {layer} but follows a cut before layer {last}; put earlier cuts first"
            )
        last = layer
        found.setdefault(layer, []).append(cut)
    return found


def _named(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a forward by name, however they were passed."""
    if not args:
        return dict(kwargs)
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}


__all__ = ["Splice", "UnsupportedCallError"]
