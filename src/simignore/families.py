"""Where each family of models keeps its parts. A table, not code: one entry serves every model of that family.

The rest of the package asks :func:`simignore.parts.parts` and never looks at a model's class.
"""

from __future__ import annotations

from dataclasses import dataclass

from simignore import geometry, patching
from simignore.geometry import Layout
from simignore.patching import Patching


class UnsupportedModelError(ValueError):
    """The model's structure is not one that simignore can shorten safely."""


@dataclass(frozen=True)
class Family:
    """Where a family keeps what the splice needs; paths are attribute names from the model downwards.

    model_type: ``config.model_type``, the key by which transformers knows the family.
    title: how people call it. source: the paper, or where the model was published.
    images, videos: how their tokens lie, a function of :mod:`simignore.geometry`; None where the family takes none.
    merger: the module that receives token ids and pixels and puts the image features among the text embeddings; "" is
        the model itself.
    vision, projector, decoder: parts of ``merger``; the first two are "" where they are not known. The decoder is what gets
        the merged embeddings, or what holds it.
    patches: how they are made of what the vision tower saw, a function of :mod:`simignore.patching`; None where image tokens
        cannot be traced to patches. class_last: whether the tower's class token is its last one.
    image_token, video_token: config attributes that may hold the id of the placeholder token, first match wins.
    answer_type: what stands in ``token_type_ids`` for the tokens of an answer, where the processor makes such.
    """

    model_type: str
    title: str
    source: str
    images: Layout = geometry.square
    videos: Layout | None = None
    merger: str = "model"
    vision: str = "vision_tower"
    projector: str = "multi_modal_projector"
    decoder: str = "language_model"
    patches: Patching | None = None
    class_last: bool = False
    image_token: tuple[str, ...] = ("image_token_id", "image_token_index")
    video_token: tuple[str, ...] = ("video_token_id", "video_token_index")
    answer_type: int = 0


def _visual(
    model_type: str, title: str, source: str, images: Layout = geometry.merged, videos: Layout | None = None
) -> Family:
    """Towers under ``visual`` that merge neighbouring patches themselves (Qwen-VL, GLM-4V)."""
    return Family(
        model_type,
        title,
        source,
        images,
        videos,
        vision="visual",
        projector="visual.merger",
        patches=patching.neighbours,
    )


def _qwen(model_type: str, title: str, source: str) -> Family:
    return _visual(model_type, title, source, videos=geometry.merged_frames)


def _glm(model_type: str, title: str, source: str) -> Family:
    return _visual(model_type, title, source, images=geometry.merged_either)


def _blip(model_type: str, title: str, source: str) -> Family:
    return Family(
        model_type,
        title,
        source,
        images=geometry.queries,
        merger="",
        vision="vision_model",
        projector="language_projection",
    )


def _idefics(model_type: str, title: str, source: str, images: Layout) -> Family:
    return Family(
        model_type,
        title,
        source,
        images=images,
        vision="vision_model",
        projector="connector",
        decoder="text_model",
        patches=None if images is geometry.queries else patching.pictures,
    )


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "llava",
            "LLaVA-1.5 (CLIP, SigLIP or Pixtral; Llama, Vicuna, Phi, Qwen2, Mistral, Gemma)",
            "arXiv 2310.03744",
            images=geometry.square_or_rows,
            patches=patching.pictures,
        ),
        Family(
            "llava_next", "LLaVA-NeXT (tiles)", "llava-vl.github.io", images=geometry.anyres, patches=patching.pictures
        ),
        Family(
            "llava_next_video",
            "LLaVA-NeXT-Video",
            "llava-vl.github.io",
            images=geometry.anyres,
            videos=geometry.pooled_frames,
            patches=patching.pictures,
        ),
        Family(
            "llava_onevision",
            "LLaVA-OneVision",
            "arXiv 2408.03326",
            images=geometry.anyres,
            videos=geometry.pooled_frames,
            patches=patching.pictures,
        ),
        Family("vipllava", "ViP-LLaVA", "arXiv 2312.00784", patches=patching.pictures),
        Family(
            "video_llava",
            "Video-LLaVA",
            "arXiv 2311.10122",
            videos=geometry.pooled_frames,
            vision="image_tower",
            patches=patching.pictures,
        ),
        _qwen("qwen2_vl", "Qwen2-VL", "arXiv 2409.12191"),
        _qwen("qwen2_5_vl", "Qwen2.5-VL", "arXiv 2502.13923"),
        _qwen("qwen3_vl", "Qwen3-VL (DeepStack)", "arXiv 2511.21631"),
        _qwen("qwen3_vl_moe", "Qwen3-VL MoE (DeepStack)", "arXiv 2511.21631"),
        _qwen("qwen3_5", "Qwen3.5 (linear attention)", "Qwen team"),
        _qwen("qwen3_5_moe", "Qwen3.5 MoE (linear attention)", "Qwen team"),
        _glm("glm4v", "GLM-4.1V", "arXiv 2507.01006"),
        _glm("glm4v_moe", "GLM-4.5V", "arXiv 2507.01006"),
        _glm("glm46v", "GLM-4.6V", "arXiv 2507.01006"),
        Family(
            "internvl",
            "InternVL 2.5 to 3.5 (tiles)",
            "arXiv 2504.10479",
            images=geometry.tiles_in_a_run,
            patches=patching.pictures,
        ),
        Family(
            "aya_vision",
            "Aya Vision (tiles)",
            "arXiv 2505.08751",
            images=geometry.tiles_with_markers,
            patches=patching.pictures,
        ),
        Family(
            "llama4",
            "Llama 4 (tiles, chunked attention)",
            "Meta",
            images=geometry.tiles_with_markers,
            merger="",
            vision="vision_model",
            patches=patching.pictures,
            class_last=True,
        ),
        _idefics("idefics2", "Idefics 2", "arXiv 2405.02246", geometry.queries),
        _idefics("idefics3", "Idefics 3 (tiles)", "arXiv 2408.12637", geometry.tiles_with_markers),
        _idefics("smolvlm", "SmolVLM (tiles)", "arXiv 2504.05299", geometry.tiles_with_markers),
        Family(
            "mistral3",
            "Mistral Small 3 (Pixtral)",
            "arXiv 2410.07073",
            images=geometry.rows_of_runs,
            patches=patching.pictures,
        ),
        Family(  # its prompt (type 0) sees itself in both directions, and only what is of type 1 is causal
            "paligemma", "PaliGemma 1 and 2", "arXiv 2407.07726", patches=patching.pictures, answer_type=1
        ),
        Family("gemma3", "Gemma 3", "arXiv 2503.19786", patches=patching.pictures),
        Family(
            "gemma4",
            "Gemma 4",
            "Google",
            images=geometry.pooled,
            videos=geometry.pooled_videos,
            projector="embed_vision",
            patches=patching.pooled,
        ),
        Family("aria", "Aria", "arXiv 2410.05993", images=geometry.queries),
        _blip("blip-2", "BLIP-2 (decoder-only language models)", "arXiv 2301.12597"),
        _blip("instructblip", "InstructBLIP (decoder-only language models)", "arXiv 2305.06500"),
    )
}
