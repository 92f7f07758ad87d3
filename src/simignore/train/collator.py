"""Examples -> one batch: prompts with their answers through the processor, and where the question and the answer are."""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from simignore.evaluate.answering import processed
from simignore.evaluate.pictures import opened, squared
from simignore.parts import parts
from simignore.prompt import Asked, marks, phrase
from simignore.splice.reading import read
from simignore.train.data import Example, Region
from simignore.train.teacher import IGNORED

COVERED = 1 / 8  # of its area, from which on a token shows a region, as a patch of a scene belongs to a thing


class Collator:
    """Makes batches for :class:`simignore.train.Student`; padding goes to the left.

    spans: which part of the prompt a head is shown, drawn for each example from its own words. square: pad images to squares,
    as LLaVA-1.5 was trained. regions: whether to tell which image tokens show what, for the alignment's loss.
    Raises ValueError for an example whose prompt the processor takes apart otherwise than its tokenizer.
    """

    def __init__(
        self, model: Any, processor: Any, spans: Sequence[str], square: bool = False, regions: bool = False
    ) -> None:
        self.parts, self.processor, self.spans = parts(model), processor, tuple(spans)
        self.square, self.regions = square, regions
        self.mark = marks(processor)[0]

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        asked = [phrase(self.processor, 1, **example.words, mark=self.mark) for example in examples]
        told = [answered(self.processor, one, example.answer) for one, example in zip(asked, examples, strict=True)]
        plain = [opened(example.image) for example in examples]
        images = [[squared(image) if self.square else image] for image in plain]
        inputs = {
            name: value
            for name, value in processed(self.processor, [text for text, _ in told], images).items()
            if isinstance(value, Tensor) and name != "labels"
        }
        ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
        labels = torch.full_like(ids, IGNORED)
        asking, queries = [], []
        for b, (one, (_, said)) in enumerate(zip(asked, told, strict=True)):
            labels[b, ids.shape[1] - said :] = ids[b, ids.shape[1] - said :]
            first = int(mask[b].long().argmax())
            asking.append(one.places(ids[b, first:], "question") + first)
            queries.append(one.query(self._span(one)))
        query, query_valid = padded(queries, 0)
        batch = {
            "inputs": inputs,
            "labels": labels,
            "query": query,
            "query_valid": query_valid,
            "asking": padded(asking, -1)[0],
        }
        return batch | (self._shown(examples, inputs, [image.size for image in plain]) if self.regions else {})

    def _span(self, asked: Asked) -> str:
        """The span for this prompt; what follows from its words alone is the same after a restart."""
        drawn = random.Random(zlib.crc32(asked.text.encode())).choice(self.spans)
        return drawn if drawn in asked.ids else "question"

    def _shown(
        self, examples: Sequence[Example], inputs: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
    ) -> dict[str, Tensor]:
        """The names of the regions [B, W, M], which image tokens show them [B, N, W], and which the question needs [B, N]."""
        found = read(self.parts, inputs)
        if found is None:
            return {}
        names = [list(dict.fromkeys(region.words for region in example.regions)) for example in examples]
        most = max(1, max(map(len, names)))
        tokens = [
            [torch.tensor(self.processor.tokenizer(name, add_special_tokens=False)["input_ids"]) for name in own]
            for own in names
        ]
        none = torch.zeros(0, dtype=torch.long)
        flat, valid = padded([one for own in tokens for one in (*own, *[none] * (most - len(own)))], 0)
        shows = torch.zeros(*found.image.shape, most, dtype=torch.bool)
        needed = torch.zeros(found.image.shape, dtype=torch.bool)
        for b, example in enumerate(examples):
            cells = _cells(found.patches, b)
            if self.square:  # the image lies in the middle of its square
                stretch = torch.tensor([max(sizes[b]) / side for side in sizes[b]]).repeat(2)
                cells = (cells - 0.5) * stretch + 0.5
            for region in example.regions:
                inside = _inside(region, cells)
                shows[b, : len(inside), names[b].index(region.words)] |= inside
                if region.needed:
                    needed[b, : len(inside)] |= inside
        shape = (len(examples), most, -1)
        return {"words": flat.view(shape), "words_valid": valid.view(shape), "shows": shows, "needed": needed}


