"""The bundled model: genuine Hugging Face LLaVA classes, small enough to train on two CPU cores.

A CLIP vision tower, a two-layer projector and a Llama decoder. Nothing here is special to this project: the exported
folder loads with `AutoModelForImageTextToText` and `AutoProcessor`, like any LLaVA.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .pictures import MEAN, STD
from .scenes import SIDE
from .words import BOS, EOS, IMAGE, PAD, VOCABULARY, build_tokenizer


@dataclass(frozen=True)
class TinyConfig:
    """Widths, depths and heads of the tower and the decoder, and the pictures that they see.

    Pictures have `scale` pixels per unit of a scene and patches of `patch` pixels. The projector reads the tower's
    layer before the last, as LLaVA does, so the tower's last layer serves CLS alone.
    """

    scale: int = 1
    patch: int = 8
    vision_width: int = 160
    vision_layers: int = 6
    vision_inner: int = 480
    width: int = 192
    layers: int = 10
    heads: int = 4
    inner: int = 384
    positions: int = 2048  # longest prompt and answer, in tokens
    look_back: tuple[int, ...] = (0, 1)  # decoder layers with a head that starts by looking one token back
    match: tuple[int, ...] = (4, 5, 6, 7, 8, 9)  # decoder layers with heads that start by matching equal words
    blind: int = 4  # first decoder layers in which, in most of training, text cannot look at the picture

    @property
    def side(self) -> int:
        """Pixels of a picture's side."""
        return SIDE * self.scale

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.side // self.patch

    @property
    def patches(self) -> int:
        """Image tokens of a picture."""
        return self.grid**2


def scale_of(model: Any) -> int:
    """Pixels per unit of a scene in the pictures that a model of this module sees."""
    return int(model.config.vision_config.image_size) // SIDE


TINY = TinyConfig()  # shipped: 196 image tokens
SMALL = TinyConfig(width=128, layers=6, inner=256, match=(2, 3, 4, 5), blind=2)  # for experiments that need many runs
LARGE = TinyConfig(  # 576 image tokens, for a GPU
    scale=3,
    patch=14,
    vision_width=384,
    vision_layers=8,
    vision_inner=1536,
    width=512,
    layers=14,
    heads=8,
    inner=1408,
    match=(5, 6, 7, 8, 9, 10, 11),
    blind=5,
)
SIZES = {"tiny": TINY, "small": SMALL, "large": LARGE}

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
NEW_TOKENS = 64  # longest caption: eight things of up to five words and their commas


def vision_config(config: TinyConfig) -> Any:
    """Configuration of the CLIP tower."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=config.vision_width,
        intermediate_size=config.vision_inner,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.vision_width // 32,
        image_size=config.side,
        patch_size=config.patch,
        projection_dim=config.vision_width,
    )


def build_model(config: TinyConfig, seed: int = 0) -> Any:
    """A LlavaForConditionalGeneration with random weights but for the started heads of `start.py`.

    The tower's weights follow from `seed` and its own configuration alone.
    """
    import torch
    from transformers import CLIPVisionModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

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
        image_seq_length=config.patches,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(seed)
    tower = CLIPVisionModel(llava.vision_config)
    start_vision(tower)
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(llava)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    start_decoder(model.model.language_model, config.look_back, config.match)
    generation = model.generation_config
    generation.bos_token_id, generation.eos_token_id, generation.pad_token_id = BOS, EOS, PAD
    generation.max_new_tokens, generation.do_sample = NEW_TOKENS, False
    return model


def build_processor(config: TinyConfig) -> Any:
    """A LlavaProcessor with this model's tokenizer, picture size and chat template; needs no torchvision."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = config.side
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_mean=MEAN, image_std=STD
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=build_tokenizer(),
        patch_size=config.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def export(model: Any, config: TinyConfig, folder: Path) -> None:
    """Write model (bfloat16 safetensors) and processor so that the Auto classes load them. Leaves `model` as it is."""
    import copy

    import torch

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
    build_processor(config).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors come out readable by their owner alone
