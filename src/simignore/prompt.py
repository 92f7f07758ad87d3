"""Image + question -> what the processor makes of it, and where each span of the text sits in the token ids.

The published rows compare image tokens with different parts of the prompt (the options, the question, both ...). A
:class:`Prompt` knows where each of them is, so that any can be passed on: ``with method(model, query=prompt.query(span))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from simignore.images import open_image
from simignore.wording import PUBLISHED, AnswerAs, Pieces, Style, lettered, wording


@dataclass(frozen=True)
class Asked:
    """The words of one prompt without its images: what a batch of prompts needs, whose images go through the processor at once.

    text: the chat template's rendering. plain: the token ids [T] of that text, no image among them. spans: where each part is
    among those, as places [M]. options: the options without letters.
    """

    text: str
    plain: Tensor
    spans: dict[str, Tensor]
    options: tuple[str, ...]
    tokenizer: Any

    @property
    def ids(self) -> dict[str, Tensor]:
        """The token ids [M] of each span."""
        return {name: self.plain[places] for name, places in self.spans.items()}

    def query(self, span: str = "auto") -> Tensor:
        """Token ids [M] of a span, as :meth:`Prompt.query` gives them."""
        return _query(self, span, self.ids)

    def places(self, ids: Tensor, span: str) -> Tensor:
        """Where a span is [M] in what the processor made of this prompt: ``ids`` [T'] without padding on the left.

        Raises ValueError where the processor tokenises the prompt otherwise than its tokenizer does.
        """
        return _placed(self.spans[span].tolist(), _matched(self.plain.tolist(), ids.tolist()))


@dataclass(frozen=True)
class Prompt:
    """One question about its images, ready for a model.

    inputs: what the processor returned, a batch of one (``model.generate(**prompt.inputs)``).
    text: the chat template's rendering. spans: where each part of the text is in ``input_ids[0]``, as places [M].
    options: the options without letters. images: the opened images. question: as it was asked; "" where that is not known.
    """

    inputs: Any
    text: str
    images: tuple[Image.Image, ...]
    spans: dict[str, Tensor]
    options: tuple[str, ...]
    tokenizer: Any
    question: str = ""

    def span_for(self, span: str) -> str:
        """The span that is meant: for "auto" question and options, or all that the user said where there are no options."""
        return _span_for(span, self.options)

    def query(self, span: str = "auto") -> Tensor:
        """Token ids [M] of a span, to compare image tokens with.

        span: one of ``spans``: "options", "options-plain" (without letters), "question", "question+options",
            "context+question+options", "user" (all that the user said), "prompt" (all text, template included); or one
            that a published row tokenised by itself with its begin token, "simignore/llava-1.5-7b" (options without
            letters) and "simignore/llava-1.5-13b" (``Options: (A) ... (B) ...``); or "auto", see :meth:`span_for`.
        Raises KeyError for a span that this prompt does not have.
        """
        ids: Tensor = self.inputs["input_ids"][0]
        return _query(self, span, {name: ids[places.to(ids.device)] for name, places in self.spans.items()})


def _span_for(span: str, options: Sequence[str]) -> str:
    if span != "auto":
        return span
    return "question+options" if options else "user"


def _query(prompt: Prompt | Asked, span: str, ids: Mapping[str, Tensor]) -> Tensor:
    options, span = prompt.options, _span_for(span, prompt.options)
    if options and span in PUBLISHED:
        texts = dict(zip(PUBLISHED, (" ".join(options), f"Options: {lettered(options)}"), strict=True))
        return torch.tensor(prompt.tokenizer(texts[span])["input_ids"])
    if span not in ids:
        known = [*ids, *(PUBLISHED if options else ())]
        why = "" if options else " (it has no options)"
        raise KeyError(f"this prompt has no span {span!r}{why}; it has {', '.join(known)}")
    return ids[span]


def build(
    processor: Any,
    images: Any,
    question: str,
    *,
    context: str | None = None,
    options: Sequence[str] = (),
    answer: AnswerAs | None = None,
    style: Style = "scienceqa",
    instruction: str | None = None,
) -> Prompt:
    """Put a question about images into the model's own words.

    processor: the model's; without a chat template the prompt is the images and the words alone. images: a path or an
        opened image, or a list of them, or None.
    context, options: as in ScienceQA; with options the wording is ScienceQA's, without it is the bare question.
    answer: how to answer options: with the "letter" (default) or the "text"; "free" adds no instruction.
    style, instruction: see :func:`simignore.wording.wording`.
    Raises ValueError for an empty question, for more options than letters, for an image that cannot be read, and for a
    processor without a fast tokenizer (where the spans are cannot be told then).
    """
    opened = tuple(open_image(image) for image in _as_list(images))
    content, pieces = wording(
        question, context=context, options=options, answer=answer, style=style, instruction=instruction
    )
    mark, inputs = _processed(processor, content, opened)
    text = rendered(processor, content, len(opened), mark)
    other = rendered(processor, _WORD, len(opened), mark)
    spans = _spans(processor, (text, content), pieces, inputs["input_ids"][0], other)
    chosen = tuple(option.strip() for option in options)
    return Prompt(inputs, text, opened, spans, chosen, processor.tokenizer, question.strip())


def phrase(
    processor: Any, images: int, question: str, *, options: Sequence[str] = (), mark: str = "", **words: Any
) -> Asked:
    """The words of a prompt about this many images, without the images.

    words: as for :func:`build`. mark: what stands for an image where the processor has no chat template, see :func:`marks`.
    """
    content, pieces = wording(question, options=options, **words)
    text = rendered(processor, content, images, mark)
    ids, spans = _tokens(processor, (text, content), pieces, rendered(processor, _WORD, images, mark))
    found = {name: torch.tensor(tokens, dtype=torch.long) for name, tokens in spans.items()}
    chosen = tuple(option.strip() for option in options)
    return Asked(text, torch.tensor(ids, dtype=torch.long), found, chosen, processor.tokenizer)


def rendered(processor: Any, content: str, images: int, mark: str = "") -> str:
    """The prompt of one user turn in the words of the processor's chat template, or, for models that were not trained to
    chat (PaliGemma, BLIP-2), a mark for each image and then the words."""
    if getattr(processor, "chat_template", None):
        said = [_message(content, images)]
        return str(processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False))
    return mark * images + content


def marks(processor: Any) -> list[str]:
    """What may stand for an image in a prompt without chat template, the likeliest first; "" where the processor puts it in."""
    if getattr(processor, "chat_template", None) or getattr(processor, "num_query_tokens", None):
        return [""]
    named = [getattr(processor, name, None) for name in ("image_token", "boi_token")]
    return [str(mark) for mark in named if mark] or ["<image>"]


def _processed(processor: Any, content: str, images: Sequence[Image.Image]) -> tuple[str, Any]:
    """The first mark that the processor takes, and what it makes of the prompt."""
    *others, last = marks(processor)
    for mark in others:
        try:
            text = rendered(processor, content, len(images), mark)
            return mark, processor(images=list(images) or None, text=text, return_tensors="pt")
        except ValueError:
            continue
    text = rendered(processor, content, len(images), last)
    return last, processor(images=list(images) or None, text=text, return_tensors="pt")


def _as_list(images: Any) -> list[Any]:
    if images is None:
        return []
    return list(images) if isinstance(images, list | tuple) else [images]


def _message(content: str, images: int) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": content}]}


_WORD = "simignore-begins-here"  # that no template holds


def _begin(text: str, content: str, other: str) -> int | None:
    """Where the user's text begins in the rendered prompt; the template itself may hold the same words.

    other: the same prompt with :data:`_WORD` in the text's place. None if the template does not keep the text as it is.
    """
    start = other.find(_WORD)
    if start < 0 or other.count(_WORD) != 1 or other.replace(_WORD, content) != text:
        return None
    return int(start)


def _spans(processor: Any, said: tuple[str, str], pieces: Pieces, ids: Tensor, other: str) -> dict[str, Tensor]:
    """Places in ``ids`` of each span, through the tokenizer's character offsets. said: the rendered prompt and the user's text
    in it; other: see :func:`_begin`."""
    plain, spans = _tokens(processor, said, pieces, other)
    places = _matched(plain, ids.tolist())
    found = {}
    for name, tokens in spans.items():
        found[name] = _placed([token for token in tokens if name != "prompt" or places[token] is not None], places)
    return found


def _placed(tokens: Sequence[int], places: Sequence[int | None]) -> Tensor:
    """Places [M] of some tokens of the text; ValueError where the processor has others."""
    own = [places[token] for token in tokens]
    if any(place is None for place in own):
        raise ValueError("the processor tokenises the prompt otherwise than its tokenizer does; pass query=ids")
    return torch.tensor(own, dtype=torch.long)


def _tokens(
    processor: Any, said: tuple[str, str], pieces: Pieces, other: str
) -> tuple[list[int], dict[str, list[int]]]:
    """The ids of the rendered prompt's own tokens, no image among them, and for each span which of them are in it."""
    text, content = said
    tokenizer = processor.tokenizer
    start = _begin(text, content, other)
    if start is None:
        raise ValueError(
            "the chat template changes the user's text, so its spans cannot be found in the prompt; "
            "pass the text to compare with as query=ids"
        )
    try:
        encoded = tokenizer(text, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise ValueError("the processor's tokenizer gives no character offsets; load a fast tokenizer") from error
    ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]

    def inside(ranges: list[tuple[int, int]]) -> list[int]:
        spans = [(start + begin, start + end) for begin, end in ranges]
        return [i for i, (a, b) in enumerate(offsets) if a < b and any(a < end and b > begin for begin, end in spans)]

    special = set(tokenizer.all_special_ids)
    found = {name: inside(ranges) for name, ranges in pieces.items()}
    return ids, found | {"prompt": [i for i, token in enumerate(ids) if token not in special]}


def _matched(plain: list[int], ids: list[int]) -> list[int | None]:
    """For each token of the text its place among the processor's ``ids``, None where the processor put something else: it
    replaces what stands for an image by many tokens, markers among them, and may add some at either end."""
    places: list[int | None] = [None] * len(plain)
    for block in SequenceMatcher(None, plain, ids, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            places[block.a + i] = block.b + i
    return places


__all__ = ["Asked", "Prompt", "build", "marks", "open_image", "phrase", "rendered"]
