"""Rendered scenes that the bundled model never saw in training: fourteen kinds of questions, up to three hops."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from simignore.evaluate.benchmark import Benchmark, Item
from simignore.tiny.questions import KINDS, Question, ask_surely
from simignore.tiny.scenes import SPLITS, render, sample_scene

APART = 100_000  # scenes of one seed
FORMS = ("text", "letter")


@dataclass(frozen=True)
class Scenes(Benchmark):
    """Questions about rendered scenes, each about a scene of its own, from the test split: seeds that training never draws.

    per_kind: questions of each of the 14 kinds. seed: 0 to 9; each has fresh scenes. form: "text" or "letter", how options
        are answered. scale: pixels per unit of a scene; 1 gives the 112 pixels that the bundled model sees.
    Item.answer: the option's text, and its letter.
    """

    per_kind: int = 200
    form: str = "text"
    scale: int = 1

    name: ClassVar[str] = "scenes"
    title: ClassVar[str] = "Rendered scenes"
    source: ClassVar[str] = "simignore.tiny"
    layout: ClassVar[str] = "nothing: it is drawn from the seed"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r} is none of {', '.join(FORMS)}")
        if not 0 <= self.seed < len(SPLITS["test"]) // APART:
            raise ValueError(f"seed={self.seed}: the test split has the seeds 0 to {len(SPLITS['test']) // APART - 1}")
        if self.per_kind < 1 or self.scale < 1:
            raise ValueError(f"per_kind={self.per_kind} and scale={self.scale} must be at least 1")
        if self.data is not None or self.images is not None:
            raise ValueError("scenes are drawn, not read; leave out --data and --images")

    def items(self) -> list[Item]:
        by_kind = [self._of(kind) for kind in KINDS]
        return [item for turn in zip(*by_kind, strict=True) for item in turn]  # any beginning has all kinds alike

    def chosen(self, limit: int | None) -> list[Item]:
        """The first ``limit``, which have all kinds alike."""
        if limit is None:
            return super().chosen(None)
        return replace(self, per_kind=min(self.per_kind, -(-limit // len(KINDS)))).items()[:limit]

    def _of(self, kind: str) -> list[Item]:
        """The questions of one kind. Each kind has its own part of the seed's scenes, and each scene its own draw, so a smaller
        number of questions is the beginning of a larger one."""
        part = APART // len(KINDS)
        start = SPLITS["test"].start + self.seed * APART + KINDS.index(kind) * part
        found: list[Item] = []
        for scene in range(start, start + part):
            asked = ask_surely(kind, sample_scene(scene), random.Random(f"scenes/{kind}/{scene}"))
            if asked is not None:
                found.append(self._item(scene, asked))
            if len(found) == self.per_kind:
                return found
        raise ValueError(f"per_kind={self.per_kind}: one seed has scenes for {len(found)} questions of kind {kind!r}")

    def _item(self, scene: int, asked: Question) -> Item:
        return Item(
            id=f"{asked.kind}/{scene}",
            question=asked.question,
            images=(partial(draw, scene, self.scale),),
            answer={"text": asked.answer, "letter": asked.letter},
            options=asked.options,
            context=asked.context,
            groups={"type": asked.kind},
        )

    def words(self, item: Item) -> dict[str, Any]:
        return {**super().words(item), "answer": self.form}

    def score(self, item: Item, told: str) -> float:
        return float(told.strip() == item.answer[self.form])

    def unreadable(self, item: Item, told: str) -> bool:
        """An answer that is none of the options."""
        from simignore.wording import LETTERS

        known = item.options if self.form == "text" else LETTERS[: len(item.options)]
        return told.strip() not in known


def draw(scene: int, scale: int) -> Any:
    """The picture of one scene."""
    return render(sample_scene(scene), scale)[0]
