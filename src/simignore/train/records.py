"""Files of images, questions and answers as examples, and what is said of records that are wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from torch.utils.data import Dataset

from simignore.train.data import Example, Region
from simignore.wording import AnswerAs, wording


class Records(Dataset[Example]):
    """Questions from a file of records: JSON lines, or one JSON list. A record is one of

        {"image": "a.jpg", "question": "What colour is the bus?", "answer": "Red", "options": [..], "context": ".."}
        {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat ..?"}, {"from": "gpt", "value": "Red"}]}

    the second as LLaVA's training data are; each of its turns is an example of its own, without the turns before. ``regions``,
    a list of {"words": "a red bus", "box": [left, top, right, bottom], "needed": true} with boxes in fractions of the image,
    may stand in both; "needed" says that the question cannot be answered without the region.
    Records without an image are left out and counted in ``skipped``. images: the folder that image names begin from; by
    default the file's own. ``digest`` tells one state of the file from another; what the images show is not read for it. Raises ValueError or OSError naming the file, the record and the remedy.
    """

    def __init__(self, file: Path, images: Path | None = None) -> None:
        self.file, self.folder = Path(file), Path(images) if images is not None else Path(file).parent
        self.skipped, content = 0, _content(self.file)
        self.digest = hashlib.sha256(content).hexdigest()[:16]
        self.examples = [example for number, told in _records(self.file, content) for example in self._read(number, told)]
        if not self.examples:
            raise ValueError(f"{self.file} holds no record with an image and a question; see `simignore train --help`")
        lost = sorted({str(e.image) for e in self.examples if not Path(str(e.image)).is_file()})
        if lost:
            more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
            raise OSError(
                f"{len(lost)} images of {self.file} are missing: {', '.join(lost[:5])}{more}; name their folder with --images"
            )

    @property
    def about(self) -> str:
        """Which examples these are: a file that was edited is told otherwise."""
        return f"records with digest {self.digest}"

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


def _content(file: Path) -> bytes:
    if not file.is_file():
        raise OSError(f"no file {file}; name JSON lines with image, question and answer, or scenes")
    return file.read_bytes()


def _records(file: Path, content: bytes) -> Iterator[tuple[int, Any]]:
    """(number from 1, record) of a file with this content."""
    text = content.decode("utf-8")
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
