"""Random LLaVA models of given shapes, and the natively short twin that a reduced run is held against."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

BOS, EOS, PAD, IMAGE, FIRST_WORD = 1, 2, 0, 3, 4
BEFORE, AFTER = 35, 30  # text tokens around the image, as in a LLaVA-1.5 prompt with a question of some twenty words


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA: decoder first, then vision tower; ``dtype`` and ``device`` are what it is meant to run at."""

    layers: int
    width: int
    heads: int
    intermediate: int
    vocabulary: int
    tower_layers: int
    tower_width: int
    tower_heads: int
    tower_intermediate: int
    image_size: int
    patch: int
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def image_tokens(self) -> int:
        return (self.image_size // self.patch) ** 2


SHAPES = {
    "small": Shape(12, 512, 8, 1376, 32000, 6, 256, 4, 1024, 336, 14),
    "llava-1.5-7b": Shape(32, 4096, 32, 11008, 32064, 24, 1024, 16, 4096, 336, 14, "bfloat16", "cuda"),
    "toy": Shape(4, 32, 2, 64, 128, 2, 16, 2, 32, 32, 4),
}


def model(shape: Shape, device: torch.device, seed: int = 0) -> LlavaForConditionalGeneration:
    """A LLaVA of this shape with random weights, in the genuine classes."""
    torch.manual_seed(seed)
    with device:
        made = LlavaForConditionalGeneration._from_config(_config(shape), dtype=getattr(torch, shape.dtype))
    made.generation_config.eos_token_id = None  # random weights must not end an answer by chance
    made.generation_config.pad_token_id = PAD
    return made.eval()


def native(whole: LlavaForConditionalGeneration, keep: int) -> LlavaForConditionalGeneration:
    """The same model, sharing every weight, whose images natively have only ``keep`` tokens.

    Its projector hands on the first ``keep`` features, so the vision tower and the projector are paid in full and the
    rest is transformers' own code on a prompt with ``keep`` placeholders. Nothing of simignore is in it.
    """
    with torch.device("meta"):
        twin = LlavaForConditionalGeneration(whole.config)
    twin.model.vision_tower = whole.model.vision_tower
    twin.model.multi_modal_projector = nn.Sequential(whole.model.multi_modal_projector, _First(keep))
    twin.model.language_model = whole.model.language_model
    twin.lm_head = whole.lm_head
    twin.generation_config = whole.generation_config
    return twin.eval()


class _First(nn.Module):
    """Hands on the first ``keep`` of a sequence."""

    def __init__(self, keep: int) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : self.keep]


def prompts(shape: Shape, batch: int, image_tokens: int, device: torch.device, seed: int = 0) -> dict[str, Tensor]:
    """A batch of prompts, each with random words around one image of ``image_tokens`` placeholders.

    The words and pixels depend on the seed alone, so prompts of different lengths ask the same.
    """
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(FIRST_WORD, shape.vocabulary, (batch, BEFORE + AFTER), generator=generator)
    pixels = torch.randn(batch, 3, shape.image_size, shape.image_size, generator=generator)
    begin, image = torch.full((batch, 1), BOS), torch.full((batch, image_tokens), IMAGE)
    ids = torch.cat([begin, words[:, :BEFORE], image, words[:, BEFORE:]], 1)  # [B, T]
    return {"input_ids": ids.to(device), "pixel_values": pixels.to(device, getattr(torch, shape.dtype))}


def questions(inputs: dict[str, Tensor]) -> list[Tensor]:
    """The words after the image, per sample: what image tokens are compared with."""
    return list(inputs["input_ids"][:, -AFTER:].cpu())


def _config(shape: Shape) -> LlavaConfig:
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=shape.tower_width,
            intermediate_size=shape.tower_intermediate,
            num_hidden_layers=shape.tower_layers,
            num_attention_heads=shape.tower_heads,
            image_size=shape.image_size,
            patch_size=shape.patch,
            projection_dim=shape.tower_width,
        ),
        text_config=LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=4096,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        ),
        image_token_index=IMAGE,
        image_seq_length=shape.image_tokens,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
