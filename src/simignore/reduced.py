"""A model's config made small, so that its structure can be tried with random weights on any machine.

Heads keep their width (rotary sections and the like hang on it), layers keep their pattern; there are fewer of both.
"""

from __future__ import annotations

import copy
from typing import Any

HEADS, LAYERS, VISION_LAYERS, INTERMEDIATE, EXPERTS = 4, 4, 2, 64, 4
_HIDDEN = ("hidden_size", "embed_dim", "d_model", "n_embd", "text_embed_dim", "word_embed_proj_dim")
_HEADS = ("num_attention_heads", "num_heads", "n_head")
_KV = ("num_key_value_heads", "num_global_key_value_heads")
_LAYERS = ("num_hidden_layers", "num_layers", "depth", "n_layer")
_WIDE = (
    "intermediate_size",
    "ffn_dim",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "intermediate_size_mlp",
)
_EXPERTS = ("num_experts", "num_local_experts", "moe_num_experts", "n_routed_experts")
_CHOSEN = ("num_experts_per_tok", "moe_topk", "top_k_experts")


def reduced(config: Any, narrow: bool = True) -> Any:
    """A copy of ``config`` with few layers, and with ``narrow`` few heads and small matrices."""
    config = copy.deepcopy(config)
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    _fewer_layers(text, _layers_for(text))
    if vision is not None:
        _fewer_layers(vision, _vision_layers(config))
    if narrow:
        for part in (text, vision, getattr(config, "qformer_config", None), getattr(config, "perceiver_config", None)):
            if part is not None:
                _narrow(part)
        _fit(config, text, vision)
    return config


def _layers_for(text: Any) -> int:
    """Enough layers for every kind twice, one whole period of the pattern, and the keys that the last layers share."""
    kinds = list(getattr(text, "layer_types", None) or [])
    if not kinds:
        return LAYERS
    period = max(kinds.index(kind) for kind in set(kinds)) + 1
    return min(len(kinds), max(LAYERS, 2 * period))


def _vision_layers(config: Any) -> int:
    """Enough for the layer that the features are read from, which may be counted from the end."""
    layer = getattr(config, "vision_feature_layer", None)
    wanted = [abs(n) + 1 for n in (layer if isinstance(layer, list | tuple) else [layer]) if isinstance(n, int)]
    return max([VISION_LAYERS, *wanted])


def _fewer_layers(part: Any, count: int) -> None:
    for name in _LAYERS:
        if isinstance(vars(part).get(name), int):
            count = min(count, getattr(part, name))
            setattr(part, name, count)
    for name in ("layer_types", "mlp_layer_types", "no_rope_layers"):
        if isinstance(vars(part).get(name), list):
            setattr(part, name, getattr(part, name)[:count])
    for name in ("deepstack_visual_indexes", "fullatt_block_indexes", "moe_layers"):
        if isinstance(vars(part).get(name), list):
            own = getattr(part, name)
            setattr(part, name, [n for n in own if n < count] or list(range(min(count, len(own)))))
    if getattr(part, "num_kv_shared_layers", 0):
        part.num_kv_shared_layers = min(part.num_kv_shared_layers, count // 3)
    for name in ("max_window_layers", "first_k_dense_replace"):
        if isinstance(vars(part).get(name), int):
            setattr(part, name, min(getattr(part, name), count))


def _narrow(part: Any) -> None:
    hidden = next((name for name in _HIDDEN if isinstance(vars(part).get(name), int)), None)
    heads = next((name for name in _HEADS if isinstance(vars(part).get(name), int)), None)
    if hidden is None or heads is None:
        return
    before, count = getattr(part, hidden), getattr(part, heads)
    own = vars(part).get("head_dim")  # Gemma 4 refuses to name one for all layers
    width = own if isinstance(own, int) and own else before // count
    few = min(HEADS, count)
    setattr(part, heads, few)
    for name in _KV:
        if isinstance(value := vars(part).get(name), int):
            setattr(part, name, max(1, few * value // count))
    for name in _HIDDEN:
        if vars(part).get(name) == before:
            setattr(part, name, few * width)
    for name in _WIDE:
        if isinstance(vars(part).get(name), int):
            setattr(part, name, INTERMEDIATE)
    for name in _EXPERTS:
        if isinstance(value := vars(part).get(name), int):
            setattr(part, name, min(EXPERTS, value))
    for name in _CHOSEN:
        if isinstance(value := vars(part).get(name), int):
            setattr(part, name, min(2, value))


def _fit(config: Any, text: Any, vision: Any) -> None:
    """Widths that one part promises to another."""
    if vision is not None and isinstance(vars(vision).get("out_hidden_size"), int):
        vision.out_hidden_size = text.hidden_size
    qformer = getattr(config, "qformer_config", None)
    if qformer is not None and vision is not None:
        qformer.encoder_hidden_size = vision.hidden_size
    for holder in (config, *([] if vision is None else [vision])):
        if isinstance(vars(holder).get("projection_dim"), int) and config.model_type == "paligemma":
            holder.projection_dim = text.hidden_size
    if config.model_type == "paligemma":
        config.hidden_size = text.hidden_size
