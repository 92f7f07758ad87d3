"""The bundled model: genuine Hugging Face LLaVA classes, small enough to train on two CPU cores.

A CLIP vision tower, a two-layer projector and a Llama decoder. Nothing here is special to this project: the exported
folder loads with `AutoModelForImageTextToText` and `AutoProcessor`, like any LLaVA.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .config import TinyConfig
from .pictures import MEAN, STD
from .scenes import PATCH, PATCHES, SIDE
from .words import BOS, EOS, IMAGE, PAD, VOCABULARY, build_tokenizer

# Vicuna's turns as LLaVA uses them; images first. Content may be a string or a list of parts, several turns may follow.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% set parts = [{'type': 'text', 'text': message['content']}] if message['content'] is string"
    " else message['content'] %}"
    "{% if message['role'] == 'user' %}USER: {% elif message['role'] == 'assistant' %} ASSISTANT: {% endif %}"
    "{% for part in parts if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}</s>{% elif message['role'] != 'user' %}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
NEW_TOKENS = 48  # longest caption: five things of six words and their commas


def vision_config(config: TinyConfig) -> Any:
    """Configuration of the CLIP tower."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=config.vision_width,
        intermediate_size=config.vision_inner,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.vision_heads,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=config.vision_width,
    )


def build_model(config: TinyConfig) -> Any:
    """A LlavaForConditionalGeneration with random weights but for the started heads of `start.py`."""
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from .start import start_decoder, start_vision

    text = LlamaConfig(
        vocab_size=-(-len(VOCABULARY) // 16) * 16,
        hidden_size=config.width,
        intermediate_size=config.inner,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=config.positions,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.04,
        tie_word_embeddings=False,
    )
    llava = LlavaConfig(
        vision_config=vision_config(config),
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=PATCHES,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(llava)
    start_vision(model.model.vision_tower)
    start_decoder(model.model.language_model, config.look_back, config.match)
    generation = model.generation_config
    generation.bos_token_id, generation.eos_token_id, generation.pad_token_id = BOS, EOS, PAD
    generation.max_new_tokens, generation.do_sample = NEW_TOKENS, False
    return model


def build_processor() -> Any:
    """A LlavaProcessor with this model's tokenizer, picture size and chat template; needs no torchvision."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def export(model: Any, folder: Path) -> None:
    """Write model (bfloat16 safetensors) and processor so that the Auto classes load them. Leaves `model` as it is."""
    import copy

    import torch

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    build_processor().save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors come out readable by their owner alone
