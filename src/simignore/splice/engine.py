"""The one surgeon: hooks on an unmodified model that take image tokens out before the decoder, or on their way through it.

A forward passes three doors. The *merger* (token ids and pixels come in) tells where the image tokens are; the *decoder*
gets a shorter sequence, with the mask, positions and cache lengths to match; a *layer* may shorten it further. On the
way out the hidden states go back to their old places, so the caller gets outputs of the length it passed in (zeros, which
carry no meaning, where tokens were dropped). Everything that belongs to one forward lives in a :class:`~.call.Call`,
everything that must outlive it in the cache's ledger; so threads, interleaved generations and chats do not meet.
"""

from __future__ import annotations

import inspect
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from simignore.families import image_places, parts
from simignore.layout import Layout, layout
from simignore.observe import AttentionRow
from simignore.query import Query
from simignore.splice.cache import ShortCache, UnsupportedCallError, check, ledger_of
from simignore.splice.call import Call
from simignore.types import Cut, Trace

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
            if unknown := set(cut.needs) - {"visual", "text", "attention"}:
                raise ValueError(f"{cut!r} needs {sorted(unknown)}; a view can hold 'visual', 'text' and 'attention'")
        self.cuts = _by_layer(cuts, len(self.parts.layers))
        self.observers = {
            layer: AttentionRow(self.parts.attentions[layer - 1])
            for layer, group in self.cuts.items()
            if any("attention" in cut.needs for cut in group)
        }
        self.trace = Trace()
        self._hooks: list[Any] = []
        self._thread = threading.local()

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
        try:
            self._install()
        except BaseException:
            self.__exit__()
            raise
        return self.trace

    def __exit__(self, *exception: Any) -> None:
        self._forget()
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
        self._thread.call = self._thread.layout = self._thread.labels = None
        for observer in self.observers.values():
            observer.forget()

    def _install(self) -> None:
        p, hooks = self.parts, self._hooks
        if p.model is not p.merger:
            hooks.append(p.model.register_forward_pre_hook(self._model_in, with_kwargs=True))
            hooks.append(p.model.register_forward_hook(self._model_out, always_call=True))
        hooks.append(p.merger.register_forward_pre_hook(self._merger_in, with_kwargs=True))
        hooks.append(p.merger.register_forward_hook(self._merger_out, always_call=True))
        hooks.append(p.decoder.register_forward_pre_hook(self._decoder_in, with_kwargs=True))
        hooks.append(p.decoder.register_forward_hook(self._decoder_out, with_kwargs=True, always_call=True))
        for number, layer in enumerate(p.layers):
            hooks.append(layer.register_forward_pre_hook(_LayerDoor(self, number), with_kwargs=True))
        for observer in self.observers.values():
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
        self._thread.layout = self._read(named)

    def _merger_out(self, *_: Any) -> None:
        self._thread.layout = None

    def _read(self, named: dict[str, Any]) -> Layout | None:
        ids, embeds, mask = named.get("input_ids"), named.get("inputs_embeds"), named.get("attention_mask")
        cache = named.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            _check_chunks(self.parts.image_token)
        new = ids if ids is not None else embeds
        if new is not None and new.shape[1] == 1 and cache is not None and cache.get_seq_length() > 0:
            return Layout.without_image(new.shape[0], 1)  # a decoding step; reading its token would wait for the device
        if (places := image_places(self.parts, ids, embeds)) is None:
            return None  # the model itself will complain
        if isinstance(mask, dict):
            raise UnsupportedCallError("attention_mask is a dict of masks; pass the tokenizer's 2-D attention_mask")
        _check_mask(mask, places.shape[1], cache)
        read = layout(places, ids, mask, self.parts.special)
        has_image = read.image.shape[1] > 0
        check(cache, has_image)
        if has_image:
            _check_generation()
        if ids is None and not has_image and read.length > 1 and ledger_of(cache) is None:
            raise UnsupportedCallError(
                "inputs_embeds came without input_ids, so where the image tokens are is unknown. Pass input_ids and "
                "pixel_values, or run text-only embeddings outside the `with`."
            )
        _check_whole_images(read, self.parts.grid)
        return read

    # the decoder's door: the sequence gets shorter here, and long again on the way out

    def _decoder_in(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._thread.call = None
        if module.training and getattr(module, "gradient_checkpointing", False) and max(self.cuts, default=0) > 0:
            raise UnsupportedCallError(
                "gradient checkpointing runs decoder layers a second time, after the choice inside them is forgotten. Call "
                "model.gradient_checkpointing_disable(), or cut before the decoder."
            )
        cache, embeds = kwargs.get("past_key_values"), kwargs.get("inputs_embeds")
        read: Layout | None = getattr(self._thread, "layout", None)
        if embeds is None or (read is None and ledger_of(cache) is None):
            return None  # the decoder is used by itself, without the model around it: not ours
        read = read or Layout.without_image(*embeds.shape[:2])
        call = Call(
            self.parts, self.cuts, self.observers, self.query, read, getattr(self._thread, "labels", None), kwargs
        )
        self._thread.call = call
        if isinstance(cache, ShortCache):
            cache.inside = True
        return args, call.enter()

    def _decoder_out(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        call: Call | None = getattr(self._thread, "call", None)
        self._forget()
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


def _by_layer(cuts: Sequence[Cut], layers: int) -> dict[int, list[Cut]]:
    """Cuts by the decoder layer before which they are made, 0 = before the decoder; checks order and range."""
    found: dict[int, list[Cut]] = {}
    last = 0
    for cut in cuts:
        layer = 0 if cut.site == "projector" else cut.site[1]
        if not 0 <= layer < layers or (layer == 0 and cut.site != "projector"):
            raise ValueError(
                f"{cut!r} cuts before decoder layer {layer}; this decoder has layers 1 to {layers - 1} to cut at"
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


def _caller(name: str) -> dict[str, Any] | None:
    """The local variables of the caller called ``name``, however far up; None if there is none.

    Some modes of generate leave no other sign in what they pass to the model than their place on the stack.
    """
    frame = sys._getframe().f_back
    while frame is not None:
        if frame.f_code.co_name == name:
            return frame.f_locals
        frame = frame.f_back
    return None


def _check_generation() -> None:
    if _caller("_assisted_decoding") is not None:
        raise UnsupportedCallError(
            "assisted decoding (assistant_model, prompt_lookup_num_tokens) guesses the answer before the image tokens are "
            "chosen, so the guess would take part in the choice. Leave those arguments out."
        )


def _check_chunks(image_token: int) -> None:
    prefill = _caller("_prefill")
    size = None if prefill is None else getattr(prefill.get("generation_config"), "prefill_chunk_size", None)
    if prefill is not None and size is not None and bool((prefill["input_ids"] == image_token).any()):
        raise UnsupportedCallError(
            f"prefill_chunk_size={size} shows the method the prompt piece by piece, and it chooses among whole images by the "
            "whole text. Leave it out: the shortened prompt needs less memory anyway."
        )


def _check_mask(mask: Tensor | None, length: int, cache: Any) -> None:
    past = cache.get_seq_length() if cache is not None else 0
    if mask is not None and mask.shape[-1] != past + length:
        raise UnsupportedCallError(
            f"attention_mask has {mask.shape[-1]} columns, but {length} tokens were passed"
            + (f" after {past} in the cache" if past else "")
            + "; it needs one column for each."
        )


def _check_whole_images(read: Layout, grid: tuple[int, int] | None) -> None:
    size = grid[0] * grid[1] if grid else 1
    torn = [count for count in read.counts if count % size]
    if torn:
        raise UnsupportedCallError(
            f"a prompt holds {torn[0]} image tokens, which is no multiple of the {size} that one image has. Pass whole "
            "images, none of their tokens masked out."
        )


__all__ = ["Splice", "UnsupportedCallError"]
