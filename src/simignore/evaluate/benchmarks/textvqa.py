"""TextVQA: questions about text in images, each with ten people's answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.benchmarks.reading import name_of, need, one_file, picture_folder, words
from simignore.evaluate.folder import read_json

PEOPLE = 10
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = ("a", "an", "the")
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
    not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
    won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_MENDED = {
    word[:at] + word[at + 1 :]: word
    for word in _CONTRACTIONS.split()
    for at, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round


@dataclass(frozen=True)
class TextVQA(Benchmark):
    """Reading text in natural images (Singh et al., CVPR 2019, arXiv 1904.08920), scored by VQA accuracy.

    An answer that n of the other nine people gave is worth min(1, n / 3), averaged over leaving out each of the ten; both sides
    are normalised first, as the EvalAI server does it and M4C and LLaVA take it over, with its quirks.
    data: TextVQA_0.5.1_val.json or its folder. images: with ``<image_id>.jpg``; by default train_images beside the questions.
    ocr: TextVQA_Rosetta_OCR_v0.2_val.json, to name the text that an OCR system read below each question, as LLaVA-1.5's
        published figure has it; None asks without.
    Item.answer: the ten answers as they were given.
    """

    ocr: Path | None = None

    name: ClassVar[str] = "textvqa"
    title: ClassVar[str] = "TextVQA"
    source: ClassVar[str] = "Singh et al. 2019, arXiv 1904.08920"
    layout: ClassVar[str] = "TextVQA_0.5.1_val.json and the images as train_images/<image_id>.jpg"
    instruction: ClassVar[str | None] = "Answer the question using a single word or phrase."

    def items(self) -> list[Item]:
        file = one_file(self, "TextVQA_0.5.1_val.json")
        folder = picture_folder(self, "train_images", "train_val_images/train_images", "train_val_images")
        read = {} if self.ocr is None else _ocr(self.ocr)
        found = [self._item(row, f"{file}, entry {n}", folder, read) for n, row in enumerate(_rows(file))]
        if not found:
            raise ValueError(f"{file} holds no question; fetch it anew")
        return found

    def _item(self, row: dict[str, Any], where: str, folder: Path, read: dict[str, list[str]]) -> Item:
        name = name_of(row, "question_id", where)
        where = f"{where} (question_id {name})"
        answers = need(row, "answers", list, where)
        if len(answers) != PEOPLE or not all(isinstance(answer, str) for answer in answers):
            raise ValueError(f"{where}: 'answers' must be {PEOPLE} texts, and is {answers!r}; the test split has none")
        image = words(row, "image_id", where)
        if self.ocr is not None and image not in read:
            raise ValueError(f"{self.ocr} says nothing of image {image}; name the OCR file of the same split")
        return Item(
            id=name,
            question=words(row, "question", where),
            images=(folder / f"{image}.jpg",),
            answer=answers,
            context=None if self.ocr is None else ", ".join(read[image]),
            cluster=image,
        )

    def words(self, item: Item) -> dict[str, Any]:
        """What was read by OCR stands between question and instruction, where LLaVA-1.5 has it."""
        asked = super().words(item)
        if item.context is None:
            return asked
        return asked | {
            "context": None,
            "instruction": f"Reference OCR token: {item.context}\n{self.instruction}",
        }

    def score(self, item: Item, told: str) -> float:
        return agreement(told, item.answer)


def _rows(file: Path) -> list[dict[str, Any]]:
    """The objects under "data"."""
    rows = need(read_json(file), "data", list, str(file))
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{file}, entry {number}: a JSON {type(row).__name__}, not an object; check the layout")
    return rows


def _ocr(file: Path) -> dict[str, list[str]]:
    """The texts that OCR read in each image."""
    return {
        words(row, "image_id", where): [str(token) for token in need(row, "ocr_tokens", list, where)]
        for where, row in ((f"{file}, entry {n}", row) for n, row in enumerate(_rows(file)))
    }


def agreement(told: str, answers: list[str]) -> float:
    """VQA accuracy of an answer, from what people answered."""
    given = [normalised(answer) for answer in answers]
    same = [answer == normalised(told) for answer in given]
    if not any(same):
        return 0.0
    return sum(min(1.0, (sum(same) - own) / 3) for own in same) / len(same)


def normalised(answer: str) -> str:
    """An answer without what does not count: case, punctuation, articles, and whether numbers up to ten are words or digits."""
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    bare = text
    for mark in _PUNCTUATION:  # beside a blank it goes, within a word it becomes one
        bare = bare.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    bare = re.sub(r"\.(?!\d)", "", bare)
    counted = (_DIGITS.get(word, word) for word in bare.split())
    return " ".join(_MENDED.get(word, word) for word in counted if word not in _ARTICLES)
