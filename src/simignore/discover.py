"""An entry for a family that is not in the table, read off the model's structure; refused where it is not plain.

What is found here is only a proposal: the engine checks at the first prefill that the features entered exactly where the
placeholder tokens are, and raises otherwise.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from simignore import geometry
from simignore.families import FAMILIES, Family, UnsupportedModelError

DECODERS = ("language_model", "text_model", "llm")
VISION = ("vision_tower", "visual", "vision_model", "vision_encoder", "image_tower", "vision_embed_tokens")
PROJECTORS = (
    "multi_modal_projector",
    "connector",
    "projector",
    "aligner",
    "visual.merger",
    "embed_vision",
    "merger",
    "mm_projector",
)
DISCOVERED = "discovered"  # what stands in `Family.source`
UNKNOWN_TOKENS = ("image_newline", "view_separator", "view_seperator", "image_separator")  # share the placeholder's id


def discover(model: nn.Module) -> Family:
    """A :class:`Family` for this model. Raises UnsupportedModelError naming what is missing or unsure."""
    config: Any = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind is None:
        raise _cannot(model, "it has no `config`, so its family is unknown")
    merger, decoder = _merger(model)
    if decoder is None:
        raise _cannot(
            model, f"model type {kind!r} is not in the table, and it holds no language model that gets the image"
        )
    inner = getattr(model, merger) if merger else model
    tokens = [name for name in ("image_token_id", "image_token_index") if isinstance(getattr(config, name, None), int)]
    if not tokens:
        raise _cannot(model, f"model type {kind!r} is not in the table, and its config names no image token")
    accepted = inspect.signature(inner.forward).parameters
    if not {"input_ids", "pixel_values"} <= set(accepted):
        raise _cannot(
            model, f"model type {kind!r} is not in the table, and it does not take input_ids with pixel_values"
        )
    if unsure := [name for name in UNKNOWN_TOKENS if hasattr(inner, name)]:
        raise _cannot(
            model,
            f"model type {kind!r} is not in the table, and among its image tokens are some that are no patches "
            f"({unsure[0]}), which only an entry can tell apart",
        )
    thw = "image_grid_thw" in accepted and hasattr(getattr(config, "vision_config", None), "spatial_merge_size")
    return Family(
        model_type=kind,
        title=f"{kind} (discovered)",
        source=DISCOVERED,
        images=geometry.merged if thw else geometry.runs_alone,
        merger=merger,
        vision=_first(inner, VISION) or "",
        projector=_first(inner, PROJECTORS) or "",
        decoder=decoder,
    )


def _merger(model: nn.Module) -> tuple[str, str | None]:
    """Paths of the module that merges image and text, and of the decoder in it."""
    for path in ("model", ""):
        inner = getattr(model, path, None) if path else model
        if inner is not None and (decoder := _first(inner, DECODERS)):
            return path, decoder
    return "", None


def _first(module: nn.Module, paths: tuple[str, ...]) -> str | None:
    for path in paths:
        found: Any = module
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.Module):
            return path
    return None


def _cannot(model: nn.Module, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"simignore cannot serve {type(model).__name__}: {reason}. Known: {', '.join(sorted(FAMILIES))}. "
        "A family with the same structure is added by one entry in simignore/families.py (see CONTRIBUTING.md)."
    )
