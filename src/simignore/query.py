"""The text that image tokens are compared with: given by the caller, or the user's own words found in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from simignore.layout import Layout


class Query:
    """Token ids to compare image tokens with, for each sample of whatever batch comes.

    given: ids [M] for all samples, or a list with one such tensor per sample, or None for the words of the prompt's last
        user turn. ``template`` tells those from the words of the chat template; without one, all of the prompt's text
        counts except special tokens, and ``origin`` says so.
    special: ids that are never text. vocabulary: number of token ids that the decoder knows.
    """

    def __init__(self, given: Any, template: Template | None, special: frozenset[int], vocabulary: int) -> None:
        self.special, self.template = special, template
        self.given = None if given is None else _as_queries(given, vocabulary)
        self.origin = "given" if self.given is not None else "user text" if self.template else "whole prompt"

    def tokens(self, read: Layout, device: torch.device) -> tuple[Tensor, Tensor]:
        """Token ids [B, M], padded with 0, and which of them are real [B, M]."""
        batch = read.attended.shape[0]
        queries = [self._found(read, b) for b in range(batch)] if self.given is None else self._repeated(read, batch)
        lengths = torch.tensor([len(query) for query in queries])
        ids = torch.nn.utils.rnn.pad_sequence(queries, batch_first=True)  # [B, M]
        return ids.to(device), (torch.arange(ids.shape[1]) < lengths[:, None]).to(device)

    def told(self, read: Layout) -> tuple[str, ...]:
        """Each sample's query as a string. Raises ValueError where no tokenizer is at hand."""
        if self.template is None:
            raise ValueError(
                "this method reads the question as words, and no tokenizer was found beside the model's weights; pass it: "
                "`with method(model, processor=processor):`"
            )
        ids, valid = self.tokens(read, torch.device("cpu"))
        decode = self.template.tokenizer.decode
        return tuple(str(decode(own[real])).strip() for own, real in zip(ids, valid, strict=True))

    def _repeated(self, read: Layout, batch: int) -> list[Tensor]:
        """One query for each row. Beams and samples repeat their prompt in turn, and only they share its query."""
        given = self.given or []
        times = batch // len(given)
        if batch % len(given) or (1 < len(given) < batch and not _in_blocks(read, times)):
            raise ValueError(
                f"query has {len(given)} entries for a batch of {batch} prompts; pass one for all (a tensor), or one per sample"
            )
        return [query for query in given for _ in range(times)]

    def _found(self, read: Layout, sample: int) -> Tensor:
        text = read.text(sample)
        if self.template is not None:
            text = self.template.user_text(text, read.images[sample])
        text = [token for token in text if token not in self.special]
        if not text and read.counts[sample]:
            raise ValueError(
                f"sample {sample} holds an image but no text to compare it with; ask something, or pass query=ids"
            )
        return torch.tensor(text or [0])  # a sample without an image needs no text


def _in_blocks(read: Layout, times: int) -> bool:
    """Whether the rows of a batch are prompts that come so many times in turn, as far as can be told without their images."""
    told = (read.attended, read.image) if read.ids is None else (read.attended, read.image, read.ids)
    return all(bool((rows == rows[::times].repeat_interleave(times, 0)).all()) for rows in told)


def _as_queries(given: Any, vocabulary: int) -> list[Tensor]:
    several = isinstance(given, list | tuple) and len(given) > 0 and not isinstance(given[0], Integral)
    try:
        queries = [torch.as_tensor(query).detach().cpu() for query in (given if several else [given])]
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"a query is token ids, got {type(given).__name__}; "
            "take tokenizer(text, add_special_tokens=False, return_tensors='pt').input_ids[0]"
        ) from error
    for query in queries:
        if query.dim() == 1 and query.numel() == 0:
            raise ValueError("the query has no tokens; pass the ids of at least one word, or leave query out")
        if query.dim() != 1 or query.is_floating_point() or query.dtype == torch.bool:
            raise ValueError(
                f"a query is a 1-D tensor of token ids, got {query.dtype} of shape {tuple(query.shape)}; "
                "take tokenizer(text, add_special_tokens=False, return_tensors='pt').input_ids[0]"
            )
        if int(query.min()) < 0 or int(query.max()) >= vocabulary:
            wrong = int(query.min()) if int(query.min()) < 0 else int(query.max())
            raise ValueError(
                f"query token {wrong} is outside the model's vocabulary of {vocabulary}; use its own tokenizer"
            )
    return [query.long() for query in queries]


