"""What a head is trained on: rendered scenes, or files of images, questions and answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, get_args

from torch.utils.data import Dataset

from simignore.evaluate.pictures import Picture
from simignore.tiny.questions import KINDS, ask_surely
from simignore.tiny.scenes import SHAPES, SIDE, SPLITS, Scene, render, sample_scene
from simignore.wording import AnswerAs, wording

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


class Records(Dataset[Example]):
    """Questions from a file of records: JSON lines, or one JSON list. A record is one of

        {"image": "a.jpg", "question": "What colour is the bus?", "answer": "Red", "options": [..], "context": ".."}
        {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat ..?"}, {"from": "gpt", "value": "Red"}]}

    the second as LLaVA's training data are; each of its turns is an example of its own, without the turns before. ``regions``,
    a list of {"words": "a red bus", "box": [left, top, right, bottom], "needed": true} with boxes in fractions of the image,
    may stand in both; "needed" says that the question cannot be answered without the region.
    Records without an image are left out and counted in ``skipped``. images: the folder that image names begin from; by
    default the file's own. Raises ValueError or OSError naming the file, the record and the remedy.
    """

    def __init__(self, file: Path, images: Path | None = None) -> None:
        self.file, self.folder = Path(file), Path(images) if images is not None else Path(file).parent
        self.skipped = 0
        self.examples = [example for number, told in _records(self.file) for example in self._read(number, told)]
        if not self.examples:
            raise ValueError(f"{self.file} holds no record with an image and a question; see `simignore train --help`")
        lost = sorted({str(e.image) for e in self.examples if not Path(str(e.image)).is_file()})
        if lost:
            more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
            raise OSError(
                f"{len(lost)} images of {self.file} are missing: {', '.join(lost[:5])}{more}; name their folder with --images"
            )

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, number: int) -> Example:
        return self.examples[number]

    def _read(self, number: int, told: Any) -> Iterator[Example]:
        where = f"{self.file}, record {number}"
        if not isinstance(told, Mapping):
            raise ValueError(f"{where} is {type(told).__name__}; a record is an object with image, question and answer")
        if not told.get("image"):
            self.skipped += 1
            return
        if not isinstance(told["image"], str):
            raise ValueError(
                f"{where}: image={told['image']!r} must be one file name; heads are trained on one image each"
            )
        regions, image = _regions(where, told.get("regions", ())), self.folder / told["image"]
        for question, answer in _turns(where, told):
            options, context = told.get("options", ()), told.get("context")
            if not isinstance(options, list | tuple) or not all(isinstance(option, str) for option in options):
                raise ValueError(f"{where}: options={options!r} must be a list of texts")
            if context is not None and not isinstance(context, str):
                raise ValueError(f"{where}: context={context!r} must be a text; leave it out where there is none")
            if (how := told.get("answer_as")) not in (None, *get_args(AnswerAs)):
                raise ValueError(f"{where}: answer_as={how!r} is none of {', '.join(get_args(AnswerAs))}")
            example = Example(image, question, answer, tuple(options), context, how, regions)
            try:
                wording(**example.words)
            except ValueError as error:
                raise ValueError(f"{where} cannot be asked: {error}") from error
            yield example


def _records(file: Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, record) of a file."""
    if not file.is_file():
        raise OSError(f"no file {file}; name JSON lines with image, question and answer, or scenes")
    text = file.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), 1)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is no JSON list ({error})") from error
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number} is no JSON ({error}); write one object per line") from error


def _turns(where: str, told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(question, answer) of a record."""
    said = told.get("conversations")
    if said is None:
        pair = told.get("question"), told.get("answer")
        if not all(isinstance(word, str) and word.strip() for word in pair):
            raise ValueError(f"{where} has question={pair[0]!r} and answer={pair[1]!r}; both must be texts")
        yield str(pair[0]), str(pair[1])
        return
    ways = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
    try:
        turns = [(ways[turn["from"]], str(turn["value"]).replace("<image>", "").strip()) for turn in said]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{where}: conversations must be a list of {{from: human or gpt, value: text}} ({error!r})"
        ) from error
    pairs = list(zip(turns[::2], turns[1::2], strict=False))
    if not pairs or any(one[0] != "human" or other[0] != "gpt" or not one[1] or not other[1] for one, other in pairs):
        raise ValueError(f"{where}: conversations must go from human to gpt and back, none of them empty")
    yield from ((question, answer) for (_, question), (_, answer) in pairs)


def _regions(where: str, told: Any) -> tuple[Region, ...]:
    found = []
    if not isinstance(told, list | tuple):
        raise ValueError(
            f"{where}: regions={told!r} must be a list of {{words: text, box: [left, top, right, bottom]}}"
        )
    for region in told:
        try:
            left, top, right, bottom = (float(end) for end in region["box"])
            words = str(region["words"]).strip()
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{where}: a region is {{words: text, box: [left, top, right, bottom]}} ({error!r})"
            ) from error
        if not words or not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(f"{where}: region {region!r} needs words, and a box in fractions of the image, 0 to 1")
        found.append(Region(words, (left, top, right, bottom), bool(region.get("needed", False))))
    return tuple(found)
