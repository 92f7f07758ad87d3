"""POPE: whether an object is in the image, to see a model invent some; every object is asked for with yes and with no."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.benchmarks.reading import name_of, picture_folder, words
from simignore.evaluate.folder import read_jsonl

CATEGORIES = ("random", "popular", "adversarial")  # how the objects that are not there were drawn
_FILE = re.compile(rf"(\w+)_pope_({'|'.join(CATEGORIES)})\.jsonl?")
_FIGURES = ("accuracy", "precision", "recall", "f1", "yes_ratio")


@dataclass(frozen=True)
class Pope(Benchmark):
    """Polling-based object probing (Li et al., EMNLP 2023, arXiv 2305.10355), as its evaluate.py reads answers.

    An answer is "no" if its first sentence has the word No, no or not, and "yes" otherwise, whatever it says. "Yes" is the
    positive class. Papers quote F1: the mean over the categories that are asked.
    data: the folder with the three files, or one of them. images: COCO's val2014; by default the folder val2014 beside the
        questions, or their own.
    Item.answer: "yes" or "no".
    """

    name: ClassVar[str] = "pope"
    title: ClassVar[str] = "POPE"
    source: ClassVar[str] = "Li et al. 2023, arXiv 2305.10355"
    layout: ClassVar[str] = (
        "coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json, or one of them"
    )
    main: ClassVar[str] = "f1"
    instruction: ClassVar[str | None] = "Answer the question using a single word or phrase."

    def items(self) -> list[Item]:
        folder = picture_folder(self, "val2014")
        files = self._files()
        prefix = "{}/" if len(files) > 1 else ""  # the three files count their questions alike
        return [item for name, file in files.items() for item in self._of(name, file, folder, prefix.format(name))]

    def _files(self) -> dict[str, Path]:
        """The file of each category. Raises OSError for a missing one, ValueError for names that do not say which it is."""
        data = self.need_data()
        if not data.is_dir():
            if not (match := _FILE.fullmatch(data.name)):
                raise ValueError(f"--data {data}: the name does not say the category; name it as in {self.layout}")
            return {match[2]: data}
        found = [match for file in sorted(data.iterdir()) if (match := _FILE.fullmatch(file.name))]
        if len({match[1] for match in found}) > 1 or len({match[2] for match in found}) < len(found):
            raise ValueError(f"--data {data} holds {', '.join(m[0] for m in found)}; keep one file for each category")
        files = {match[2]: data / match[0] for match in found}
        if missing := [category for category in CATEGORIES if category not in files]:
            raise OSError(f"--data {data} has no file for {', '.join(missing)}; {self.name} reads {self.layout}")
        return {category: files[category] for category in CATEGORIES}

    def _of(self, category: str, file: Path, folder: Path, prefix: str) -> list[Item]:
        found = []
        for number, row in read_jsonl(file):
            where = f"{file}, line {number}"
            label = words(row, "label", where)
            if label not in ("yes", "no"):
                raise ValueError(f"{where}: the label {label!r} is neither 'yes' nor 'no'; correct it")
            image = words(row, "image", where)
            found.append(
                Item(
                    id=f"{prefix}{name_of(row, 'question_id', where)}",
                    question=words(row, "text", where),
                    images=(folder / image,),
                    answer=label,
                    groups={"category": category},
                    cluster=image,
                )
            )
        if not found:
            raise ValueError(f"{file} holds no question; fetch it anew")
        return found

    def score(self, item: Item, told: str) -> float:
        return float(said(told) == item.answer)

    def unreadable(self, item: Item, told: str) -> bool:
        """An answer that says neither yes nor no; the official reading takes it for yes."""
        return not {"yes", "no", "not"} & set(re.findall(r"[a-z]+", told.lower()))

    def metrics(self, items: Sequence[Item], told: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
        """Every figure as the mean over the categories, and of each category."""
        pairs: dict[str, list[tuple[bool, bool]]] = {}
        for item, text in zip(items, told, strict=True):
            pairs.setdefault(item.groups["category"], []).append((said(text) == "yes", item.answer == "yes"))
        own = {category: confusion(found) for category, found in pairs.items()}
        means = {name: sum(figures[name] for figures in own.values()) / len(own) for name in _FIGURES}
        return means | {f"{category}/{name}": value for category, of in own.items() for name, value in of.items()}


def said(told: str) -> str:
    """What an answer says, "yes" or "no"."""
    first = told.split(".", 1)[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(first) else "yes"


def confusion(pairs: Sequence[tuple[bool, bool]]) -> dict[str, float]:
    """Figures of (said yes, is yes) pairs; 0 where a share has nothing to be a share of."""
    hits = sum(yes and true for yes, true in pairs)
    yes, true = sum(yes for yes, _ in pairs), sum(true for _, true in pairs)
    return {
        "accuracy": sum(a == b for a, b in pairs) / len(pairs),
        "precision": hits / yes if yes else 0.0,
        "recall": hits / true if true else 0.0,
        "f1": 2 * hits / (yes + true) if yes + true else 0.0,
        "yes_ratio": yes / len(pairs),
    }
