"""A benchmark: questions with images and known answers, how they are put into words, and how answers are scored."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from simignore.evaluate.pictures import Picture
from simignore.evaluate.statistics import share
from simignore.wording import AnswerAs, Style


@dataclass(frozen=True)
class Item:
    """One question.

    id: unique in its benchmark. answer: what counts as right, in plain types; each benchmark says what it holds.
    groups: what its accuracy is also reported by, such as {"type": "count"}. cluster: questions of one cluster (one image) are
    not independent and are resampled together; by default each is its own.
    """

    id: str
    question: str
    images: tuple[Picture, ...]
    answer: Any
    options: tuple[str, ...] = ()
    context: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    cluster: str | None = None


@dataclass(frozen=True)
class Benchmark(ABC):
    """Questions and their official scoring. Its fields are its settings, so its ``repr`` rebuilds it.

    data: the file or folder with the questions, in the benchmark's own layout. images: the folder with the images; by default
        beside the questions. seed: of what is drawn at random. square: pad images to squares, as LLaVA-1.5 was trained; Hugging
        Face's processor for it crops their middle otherwise.
    """

    data: Path | None = None
    images: Path | None = None
    seed: int = 0
    square: bool = False

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    layout: ClassVar[str]  # which files it reads
    version: ClassVar[int] = 1  # raised whenever the same answers would score otherwise
    main: ClassVar[str] = "accuracy"  # the metric that papers quote
    style: ClassVar[Style] = "scienceqa"
    answer_as: ClassVar[AnswerAs | None] = None
    instruction: ClassVar[str | None] = None
    max_new_tokens: ClassVar[int] = 16

    @abstractmethod
    def items(self) -> list[Item]:
        """All questions, in order. Raises ValueError or OSError naming the file, the line and the remedy."""

    @abstractmethod
    def score(self, item: Item, told: str) -> float:
        """How right an answer is, from 0 to 1."""

    def words(self, item: Item) -> dict[str, Any]:
        """How the question is put: arguments for :func:`simignore.prompt.phrase`."""
        return {
            "question": item.question,
            "context": item.context,
            "options": item.options,
            "answer": self.answer_as,
            "style": self.style,
            "instruction": self.instruction,
        }

    def unreadable(self, item: Item, told: str) -> bool:
        """Whether nothing could be made of an answer; it counts as wrong and is reported."""
        return not told.strip()

    def metrics(self, items: Sequence[Item], told: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
        """The official figures over these answers: plain numbers, fractions from 0 to 1 unless the name says otherwise."""
        return {}

    def chosen(self, limit: int | None) -> list[Item]:
        """The questions that are asked: all, or ``limit`` of them drawn with :attr:`seed`, in their order."""
        every = self.items()
        if not every:
            raise ValueError(f"{self.name} found no question in {self.data}; check the file")
        check_ids(self.name, every)
        if limit is None or limit >= len(every):
            return every
        numbers = sorted(random.Random(f"{self.name}/{self.seed}").sample(range(len(every)), limit))
        return [every[number] for number in numbers]

    def folder(self) -> Path:
        """Where the images are."""
        if self.images is not None:
            return self.images
        data = self.need_data()
        return data if data.is_dir() else data.parent

    def need_data(self) -> Path:
        """The questions' file or folder. Raises ValueError if none was named, OSError if it is not there."""
        if self.data is None:
            raise ValueError(f"{self.name} is read from local files: name them with --data ({self.layout})")
        if not self.data.exists():
            raise OSError(f"--data {self.data}: there is no such file or folder; {self.name} reads {self.layout}")
        return self.data


def report(benchmark: Benchmark, items: Sequence[Item], told: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
    """Accuracy with its interval, see :func:`simignore.evaluate.statistics.share`, in all and by group, the official metrics,
    and how many answers could not be read."""
    return {
        **share(scores, [item.cluster for item in items]),
        "unreadable": sum(benchmark.unreadable(item, text) for item, text in zip(items, told, strict=True)),
        "metrics": benchmark.metrics(items, told, scores),
        "groups": by_group(items, scores),
    }


def by_group(items: Sequence[Item], scores: Sequence[float]) -> dict[str, dict[str, dict[str, Any]]]:
    """Accuracy with its interval of each value of each kind of group, see :func:`simignore.evaluate.statistics.share`."""
    found: dict[str, dict[str, list[tuple[float, str | None]]]] = {}
    for item, score in zip(items, scores, strict=True):
        for kind, value in item.groups.items():
            found.setdefault(kind, {}).setdefault(value, []).append((score, item.cluster))
    return {
        kind: {value: share([score for score, _ in own], [name for _, name in own]) for value, own in values.items()}
        for kind, values in found.items()
    }


def check_ids(name: str, items: Iterable[Item]) -> None:
    """Raise ValueError if an id occurs twice: answers could not be told apart."""
    seen: set[str] = set()
    twice = []
    for item in items:
        if item.id in seen:
            twice.append(item.id)
        seen.add(item.id)
    if twice:
        raise ValueError(f"{name} has the same id more than once: {', '.join(map(repr, dict.fromkeys(twice)))}")


def check_images(items: Iterable[Item]) -> None:
    """Raise OSError naming every image file that is missing, before a model is loaded."""
    files = dict.fromkeys(image for item in items for image in item.images if isinstance(image, Path))
    if missing := [str(file) for file in files if not file.is_file()]:
        raise OSError(
            f"{len(missing)} of {len(files)} images are missing; check --images. Missing: {', '.join(missing)}"
        )


__all__ = ["Benchmark", "Item", "Picture", "by_group", "check_ids", "check_images", "report"]
