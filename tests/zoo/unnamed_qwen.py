"""Families that our table does not name, to be found out by themselves."""

from __future__ import annotations

from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    Ernie4_5_VLMoeImageProcessorPil,
    Ernie4_5_VLMoeProcessor,
    Glm46VImageProcessorPil,
    Glm46VProcessor,
    Kimi_K25Processor,
    MiniCPMV4_6ImageProcessorPil,
    MiniCPMV4_6Processor,
    PaddleOCRVLImageProcessorPil,
    PaddleOCRVLProcessor,
    VideoLlama3ImageProcessorPil,
    VideoLlama3Processor,
)

from zoo.base import TEXT, Case, seeded, tokenizer
from zoo.qwen import GLM, GLM_HEADS, LINEAR, MERGE, PATCH, QWEN, SIZES, TOWER_GLM, Videos
from zoo.qwen import VISION as DEEP

VISION = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=PATCH)
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}


def _case(
    model_type: str,
    processor: Any,
    pictures: Any,
    markers: dict[str, str],
    vision: dict[str, Any],
    image: str,
    temporal: int = 1,
    videos: bool = True,
    decoder: dict[str, Any] | None = None,
    **settings: Any,
) -> Case:
    """A family that cuts pictures into patches as Qwen2-VL does."""

    @seeded
    def build(attention: str) -> Any:
        known = tokenizer(**markers)
        config = AutoConfig.for_model(
            model_type,
            vision_config=vision,
            text_config={**TEXT, "vocab_size": len(known), **(decoder or {})},
            **{f"{name}_id": getattr(known, f"{name}_id") for name in markers},
            **settings,
        )
        return AutoModelForImageTextToText.from_config(config, attn_implementation=attention)

    def make() -> Any:
        patches = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": temporal}
        square = pictures(size={"shortest_edge": 24 * 24, "longest_edge": 96 * 96}, **patches)
        return processor(square, tokenizer(**markers), *[Videos(square)] * videos)

    return Case(model_type, build, make, image, sizes=SIZES)


def _chameleon() -> Case:
    """A picture becomes ids of the vocabulary."""
    side = 4  # 16 tokens
    codes = [f"IMGIMG{code}Z" for code in "ABCDEFGH"]
    markers = {"image_token": "<image>", "boi_token": "<racm3:break>", "eoi_token": "<eoss>"}

    def words() -> Any:
        made = tokenizer(*codes, **markers)
        made.sep_token = "</s>"
        return made

    @seeded
    def build(attention: str) -> Any:
        known = words()
        coder = {
            "base_channels": 32,
            "latent_channels": 8,
            "embed_dim": 8,
            "num_embeddings": len(codes),
            "num_res_blocks": 1,
        }
        config = AutoConfig.for_model(
            "chameleon",
            **{**TEXT, "vocab_size": len(known)},
            vq_config={**coder, "resolution": 2 * side, "channel_multiplier": [1, 1], "initializer_range": 0.2},
            vocabulary_map=known.get_vocab(),
        )
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        model.model.vqmodel.quantize.embedding.weight.data.normal_(0, 0.3)  # so that pictures get unlike codes
        return model

    def processor() -> ChameleonProcessor:
        square = {"height": 2 * side, "width": 2 * side}
        pictures = ChameleonImageProcessorPil(size={"shortest_edge": 2 * side}, crop_size=square)
        return ChameleonProcessor(pictures, words(), image_seq_length=side**2)

    return Case("chameleon", build, processor, "<image>", sizes=((48, 48), (96, 40)), least=side**2)


