"""A checkpoint folder as `save_pretrained` writes it: a random model of models.py with a processor that fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

SIDE, PATCH = 32, 8  # pixels; 4 x 4 patches
_WORDS = """
USER: ASSISTANT: Context: Question: Options: Answer What Which colour shape is are the a of in this picture with from
option's letter text given choices directly N/A red green blue yellow circle square star ring bus left right hint
( ) . , ? | A B C D E
"""
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or mark, with the ids that models.py expects of the special ones."""
    special = {"<pad>": models.PAD, "<s>": models.BOS, "</s>": models.EOS, "<unk>": 3, "<image>": models.IMAGE}
    vocabulary = special | {word: 4 + i for i, word in enumerate(_WORDS.split())}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = Split(Regex(r"[A-Za-z'/]+:?|[^\s]"), behavior="removed", invert=True)
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", models.BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def processor() -> Any:
    """LLaVA-1.5's: shortest edge to 32 pixels, then the centre square."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE,
    )


def save(folder: Path) -> Path:
    """Write model and processor to ``folder``, for `from_pretrained`."""
    models.fresh("clip-llama").save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
