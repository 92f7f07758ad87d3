"""The modules of one concrete model, found through its family's entry, and checked before anything is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn

from simignore.discover import discover
from simignore.families import FAMILIES, Family, UnsupportedModelError


@dataclass(frozen=True)
class Parts:
    """What the splice works on.

    model: what the user passed. merger, vision, projector: see :class:`~simignore.families.Family`; the last two None where
    they are not known. decoder: the innermost module that holds the layers.
    layers: the decoder's layers, in order. attentions: their attention modules, None for layers that mix tokens otherwise.
    recurrent: whether some layer carries a state from token to token (linear attention, convolution), so that hiding a
    token is not the same as dropping it. key_sources: for each layer the one whose keys it looks at, mostly itself.
    embed: token ids -> the decoder's input embeddings. rotary: the module that makes (cos, sin) from position ids, or None.
    image_token, video_token: ids of the placeholder tokens; video_token is None where there is none of its own.
    special: ids that are never text.
    """

    family: Family
    model: nn.Module
    merger: nn.Module
    vision: nn.Module | None
    projector: nn.Module | None
    decoder: nn.Module
    layers: tuple[nn.Module, ...]
    attentions: tuple[nn.Module | None, ...]
    recurrent: bool
    key_sources: tuple[int, ...]
    embed: nn.Embedding
    rotary: nn.Module | None
    image_token: int
    video_token: int | None
    special: frozenset[int]

    @property
    def attention_implementation(self) -> str:
        """How the decoder computes attention: "sdpa", "eager", "flash_attention_2" ..."""
        return str(getattr(self.decoder.config, "_attn_implementation", "eager"))

    @property
    def last_cut(self) -> int:
        """The last layer before which a cut can be made: layers that share keys must see the same tokens."""
        return (
            min(source for source in self.key_sources if self.key_sources.count(source) > 1)
            if (len(set(self.key_sources)) < len(self.layers))
            else len(self.layers) - 1
        )

    @property
    def placeholders(self) -> tuple[int, ...]:
        """Ids of the image and video placeholder tokens."""
        return (self.image_token,) if self.video_token is None else (self.image_token, self.video_token)


def parts(model: nn.Module) -> Parts:
    """The parts of ``model``. Raises :class:`UnsupportedModelError` naming the model type, the reason and what to do."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"a method is called with a model, got {type(model).__name__}; pass the loaded Hugging Face model"
        )
    config: Any = getattr(model, "config", None)
    if hasattr(model, "get_base_model"):
        raise UnsupportedModelError(
            f"{type(model).__name__} is a wrapper around the model; pass model.get_base_model(), or merge the adapters first"
        )
    if type(model).__name__ == "OptimizedModule" or getattr(model, "_compiled_call_impl", None) is not None:
        raise UnsupportedModelError(
            "this model is compiled as a whole, and compiled code does not notice hooks that come later. Compile its decoder "
            "instead: model.model.language_model.compile()"
        )
    _check_version(transformers.__version__)
    _refuse_other_structures(model, config)
    family = FAMILIES.get(getattr(config, "model_type", "")) or discover(model)
    merger = getattr(model, family.merger, model) if family.merger else model  # the bare merger itself is welcome too
    paths = {name: path for name in ("vision", "projector", "decoder") if (path := getattr(family, name))}
    found = {name: _at(merger, path) for name, path in paths.items()}
    missing = [f"{name} ({paths[name]})" for name, module in found.items() if module is None]
    if missing:
        raise UnsupportedModelError(
            f"{type(model).__name__} says it is a {family.model_type!r} but has no {', '.join(missing)}; "
            f"correct the entry {family.model_type!r} in simignore/families.py"
        )
    decoder = innermost(cast(nn.Module, found["decoder"]))
    layers = _layers(model, decoder)
    return Parts(
        family=family,
        model=model,
        merger=merger,
        vision=found.get("vision"),
        projector=found.get("projector"),
        decoder=decoder,
        layers=layers,
        attentions=tuple(_attention(layer) for layer in layers),
        recurrent=any(_is_recurrent(layer) for layer in layers) or _other_kinds(decoder),
        key_sources=_key_sources(decoder, len(layers)),
        embed=cast(Any, decoder).get_input_embeddings(),
        rotary=getattr(decoder, "rotary_emb", None),
        image_token=_token(family, config, family.image_token, "image"),
        video_token=_token(family, config, family.video_token, None) if family.videos else None,
        special=_special(config, getattr(model, "generation_config", None)),
    )


