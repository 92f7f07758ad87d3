"""What a head is trained on: examples, and rendered scenes; files of images, questions and answers are read in ``records``."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

from torch.utils.data import Dataset

from simignore.evaluate.pictures import Picture
from simignore.tiny.questions import KINDS, ask_surely
from simignore.tiny.scenes import SHAPES, SIDE, SPLITS, Scene, render, sample_scene
from simignore.wording import AnswerAs

FIRST = 1_000_000  # scenes of the training split before this one have taught the bundled model
APART = 500_000  # scenes of one seed


@dataclass(frozen=True)
class Region:
    """A part of an image. words: what it shows. box: (left, top, right, bottom) as fractions of the image's width and height.
    needed: whether the question needs it. mask: gives [H, W] True where it is seen, for the whole image; where there is one the
    box is not read."""

    words: str
    box: tuple[float, float, float, float]
    needed: bool = False
    mask: Callable[[], Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Example:
    """An image, a question and its answer.

    options, context, answer_as: how the question is put, as for :func:`simignore.prompt.build`. regions: what is seen where.
    """

    image: Picture
    question: str
    answer: str
    options: tuple[str, ...] = ()
    context: str | None = None
    answer_as: AnswerAs | None = None
    regions: tuple[Region, ...] = ()

    @property
    def words(self) -> dict[str, Any]:
        """Arguments for :func:`simignore.prompt.phrase`."""
        return {
            "question": self.question,
            "options": self.options,
            "context": self.context,
            "answer": self.answer_as,
        }


class Scenes(Dataset[Example]):
    """Rendered scenes of the training split, none of which the bundled model was trained on, all kinds of questions in turn.

    count: of examples. seed: 0 to 17; each has its own scenes. kinds: of questions. without: shapes that no scene shows, to
    see afterwards whether a head serves shapes that it never saw. Two of three questions want the option's text, one a letter.
    Raises ValueError for unknown kinds and shapes.
    """

    def __init__(
        self, count: int, seed: int = 0, kinds: Sequence[str] = KINDS, without: Sequence[str] = (), scale: int = 1
    ) -> None:
        most = (len(SPLITS["train"]) - FIRST) // APART
        if not 0 <= seed < most or count < 1:
            raise ValueError(
                f"seed={seed}, count={count}: the seeds of training are 0 to {most - 1}, and one example is the least"
            )
        for name, values, known in (("kinds", kinds, KINDS), ("without", without, SHAPES)):
            if strange := set(values) - set(known):
                raise ValueError(f"{name}: {', '.join(sorted(strange))} is none of {', '.join(known)}")
        if not kinds or len(set(without)) >= len(SHAPES) - 1:
            raise ValueError("kinds and shapes are needed to ask about; leave some")
        self.count, self.seed, self.kinds, self.without, self.scale = count, seed, tuple(kinds), set(without), scale

    @property
    def about(self) -> str:
        """Which examples these are: others are told otherwise."""
        without = ",".join(sorted(self.without))
        return (
            f"{self.count} scenes of seed {self.seed}, {','.join(self.kinds)}, without [{without}], scale {self.scale}"
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Example:
        if not 0 <= number < self.count:
            raise IndexError(f"example {number} of {self.count}")
        rng = random.Random(f"learn/{self.seed}/{number}")
        kind, first = self.kinds[number % len(self.kinds)], FIRST + self.seed * APART
        while True:
            scene = sample_scene(first + rng.randrange(APART))
            if self.without.isdisjoint(thing.shape for thing in scene.things):
                asked = ask_surely(kind, scene, rng)
                if asked is not None and not (self.without & set(asked.question.replace("?", " ").split())):
                    break
        letter = rng.random() < 1 / 3
        return Example(
            partial(_draw, scene, self.scale),
            asked.question,
            asked.letter if letter else asked.answer,
            asked.options,
            None,
            "letter" if letter else "text",
            tuple(
                Region(thing.name, _box(thing), n in asked.needs, partial(_seen, scene, n))
                for n, thing in enumerate(scene.things)
            ),
        )


def _draw(scene: Scene, scale: int) -> Any:
    return render(scene, scale)[0]


@lru_cache(maxsize=2)  # one scene's things are asked for in a row
def _owner(scene: Scene) -> Any:
    return render(scene)[1]


def _seen(scene: Scene, number: int) -> Any:
    return _owner(scene) == number + 1


def _box(thing: Any) -> tuple[float, float, float, float]:
    x, y, r = (
        thing.x / SIDE,
        thing.y / SIDE,
        0.8 * thing.radius / SIDE,
    )  # a shape's corners reach further than most of it
    return x - r, y - r, x + r, y + r
