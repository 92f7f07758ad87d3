"""Where each family of models keeps its parts. A table, not code: one entry serves every model of that family.

The rest of the package asks for :func:`parts` and never looks at a model's class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

Grid = tuple[int, int]


class UnsupportedModelError(ValueError):
    """The model's structure is not one that simignore can shorten safely."""


@dataclass(frozen=True)
class Family:
    """Where a family keeps what the splice needs; paths are attribute names from the model downwards.

    model_type: ``config.model_type``, the key by which transformers knows the family.
    title: how people call it.
    merger: the module that receives token ids and pixels and puts the image features among the text embeddings.
    vision, projector, decoder: parts of ``merger``. The decoder is what gets the merged embeddings.
    image_token: config attributes that may hold the id of the image placeholder token, first match wins.
    vision_config: the config attribute of the vision tower.
    source: the paper.
    """

    model_type: str
    title: str
    merger: str
    vision: str
    projector: str
    decoder: str
    image_token: tuple[str, ...]
    vision_config: str
    source: str


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            model_type="llava",
            title="LLaVA-1.5 (CLIP or SigLIP; Llama, Vicuna, Phi, Qwen2, Mistral)",
            merger="model",
            vision="vision_tower",
            projector="multi_modal_projector",
            decoder="language_model",
            image_token=("image_token_id", "image_token_index"),
            vision_config="vision_config",
            source="arXiv 2310.03744",
        ),
    )
}


@dataclass(frozen=True)
class Parts:
    """The modules of one concrete model, found through its :class:`Family`.

    model: what the user passed. merger, vision, projector, decoder: see :class:`Family`.
    layers: the decoder's layers, in order. attentions: their attention modules.
    embed: token ids -> the decoder's input embeddings. rotary: the module that makes (cos, sin) from position ids, or None.
    image_token: id of the placeholder token. special: ids that are never text (image, begin, end, padding).
    grid: (rows, columns) of one image's patches, or None where they are not one square grid.
    window: tokens that the decoder's shortest sliding window holds, or None if every layer sees everything.
    """

    family: Family
    model: nn.Module
    merger: nn.Module
    vision: nn.Module
    projector: nn.Module
    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    embed: nn.Embedding
    rotary: nn.Module | None
    image_token: int
    special: frozenset[int]
    grid: Grid | None
    window: int | None

    @property
    def attention_implementation(self) -> str:
        """How the decoder computes attention: "sdpa", "eager", "flash_attention_2" ..."""
        return str(getattr(self.decoder.config, "_attn_implementation", "eager"))


