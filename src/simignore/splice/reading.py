"""What a forward was called with, read and checked before anything is cut: where its images are, and whether this way of
calling the model can be shortened."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from simignore.callers import generation_frame
from simignore.layout import Layout, layout
from simignore.parts import Parts, image_places
from simignore.splice.cache import UnsupportedCallError, check


def read(parts: Parts, named: Mapping[str, Any]) -> Layout | None:
    """The layout of a forward with these arguments, or None where neither ids nor embeddings were passed.

    Raises UnsupportedCallError for a call that cannot be shortened and GeometryError for images that do not fit the prompt.
    """
    ids, embeds, mask = named.get("input_ids"), named.get("inputs_embeds"), named.get("attention_mask")
    cache = named.get("past_key_values")
    if cache is None or cache.get_seq_length() == 0:
        _check_chunks(parts)
    new = ids if ids is not None else embeds
    if new is not None and new.shape[1] == 1 and cache is not None and cache.get_seq_length() > 0:
        return Layout.without_image(new.shape[0], 1)  # a decoding step; reading its token would wait for the device
    if (places := image_places(parts, ids, embeds)) is None:
        return None  # the model itself will complain
    if isinstance(mask, dict):
        raise UnsupportedCallError("attention_mask is a dict of masks; pass the tokenizer's 2-D attention_mask")
    _check_mask(mask, places.shape[1], cache)
    given, repeats = _as_asked(named, places.shape[0])
    found = layout(places, ids, mask, parts.special, _geometries(parts, given), repeats)
    _check_whole_images(found)
    has_image = found.image.shape[1] > 0
    check(cache, has_image)
    if has_image:
        _check_generation()
    _check_videos(found, given)
    if ids is None and not has_image and found.length > 1:
        raise UnsupportedCallError(
            "inputs_embeds came without input_ids, so where the image tokens are is unknown. Pass input_ids and "
            "pixel_values, or run text-only embeddings outside the `with`."
        )
    return found


def brings_pixels(named: Mapping[str, Any]) -> bool:
    """Whether a forward runs the vision tower itself, and does not get what it made of the images before."""
    if named.get("mm_encoder_outputs"):
        return False
    return any(name.startswith("pixel_values") and value is not None for name, value in named.items())


def _as_asked(named: Mapping[str, Any], rows: int) -> tuple[Mapping[str, Any], int]:
    """The forward's arguments with those that `generate` kept to itself, and how often it repeats each prompt.

    `generate` may encode images before the first forward and pass on their features alone; image sizes and the like are
    known to its own frame only. It repeats prompts for beams and samples after that.
    """
    if not named.get("mm_encoder_outputs") or (frame := generation_frame("generate")) is None:
        return named, 1
    asked, size = frame.f_locals.get("kwargs") or {}, frame.f_locals.get("batch_size")
    repeats = rows // size if isinstance(size, int) and size and rows % size == 0 else 1
    return {**asked, **{name: value for name, value in named.items() if value is not None}}, repeats


def _geometries(parts: Parts, named: Mapping[str, Any]) -> dict[int, Any]:
    """For each placeholder what tells its images apart."""
    config: Any = parts.model.config
    laid = {parts.image_token: parts.family.images}
    if parts.video_token is not None and parts.family.videos is not None:
        laid[parts.video_token] = parts.family.videos
    return {token: functools.partial(how, config, named) for token, how in laid.items()}


def _check_generation() -> None:
    if generation_frame("_assisted_decoding") is not None:
        raise UnsupportedCallError(
            "assisted decoding (assistant_model, prompt_lookup_num_tokens) guesses the answer before the image tokens are "
            "chosen, so the guess would take part in the choice. Leave those arguments out."
        )


def _check_chunks(parts: Parts) -> None:
    if (frame := generation_frame("_prefill")) is None:
        return
    prefill = frame.f_locals
    size = getattr(prefill.get("generation_config"), "prefill_chunk_size", None)
    if size is None:
        return
    if any(bool((prefill["input_ids"] == token).any()) for token in parts.placeholders):
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


def _check_videos(found: Layout, named: Mapping[str, Any]) -> None:
    """Video features that come in must have tokens that are known; a family without an entry for videos has none."""
    features = named.get("mm_encoder_outputs") or {}
    came = named.get("pixel_values_videos") is not None or features.get("video") is not None
    if came and not any(grid.kind == "frame" for grids in found.patches.grids for grid in grids):
        raise UnsupportedCallError(
            "a video came in, and of this family only image tokens are known, so nothing of it would be dropped. Pass its "
            "frames as images, or run it without a method."
        )


def _check_whole_images(found: Layout) -> None:
    if bool((found.placeholders & ~found.attended).any()):
        raise UnsupportedCallError(
            "some image tokens are masked out by attention_mask, so their images are torn. Pass whole images, none of their "
            "tokens masked out."
        )


__all__ = ["brings_pixels", "read"]
