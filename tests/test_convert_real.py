"""The real checkpoints, by names and shapes alone: none of their tensors is missing or left over.

LLaVA-1.5-7B's config.json is the published one. Mipha-3B's is put together from what its code writes and the published sizes
of microsoft/phi-2 and google/siglip-so400m-patch14-384. The names are those that the code which saved them gives.
"""

import json

import pytest

from simignore.convert import configs, plan
from simignore.convert.layouts import HEAD_BIAS
from simignore.convert.write import parameters

LLAVA_7B = {
    "architectures": ["LlavaLlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "image_aspect_ratio": "pad",
    "intermediate_size": 11008,
    "max_length": 4096,
    "max_position_embeddings": 4096,
    "mm_hidden_size": 1024,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "model_type": "llava",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}
MIPHA_3B = {
    "architectures": ["MiphaPhiForCausalLM"],
    "hidden_act": "gelu_new",
    "hidden_size": 2560,
    "image_aspect_ratio": "pad",
    "intermediate_size": 10240,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "mipha_phi",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": None,
    "partial_rotary_factor": 0.4,
    "torch_dtype": "bfloat16",
    "vision_config": {
        "mm_projector": {"hidden_size": 2560, "mm_hidden_size": 1152, "mm_projector_type": "mlp2x_gelu"},
        "vision_tower": {
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "image_size": 384,
            "intermediate_size": 4304,
            "layer_norm_eps": 1e-06,
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "vision_model_name_or_path": "google/siglip-so400m-patch14-384",
        },
    },
    "vocab_size": 51200,
}


def linear(name, out, width, bias=True):
    return {f"{name}.weight": (out, width)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def transformer(prefix, layers, width, inner, patches, clip):
    """The names of a CLIP or SigLIP tower."""
    found = {f"{prefix}.embeddings.patch_embedding.weight": (width, 3, 14, 14)}
    found |= {f"{prefix}.embeddings.position_embedding.weight": (patches + clip, width)}
    if clip:
        found |= {
            f"{prefix}.embeddings.class_embedding": (width,),
            f"{prefix}.embeddings.position_ids": (1, patches + 1),
        }
        found |= norm(f"{prefix}.pre_layrnorm", width)
    else:
        found |= {f"{prefix}.embeddings.patch_embedding.bias": (width,), f"{prefix}.head.probe": (1, 1, width)}
        found |= {
            f"{prefix}.head.attention.in_proj_{kind}": shape
            for kind, shape in (("weight", (3 * width, width)), ("bias", (3 * width,)))
        }
        found |= linear(f"{prefix}.head.attention.out_proj", width, width) | norm(f"{prefix}.head.layernorm", width)
        found |= linear(f"{prefix}.head.mlp.fc1", inner, width) | linear(f"{prefix}.head.mlp.fc2", width, inner)
    for own in (f"{prefix}.encoder.layers.{layer}" for layer in range(layers)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= linear(f"{own}.self_attn.{part}", width, width)
        found |= norm(f"{own}.layer_norm1", width) | norm(f"{own}.layer_norm2", width)
        found |= linear(f"{own}.mlp.fc1", inner, width) | linear(f"{own}.mlp.fc2", width, inner)
    return found | norm(f"{prefix}.post_layernorm", width)


def llava_7b():
    found = {"model.embed_tokens.weight": (32000, 4096), "model.norm.weight": (4096,), "lm_head.weight": (32000, 4096)}
    for own in (f"model.layers.{layer}" for layer in range(32)):
        for part in "qkvo":
            found |= linear(f"{own}.self_attn.{part}_proj", 4096, 4096, bias=False)
        found |= linear(f"{own}.mlp.gate_proj", 11008, 4096, bias=False)
        found |= linear(f"{own}.mlp.up_proj", 11008, 4096, bias=False)
        found |= linear(f"{own}.mlp.down_proj", 4096, 11008, bias=False)
        found |= {f"{own}.{part}.weight": (4096,) for part in ("input_layernorm", "post_attention_layernorm")}
        found |= {f"{own}.self_attn.rotary_emb.inv_freq": (64,)}
    found |= linear("model.mm_projector.0", 4096, 1024) | linear("model.mm_projector.2", 4096, 4096)
    return found | transformer("model.vision_tower.vision_tower.vision_model", 24, 1024, 4096, 576, clip=True)


def mipha_3b(fused):
    found = {"model.embed_tokens.weight": (51200, 2560), **linear("lm_head", 51200, 2560)}
    for own in (f"model.layers.{layer}" for layer in range(32)):
        if fused:
            found |= linear(f"{own}.self_attn.query_key_value", 3 * 2560, 2560)
        else:
            for part in "qkv":
                found |= linear(f"{own}.self_attn.{part}_proj", 2560, 2560)
        found |= linear(f"{own}.self_attn.dense", 2560, 2560) | norm(f"{own}.input_layernorm", 2560)
        found |= linear(f"{own}.mlp.fc1", 10240, 2560) | linear(f"{own}.mlp.fc2", 2560, 10240)
    found |= norm("model.final_layernorm", 2560)
    found |= linear("model.mm_projector.0", 2560, 1152) | linear("model.mm_projector.2", 2560, 2560)
    return found | transformer("model.vision_tower.vision_model", 27, 1152, 4304, 729, clip=False)


@pytest.mark.parametrize(
    ("config", "found", "tokens", "dropped"),
    [(LLAVA_7B, llava_7b(), 576, 33), (MIPHA_3B, mipha_3b(False), 729, 0), (MIPHA_3B, mipha_3b(True), 729, 0)],
    ids=["LLaVA-1.5-7B", "Mipha-3B", "Mipha with fused attention"],
)
def test_the_real_ones_by_names_and_shapes(tmp_path, config, found, tokens, dropped):
    (tmp_path / "config.json").write_text(json.dumps(config))
    original = configs.read(tmp_path)
    made = configs.llava(original, configs.vision(original, None, found))
    wanted = parameters(made, found)
    if original.layout.head_bias:
        wanted[HEAD_BIAS] = (51200,)
    planned = plan(found, original.layout.rules, wanted)
    assert planned.problems == () and len(planned.drops) == dropped
    assert sorted(name for names in planned.moves.values() for name in names) == sorted(wanted)
    assert made.image_seq_length == tokens and made.vision_feature_layer == -2
    rope = made.text_config.rope_parameters
    assert (rope["rope_theta"], rope.get("partial_rotary_factor", 1)) == (
        10000.0,
        config.get("partial_rotary_factor", 1),
    )
