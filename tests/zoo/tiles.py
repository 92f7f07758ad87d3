"""Families which cut a picture into tiles beside a small view of the whole, and their relatives for videos."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AyaVisionProcessor,
    BatchFeature,
    CLIPImageProcessorPil,
    GotOcr2ImageProcessorPil,
    InternVLProcessor,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaNextVideoProcessor,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
)

from zoo.base import TEXT, Case, VideoProcessor, seeded, tokenizer

SIDE, PATCH = 24, 8  # of one tile: 3 x 3 patches, an odd number, so that margins do not come out even
VISION = dict(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=SIDE,
    patch_size=PATCH,
)
CLIP = {**VISION, "model_type": "clip_vision_model", "projection_dim": 24}
SIGLIP = {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False}
SHAPES = ((24, 24), (90, 40), (40, 90), (50, 48))


class Frames(VideoProcessor):
    """Stands for a family's video processor, as every one of transformers 5 calls torchvision: the family's own way with
    a picture, frame by frame, in the same layout."""

    def __init__(self, still: Any) -> None:
        super().__init__()
        self.still = still

    def __call__(self, videos: Any, return_tensors: str | None = None, **options: Any) -> BatchFeature:
        made = [np.stack(self.still(list(video))["pixel_values"]) for video in videos]
        return BatchFeature({"pixel_values_videos": made}, tensor_type=return_tensors)


def square(side: int = SIDE) -> dict[str, int]:
    return {"height": side, "width": side}


def pinpoints(side: int, *grids: tuple[int, int]) -> list[list[int]]:
    return [[rows * side, columns * side] for rows, columns in grids]


def genuine(
    model_type: str,
    words: Callable[[], Any],
    vision: dict[str, Any],
    decoder: str,
    text: dict[str, Any] | None = None,
    touch: Callable[[Any], object] = lambda inner: None,
    parts: tuple[str, ...] = (),
    **settings: Any,
) -> Callable[[str], nn.Module]:
    """A builder of the class which the auto class takes for this type; `touch` makes the image matter, and `parts` are
    those with the attention asked for, where the whole cannot have it."""

    @seeded
    def build(attention: str) -> nn.Module:
        known = words()
        config = AutoConfig.for_model(
            model_type,
            vision_config=vision,
            text_config={**TEXT, "vocab_size": len(known), "model_type": decoder, **(text or {})},
            **settings,
        )
        for marker in ("image_token_id", "video_token_id"):
            if hasattr(config, marker):
                setattr(config, marker, getattr(known, marker))
        where = dict.fromkeys(parts, attention) or attention
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=where)
        touch(model.model)
        return model

    return build


def louder(times: float) -> Callable[[Any], object]:
    return lambda inner: inner.multi_modal_projector.linear_2.weight.data.mul_(times)


def one_marker() -> Any:
    return tokenizer("<image>", image_token="<image>")


def two_markers() -> Any:
    return tokenizer("<image>", "<video>", image_token="<image>", video_token="<video>")


def _llava_next(tower: str, decoder: str) -> Case:
    clip = tower == "clip"
    grids = pinpoints(SIDE, (1, 2), (2, 1), (2, 2), (3, 1), (1, 3))

    def processor() -> LlavaNextProcessor:
        return LlavaNextProcessor(
            image_processor=LlavaNextImageProcessorPil(
                size={"shortest_edge": SIDE}, crop_size=square(), image_grid_pinpoints=grids
            ),
            tokenizer=one_marker(),
            patch_size=PATCH,
            vision_feature_select_strategy="default" if clip else "full",
            num_additional_image_tokens=1 if clip else 0,
        )

    build = genuine(
        "llava_next",
        one_marker,
        CLIP if clip else SIGLIP,
        decoder,
        touch=louder(4),
        image_grid_pinpoints=grids,
        image_seq_length=9,
        vision_feature_select_strategy="default" if clip else "full",
    )
    return Case("llava_next", build, processor, "<image>", sizes=SHAPES, least=24)


def _llava_onevision(nested: bool) -> Case:
    """`nested`: a prompt with several pictures takes each whole, as a conversation of them does; else tiles of all."""
    grids = pinpoints(SIDE, *((rows, columns) for rows in (1, 2, 3) for columns in (1, 2, 3)))
    aspect = "anyres_max_4"  # so that 3 x 3 tiles are too many, and interpolated

    def processor() -> LlavaOnevisionProcessor:
        return LlavaOnevisionProcessor(
            image_processor=LlavaOnevisionImageProcessorPil(size=square(), image_grid_pinpoints=grids),
            tokenizer=two_markers(),
            video_processor=Frames(CLIPImageProcessorPil(size=square(), do_center_crop=False)),
            num_image_tokens=9,
            vision_feature_select_strategy="full",
            vision_aspect_ratio=aspect,
        )

    build = genuine(
        "llava_onevision",
        two_markers,
        SIGLIP,
        "qwen2",
        touch=louder(4),
        image_grid_pinpoints=grids,
        vision_aspect_ratio=aspect,
    )
    shapes = ((24, 24), (70, 66), (40, 90), (66, 30))
    return Case(
        "llava_onevision",
        build,
        processor,
        "<image>",
        "<video>",
        sizes=shapes,
        nested=nested,
        least=10 if nested else 21,
    )


def _llava_next_video() -> Case:
    side = 32  # 4 x 4 patches, as frames are pooled by 2
    grids = pinpoints(side, (1, 2), (2, 1), (3, 1), (1, 3))

    def processor() -> LlavaNextVideoProcessor:
        return LlavaNextVideoProcessor(
            video_processor=Frames(CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square(side))),
            image_processor=LlavaNextImageProcessorPil(
                size={"shortest_edge": side}, crop_size=square(side), image_grid_pinpoints=grids
            ),
            tokenizer=two_markers(),
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )

    build = genuine(
        "llava_next_video",
        two_markers,
        {**CLIP, "image_size": side},
        "llama",
        touch=louder(4),
        image_grid_pinpoints=grids,
    )
    return Case("llava_next_video", build, processor, "<image>", "<video>", sizes=SHAPES, least=36)


def _video_llava() -> Case:
    sized = dict(size={"shortest_edge": SIDE}, crop_size=square())

    def processor() -> VideoLlavaProcessor:
        return VideoLlavaProcessor(
            image_processor=VideoLlavaImageProcessor(**sized),
            video_processor=Frames(CLIPImageProcessorPil(**sized)),
            tokenizer=two_markers(),
            patch_size=PATCH,
        )

    build = genuine(
        "video_llava",
        two_markers,
        CLIP,
        "llama",
        touch=louder(4),
    )
    return Case("video_llava", build, processor, "<image>", "<video>", sizes=SHAPES, least=9)


def _internvl() -> Case:
    def words() -> Any:
        return tokenizer(
            start_image_token="<img>",
            end_image_token="</img>",
            image_token="<IMG_CONTEXT>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        )

    def processor() -> InternVLProcessor:
        return InternVLProcessor(
            image_processor=GotOcr2ImageProcessorPil(size=square(), max_patches=4),
            tokenizer=words(),
            video_processor=Frames(CLIPImageProcessorPil(size=square(), do_center_crop=False)),
            image_seq_length=9,
        )

    build = genuine(
        "internvl",
        words,
        {**VISION, "model_type": "internvl_vision", "image_size": [SIDE, SIDE], "patch_size": [4, 4]},
        "qwen2",
        touch=louder(1),
        image_seq_length=9,
        tie_word_embeddings=False,
    )
    shapes = ((24, 24), (90, 40), (24, 72), (50, 48))
    return Case("internvl", build, processor, "<IMG_CONTEXT>", "<video>", sizes=shapes)


def _aya_vision() -> Case:
    def words() -> Any:
        return tokenizer(
            "<image>",
            "<|START_OF_IMG|>",
            "<|END_OF_IMG|>",
            "TILE_GLOBAL",
            *(f"TILE_{i}" for i in range(1, 5)),
            image_token="<|IMG_PATCH|>",
        )

    def processor() -> AyaVisionProcessor:
        return AyaVisionProcessor(
            image_processor=GotOcr2ImageProcessorPil(size=square(), max_patches=4),
            tokenizer=words(),
            patch_size=4,
            img_size=SIDE,
            downsample_factor=2,
        )

    build = genuine(
        "aya_vision",
        words,
        {**SIGLIP, "patch_size": 4},
        "cohere2",
        text={"logit_scale": 1.0},
        touch=louder(1),
    )
    return Case("aya_vision", build, processor, "<image>", sizes=((24, 24), (90, 40), (24, 72), (50, 48)))


def _vipllava() -> Case:
    def processor() -> LlavaProcessor:
        return LlavaProcessor(
            image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square()),
            tokenizer=one_marker(),
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )

    build = genuine(
        "vipllava",
        one_marker,
        CLIP,
        "llama",
        touch=louder(4),
        vision_feature_layer=[-2, 1],
    )
    return Case("vipllava", build, processor, "<image>", sizes=SHAPES)


CASES = {
    "llava-next-clip-llama": _llava_next("clip", "llama"),
    "llava-next-clip-mistral": _llava_next("clip", "mistral"),
    "llava-next-siglip-qwen2": _llava_next("siglip", "qwen2"),
    "llava-onevision": _llava_onevision(nested=True),
    "llava-onevision-flat": _llava_onevision(nested=False),
    "llava-next-video": _llava_next_video(),
    "video-llava": _video_llava(),
    "internvl": _internvl(),
    "aya-vision": _aya_vision(),
    "vipllava": _vipllava(),
}