class Template:
    """What a processor's chat template puts around the user's words, found by rendering it around different words.

    Raises ValueError if the tokenizer tells no two common words apart.
    """

    def __init__(self, processor: Any, image_token: int) -> None:
        self.processor, self.image_token = processor, image_token
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.special = frozenset(self.tokenizer.all_special_ids)
        self.words = self._two_words()
        self.markers = frozenset(getattr(self.tokenizer, "get_added_vocab", dict)().values())
        self._around: dict[int, tuple[list[int], list[int]]] = {}
        self.between = self._between()

    def user_text(self, text: list[int], images: int) -> list[int]:
        """The last user turn in ``text``, a prompt's ids without its image tokens, of which it held so many runs."""
        text = self._bare(text)
        if images not in self._around:
            a, b = (self._ids([self._user(word, images)]) for word in self.words)
            self._around[images] = a[: _common(a, b)], a[len(a) - _common(a[::-1], b[::-1]) :]
        before, after = self._around[images]
        begin = _common(text, before)
        if self.between and (turn := _last(text, self.between, begin)) is not None:
            begin = turn + len(self.between)
        end = _last(text, after, begin) if after else None
        words = [token for token in text[begin:end] if token not in self.special]
        while words and (words[0] in self.markers or not str(self.tokenizer.decode(words[:1])).strip()):
            words = words[1:]  # some processors put markers and line ends between an image and the words
        return words

    def _between(self) -> list[int]:
        """What stands between an assistant's answer and the user's next words; empty if it is too short to be told."""
        a, b = self.words
        answer = {"role": "assistant", "content": [{"type": "text", "text": a}]}
        try:
            first, second = (self._ids([self._user(a, 0), answer, self._user(word, 0)]) for word in (a, b))
            plain = self._ids([self._user(a, 0), answer], prompt=False)
        except Exception:  # a template may refuse a second turn; then there is nothing to find
            return []
        found = first[_common(first, plain) : _common(first, second)]
        return found if len(found) > 1 or self.special.intersection(found) else []

    def _user(self, word: str, images: int) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": word}]}

    def _ids(self, messages: list[dict[str, Any]], prompt: bool = True) -> list[int]:
        text = self.processor.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._bare([token for token in ids if token != self.image_token])

    def _bare(self, ids: list[int]) -> list[int]:
        """Without a token at the front that only some ways of tokenising add."""
        return ids[1:] if ids and ids[0] == self.tokenizer.bos_token_id else ids

    def _two_words(self) -> tuple[str, str]:
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        seen: dict[tuple[int, ...], str] = {}
        for word in ("red", "blue", "one", "two", "cat", "A", "B", "1", "2"):
            ids = tuple(self.tokenizer(word, add_special_tokens=False)["input_ids"])
            if ids and unknown not in ids:
                seen.setdefault(ids, word)
        if len(seen) < 2:
            raise ValueError(
                "this tokenizer tells no two common words apart, so the user's words cannot be found; pass query=ids"
            )
        first, second = list(seen.values())[:2]
        return first, second


def find_template(where: str, image_token: int) -> Template | None:
    """The template of the processor that lies on this machine under a model's name or folder, or None.

    Never asks the network. What was found is kept; where there was none, one may be saved later.
    """
    if not where:
        return None
    try:
        return _read_template(where, image_token)
    except Exception:  # whatever went wrong means the same: there is none to be had here
        return None


@lru_cache(maxsize=8)
def _read_template(where: str, image_token: int) -> Template:
    from transformers import AutoProcessor

    return Template(AutoProcessor.from_pretrained(where, local_files_only=True), image_token)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common front of two sequences."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _last(text: list[int], part: list[int], begin: int) -> int | None:
    """Where ``part`` occurs last in ``text`` from ``begin`` on, or None."""
    starts = range(len(text) - len(part), begin - 1, -1)
    return next((start for start in starts if text[start : start + len(part)] == part), None)
