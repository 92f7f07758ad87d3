"""PaliGemma and Gemma 3: sliding windows, and pictures that are read in both directions."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    PaliGemmaProcessor,
    SiglipImageProcessorPil,
)

from zoo.base import TEXT, Case, seeded, tokenizer

PATCH, SIZES = 4, ((48, 48), (96, 40), (30, 80))
HEADS = dict(head_dim=8, query_pre_attn_scalar=8)
LAYERS = dict(num_hidden_layers=6, layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2)
VISION = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=PATCH)


def _paligemma(decoder: str, **text: Any) -> Case:
    side = 5  # 25 tokens

    def words() -> Any:
        return tokenizer("<image>", image_token="<image>")

    @seeded
    def build(attention: str) -> Any:
        known = words()
        config = AutoConfig.for_model(
            "paligemma",
            vision_config={
                **VISION,
                "model_type": "siglip_vision_model",
                "image_size": side * PATCH,
                "vision_use_head": False,
            },
            text_config={**TEXT, "model_type": decoder, "vocab_size": len(known), "head_dim": 8, **text},
            image_token_index=known.image_token_id,
            projection_dim=32,
            hidden_size=32,
        )
        # Gemma 2 caps its attention scores and knows no other implementation than eager
        model = AutoModelForImageTextToText.from_config(
            config, attn_implementation=attention if decoder == "gemma" else "eager"
        )
        model.model.multi_modal_projector.linear.weight.data.normal_(0, 0.3)  # so that the image matters
        return model

    def processor() -> PaliGemmaProcessor:
        square = SiglipImageProcessorPil(size={"height": side * PATCH, "width": side * PATCH})
        square.image_seq_length = side**2
        return PaliGemmaProcessor(image_processor=square, tokenizer=words())

    return Case("paligemma", build, processor, "<image>", sizes=SIZES, least=side**2)


def _gemma3(window: int, side: int = 6, **options: Any) -> Case:
    def words() -> Any:
        return tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")

    @seeded
    def build(attention: str) -> Any:
        known = words()
        config = AutoConfig.for_model(
            "gemma3",
            vision_config={
                **VISION,
                "model_type": "siglip_vision_model",
                "image_size": 2 * side * PATCH,
                "vision_use_head": False,
            },
            text_config={**TEXT, **HEADS, **LAYERS, "vocab_size": len(known), "sliding_window": window},
            mm_tokens_per_image=side**2,
            **{f"{name}_token_index": getattr(known, f"{name}_token_id") for name in ("image", "boi", "eoi")},
        )
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        model.model.multi_modal_projector.mm_input_projection_weight.data.normal_(0, 0.3)  # zeros until trained
        return model

    def processor() -> Gemma3Processor:
        square = {"height": 2 * side * PATCH, "width": 2 * side * PATCH}
        return Gemma3Processor(Gemma3ImageProcessorPil(size=square), words(), image_seq_length=side**2)

    return Case(
        "gemma3", build, processor, "<start_of_image>", sizes=SIZES, nested=True, options=options, least=side**2
    )


CASES = {
    "paligemma": _paligemma("gemma"),
    "paligemma-gemma2": _paligemma("gemma2", query_pre_attn_scalar=8, sliding_window=512),
    "gemma3": _gemma3(512),
    "gemma3-window": _gemma3(16),
    "gemma3-crops": _gemma3(512, 4, do_pan_and_scan=True, pan_and_scan_min_crop_size=16),
}
