"""Files of images, questions and answers as examples, and what is said of records that are wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from torch.utils.data import Dataset

from simignore.train.data import Example, Region
from simignore.wording import AnswerAs, wording

KEYS = ("image", "question", "answer", "options", "context", "answer_as", "regions", "conversations")
REGION = ("words", "box", "needed")
ALIKE = 0.85  # "region" and "regions" are more alike, "question_id" and "question" less
A_RECORD = '{"image": "a.jpg", "question": "What colour is the bus?", "answer": "Red"}'
A_REGION = "{words: text, box: [left, top, right, bottom], needed: true or false}"


class Records(Dataset[Example]):
    """Questions from a file of records: JSON lines, or one JSON list. A record is one of

        {"image": "a.jpg", "question": "What colour is the bus?", "answer": "Red", "options": [..], "context": ".."}
        {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat ..?"}, {"from": "gpt", "value": "Red"}]}

    the second as LLaVA's training data are; each of its turns is an example of its own, without the turns before. ``regions``,
    a list of {"words": "a red bus", "box": [left, top, right, bottom], "needed": true} with boxes in fractions of the image,
    may stand in both; "needed" says that the question cannot be answered without the region. Other keys of a record, as
    "id", are not read; one that looks like a misspelt key is refused, and so are all others of a region.
    Records without an image are left out and counted in ``skipped``. images: the folder that image names begin from; by
    default the file's own. ``digest`` tells one state of the file from another; what the images show is not read for it.
    Raises ValueError or OSError naming the file, the record and the remedy.
    """

    def __init__(self, file: Path, images: Path | None = None) -> None:
        self.file, self.folder = Path(file), Path(images) if images is not None else Path(file).parent
        self.skipped, content = 0, _content(self.file)
        self.digest = hashlib.sha256(content).hexdigest()[:16]
        self.examples = [
            example for number, told in _records(self.file, content) for example in self._read(number, told)
        ]
        if not self.examples:
            left = f"{self.skipped} records without an image were left out" if self.skipped else "it is empty"
            raise ValueError(
                f"{self.file} holds no record with an image and a question ({left}); a record is {A_RECORD}"
            )
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
        _check_keys(where, told)
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
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}); a record is {A_RECORD}") from error
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
        if not all(isinstance(word, str) for word in pair):
            raise ValueError(f"{where} has question={pair[0]!r} and answer={pair[1]!r}; both must be texts")
        if not all(str(word).strip() for word in pair):
            raise ValueError(f"{where} has question={pair[0]!r} and answer={pair[1]!r}; neither must be empty")
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


def _check_keys(where: str, told: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that looks like one of a record that is not there. A value of nothing is no matter."""
    others = ("question", "answer") if "conversations" in told else ("conversations",) if "question" in told else ()
    for key in set(told) - set(KEYS):
        like = get_close_matches(key.lower(), KEYS, 1, ALIKE)
        if told[key] and like and like[0] not in (*told, *others):
            raise ValueError(f"{where}: {key!r} looks like {like[0]!r}; the keys that are read are {', '.join(KEYS)}")


def _regions(where: str, told: Any) -> tuple[Region, ...]:
    if not isinstance(told, list | tuple):
        raise ValueError(f"{where}: regions={told!r} must be a list of {A_REGION}")
    return tuple(_region(where, one) for one in told)


def _region(where: str, told: Any) -> Region:
    try:
        left, top, right, bottom = box = tuple(float(end) for end in told["box"])
        words, needed = str(told["words"]).strip(), told.get("needed", False)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: a region is {A_REGION} ({error!r})") from error
    where = f"{where}: region {told!r}"
    if strange := [repr(key) for key in told if key not in REGION]:
        raise ValueError(f"{where} has {', '.join(strange)}; its keys are {', '.join(REGION)}")
    if not isinstance(needed, bool):
        raise ValueError(f"{where} has needed={needed!r}; write true or false, without quotes")
    if not words:
        raise ValueError(f"{where} needs words for what it shows")
    if not all(0 <= end <= 1 for end in box):
        remedy = "divide by the image's size" if max(box) > 1 else "cut it at the image's border"
        raise ValueError(f"{where} needs a box in fractions of the image, 0 to 1; {remedy}")
    if not (left < right and top < bottom):
        raise ValueError(f"{where}: a box is [left, top, right, bottom] with left < right and top < bottom")
    return Region(words, (left, top, right, bottom), needed)
