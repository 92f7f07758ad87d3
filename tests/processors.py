"""Processors for the random models: a word-level tokenizer, the real image processor, and several chat templates."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

import models

WORDS = (
    "USER : ASSISTANT a chat between human and assistant . system user \n ( ) A B C D E N / A Context Question Options "
    "Answer with the option's letter from given choices directly text What Which Where is are colour shape of star circle "
    "square red blue green yellow left right above below one two three in picture this cat dog , ? yes no it there how many"
)

TEMPLATES = {
    "vicuna": (
        "{% for m in messages %}{% if m['role'] == 'user' %}a chat between human and assistant . USER: "
        "{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
        "{% else %} ASSISTANT: {{ m['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    ),
    "turns": (  # begins with its own begin token and marks turns with special tokens
        "<s>{% for m in messages %}<turn>{{ m['role'] }}\n{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
    ),
    "bare": "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endfor %}",
}


def tokenizer() -> PreTrainedTokenizerFast:
    words = dict.fromkeys(["<pad>", "<s>", "</s>", "<unk>", "<turn>", "<end>", "\n", *WORDS.split(" ")])
    ids = {word: i for i, word in enumerate(words)}
    assert len(ids) < models.IMAGE
    ids["<image>"] = models.IMAGE
    made = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = Split(Regex(r"<\w+>|[\w']+|\n|[^\w\s]"), behavior="removed", invert=True)
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", models.BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>", "turn": "<turn>", "end": "<end>"},
        padding_side="left",
    )


def processor(template: str = "vicuna") -> LlavaProcessor:
    size = 32
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size}),
        tokenizer=tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATES[template],
    )
