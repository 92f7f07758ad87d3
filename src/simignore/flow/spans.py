"""Which part of the prompt each of its tokens is in: every token in exactly one, so that flow can be summed without doubt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simignore.layout import Layout
from simignore.parts import Parts
from simignore.query import Template, find_template
from simignore.splice.reading import read
from simignore.types import PAD

Array = NDArray[Any]
ANSWER = "earlier answer"
_NOWHERE = -1


@dataclass(frozen=True)
class Spans:
    """The parts of a prompt and of the answer behind it.

    names: S of them in a fixed order, without those that have no token: "system", "image 1" ..., "video 1" ..., "context",
    "question", "options", "template"; the last is always "earlier answer".
    number: [T'] which of them each place is in; T' places of the prompt and of the answer but its last token.
    prompt: T, places of the prompt. answer: A, tokens of the answer.
    """

    names: tuple[str, ...]
    number: Array
    prompt: int
    answer: int

    @property
    def counts(self) -> Array:
        """[A, S] tokens of each part that come before each token of the answer."""
        own = np.bincount(self.number[: self.prompt], minlength=len(self.names))
        counts = np.tile(own, (self.answer, 1))
        counts[:, -1] = np.arange(self.answer)
        return counts

    def places(self, name: str) -> Array:
        """The places of one part, in order; none for a part that this prompt does not have."""
        if name not in self.names:
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.number == self.names.index(name))


def partition(
    parts: Parts,
    inputs: Mapping[str, Any],
    spans: Mapping[str, Tensor] | None,
    answer_tokens: int,
    template: Template | None = None,
) -> Spans:
    """The part of every place of a prompt of batch 1, and of the answer behind it.

    inputs: what the processor returned. spans: of :class:`simignore.prompt.Prompt`; None for the processor's own output:
    then the words of the last user turn are the question, found by ``template`` (default: of the processor that lies beside
    the model's weights), and without one all text behind the first image, or before it where nothing is behind.

    A place that could be in several parts is in the first of: an image or video (its tokens on the grid, and whatever stands
    between them or belongs to them, such as ends of rows and times of frames), question, options, context, "system" (all
    before the first image, its opening marker included), "template" (what is left: markers, the instruction how to answer).
    What is one image is as in :func:`simignore.layout.layout`: a crop that stands in the prompt as an image does is one, and
    so are frames of a video where the family has no video tokens.
    Raises ValueError for a batch, a prompt without an image or without a question, spans beyond the prompt.
    """
    found = _read(parts, inputs)
    if answer_tokens < 1:
        raise ValueError(f"an answer of {answer_tokens} tokens has no flow into it; pass one of at least one token")
    pictures = _pictures(found)
    text = {"question": _question(parts, found, template)} if spans is None else _text(spans, found.length)
    before = np.arange(min(int(places.min()) for places in pictures.values()))
    claims = {**pictures, **text, "system": before, "template": np.arange(found.length)}
    order = ("system", *pictures, "context", "question", "options", "template")
    owner = np.full(found.length, _NOWHERE)
    for name, places in claims.items():
        free = places[owner[places] == _NOWHERE]
        owner[free] = order.index(name)
    if not (owner == order.index("question")).any():
        raise ValueError("this prompt holds an image but no question; ask something about the image")
    used, number = np.unique(owner, return_inverse=True)
    names = (*(order[n] for n in used), ANSWER)
    answer = np.full(answer_tokens - 1, len(names) - 1)
    return Spans(names, np.concatenate([number, answer]), found.length, answer_tokens)


def _read(parts: Parts, inputs: Mapping[str, Any]) -> Layout:
    ids = inputs.get("input_ids")
    if ids is None or ids.shape[0] != 1:
        got = "no input_ids" if ids is None else f"{ids.shape[0]} prompts"
        raise ValueError(f"the parts of one prompt are told by its token ids, got {got}; pass input_ids of batch 1")
    found = read(parts, inputs)
    if found is None or not found.counts[0]:
        raise ValueError(
            "this prompt holds no image tokens, so nothing flows from an image; ask about at least one image"
        )
    return found


def _pictures(found: Layout) -> dict[str, Array]:
    """The places of each image and video, in reading order, under its name."""
    at = found.image[0].numpy()
    grids, which = found.patches.grids[0], found.patches.image[0].numpy()
    at, which = at[at != PAD], which[at != PAD]
    owner = np.full(found.length, _NOWHERE)
    for number in np.unique(which):
        own = at[which == number]
        owner[own.min() : own.max() + 1] = number  # what stands between belongs to it too
    owner[at] = which  # should images interleave, each has its own tokens at least
    _adopt(owner, found.placeholders[0].numpy())
    counts = {"image": 0, "video": 0}
    named = {}
    for number in np.unique(which):
        kind = "video" if any(grid.image == number and grid.kind == "frame" for grid in grids) else "image"
        counts[kind] += 1
        named[f"{kind} {counts[kind]}"] = np.flatnonzero(owner == number)
    return named


def _adopt(owner: Array, placeholders: Array) -> None:
    """Give placeholders on no grid to the image before them in their run, or, at its beginning, to the one behind."""
    for way in (1, -1):
        line, held = owner[::way], placeholders[::way]  # views
        for place in range(1, len(line)):
            if held[place] and held[place - 1] and line[place] == _NOWHERE:
                line[place] = line[place - 1]


def _text(spans: Mapping[str, Tensor], length: int) -> dict[str, Array]:
    """The places of question, options and context, in the order in which they take them.

    A prompt's spans name its context only together with the question, which has its places already.
    """
    told = {name: np.unique(places.cpu().numpy().astype(np.int64)) for name, places in spans.items()}
    for name, places in told.items():
        if len(places) and not 0 <= places[0] <= places[-1] < length:
            wrong = places[-1] if places[-1] >= length else places[0]
            raise ValueError(
                f"span {name!r} names place {wrong} of {length} tokens; pass the spans of this very prompt"
            )
    for meant, also in (("question", "user"), ("context", "context+question")):
        if meant not in told and also in told:
            told[meant] = told[also]
    if "question" not in told:
        raise ValueError(f"the spans {sorted(told)} hold no 'question'; pass those of simignore.prompt.build, or None")
    return {name: told[name] for name in ("question", "options", "context") if name in told}


def _question(parts: Parts, found: Layout, template: Template | None) -> Array:
    """The places of the last user turn's words, or of all text behind the first image."""
    if found.ids is None:
        raise ValueError("which words are the question cannot be told from embeddings; pass input_ids")
    own = found.attended[0] & ~found.placeholders[0]
    text = [_Placed(found.ids[0, place], place) for place in own.nonzero()[:, 0].tolist()]
    where = str(getattr(parts.model.config, "_name_or_path", "") or "")
    template = template or find_template(where, parts.image_token)
    if template is not None:
        words = template.user_text([*text], found.images[0])
        return np.array([word.place for word in words if isinstance(word, _Placed)], dtype=np.int64)
    first = int(found.image[0, 0])
    places = np.array([word.place for word in text if word not in parts.special], dtype=np.int64)
    behind = places[places > first]
    return behind if len(behind) else places


class _Placed(int):
    """A token id that knows its place, so that it can still be told after others have picked among the ids."""

    place: int

    def __new__(cls, token: Any, place: int) -> _Placed:
        made = super().__new__(cls, int(token))
        made.place = place
        return made
