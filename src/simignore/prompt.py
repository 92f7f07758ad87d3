"""Image + text -> what the processor makes of it, and where the image tokens and each span of the text sit in it."""

from __future__ import annotations

import string
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from simignore.types import PAD

AnswerAs = Literal["letter", "text", "free"]
LETTERS = string.ascii_uppercase
_ANSWER_LINES = {
    "letter": "Answer with the option's letter from the given choices directly.",
    "text": "Answer with the option's text.",
    "free": "",
}


# ---------------------------------------------------------------- where things are in token ids that someone passed


@dataclass(frozen=True)
class Layout:
    """Where the image tokens are among the tokens of one forward. Everything is on the host.

    image: [B, N] places of the image tokens, in reading order, -1 padding. attended: [B, T] False for padding.
    ids: [B, T] token ids, or None if embeddings were passed. seeds: one number per sample, made of its own text only.
    """

    image: Tensor
    attended: Tensor
    ids: Tensor | None
    seeds: tuple[int, ...]

    @classmethod
    def without_image(cls, batch: int, length: int) -> Layout:
        """The layout of tokens among which no image is."""
        nothing = torch.empty(batch, 0, dtype=torch.long)
        return cls(nothing, torch.ones(batch, length, dtype=torch.bool), None, (0,) * batch)

    @property
    def length(self) -> int:
        """T, tokens of each sample, padding included."""
        return self.attended.shape[1]

    @property
    def counts(self) -> list[int]:
        """Image tokens of each sample."""
        return [int(count) for count in (self.image != PAD).sum(1)]

    def grids(self, grid: tuple[int, int] | None) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each sample the (rows, columns) of its images, all of size ``grid``; empty where that is unknown."""
        if grid is None:
            return ((),) * len(self.counts)
        return tuple((grid,) * (count // (grid[0] * grid[1])) for count in self.counts)

    def text(self, sample: int, special: frozenset[int]) -> list[int]:
        """The sample's token ids without image, padding and special tokens. Raises ValueError without ids."""
        if self.ids is None:
            raise ValueError(
                "this method compares image tokens with the prompt's text, and inputs_embeds hides which tokens those are. "
                "Pass input_ids, or the text to compare with: `with method(model, query=ids)`."
            )
        ids = self.ids[sample][self.attended[sample]].tolist()
        return [token for token in ids if token not in special]


def layout(places: Tensor, ids: Tensor | None, mask: Tensor | None, special: frozenset[int]) -> Layout:
    """Read a prompt: ``places`` [B, T] True for image tokens, ``ids`` [B, T], ``mask`` [B, >= T] 2-D (others are ignored)."""
    places = places.cpu()
    attended = torch.ones_like(places)
    if mask is not None and mask.dim() == 2:
        attended = mask[:, -places.shape[1] :].cpu().bool()
    places = places & attended
    longest = int(places.sum(1).max()) if places.numel() else 0
    order = torch.argsort((~places).to(torch.uint8), dim=1, stable=True)[:, :longest]  # [B, N]
    image = torch.where(places.gather(1, order), order, PAD)
    read = Layout(image, attended, None if ids is None else ids.cpu(), (0,) * places.shape[0])
    if ids is None:
        return read
    texts = [torch.tensor(read.text(b, special), dtype=torch.long) for b in range(places.shape[0])]
    return Layout(image, attended, read.ids, tuple(zlib.crc32(text.numpy().tobytes()) for text in texts))


