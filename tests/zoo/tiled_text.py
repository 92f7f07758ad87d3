"""Families which write rows, tiles or their ends into the prompt, and those which resample a picture."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from torch import nn
from transformers import (
    BatchFeature,
    Idefics2ImageProcessorPil,
    Idefics2Processor,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    PixtralImageProcessorPil,
    SmolVLMImageProcessorPil,
)
from transformers.models.pixtral import image_processing_pil_pixtral
from transformers.models.smolvlm import processing_smolvlm
from transformers.video_utils import make_batched_metadata, make_batched_videos

from zoo.base import Case, VideoProcessor, tokenizer
from zoo.tiles import SIDE, VISION, genuine, louder


def _pixtral_processor() -> Any:
    """Its class. The module takes one function, for counting only, from that of the image processor which needs
    torchvision; the PIL one has the same."""
    name = "transformers.models.pixtral.image_processing_pixtral"
    stands = sys.modules.setdefault(name, image_processing_pil_pixtral) is image_processing_pil_pixtral
    try:
        return import_module("transformers.models.pixtral.processing_pixtral").PixtralProcessor
    finally:
        if stands:
            del sys.modules[name]


PixtralProcessor = _pixtral_processor()
processing_smolvlm.num2words = processing_smolvlm.num2words or str  # a package it wants for "two frames" in a prompt

SPLIT_SHAPES = ((24, 24), (90, 30), (30, 90), (48, 50))
PIXTRAL = {**VISION, "model_type": "pixtral", "hidden_size": 32, "image_size": 48}
PIXTRAL_SHAPES = ((24, 24), (90, 40), (40, 90), (50, 48))


class Clips(VideoProcessor):
    """Stands for SmolVLM's video processor, which needs torchvision: frames are pictures that are not split."""

    def __init__(self, still: Any) -> None:
        super().__init__()
        self.still = still

    def __call__(self, videos: Any, return_tensors: str | None = None, **options: Any) -> BatchFeature:
        made = self.still(videos, do_image_splitting=False, return_tensors=return_tensors)
        made["video_metadata"] = make_batched_metadata(make_batched_videos(videos), video_metadata=None)
        return made


def _idefics2(split: bool) -> Case:
    def words() -> Any:
        return tokenizer("<end_of_utterance>", image_token="<image>", image_boundary_token="<fake_token_around_image>")

    def processor() -> Idefics2Processor:
        return Idefics2Processor(
            image_processor=Idefics2ImageProcessorPil(
                size={"shortest_edge": 16, "longest_edge": 48}, do_image_splitting=split
            ),
            tokenizer=words(),
            image_seq_len=9,
        )

    def touch(inner: nn.Module) -> None:
        inner.connector.perceiver_resampler.latents.data.normal_()  # all ones to begin with, and every token alike

    build = genuine(
        "idefics2",
        words,
        {**VISION, "image_size": 48},
        "mistral",
        touch=touch,
        perceiver_config=dict(
            hidden_size=32,
            resampler_n_latents=9,
            resampler_depth=2,
            resampler_n_heads=4,
            resampler_head_dim=8,
            num_key_value_heads=2,
            initializer_range=0.2,
        ),
    )
    shapes = ((24, 24), (90, 40), (40, 90), (50, 48))
    return Case("idefics2", build, processor, "<image>", sizes=shapes, nested=True, least=45 if split else 9)


def _rows_and_columns(model_type: str, split: bool) -> Case:
    """Idefics3 and SmolVLM: tiles named by row and column, and the whole picture after them."""
    smol = model_type == "smolvlm"

    def words() -> Any:
        return tokenizer(
            "<fake_token_around_image>",
            "<end_of_utterance>",
            "<global-img>",
            "<video>",
            *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
            image_token="<image>",
        )

    def processor() -> Any:
        sized = dict(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=split)
        if not smol:
            return Idefics3Processor(Idefics3ImageProcessorPil(**sized), words(), image_seq_len=9)
        return processing_smolvlm.SmolVLMProcessor(
            image_processor=SmolVLMImageProcessorPil(**sized),
            tokenizer=words(),
            video_processor=Clips(SmolVLMImageProcessorPil(**sized)),
            image_seq_len=9,
        )

    build = genuine(
        model_type,
        words,
        {**VISION, "patch_size": 4},
        "llama",
        touch=lambda inner: inner.connector.modality_projection.proj.weight.data.mul_(4),
        scale_factor=2,
    )
    return Case(
        model_type,
        build,
        processor,
        "<image>",
        "<video>" if smol else None,
        sizes=SPLIT_SHAPES,
        nested=True,
        least=27 if split else 9,
    )


def _pixtral(model_type: str) -> Case:
    """Mistral 3, which merges 2 x 2 patches, and LLaVA with the tower of Pixtral."""
    merge = 2 if model_type == "mistral3" else 1

    def words() -> Any:
        return tokenizer("[IMG_BREAK]", "[IMG_END]", image_token="[IMG]")

    def processor() -> Any:
        return PixtralProcessor(
            image_processor=PixtralImageProcessorPil(size={"longest_edge": 48}, patch_size=8),
            tokenizer=words(),
            patch_size=8 // merge,
            spatial_merge_size=merge,
        )

    own = dict(spatial_merge_size=2) if merge == 2 else dict(vision_feature_select_strategy="full")
    build = genuine(
        model_type,
        words,
        {**PIXTRAL, "patch_size": 8 // merge},
        "mistral",
        text={"head_dim": 8, "sliding_window": None},
        touch=louder(4),
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        **own,
    )
    return Case(model_type, build, processor, "[IMG]", sizes=PIXTRAL_SHAPES)


CASES = {
    "idefics2": _idefics2(split=False),
    "idefics2-split": _idefics2(split=True),
    "idefics3": _rows_and_columns("idefics3", split=True),
    "idefics3-whole": _rows_and_columns("idefics3", split=False),
    "smolvlm": _rows_and_columns("smolvlm", split=True),
    "mistral3": _pixtral("mistral3"),
    "llava-pixtral": _pixtral("llava"),
}