def answered(processor: Any, asked: Asked, answer: str) -> tuple[str, int]:
    """The text of a prompt with an answer behind it, as the chat template puts the assistant's words, and of how many tokens at
    its end the answer consists, the token that ends it included."""
    between, ending = _around_answer(processor)
    text = f"{asked.text}{between}{answer.strip()}{ending}"
    before, after = asked.plain.tolist(), list(asked.tokenizer(text)["input_ids"])
    shared = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return text, len(after) - shared


def _around_answer(processor: Any) -> tuple[str, str]:
    """What stands between a prompt and its answer, and what ends the answer."""
    end, word = str(getattr(processor.tokenizer, "eos_token", None) or ""), "simignore-answers-here"
    if not getattr(processor, "chat_template", None):
        return " ", end
    turns = (("user", "Q"), ("assistant", word))
    user, said = ({"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns)
    try:
        prompt = str(processor.apply_chat_template([user], add_generation_prompt=True, tokenize=False))
        whole = str(processor.apply_chat_template([user, said], add_generation_prompt=False, tokenize=False))
    except Exception:  # a template may refuse an assistant's turn; then it has none to imitate
        return " ", end
    if not whole.startswith(prompt) or whole.count(word) != 1:
        return " ", end
    between, ending = whole[len(prompt) :].split(word)
    return between, ending.rstrip() or end


def _inside(region: Region, cells: Tensor) -> Tensor:
    """[N] True for the cells [N, 4] of whose area the region's mask covers an eighth; or whose middle its box holds. A box so
    small that it holds none has the cells that hold its own middle."""
    x, y = (cells[:, :2] + cells[:, 2:]).T / 2
    if region.mask is None:
        left, top, right, bottom = region.box
        held: Tensor = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
        if not bool(held.any()):
            x, y = (left + right) / 2, (top + bottom) / 2
            held = (cells[:, 0] <= x) & (x < cells[:, 2]) & (cells[:, 1] <= y) & (y < cells[:, 3])
        return held
    mask = torch.as_tensor(region.mask()).double()
    sums = pad(mask.cumsum(0).cumsum(1), (1, 0, 1, 0))  # [H + 1, W + 1] over all that lies above and left
    height, width = mask.shape
    on = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)
    size = torch.tensor([width, height]).repeat(2)
    left, top, right, bottom = (cells * size).round().long().clamp(torch.zeros(4, dtype=torch.long), size).T
    covered = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    shown: Tensor = on & (covered >= COVERED * (right - left) * (bottom - top)) & (covered > 0)
    return shown


def _cells(patches: Any, sample: int) -> Tensor:
    """[N, 4] left, top, right and bottom of each image token, as fractions of the image; outside of it where that is not
    known."""
    found = []
    for number, row, column in zip(
        *(x[sample].tolist() for x in (patches.grid, patches.row, patches.column)), strict=True
    ):
        grid = patches.grids[sample][number] if number >= 0 else None
        if grid is None or grid.kind == "tokens":
            found.append((-1.0, -1.0, -1.0, -1.0))
            continue
        left, top, right, bottom = grid.box or (0.0, 0.0, 1.0, 1.0)
        across, down = (right - left) / grid.columns, (bottom - top) / grid.rows
        x, y = left + across * column, top + down * row
        found.append((x, y, x + across, y + down))
    return torch.tensor(found)


def padded(rows: Sequence[Tensor], fill: int) -> tuple[Tensor, Tensor]:
    """Rows of numbers as one tensor [B, M], padded on the right, and which are real."""
    lengths = torch.tensor([len(row) for row in rows])
    most = max(1, int(lengths.max()))
    out = torch.full((len(rows), most), fill, dtype=torch.long)
    for row, own in zip(out, rows, strict=True):
        row[: len(own)] = own
    return out, torch.arange(most) < lengths[:, None]
