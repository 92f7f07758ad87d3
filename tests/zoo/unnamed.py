"""Families that the package does not name: what it finds out by itself is tried on them."""

from __future__ import annotations

from typing import Any

from transformers import (
    DeepseekVLImageProcessorPil,
    DeepseekVLProcessor,
    GotOcr2ImageProcessorPil,
    GotOcr2Processor,
    JanusImageProcessorPil,
    JanusProcessor,
    Ovis2ImageProcessorPil,
    Ovis2Processor,
)

from zoo.base import Case, Sample, tokenizer
from zoo.tiles import SHAPES, SIGLIP, VISION, genuine, square

TILED_SHAPES = ((24, 24), (90, 40), (24, 72), (50, 48))


class Pictured(Case):
    """Of a processor which refuses a batch without any picture."""

    def inputs(self, *samples: Sample) -> dict[str, Any]:
        if any(s.images for s in samples):
            return super().inputs(*samples)
        texts = [s.text for s in samples]
        return dict(self.shared_processor().tokenizer(texts, padding=True, return_tensors="pt"))


def _got_ocr2() -> Case:
    """A tower as of SAM."""
    side = 96  # 12 x 12 patches, and two convolutions of stride 2 after them

    def words() -> Any:
        return tokenizer("<|im_start|>", "<|im_end|>", "<img>", "</img>", image_token="<imgpad>")

    def processor() -> GotOcr2Processor:
        return GotOcr2Processor(GotOcr2ImageProcessorPil(size=square(side)), words())

    build = genuine(
        "got_ocr2",
        words,
        dict(
            hidden_size=16,
            output_channels=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=side,
            patch_size=8,
            window_size=4,
            global_attn_indexes=[1],
            mlp_dim=32,
            initializer_range=0.1,
        ),
        "qwen2",
        parts=("text_config",),
        tie_word_embeddings=False,
    )
    options = dict(num_image_tokens=9, crop_to_patches=True, max_patches=4)
    shapes = (*TILED_SHAPES[:-1], (150, 140))
    return Pictured("got_ocr2", build, processor, "<img><imgpad></img>", sizes=shapes, options=options)


def _ovis2() -> Case:
    """Soft words of a visual vocabulary, and marks of rows and columns that are visual words as well."""
    marks = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")

    def words() -> Any:
        return tokenizer("<image>", *marks, image_token="<IMG_ATOM>")

    def processor() -> Ovis2Processor:
        image_processor = Ovis2ImageProcessorPil(size=square(), crop_to_patches=True, max_patches=4)
        return Ovis2Processor(image_processor, words(), image_seq_length=9)

    known = words()
    build = genuine(
        "ovis2",
        words,
        {**VISION, "patch_size": 4, "hidden_stride": 2, "vocab_size": 64},
        "qwen2",
        touch=lambda inner: inner.visual_embeddings_table.weight.data.mul_(20),
        visual_indicator_token_ids=known.convert_tokens_to_ids(list(marks)),
        hidden_size=32,
        vocab_size=len(known),
        tie_word_embeddings=False,
    )
    return Case("ovis2", build, processor, "<image>", sizes=TILED_SHAPES)


def _deepseek_vl() -> Case:
    def words() -> Any:
        return tokenizer(image_token="<image_placeholder>")

    def processor() -> DeepseekVLProcessor:
        return DeepseekVLProcessor(DeepseekVLImageProcessorPil(size=square(), min_size=8), words(), num_image_tokens=9)

    build = genuine(
        "deepseek_vl",
        words,
        SIGLIP,
        "llama",
        touch=lambda inner: inner.aligner.linear2.weight.data.mul_(4),
        tie_word_embeddings=False,
    )
    return Case("deepseek_vl", build, processor, "<image_placeholder>", sizes=SHAPES)


def _janus() -> Case:
    def words() -> Any:
        return tokenizer(image_token="<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>")

    def processor() -> JanusProcessor:
        return JanusProcessor(JanusImageProcessorPil(size=square(), min_size=8), words(), num_image_tokens=9)

    vision = {name: value for name, value in VISION.items() if name != "intermediate_size"}
    build = genuine(
        "janus",
        words,
        {**vision, "projection_dim": 32, "num_image_tokens": 9},
        "llama",
        touch=lambda inner: inner.aligner.hidden_layers[-1].weight.data.mul_(4),
        vq_config=dict(  # of the pictures it could make
            embed_dim=4,
            num_embeddings=16,
            latent_channels=32,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            projection_dim=32,
            image_token_embed_dim=32,
        ),
        tie_word_embeddings=False,
    )
    return Case("janus", build, processor, "<image_placeholder>", sizes=SHAPES)


CASES = {
    "got-ocr2": _got_ocr2(),
    "ovis2": _ovis2(),
    "deepseek-vl": _deepseek_vl(),
    "janus": _janus(),
}
