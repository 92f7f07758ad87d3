"""LLaVA-1.5 with each tower and decoder it is met with."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from zoo.base import TEXT, Case, seeded, tokenizer

SIDE, PATCH = 32, 8
VISION = dict(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=SIDE,
    patch_size=PATCH,
    projection_dim=24,
)


def words() -> Any:
    return tokenizer("<image>", image_token="<image>")


def _llava(tower: str, decoder: str, **text: Any) -> Case:
    clip = tower == "clip"

    @seeded
    def build(attention: str) -> LlavaForConditionalGeneration:
        known = words()
        settings = {**TEXT, "vocab_size": len(known), **text}
        config = LlavaConfig(
            vision_config=(CLIPVisionConfig if clip else SiglipVisionConfig)(**VISION),
            text_config=AutoConfig.for_model(decoder, **settings),
            image_token_index=known.image_token_id,
            image_seq_length=(SIDE // PATCH) ** 2,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default" if clip else "full",
        )
        config._attn_implementation = attention
        model = LlavaForConditionalGeneration(config)
        model.model.multi_modal_projector.linear_2.weight.data.mul_(4)  # so that the image matters
        return model

    def processor() -> LlavaProcessor:
        square = {"height": SIDE, "width": SIDE}
        towers = {
            "clip": lambda: CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square),
            "siglip": lambda: SiglipImageProcessorPil(size=square),
        }
        return LlavaProcessor(
            image_processor=towers[tower](),
            tokenizer=words(),
            patch_size=PATCH,
            vision_feature_select_strategy="default" if clip else "full",
            num_additional_image_tokens=1 if clip else 0,
        )

    return Case("llava", build, processor, "<image>", sizes=((32, 32), (64, 32), (40, 90)), least=16)


CASES = {
    "llava-clip-llama": _llava("clip", "llama"),
    "llava-siglip-llama": _llava("siglip", "llama"),
    "llava-clip-phi": _llava("clip", "phi", num_key_value_heads=4, partial_rotary_factor=0.5),
    "llava-siglip-phi": _llava("siglip", "phi", num_key_value_heads=4, partial_rotary_factor=0.5),
    "llava-clip-qwen2": _llava("clip", "qwen2"),
    "llava-clip-mistral": _llava("clip", "mistral"),
    "llava-siglip-gemma": _llava("siglip", "gemma", head_dim=8),
}
