"""The vocabulary: some hundred and thirty whole words, read without regard to case, and one token for anything else.

Words are whole so that a word embedding means one thing, which is what makes a small model's similarities readable.
Only the option letters keep their case, so that the answer `A` and the article `a` differ.
"""

from __future__ import annotations

import re
from typing import Any

from .prompts import BRIEFLY, BY_LETTER, BY_TEXT, DESCRIBE
from .questions import CORNERS, RELATIONS
from .scenes import COLOURS, PATTERNS, SHAPES, SIZES

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD, BOS, EOS, UNKNOWN, IMAGE = range(5)
LETTER_WORDS = tuple("ABCDE") + tuple(f"({letter})" for letter in "ABCDE") + ("N/A",)

# Context lines for training: mostly none of use, some with words outside the vocabulary.
CONTEXTS = (
    "N/A",
    "N/A",
    "N/A",
    "The picture shows some shapes.",
    "Look at the image.",
    "The image shows shapes on a noisy board.",
    "Ignore everything that is not an object.",
    "Lines and specks in the background mean nothing.",
)
_TEXT = " ".join(
    (
        "user: assistant: context: question: options: answer:",
        "what which where is are how many there does have has a an the in of to on at and or not it",
        "colour color shape size pattern number image picture object objects shapes larger smaller closest odd one out with",
        "yes no none",
        "0 1 2 3 4 5 6 7 8 9 ( ) . , ? ! - : ' \"",
        *SHAPES,
        *COLOURS,
        *SIZES,
        *PATTERNS,
        *RELATIONS,
        *CORNERS,
        *CONTEXTS[:6],
        *(BY_LETTER, BY_TEXT, BRIEFLY, DESCRIBE),
    )
)
_LETTERS = r"N/A|\([A-E]\)|\b[A-E]\b"
_WORDS = r"[^\W\d_]+(?:'[^\W\d_]+)*:?|\d|\n|[^\s]"
_SPLIT = re.compile(f"{_LETTERS}|{_WORDS}")


def _vocabulary() -> dict[str, int]:
    words = dict.fromkeys((*SPECIAL, "\n", *LETTER_WORDS))
    words.update(dict.fromkeys(_pieces(_TEXT)))
    return {word: number for number, word in enumerate(words)}


def _pieces(text: str) -> list[str]:
    return [word if word in LETTER_WORDS else word.lower() for word in _SPLIT.findall(text)]


VOCABULARY = _vocabulary()


def encode(text: str) -> list[int]:
    """Token ids of plain text, as the tokenizer gives them without special tokens, but fast enough for training."""
    return [VOCABULARY.get(word, UNKNOWN) for word in _pieces(text)]


def build_tokenizer() -> Any:
    """A fast Hugging Face tokenizer over `VOCABULARY`; pads on the left, starts with `<s>`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # words apart, none before a comma or full stop
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    core.add_tokens([AddedToken(word, single_word=len(word) == 1, normalized=False) for word in LETTER_WORDS])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
