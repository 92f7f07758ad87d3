"""Qwen-VL of each generation and GLM-V: pictures in merged patches, multimodal rotary positions, videos."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    Glm4vImageProcessorPil,
    Glm4vProcessor,
    Glm46VImageProcessorPil,
    Glm46VProcessor,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLProcessor,
)
from transformers.image_processing_utils import BatchFeature
from transformers.video_utils import VideoMetadata

from zoo.base import TEXT, Case, VideoProcessor, seeded, tokenizer

PATCH, MERGE = 4, 2  # an image token stands for 8 x 8 pixels
SIZES = ((24, 24), (48, 32), (31, 57))  # 3 x 3, 4 x 6 and 7 x 4 tokens
QWEN = dict(
    image_token="<|image_pad|>",
    video_token="<|video_pad|>",
    vision_start_token="<|vision_start|>",
    vision_end_token="<|vision_end|>",
)
GLM = dict(
    image_token="<|image|>",
    video_token="<|video|>",
    image_start_token="<|begin_of_image|>",
    image_end_token="<|end_of_image|>",
    video_start_token="<|begin_of_video|>",
    video_end_token="<|end_of_video|>",
)
VISION = dict(
    depth=3,
    num_heads=2,
    patch_size=PATCH,
    spatial_merge_size=MERGE,
    temporal_patch_size=2,
    initializer_range=0.2,
)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
GLM_HEADS = dict(num_attention_heads=2, num_key_value_heads=1)  # 16 wide, of which 8 are rotated
GLM_EXPERTS = dict(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, first_k_dense_replace=1)
LINEAR = dict(  # two linear layers, a full one
    num_hidden_layers=6,
    full_attention_interval=3,
    head_dim=32,
    initializer_range=0.1,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
)


class Videos(VideoProcessor):
    """In the place of Qwen2VLVideoProcessor and its kin, which cannot be made without torchvision (BaseVideoProcessor is a
    TorchvisionBackend): frames are resized by the image processor and laid out as theirs, `temporal_patch_size` frames to
    a patch."""

    def __init__(self, pictures: Any) -> None:
        super().__init__()
        self.pictures, self.merge_size, self.temporal_patch_size = pictures, MERGE, pictures.temporal_patch_size

    def __call__(self, videos: Any, **_: Any) -> BatchFeature:
        step, patches, grids, metadata = self.temporal_patch_size, [], [], []
        for video in videos:
            shown = [*video, *[video[-1]] * (-len(video) % step)]
            made = self.pictures(images=shown, return_tensors="pt")
            _, high, wide = made["image_grid_thw"][0].tolist()
            grids.append([len(shown) // step, high, wide])
            # the image processor fills a patch's depth with one frame
            still = made["pixel_values"].view(-1, step, high * wide, 3, step, PATCH**2)
            patches.append(torch.stack([still[:, i, :, :, i] for i in range(step)], 3).flatten(0, 1).flatten(1))
            metadata.append(VideoMetadata(len(video), fps=2, frames_indices=list(range(len(video)))))
        data = {
            "pixel_values_videos": torch.cat(patches),
            "video_grid_thw": torch.tensor(grids),
            "video_metadata": metadata,
        }
        return BatchFeature(data)


def _case(model_type: str, processor: Any, pictures: Any, vision: dict[str, Any], **text: Any) -> Case:
    glm = processor in (Glm4vProcessor, Glm46VProcessor)
    markers = GLM if glm else QWEN

    def words() -> Any:
        return tokenizer(**markers)

    @seeded
    def build(attention: str) -> Any:
        known = words()
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
        if glm:
            rope["partial_rotary_factor"] = 0.5
        config = AutoConfig.for_model(
            model_type,
            vision_config={**VISION, **vision},
            text_config={**TEXT, "vocab_size": len(known), "rope_parameters": rope, **text},
            **{f"{name}_id": getattr(known, f"{name}_id") for name in markers},
        )
        return AutoModelForImageTextToText.from_config(config, attn_implementation=attention)

    def make() -> Any:
        square = pictures(
            size={"shortest_edge": 24 * 24, "longest_edge": 96 * 96},
            patch_size=PATCH,
            merge_size=MERGE,
            temporal_patch_size=2,
        )
        return processor(image_processor=square, tokenizer=words(), video_processor=Videos(square))

    image, video = (
        "".join(markers[f"{part}_token"] for part in (f"{around}_start", kind, f"{around}_end"))
        for kind, around in (("image", "image" if glm else "vision"), ("video", "video" if glm else "vision"))
    )
    return Case(model_type, build, make, image, video, sizes=SIZES)


TOWER_2 = dict(embed_dim=32, hidden_size=32)
TOWER_2_5 = dict(hidden_size=32, intermediate_size=48, out_hidden_size=32, window_size=16, fullatt_block_indexes=[1])
TOWER_3 = dict(hidden_size=32, intermediate_size=48, out_hidden_size=32, num_position_embeddings=64)
DEEP = {**TOWER_3, "deepstack_visual_indexes": [0, 2]}  # layers 0 and 1 of the decoder are given features
TOWER_GLM = dict(hidden_size=32, intermediate_size=48, out_hidden_size=32, image_size=32)

CASES = {
    "qwen2-vl": _case("qwen2_vl", Qwen2VLProcessor, Qwen2VLImageProcessorPil, TOWER_2),
    "qwen2.5-vl": _case("qwen2_5_vl", Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil, TOWER_2_5),
    "qwen3-vl": _case("qwen3_vl", Qwen3VLProcessor, Qwen2VLImageProcessorPil, DEEP, head_dim=8),
    "qwen3-vl-moe": _case("qwen3_vl_moe", Qwen3VLProcessor, Qwen2VLImageProcessorPil, DEEP, head_dim=8, **EXPERTS),
    "qwen3.5": _case("qwen3_5", Qwen3VLProcessor, Qwen2VLImageProcessorPil, TOWER_3, **LINEAR),
    "qwen3.5-moe": _case(
        "qwen3_5_moe",
        Qwen3VLProcessor,
        Qwen2VLImageProcessorPil,
        TOWER_3,
        **LINEAR,
        **EXPERTS,
        shared_expert_intermediate_size=24,
    ),
    "glm4v": _case("glm4v", Glm4vProcessor, Glm4vImageProcessorPil, TOWER_GLM, **GLM_HEADS),
    "glm4v-moe": _case("glm4v_moe", Glm4vProcessor, Glm4vImageProcessorPil, TOWER_GLM, **GLM_HEADS, **GLM_EXPERTS),
    "glm46v": _case("glm46v", Glm46VProcessor, Glm46VImageProcessorPil, TOWER_GLM, **GLM_HEADS),
}
