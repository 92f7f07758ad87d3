"""GQA: compositional questions made from scene graphs of real images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.benchmarks.reading import need, one_file, picture_folder, words
from simignore.evaluate.folder import read_text

STRUCTURES = ("verify", "query", "choose", "logical", "compare")
MEANINGS = ("obj", "attr", "cat", "rel", "global")


@dataclass(frozen=True)
class GQA(Benchmark):
    """Visual reasoning (Hudson & Manning, CVPR 2019, arXiv 1902.09506), scored by exact match over the balanced questions.

    Periods at the end and case of an answer do not count, as in LLaVA's conversion for the official script. "open" are the
    questions that query, "binary" all others.
    data: testdev_balanced_questions.json, another balanced file of GQA, or the folder with the former. images: with
        ``<imageId>.jpg``; by default images beside the questions or beside their folder.
    Item.answer: the one right answer.
    """

    name: ClassVar[str] = "gqa"
    title: ClassVar[str] = "GQA"
    source: ClassVar[str] = "Hudson & Manning 2019, arXiv 1902.09506"
    layout: ClassVar[str] = "testdev_balanced_questions.json and the images as images/<imageId>.jpg"
    instruction: ClassVar[str | None] = "Answer the question using a single word or phrase."

    def items(self) -> list[Item]:
        file = one_file(self, "testdev_balanced_questions.json", "questions1.2/testdev_balanced_questions.json")
        folder = picture_folder(self, "images", "../images")
        found = []
        for name, row in _questions(file).items():
            where = f"{file}, question {name!r}"
            if not isinstance(row, dict):
                raise ValueError(f"{where} is a JSON {type(row).__name__}, not an object; check the file's layout")
            if not need(row, "isBalanced", bool, where):
                continue
            image = words(row, "imageId", where)
            found.append(
                Item(
                    id=name,
                    question=words(row, "question", where),
                    images=(folder / f"{image}.jpg",),
                    answer=words(row, "answer", where),
                    groups=_types(row, where),
                    cluster=image,
                )
            )
        if not found:
            raise ValueError(f"{file} holds no balanced question; fetch testdev_balanced_questions.json anew")
        return found

    def score(self, item: Item, told: str) -> float:
        return float(told.strip().rstrip(".").lower() == item.answer)

    def metrics(self, items: Sequence[Item], told: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
        """Accuracy of open and of binary questions, where there are some."""
        kinds: dict[str, list[float]] = {}
        for item, score in zip(items, scores, strict=True):
            kinds.setdefault("open" if item.groups["structural"] == "query" else "binary", []).append(score)
        return {kind: sum(own) / len(own) for kind, own in sorted(kinds.items())}


def _questions(file: Path) -> dict[str, Any]:
    """The questions by id. Raises ValueError for what is no JSON object, and for an id that occurs twice."""
    try:
        found = json.loads(read_text(file), object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON ({error}); fetch it anew") from error
    except KeyError as error:
        raise ValueError(f"{file} has {error} more than once in one object; each question needs its own id") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds a JSON {type(found).__name__}, not an object of questions by id")
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise KeyError(name)
        found[name] = value
    return found


def _types(row: dict[str, Any], where: str) -> dict[str, str]:
    """The structural and the semantic type."""
    types = need(row, "types", dict, where)
    found = {}
    for kind, known in (("structural", STRUCTURES), ("semantic", MEANINGS)):
        found[kind] = words(types, kind, f"{where}, types")
        if found[kind] not in known:
            raise ValueError(f"{where}: the {kind} type {found[kind]!r} is none of {', '.join(known)}; check the file")
    return found
