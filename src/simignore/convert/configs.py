"""config.json of an original checkpoint -> what it says, and the transformers config of the converted model."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simignore.convert.layouts import LAYOUTS, Layout

TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "layer_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "qk_layernorm",
    "attention_bias",
    "mlp_bias",
    "attention_dropout",
    "embd_pdrop",
    "resid_pdrop",
    "tie_word_embeddings",
)
VISION_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
)
KNOWN_TOWERS: dict[str, dict[str, Any]] = {  # sizes of the tower that LLaVA-1.5 was trained with, whose config has none
    "clip-vit-large-patch14-336": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
        "projection_dim": 768,
    }
}
REFUSED: tuple[tuple[str, tuple[Any, ...], str], ...] = (  # key, values that can be converted, why no other
    ("mm_projector_type", ("mlp2x_gelu",), "LlavaForConditionalGeneration has a projector of two layers with a GELU"),
    ("mm_use_im_start_end", (None, False), "marks around an image are not written by LLaVA-1.5 or Mipha"),
    ("image_aspect_ratio", (None, "square", "pad"), "tiles are LLaVA-1.6's, which llava-hf has converted"),
    ("mm_patch_merge_type", (None, "flat"), "tiles are LLaVA-1.6's, which llava-hf has converted"),
    ("s2", (None, False), "LlavaForConditionalGeneration looks at one scale of an image"),
    ("mm_vision_select_feature", (None, "patch", "cls_patch"), "the original code knows no other"),
)


@dataclass(frozen=True)
class Original:
    """What the config of an original checkpoint says, in one vocabulary.

    text: the decoder's settings. tower: the vision tower's name or path, as it was trained. sizes: the tower's
    settings, None where the config has none. layer: whose hidden states go to the projector, counted from the end.
    feature: "patch", or "cls_patch" to hand on the class token too. pad: whether images are padded to squares.
    dtype: of the weights, None where the config does not say.
    """

    layout: Layout
    text: dict[str, Any]
    tower: str
    sizes: dict[str, Any] | None
    layer: int
    feature: str
    pad: bool
    dtype: str | None


def read(folder: Path) -> Original:
    """What ``config.json`` in a folder says. Raises OSError or ValueError for what is no convertible original."""
    if folder.is_file():
        raise OSError(f"{folder} is a file; name the folder of the checkpoint that holds it")
    if not folder.is_dir():
        raise OSError(f"no folder at {folder}; download the checkpoint first, nothing is fetched from the network")
    if not (folder / "config.json").is_file():
        raise OSError(f"{folder} holds no config.json; name the folder that was downloaded")
    try:
        config = dict(json.loads((folder / "config.json").read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} is no JSON object ({error}); download it again") from error
    layout = _layout(folder, config)
    sizes, said = _multimodal(config, layout)
    for key, allowed, why in REFUSED:
        if said.get(key) not in allowed:
            raise ValueError(f"{folder} has {key}={said.get(key)!r}, which cannot be converted: {why}")
    if not said["tower"]:
        raise ValueError(f"the config of {folder} names no vision tower; is it of a text model?")
    return Original(
        layout=layout,
        text={key: config[key] for key in TEXT_KEYS if config.get(key) is not None},
        tower=str(said["tower"]),
        sizes=sizes,
        layer=int(said.get("mm_vision_select_layer", -2)),
        feature=said.get("mm_vision_select_feature") or "patch",
        pad=said.get("image_aspect_ratio") == "pad",
        dtype=config.get("torch_dtype") or config.get("dtype"),
    )


def _layout(folder: Path, config: dict[str, Any]) -> Layout:
    kind = config.get("model_type")
    # an original's config that transformers' own class once saved has a text_config too, but still names its tower
    if kind == "llava" and "text_config" in config and "mm_vision_tower" not in config:
        raise ValueError(f"{folder} is in the transformers layout already; use it as it is: --model {folder}")
    for layout in LAYOUTS:
        if kind in layout.model_types:
            return layout
    known = ", ".join(kind for layout in LAYOUTS for kind in layout.model_types)
    raise ValueError(
        f"{folder} is of model type {kind!r}, and there are tables for {known} only; if AutoModelForImageTextToText loads it, "
        "it needs no conversion"
    )


def _multimodal(config: dict[str, Any], layout: Layout) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The tower's settings, if the config holds them, and everything else under the keys that LLaVA uses."""
    said = dict(config)
    if not layout.nested:
        return None, {"mm_projector_type": "linear", **said, "tower": config.get("mm_vision_tower")}
    nested = config.get("vision_config") or {}
    tower, projector = nested.get("vision_tower") or {}, nested.get("mm_projector") or {}
    said |= {key: tower[key] for key in ("mm_vision_select_layer", "mm_vision_select_feature") if key in tower}
    said |= {
        "mm_projector_type": projector.get("mm_projector_type", "linear"),
        "tower": tower.get("vision_model_name_or_path", "clip" if tower else None),  # LLaVA-Phi knows no other
    }
    return {key: tower[key] for key in VISION_KEYS if tower.get(key) is not None}, said


def vision(original: Original, folder: Path | None, names: Collection[str]) -> Any:
    """The transformers config of the vision tower: from its own folder, the original's config, or the table above.

    folder: of --vision-tower. names: of the tensors that hold the tower. Raises ValueError if the tower is neither CLIP
    nor SigLIP, or nothing says how large it is.
    """
    from transformers import AutoConfig

    if folder is not None:
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # JSON, unknown types and wrong values each raise their own
            raise ValueError(f"--vision-tower {folder} cannot be read: {error}") from error
        found = getattr(config, "vision_config", config)
        if found.model_type not in ("clip_vision_model", "siglip_vision_model"):
            raise ValueError(f"--vision-tower {folder} is of type {config.model_type!r}; a CLIP or SigLIP is needed")
        return found
    kind = "siglip" if "siglip" in original.tower.lower() else "clip"
    if kind == "clip" and "clip" not in original.tower.lower():
        raise ValueError(
            f"the vision tower {original.tower!r} is neither a CLIP nor a SigLIP, so it cannot be converted"
        )
    sizes = original.sizes or KNOWN_TOWERS.get(original.tower.rstrip("/").split("/")[-1])
    if sizes is None:
        raise ValueError(
            f"nothing says how large the vision tower {original.tower!r} is; pass a folder with that checkpoint (its "
            "config.json is needed): --vision-tower FOLDER"
        )
    if kind == "siglip":  # a checkpoint may leave out the pooling head, which LLaVA and Mipha do not use
        sizes = {**sizes, "vision_use_head": any("vision_model.head." in name for name in names)}
    return AutoConfig.for_model(f"{kind}_vision_model", **sizes)


def llava(original: Original, tower: Any) -> Any:
    """The config of the converted model, with the vocabulary as it was."""
    from transformers import AutoConfig, LlavaConfig

    clip = tower.model_type == "clip_vision_model"
    default = clip and original.feature == "patch"  # "default" leaves out the first token, CLIP's class token
    patches = (tower.image_size // tower.patch_size) ** 2
    config = LlavaConfig(
        vision_config=tower,
        text_config=AutoConfig.for_model(original.layout.decoder, **original.text),
        image_seq_length=patches if default or not clip else patches + 1,
        vision_feature_layer=original.layer,
        vision_feature_select_strategy="default" if default else "full",
        projector_hidden_act="gelu",
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    return config
