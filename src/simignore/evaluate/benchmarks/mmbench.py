"""MMBench: multiple choice over twenty abilities, each question asked once for every place its right option can take."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.benchmarks.reading import drawn_together, one_file, words
from simignore.evaluate.folder import read_text
from simignore.wording import LAST_LINE, LETTERS, AnswerAs, Style

TURN = 1_000_000  # a question's index grows by it with every turn of its options
CHOICES = "ABCD"
NEEDED = ("index", "question", "A", "B", "answer", "image")
GROUPS = ("category", "l2-category")
_FILES = ("MMBench_DEV_EN.tsv", "mmbench_dev_en_20231003.tsv", "mmbench_dev_20230712.tsv")
_LONGEST = 2**31 - 1  # characters of a cell: images are cells
_LETTER = r"(?:(?:the )?(?:correct )?(?:answer|option|choice)(?: is)?\s*:?\s*)?[(\[\"']*([{}])(?=$|[)\].:\"'\n])"


@dataclass(frozen=True)
class MMBench(Benchmark):
    """MMBench's dev set (Liu et al., ECCV 2024, arXiv 2307.06281), scored by CircularEval.

    A question with n options is asked n times, with the options turned by one place each time, and is right if every answer
    is: a model that likes a letter gains nothing. Rows whose index is 1,000,000 k above a question's are its k-th turn; turns
    are made for a question that has none in the file. "circular" is what papers quote; "vanilla" counts unturned questions
    alone, and the accuracy over all that was asked is of turns one by one. No judge model reads answers: a letter is read, or
    the text of exactly one option.
    data: the official TSV, or a folder with it. Images are in it, as base64.
    Item.answer: the right option's letter. Item.id: the index.
    """

    name: ClassVar[str] = "mmbench"
    title: ClassVar[str] = "MMBench"
    source: ClassVar[str] = "Liu et al. 2024, arXiv 2307.06281"
    layout: ClassVar[str] = "MMBench_DEV_EN.tsv, with the images in its cells"
    main: ClassVar[str] = "circular"
    style: ClassVar[Style] = "lines"
    answer_as: ClassVar[AnswerAs | None] = "letter"

    def items(self) -> list[Item]:
        file = one_file(self, *_FILES)
        found: dict[int, Item] = {}
        pictures: dict[int, str] = {}
        for line, row in _rows(file):
            where = f"{file}, line {line}"
            index = _index(row, where)
            if index in found:
                raise ValueError(f"{where}: the index {index} occurs before; each row needs its own")
            picture = row["image"].strip()
            pictures[index] = pictures.get(int(picture), "") if len(picture) <= 64 and picture.isdigit() else picture
            if not pictures[index]:
                raise ValueError(
                    f"{where} (index {index}): 'image' holds no base64, nor the index of a row above; fetch it anew"
                )
            found[index] = _item(index, row, f"{where} (index {index})", pictures[index], f"{file}, index {index}")
        if not found:
            raise ValueError(f"{file} holds no question; fetch it anew")
        return _turned(found, file)

    def chosen(self, limit: int | None) -> list[Item]:
        """Questions come with all their turns, so there may be somewhat fewer than ``limit``."""
        return drawn_together(super().chosen(None), limit, f"{self.name}/{self.seed}", question_of)

    def words(self, item: Item) -> dict[str, Any]:
        """Options of the same text are named in the question itself, as they cannot be told apart as options."""
        asked = super().words(item)
        if len({option.strip() for option in item.options}) == len(item.options):
            return asked
        lines = [f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, item.options, strict=False)]
        question = "\n".join([item.question.strip(), *lines])
        return asked | {"question": question, "options": (), "instruction": LAST_LINE["letter"]}

    def score(self, item: Item, told: str) -> float:
        return float(chosen_letter(told, item.options) == item.answer)

    def unreadable(self, item: Item, told: str) -> bool:
        """An answer that names no option, or several."""
        return chosen_letter(told, item.options) is None

    def metrics(self, items: Sequence[Item], told: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
        """Circular accuracy, in all and of each category, and vanilla accuracy."""
        turns: dict[str, list[float]] = {}
        groups: dict[str, list[str]] = {}
        vanilla = []
        for item, score in zip(items, scores, strict=True):
            turns.setdefault(question_of(item), []).append(score)
            groups[question_of(item)] = [f"{kind}/{value}" for kind, value in item.groups.items()]
            if int(item.id) < TURN:
                vanilla.append(score)
        circular = {name: float(all(own)) for name, own in turns.items()}
        found = {"circular": _mean(list(circular.values()))}
        if vanilla:
            found["vanilla"] = _mean(vanilla)
        for group in sorted({group for own in groups.values() for group in own}):
            found[group] = _mean([right for name, right in circular.items() if group in groups[name]])
        return found


def question_of(item: Item) -> str:
    """The index of the question that a row is a turn of."""
    return str(int(item.id) % TURN)


def chosen_letter(told: str, options: Sequence[str]) -> str | None:
    """The letter that an answer names, alone or before its option's text, or that of the only option whose text it has."""
    text = told.strip()
    letters = LETTERS[: len(options)]
    match = re.match(_LETTER.replace("{}", letters), text, re.IGNORECASE)
    if match and match[1] in letters:  # "a" is no letter of an option
        return match[1]
    plain = text.rstrip(".").casefold()
    if not plain:
        return None
    wanted = [option.strip().rstrip(".").casefold() for option in options]
    same = [letter for letter, option in zip(letters, wanted, strict=True) if option == plain]
    inside = [
        letter
        for letter, option in zip(letters, wanted, strict=True)
        if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", plain)
    ]
    hits = same or inside
    return hits[0] if len(hits) == 1 else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(last line, cells by column) of every row. Raises ValueError for missing columns and for rows of another length."""
    text = read_text(file)
    limit = csv.field_size_limit(_LONGEST)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter="\t")
        names = next(reader, [])
        if missing := [name for name in NEEDED if name not in names]:
            raise ValueError(
                f"{file}, line 1: the columns {', '.join(missing)} are missing; MMBench's file is a TSV with a header"
                + ("; answers are public for the dev split alone" if missing == ["answer"] else "")
            )
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: {error}; save it as a TSV as pandas writes it") from error
    finally:
        csv.field_size_limit(limit)
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{file}, line {line}: {len(row)} cells for {len(names)} columns; check its tabs and quotes"
            )
        yield line, dict(zip(names, row, strict=True))


def _index(row: dict[str, str], where: str) -> int:
    text = row["index"].strip()
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{where}: the index {row['index']!r} is no whole number; correct it")
    return int(text)


def _item(index: int, row: dict[str, str], where: str, picture: str, origin: str) -> Item:
    answer = row["answer"].strip()
    if _blank(answer):
        raise ValueError(f"{where} has no answer; answers are public for the dev split alone, so use its file")
    options = [row[letter] for letter in CHOICES if letter in row]
    while options and (_blank(options[-1]) and LETTERS[len(options) - 1] != answer):
        options.pop()
    if answer not in LETTERS[: len(options)]:
        raise ValueError(f"{where}: the answer {answer!r} is none of its {len(options)} options' letters; correct it")
    if len(options) < 2 or not all(option.strip() for option in options):
        raise ValueError(f"{where}: the options {options!r} must be two or more, none of them empty")
    hint = row.get("hint", "")
    return Item(
        id=str(index),
        question=words(row, "question", where),
        images=(partial(picture_from, picture, origin),),
        answer=answer,
        options=tuple(options),
        context=None if _blank(hint) else hint,
        groups={kind: row[kind] for kind in GROUPS if not _blank(row.get(kind, ""))},
        cluster=hashlib.sha256(picture.encode()).hexdigest()[:16],
    )


def _blank(cell: str) -> bool:
    """Whether a cell stands for nothing: empty, or what pandas and LLaVA take for missing."""
    return cell.strip().lower() in ("", "nan", "none")


def _turned(found: dict[int, Item], file: Path) -> list[Item]:
    """Every question followed by its turns. Raises ValueError for a turn whose question is missing."""
    turns: dict[int, list[int]] = {}
    for index in sorted(found):
        turns.setdefault(index % TURN, []).append(index)
    if lost := [own[0] for base, own in turns.items() if base not in found]:
        raise ValueError(
            f"{file}: row {lost[0]} is a turn of question {lost[0] % TURN}, which is missing; fetch it anew"
        )
    every: list[Item] = []
    for base, own in turns.items():
        first = found[base]
        given = [replace(found[index], groups=first.groups, cluster=first.cluster) for index in own[1:]]
        every += [first, *(given or [turn(first, k) for k in range(1, len(first.options))])]
    return every


def turn(item: Item, by: int) -> Item:
    """A question with its options moved ``by`` places towards the front, those in front to the back."""
    place = (LETTERS.index(item.answer) - by) % len(item.options)
    options = item.options[by:] + item.options[:by]
    return replace(item, id=str(int(item.id) + by * TURN), options=options, answer=LETTERS[place])


def picture_from(encoded: str, origin: str) -> Any:
    """The image in a cell. Raises ValueError naming its row."""
    from PIL import Image

    from simignore.images import upright

    try:
        return upright(Image.open(io.BytesIO(base64.b64decode(encoded, validate=True))))
    except (binascii.Error, OSError, SyntaxError, EOFError, ValueError) as error:
        raise ValueError(f"{origin}: 'image' is no image in base64 ({error}); fetch the file anew") from error
