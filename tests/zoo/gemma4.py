"""Gemma 4: inputs per layer, shared keys, pictures of any shape."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Gemma4AudioFeatureExtractor,
    Gemma4ImageProcessorPil,
    Gemma4Processor,
)
from transformers.image_processing_utils import BatchFeature
from transformers.video_utils import VideoMetadata

from zoo.base import TEXT, Case, VideoProcessor, seeded, tokenizer
from zoo.gemma import LAYERS, PATCH, SIZES, VISION


class Videos(VideoProcessor):
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
    "gemma4": _gemma4(512, **SMALL),
    "gemma4-window": _gemma4(16, **SMALL),
    "gemma4-large": _gemma4(512, **LARGE),
    "gemma4-moe": _gemma4(16, **LARGE, **EXPERTS),
}
