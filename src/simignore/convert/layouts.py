"""How the original checkpoints name their tensors, and what becomes of each. Tables, not code.

Read for names only, never copied:

    LLaVA-1.5    haotian-liu/LLaVA: llava/model/llava_arch.py and language_model/llava_llama.py (model.mm_projector,
                 lm_head without bias), multimodal_projector/builder.py (layers 0 and 2), multimodal_encoder/
                 clip_encoder.py (vision_tower.vision_tower). Issue 672: the released checkpoints hold no tower,
                 those that DeepSpeed saved do.
    Mipha        zhuyiche/llava-phi: mipha/model/mipha_arch.py, language_model/mipha_phi.py (lm_head *with* bias),
                 multimodal_encoder/siglip_encoder.py (vision_tower.vision_model). Mipha-3B has the layer names of
                 transformers 4.38's Phi (q_proj, k_proj, v_proj), which jkpjkpjkp/InstructSeg and
                 earth-insights/SegEarth-R2 load it with. Mipha-1.6B has language_model/phi1_5/modeling_phi.py's.
    LLaVA-Phi    zhuyiche/llava-phi: llava_phi/model/language_model/llava_phi.py, made with transformers 4.36 (its
                 pyproject.toml), whose Phi keeps query, key and value in one query_key_value.
    targets      the names of the released llava-hf checkpoints, which every transformers since 4.36 reads:
                 huggingface/transformers, src/transformers/models/llava/convert_llava_weights_to_hf.py.
"""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDING = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"
HEAD_BIAS = "language_model.lm_head.bias"  # no tensor of the target: its rows are folded into HEAD and FINAL_NORM
FINAL_NORM = "language_model.model.final_layernorm"
TOWER_PREFIX = "vision_tower."


@dataclass(frozen=True)
class Rule:
    r"""What becomes of every tensor whose whole name matches ``pattern``; the first rule that matches decides.

    pattern: regular expression. to: the new name (``\1`` as in re.sub); three of them for a fused tensor that is cut
    into query, key and value; none for a tensor that is dropped. why: of a drop, told in the report.
    """

    pattern: str
    to: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Layout:
    """One way of naming tensors.

    title: how people call it. model_types: of config.json. decoder: the text model's type in transformers.
    nested: whether config.json keeps tower and projector in a ``vision_config``, as Mipha does, or in ``mm_`` keys.
    head_bias: whether ``lm_head`` has a bias. rules: what becomes of each tensor.
    """

    title: str
    model_types: tuple[str, ...]
    decoder: str
    nested: bool
    head_bias: bool
    rules: tuple[Rule, ...]


BUFFERS = (
    Rule(r".*rotary_emb\.(inv_freq|cos_cached|sin_cached)", why="rotary table, computed from the config"),
    Rule(r".*\.position_ids", why="position numbers 0, 1, 2 ..., counted by the model"),
)
SHARED = (
    Rule(r"model\.mm_projector\.0\.(weight|bias)", (r"multi_modal_projector.linear_1.\1",)),
    Rule(r"model\.mm_projector\.2\.(weight|bias)", (r"multi_modal_projector.linear_2.\1",)),
    Rule(r"model\.vision_tower\.(?:vision_tower\.)?vision_model\.(.+)", (r"vision_tower.vision_model.\1",)),
    Rule(r"model\.((?:embed_tokens|layers|norm|final_layernorm)\..+)", (r"language_model.model.\1",)),
    Rule(r"lm_head\.(weight|bias)", (r"language_model.lm_head.\1",)),
)
FUSED = Rule(
    r"model\.(layers\.\d+\.self_attn)\.query_key_value\.(weight|bias)",
    tuple(rf"language_model.model.\1.{part}_proj.\2" for part in "qkv"),
)

LAYOUTS = (
    Layout("LLaVA-1.5", ("llava", "llava_llama"), "llama", nested=False, head_bias=False, rules=(*BUFFERS, *SHARED)),
    Layout(
        "Mipha or LLaVA-Phi",
        ("mipha_phi", "llava_phi"),
        "phi",
        nested=True,
        head_bias=True,
        rules=(*BUFFERS, FUSED, *SHARED),
    ),
)

# A CLIP or SigLIP checkpoint of transformers: the whole model, or its vision half with or without the prefix.
TOWER = (
    *BUFFERS,
    Rule(r"(?:text_model|text_projection)\..+", why="the tower's text half, of which LLaVA has no use"),
    Rule(
        r"visual_projection\..+|logit_(?:scale|bias)", why="the tower's contrast with texts, of which LLaVA has no use"
    ),
    Rule(
        r"(?:vision_model\.)?((?:embeddings|encoder|pre_layrnorm|post_layernorm|head)\..+)",
        (r"vision_tower.vision_model.\1",),
    ),
)

# What transformers calls the modules of a model that it has built -> what the checkpoints call them; first match.
RELEASED = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


def released(name: str) -> str:
    """The checkpoints' name of a parameter of a built model; the name itself where the table has none."""
    for built, stored in RELEASED:
        if name.startswith(built):
            return stored + name.removeprefix(built)
    return name