def image_places(parts: Parts, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor | None:
    """[B, T] the placeholder's id where the prompt holds one, else -1; None where neither ids nor embeddings are given.

    With embeddings instead of ids a placeholder is recognised by its own embedding, as the models themselves do.
    """
    if input_ids is not None:
        held = torch.isin(input_ids, torch.tensor(parts.placeholders, device=input_ids.device))
        return input_ids.masked_fill(~held, -1)
    if inputs_embeds is None:
        return None
    places = torch.full(inputs_embeds.shape[:2], -1, device=inputs_embeds.device)
    for token in parts.placeholders:
        if token < parts.embed.num_embeddings:
            own = parts.embed(torch.tensor(token, device=inputs_embeds.device))
            places = places.masked_fill((inputs_embeds == own).all(-1), token)
    return places  # [B, T]


def innermost(decoder: nn.Module) -> nn.Module:
    """The module that holds the layers: a language model with a head keeps it under ``model``, OPT under ``decoder``."""
    while not hasattr(decoder, "layers"):
        inner = [m for name in ("model", "decoder") if isinstance(m := getattr(decoder, name, None), nn.Module)]
        if not inner:
            return decoder
        decoder = inner[0]
    return decoder


def _at(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        module = getattr(module, name, None)  # type: ignore[assignment]
    return module


OLDEST, NEWEST = (5, 17), (6, 0)  # versions of transformers: from, and below; as in pyproject.toml


def _check_version(version: str) -> None:
    """The splice follows what transformers hands its decoders, which other versions do otherwise."""
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if not OLDEST <= found < NEWEST:
        raise UnsupportedModelError(
            f"transformers {version} is installed, and simignore works with 5.17 or newer and below 6; "
            "pip install 'transformers>=5.17,<6'"
        )


def _refuse_other_structures(model: nn.Module, config: Any) -> None:
    """Models that do not put image tokens into one decoder's sequence."""
    kind = getattr(config, "model_type", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else None
    if any(getattr(c, "is_encoder_decoder", False) for c in (config, text, getattr(config, "text_config", None))):
        raise UnsupportedModelError(
            f"simignore cannot serve {type(model).__name__}: model type {kind!r} reads image tokens in a text encoder and "
            "answers in a decoder that has its own sequence, so dropping tokens from the prompt does not shorten the "
            "decoder. Nothing was changed: run it without a method, or take a decoder-only model."
        )


def _layers(model: nn.Module, decoder: nn.Module) -> tuple[nn.Module, ...]:
    layers = tuple(cast(Iterator[nn.Module], getattr(decoder, "layers", ())))
    crossing = [name for layer in layers for name, _ in layer.named_modules() if _crosses(name)]
    if crossing:
        raise UnsupportedModelError(
            f"simignore cannot serve {type(model).__name__}: its decoder reads images through cross-attention "
            f"({crossing[0]}), so its sequence holds no image tokens to drop. Nothing was changed: run it without a method."
        )
    strange = sorted({type(layer).__name__ for layer in layers if not _mixes_in_a_known_way(layer)})
    if not layers or strange:
        what = f"layers that mix tokens in an unknown way ({', '.join(strange)})" if strange else "no list `layers`"
        raise UnsupportedModelError(
            f"the decoder {type(decoder).__name__} of {type(model).__name__} has {what}; simignore shortens decoders whose "
            "layers have `self_attn` or a known recurrent part. Nothing was changed: run the model without a method."
        )
    return layers


def _crosses(name: str) -> bool:
    last = name.rpartition(".")[2].lower()
    return "cross" in last and ("attn" in last or "attention" in last)


_RECURRENT = ("linear_attn", "conv", "short_conv", "mamba", "mixer", "ssm", "temporal_block", "recurrent")
_CARRIES = re.compile(r"DeltaNet|LinearAttention|Mamba|S?Conv|Recurrent|RGLRU|SSM|Rwkv|Retention", re.IGNORECASE)
_ATTENDS = ("full_attention", "sliding_attention", "chunked_attention")


def _is_recurrent(layer: nn.Module) -> bool:
    """Whether anything in a layer carries a state from token to token, by its name or by its class."""
    return any(hasattr(layer, name) for name in _RECURRENT) or any(
        _CARRIES.search(type(inner).__name__) for inner in layer.modules()
    )


def _attention(layer: nn.Module) -> nn.Module | None:
    """A layer's attention over all tokens; None where it mixes them otherwise."""
    attention = getattr(layer, "self_attn", None)
    return None if attention is None or _CARRIES.search(type(attention).__name__) else attention


def _other_kinds(decoder: nn.Module) -> bool:
    """Whether the config names layers that do more than attend."""
    return any(kind not in _ATTENDS for kind in getattr(decoder.config, "layer_types", None) or ())


def _mixes_in_a_known_way(layer: nn.Module) -> bool:
    return hasattr(layer, "self_attn") or _is_recurrent(layer)


def _key_sources(decoder: nn.Module, layers: int) -> tuple[int, ...]:
    """For each layer the one whose keys it looks at: the last layers may reuse those of the last of their kind before them."""
    config: Any = decoder.config
    own = layers - (getattr(config, "num_kv_shared_layers", 0) or 0)
    if own == layers:
        return tuple(range(layers))
    kinds = list(config.layer_types)
    return (*range(own), *(own - 1 - kinds[:own][::-1].index(kind) for kind in kinds[own:]))


def _token(family: Family, config: Any, names: tuple[str, ...], needed: str | None) -> Any:
    for name in names:
        if isinstance(token := getattr(config, name, None), int):
            return token
    if needed is None:
        return None
    raise UnsupportedModelError(
        f"the config of this {family.model_type!r} model holds no {needed} token id under {' or '.join(names)}. Set "
        f"model.config.{names[0]} to the id of the placeholder that the processor puts in, or correct the entry "
        f"{family.model_type!r} in simignore/families.py"
    )


def _special(config: Any, generation: Any) -> frozenset[int]:
    """Every token id that the configs name: begin, end, padding, placeholders, and what frames an image."""
    ids: set[int] = set()
    for holder in (config, getattr(config, "text_config", None), generation):
        named = {} if holder is None else {**vars(type(holder)), **holder.to_dict()}
        for name in named:
            if name.endswith(("_token_id", "_token_index")):
                value = getattr(holder, name, None)
                ids.update(value if isinstance(value, list) else [value] if isinstance(value, int) else [])
    return frozenset(i for i in ids if isinstance(i, int) and i >= 0)