def _minicpm() -> Case:
    """Slices of a picture follow it; two mergers make one token of 4 x 4 patches."""
    names = ("image_start", "image_end", "slice_start", "slice_end", "image_id_start", "image_id_end")
    markers = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"} | {f"{n}_token": f"<{n}>" for n in names}

    @seeded
    def build(attention: str) -> Any:
        known = tokenizer(**markers)
        config = AutoConfig.for_model(
            "minicpmv4_6",
            vision_config={**VISION, "image_size": 32, "num_hidden_layers": 3},
            text_config={**TEXT, **LINEAR, "model_type": "qwen3_5_text", "vocab_size": len(known)},
            insert_layer_id=1,
            image_size=32,
            image_token_id=known.image_token_id,
            video_token_id=known.video_token_id,
        )
        return AutoModelForImageTextToText.from_config(config, attn_implementation=attention)

    def processor() -> MiniCPMV4_6Processor:
        pictures = MiniCPMV4_6ImageProcessorPil(scale_resolution=48, patch_size=PATCH, max_slice_nums=4)
        unused = Videos(Glm46VImageProcessorPil())
        unused.slice_mode, unused.downsample_mode = True, "16x"
        return MiniCPMV4_6Processor(pictures, unused, tokenizer(**markers))

    return Case("minicpmv4_6", build, processor, "<|image_pad|>", sizes=((48, 48), (80, 40), (50, 90)))


ERNIE = {name.replace("vision_", "image_"): token for name, token in QWEN.items()}
ERNIE |= {"video_start_token": "<|video_start|>", "video_end_token": "<|video_end|>"}
EXPERTS = dict(moe_num_experts=4, moe_k=2, moe_num_shared_experts=1, moe_intermediate_size=[24, 16])
LATENT = dict(  # keys and values out of one short vector; experts from the second layer on
    kv_lora_rank=16,
    q_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
    n_routed_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=24,
    n_group=1,
    topk_group=1,
    first_k_dense_replace=1,
)
CASES = {
    "paddleocr-vl": _case(
        "paddleocr_vl",
        PaddleOCRVLProcessor,
        PaddleOCRVLImageProcessorPil,
        {name: token for name, token in QWEN.items() if name != "video_token"},
        {**VISION, "image_size": 32, "spatial_merge_size": MERGE},
        "<|vision_start|><|image_pad|><|vision_end|>",
        videos=False,
        decoder={"rope_parameters": ROPE, "head_dim": 8},
    ),
    "glm-ocr": _case(
        "glm_ocr",
        Glm46VProcessor,
        Glm46VImageProcessorPil,
        GLM,
        {**DEEP, **TOWER_GLM},
        "<|begin_of_image|><|image|><|end_of_image|>",
        temporal=2,
        decoder={"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5}, **GLM_HEADS},
    ),
    "video-llama-3": _case(
        "video_llama_3",
        VideoLlama3Processor,
        VideoLlama3ImageProcessorPil,
        {name: QWEN[name] for name in ("image_token", "video_token")},
        {**VISION, "initializer_range": 0.2},
        "<|image_pad|>\n",
        decoder={"model_type": "qwen2"},
    ),
    "ernie4.5-vl-moe": _case(
        "ernie4_5_vl_moe",
        Ernie4_5_VLMoeProcessor,
        Ernie4_5_VLMoeImageProcessorPil,
        ERNIE,
        {**DEEP, "hidden_size": 32, "intermediate_size": 48},
        "<|vision_start|><|image_pad|><|vision_end|>",
        decoder={"rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]}, **EXPERTS},
    ),
    # Kimi_K25ImageProcessor needs torchvision; PaddleOCR's lays patches out as it does, but stretches where it would pad
    "kimi-k2.5": _case(
        "kimi_k25",
        Kimi_K25Processor,
        PaddleOCRVLImageProcessorPil,
        QWEN,
        {**VISION, "pos_emb_height": 8, "pos_emb_width": 8, "merge_kernel_size": [MERGE, MERGE]},
        "<|vision_start|><|image_pad|><|vision_end|>",
        decoder={"model_type": "deepseek_v3", "num_key_value_heads": 4, **LATENT},
        projection_hidden_size=32,
    ),
    "chameleon": _chameleon(),
    "minicpmv4.6": _minicpm(),
}
