"""PaliGemma, Gemma 3 and Gemma 4: sliding windows, pictures read in both directions, per-layer inputs, shared keys."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessorPil,
    Gemma4Processor,
    PaliGemmaProcessor,
    SiglipImageProcessorPil,
)
from transformers.image_processing_utils import BatchFeature
from transformers.video_processing_utils import VideoProcessorMixin
from transformers.video_utils import VideoMetadata

from zoo.base import TEXT, Case, seeded, tokenizer

PATCH, SIZES = 4, ((48, 48), (96, 40), (30, 80))
HEADS = dict(head_dim=8, query_pre_attn_scalar=8)
LAYERS = dict(num_hidden_layers=6, layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2)
VISION = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=PATCH)

if not hasattr(transformers, "VideoProcessorMixin"):  # only exported beside torchvision; a processor looks here for it
    transformers.VideoProcessorMixin = VideoProcessorMixin


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


class Videos(VideoProcessorMixin):
    """In the place of Gemma4VideoProcessor, which cannot be made without torchvision (BaseVideoProcessor is a
    TorchvisionBackend): each frame is a picture of the image processor, as it is there."""

    def __init__(self, pictures: Any) -> None:
        super().__init__()
        self.pictures = pictures

    def __call__(self, videos: Any, **_: Any) -> BatchFeature:
        made = [self.pictures(images=list(video), return_tensors="pt") for video in videos]
        data = {
            "pixel_values_videos": torch.cat([m["pixel_values"] for m in made]),
            "video_position_ids": torch.cat([m["image_position_ids"] for m in made]),
            "num_frames_per_video": [len(video) for video in videos],
            "num_soft_tokens_per_video": [int(m["num_soft_tokens_per_image"][0]) for m in made],
            "video_metadata": [VideoMetadata(len(v), fps=1, frames_indices=list(range(len(v)))) for v in videos],
        }
        return BatchFeature(data)


def _gemma4(window: int, **text: Any) -> Case:
    """A picture always takes some 50 to 70 tokens, the fewest its processor allows."""
    pool = 2
    names = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "video_token": "<|video|>"}
    names |= {"audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>"}

    @seeded
    def build(attention: str) -> Any:
        known = tokenizer(**names)
        settings = {
            **TEXT,
            **LAYERS,
            "vocab_size": len(known),
            "sliding_window": window,
            "head_dim": 8,
            "global_head_dim": 16,
        }
        tower = {"num_key_value_heads": 2, "head_dim": 12, "pooling_kernel_size": pool, "position_embedding_size": 256}
        config = AutoConfig.for_model(
            "gemma4",
            vision_config={**VISION, **tower, "initializer_range": 0.2},
            text_config={**settings, "vocab_size_per_layer_input": len(known), **text},
            **{f"{name}_id": getattr(known, f"{name}_id") for name in names if name != "eoa_token"},
            eoa_token_index=known.eoa_token_id,
        )
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        model.model.vision_tower.patch_embedder.position_embedding_table.data.normal_()  # ones until trained
        return model

    def processor() -> Gemma4Processor:
        pictures = Gemma4ImageProcessorPil(patch_size=PATCH, max_soft_tokens=70, pooling_kernel_size=pool)
        return Gemma4Processor(
            Gemma4AudioFeatureExtractor(), pictures, tokenizer(**names), Videos(pictures), image_seq_length=70
        )

    return Case("gemma4", build, processor, "<|image|>", "<|video|>", sizes=SIZES, nested=True, least=50)


SMALL = dict(hidden_size_per_layer_input=8, num_kv_shared_layers=3)  # layers 3 to 5 read the keys of layers 1 and 2
LARGE = dict(
    hidden_size_per_layer_input=0,
    use_bidirectional_attention="vision",
    attention_k_eq_v=True,
    num_global_key_value_heads=1,
)
EXPERTS = dict(enable_moe_block=True, num_experts=4, top_k_experts=2, moe_intermediate_size=24)

CASES = {
    "paligemma": _paligemma("gemma"),
    "paligemma-gemma2": _paligemma("gemma2", query_pre_attn_scalar=8, sliding_window=512),
    "gemma3": _gemma3(512),
    "gemma3-window": _gemma3(16),
    "gemma3-crops": _gemma3(512, 4, do_pan_and_scan=True, pan_and_scan_min_crop_size=16),
    "gemma4": _gemma4(512, **SMALL),
    "gemma4-window": _gemma4(16, **SMALL),
    "gemma4-large": _gemma4(512, **LARGE),
    "gemma4-moe": _gemma4(16, **LARGE, **EXPERTS),
}