def parts(model: nn.Module) -> Parts:
    """The parts of ``model``. Raises :class:`UnsupportedModelError` naming the model type and what to do."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"a method is called with a model, got {type(model).__name__}; pass the loaded Hugging Face model"
        )
    config = getattr(model, "config", None)
    family = FAMILIES.get(getattr(config, "model_type", ""))
    if family is None:
        raise UnsupportedModelError(_unknown(model))
    if hasattr(model, "get_base_model"):
        raise UnsupportedModelError(
            f"{type(model).__name__} is a wrapper around the model; pass model.get_base_model(), or merge the adapters first"
        )
    if type(model).__name__ == "OptimizedModule" or getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedModelError(
            "this model is compiled as a whole, and compiled code does not notice hooks that come later. Compile its decoder "
            "instead: model.model.language_model.compile()"
        )
    merger = getattr(model, family.merger, model)  # the bare merger itself is welcome too
    found: dict[str, Any] = {
        name: getattr(merger, getattr(family, name), None) for name in ("vision", "projector", "decoder")
    }
    missing = [f"{name} ({getattr(family, name)})" for name, module in found.items() if module is None]
    if missing:
        raise UnsupportedModelError(
            f"{type(model).__name__} says it is a {family.model_type!r} but has no {', '.join(missing)}; "
            f"correct the entry {family.model_type!r} in simignore/families.py"
        )
    layers = _layers(model, found["decoder"])
    return Parts(
        family=family,
        model=model,
        merger=merger,
        **found,
        layers=layers,
        attentions=tuple(cast(nn.Module, layer.self_attn) for layer in layers),
        embed=found["decoder"].get_input_embeddings(),
        rotary=getattr(found["decoder"], "rotary_emb", None),
        image_token=_image_token(family, config),
        special=_special(family, config, getattr(model, "generation_config", None)),
        grid=square_grid(getattr(config, family.vision_config, None), config),
        window=_window(found["decoder"].config),
    )


def image_places(parts: Parts, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor | None:
    """[B, T] True where the prompt holds an image token, or None where neither ids nor embeddings are given.

    With embeddings instead of ids the placeholder is recognised by its own embedding, as the models themselves do.
    """
    if input_ids is not None:
        return input_ids == parts.image_token
    if inputs_embeds is None:
        return None
    token = torch.tensor(parts.image_token, device=inputs_embeds.device)
    places: Tensor = (inputs_embeds == parts.embed(token)).all(-1)  # [B, T]
    return places


def square_grid(vision_config: Any, config: Any) -> Grid | None:
    """(rows, columns) of the patches of one image, or None if the tower's tokens are not exactly one square grid."""
    size, patch = getattr(vision_config, "image_size", None), getattr(vision_config, "patch_size", None)
    if not isinstance(size, int) or not isinstance(patch, int):
        return None
    side = size // patch
    has_cls = "clip" in getattr(vision_config, "model_type", "") and "siglip" not in vision_config.model_type
    if has_cls and getattr(config, "vision_feature_select_strategy", "default") != "default":
        return None  # the class token is handed on as well, so the tokens are no grid
    if not has_cls and getattr(config, "vision_feature_select_strategy", "full") == "default":
        return None  # "default" cuts off the first token, which in such a tower is a patch
    return side, side


def _window(config: Any) -> int | None:
    window = getattr(config, "sliding_window", None)
    if not isinstance(window, int) or not getattr(config, "use_sliding_window", True):
        return None
    kinds = getattr(config, "layer_types", None)
    return window if kinds is None or any("sliding" in str(kind) for kind in kinds) else None


def _layers(model: nn.Module, decoder: nn.Module) -> tuple[nn.Module, ...]:
    layers = tuple(getattr(decoder, "layers", ()))
    strange = sorted({type(layer).__name__ for layer in layers if not _attends_only(layer)})
    if not layers or strange:
        what = f"layers that do not only attend ({', '.join(strange)})" if strange else "no list `layers`"
        raise UnsupportedModelError(
            f"the decoder {type(decoder).__name__} of {type(model).__name__} has {what}; simignore shortens decoders "
            "whose every layer attends over the sequence. Nothing was changed: run the model without a method."
        )
    return layers


def _attends_only(layer: nn.Module) -> bool:
    """Whether a layer mixes tokens by attention alone: recurrent and convolution layers see dropped tokens otherwise."""
    others = ("mamba", "linear_attn", "conv", "short_conv", "ssm", "mixer", "temporal_block", "recurrent")
    return hasattr(layer, "self_attn") and not any(hasattr(layer, name) for name in others)


def _image_token(family: Family, config: Any) -> int:
    for name in family.image_token:
        if isinstance(token := getattr(config, name, None), int):
            return token
    raise UnsupportedModelError(
        f"the config of this {family.model_type!r} model holds no image token id under {' or '.join(family.image_token)}"
    )


def _special(family: Family, config: Any, generation: Any) -> frozenset[int]:
    ids: set[int] = {_image_token(family, config)}
    for holder in (config, getattr(config, "text_config", None), generation):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(holder, name, None)
            ids.update(value if isinstance(value, list) else [value] if isinstance(value, int) else [])
    return frozenset(ids)


def _unknown(model: nn.Module) -> str:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    reason = "it has no `config`" if kind is None else f"model type {kind!r} is not in the table"
    return (
        f"simignore cannot serve {type(model).__name__}: {reason}. Known: {', '.join(sorted(FAMILIES))}. "
        "A family with the same structure is added by one entry in simignore/families.py (see CONTRIBUTING.md)."
    )
