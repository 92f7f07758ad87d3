"""Small models with random weights, in the genuine classes: the same code as real checkpoints, in milliseconds."""

from __future__ import annotations

from functools import cache

import torch
from transformers import (
    AutoConfig,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

IMAGE, BOS, EOS, PAD = 99, 1, 2, 0
VOCABULARY = 100
WIDTH = 32

_TEXT = dict(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    bos_token_id=BOS,
    eos_token_id=EOS,
    pad_token_id=PAD,
    initializer_range=0.2,
)
_VISION = dict(
    hidden_size=24,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=32,
    patch_size=8,
    projection_dim=24,
)

DECODERS = ("llama", "phi", "qwen2", "mistral")
TOWERS = ("clip", "siglip")
MODELS = tuple(f"{tower}-{decoder}" for tower in TOWERS for decoder in DECODERS)
PATCHES = (_VISION["image_size"] // _VISION["patch_size"]) ** 2


@cache
def _shared(name: str, attention: str) -> LlavaForConditionalGeneration:
    return fresh(name, attention)


def model(name: str = "clip-llama", attention: str = "sdpa") -> LlavaForConditionalGeneration:
    """A shared model in eval mode; tests must leave it as they found it."""
    return _shared(name, attention)


def fresh(
    name: str = "clip-llama", attention: str = "sdpa", seed: int = 0, **text: object
) -> LlavaForConditionalGeneration:
    """A new model, always with the same weights for the same name and seed."""
    tower, decoder = name.split("-")
    torch.manual_seed(seed)
    vision = (CLIPVisionConfig if tower == "clip" else SiglipVisionConfig)(**_VISION)
    settings = {**_TEXT, **text}
    if decoder == "phi":
        settings |= {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}
    config = LlavaConfig(
        vision_config=vision,
        text_config=AutoConfig.for_model(decoder, **settings),
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
    )
    config._attn_implementation = attention
    made = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():  # random weights of this size hardly look at the image; make sure that it matters
        made.model.multi_modal_projector.linear_2.weight.mul_(4)
    made.generation_config.eos_token_id = None
    made.generation_config.pad_token_id = PAD
    return made


def prompt(words: int = 6, images: int = 1, seed: int = 0, before: int = 2) -> torch.Tensor:
    """Token ids [T]: begin, some words, images each followed by a separator, more words."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(3, IMAGE, (before + words,), generator=generator)
    image = torch.tensor(([IMAGE] * PATCHES + [5]) * images, dtype=torch.long)
    return torch.cat([torch.tensor([BOS]), text[:before], image, text[before:]])


def batch(*prompts: torch.Tensor, side: str = "left", seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs for a forward or for generate: padded prompts, and pixels of as many images as they hold."""
    longest = max(len(ids) for ids in prompts)
    ids = torch.full((len(prompts), longest), PAD)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for b, own in enumerate(prompts):
        where = slice(longest - len(own), None) if side == "left" else slice(0, len(own))
        ids[b, where], mask[b, where] = own, 1
    images = int((ids == IMAGE).sum()) // PATCHES
    inputs = {"input_ids": ids, "attention_mask": mask}
    if images:
        generator = torch.Generator().manual_seed(seed)
        inputs["pixel_values"] = torch.randn(
            images, 3, _VISION["image_size"], _VISION["image_size"], generator=generator
        )
    return inputs