class Query:
    """The text that image tokens are compared with.

    given: token ids [M] for all samples, or a list with one such tensor per sample, or None for the text of the prompt's
    last user turn. To tell that from the words of the chat template a processor is needed; without one all of the
    prompt's text counts, except special tokens. ``vocabulary`` is the number of token ids the decoder knows.
    """

    def __init__(self, given: Any, processor: Any, special: frozenset[int], vocabulary: int) -> None:
        self.special = special
        self.template = None if processor is None else Template(processor)
        self.given = None if given is None else _as_queries(given, vocabulary)
        self.origin = "given" if self.given is not None else "user text" if self.template else "whole prompt"

    def tokens(self, read: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids [B, M], padded with 0, and which of them are real [B, M]."""
        batch = read.attended.shape[0]
        queries = self._found(read, batch) if self.given is None else self._repeated(batch)
        longest = max(len(query) for query in queries)
        ids = torch.zeros(batch, longest, dtype=torch.long)
        for b, query in enumerate(queries):
            ids[b, : len(query)] = query
        lengths = torch.tensor([len(query) for query in queries])
        return ids.to(device), (torch.arange(longest) < lengths[:, None]).to(device)

    def _repeated(self, batch: int) -> list[Tensor]:
        given = self.given or []
        if batch % len(given):
            raise ValueError(f"query has {len(given)} entries for a batch of {batch}; pass one for all, or one per sample")
        return [query for query in given for _ in range(batch // len(given))]  # beams and samples repeat their prompt

    def _found(self, read: Layout, batch: int) -> list[Tensor]:
        queries = []
        for b in range(batch):
            text = read.text(b, self.special)
            images = 0 if read.ids is None else _runs(read.image[b])
            own = self.template.user_text(text, images) if self.template else text
            if not own and bool((read.image[b] != PAD).any()):
                raise ValueError(
                    f"sample {b} holds an image but no text to compare it with; ask something, or pass `query=ids`"
                )
            queries.append(torch.tensor(own or [0]))
        return queries


def _as_queries(given: Any, vocabulary: int) -> list[Tensor]:
    several = isinstance(given, list | tuple) and len(given) > 0 and not isinstance(given[0], int)
    queries = [torch.as_tensor(query).detach().cpu() for query in (given if several else [given])]
    for query in queries:
        if query.dim() != 1 or query.is_floating_point() or query.dtype == torch.bool:
            raise ValueError(
                f"a query is a 1-D tensor of token ids, got {query.dtype} of shape {tuple(query.shape)}; "
                "take tokenizer(text, add_special_tokens=False, return_tensors='pt').input_ids[0]"
            )
        if query.numel() == 0:
            raise ValueError("the query has no tokens; pass the ids of at least one word, or leave query out")
        if int(query.min()) < 0 or int(query.max()) >= vocabulary:
            raise ValueError(f"query token {int(query.max())} is outside the model's vocabulary of {vocabulary}; use its own tokenizer")
    return [query.long() for query in queries]


def _runs(image: Tensor) -> int:
    """How many separate runs of image tokens a sample holds; places [N], -1 padding."""
    places = image[image != PAD]
    return int((places[1:] - places[:-1] > 1).sum()) + 1 if places.numel() else 0


class Template:
    """What a processor's chat template puts around the user's words, found by rendering it around different words."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.special = frozenset(self.tokenizer.all_special_ids)
        self.words = self._two_words()
        self._around: dict[int, tuple[list[int], list[int]]] = {}
        self.between = self._between()

    def user_text(self, text: list[int], images: int) -> list[int]:
        """The last user turn of ``text``, a prompt's ids without special and image tokens, which held some ``images``."""
        if images not in self._around:
            self._around[images] = self._sides(*(self._ids([self._user(word, images)]) for word in self.words))
        before, after = self._around[images]
        begin = _common(text, before)
        if self.between and (turn := _last(text, self.between, begin)) is not None:
            begin = turn + len(self.between)
        end = _last(text, after, begin) if after else None
        if end is None:
            end = len(text) - _common(text[begin:][::-1], after[::-1])
        return text[begin:end]

    def _between(self) -> list[int]:
        """What stands between an assistant's answer and the user's next words."""
        a, b = self.words
        answer = {"role": "assistant", "content": [{"type": "text", "text": a}]}
        try:
            turns = [self._ids([self._user(a, 0), answer, self._user(word, 0)]) for word in (a, b)]
            plain = self._ids([self._user(a, 0), answer], prompt=False)
        except Exception:  # a template may refuse a second turn; then there is nothing to find
            return []
        start = _common(turns[0], plain)
        while start and start > 0 and turns[0][start - 1] in self.special:
            start -= 1
        return turns[0][start : _common(*turns)]

    def _sides(self, a: list[int], b: list[int]) -> tuple[list[int], list[int]]:
        """What two renderings have in common at the front and at the back."""
        back = _common(a[::-1], b[::-1])
        return a[: _common(a, b)], a[len(a) - back :]

    def _user(self, word: str, images: int) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": word}]}

    def _ids(self, messages: list[dict[str, Any]], prompt: bool = True) -> list[int]:
        text = self.processor.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        image = getattr(self.processor, "image_token_id", None)
        return [token for token in ids if token not in self.special and token != image]

    def _two_words(self) -> tuple[str, str]:
        """Two words that the tokenizer tells apart."""
        words = ("red", "blue", "one", "two", "cat", "A", "B", "1", "2")
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        seen: dict[tuple[int, ...], str] = {}
        for word in words:
            ids = tuple(self.tokenizer(word, add_special_tokens=False)["input_ids"])
            if ids and unknown not in ids:
                seen.setdefault(ids, word)
        if len(seen) < 2:
            raise ValueError("this tokenizer tells no two common words apart; pass `query=ids`")
        first, second = list(seen.values())[:2]
        return first, second


def find_processor(model: Any) -> Any:
    """The processor that lies beside the model's weights on this machine, or None. Never asks the network."""
    from transformers import AutoProcessor

    where = getattr(getattr(model, "config", None), "_name_or_path", "")
    if not where:
        return None
    try:
        processor = AutoProcessor.from_pretrained(where, local_files_only=True)
    except Exception:  # any failure means the same: there is none to be had here
        return None
    return processor if getattr(processor, "chat_template", None) else None


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common front of two sequences."""
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


def _last(text: list[int], part: list[int], begin: int) -> int | None:
    """Where ``part`` occurs last in ``text`` from ``begin`` on, or None."""
    for start in range(len(text) - len(part), begin - 1, -1):
        if text[start : start + len(part)] == part:
            return start
    return None
