"""MME: two yes-or-no questions about each image, one of either answer, over fourteen subtasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.benchmarks.reading import drawn_together
from simignore.evaluate.folder import read_text

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_REQUEST = "Please answer yes or no."
_ROOTS = (".", "MME_Benchmark", "MME_Benchmark_release_version", "MME_Benchmark_release_version/MME_Benchmark")


@dataclass(frozen=True)
class MME(Benchmark):
    """MME (Fu et al. 2023, arXiv 2306.13394), scored as its calculation.py does.

    A subtask scores 100 (acc + acc+), from 0 to 200: acc over questions, acc+ over images with both questions right.
    "perception" (to 2000) and "cognition" (to 800) are sums over subtasks, and "score" is both together; where less than the
    whole is asked, they are sums over what was. As LLaVA-1.5 asks, one line for all its short-answer sets stands for MME's own
    request for yes or no.
    data: the folder with one folder per subtask, or a folder above it. images: another of the same layout.
    tasks: which subtasks are asked.
    Item.answer: "yes" or "no".
    """

    tasks: tuple[str, ...] = PERCEPTION + COGNITION

    name: ClassVar[str] = "mme"
    title: ClassVar[str] = "MME"
    source: ClassVar[str] = "Fu et al. 2023, arXiv 2306.13394"
    layout: ClassVar[str] = (
        "a folder per subtask with 0001.jpg beside 0001.txt, or with images/ and questions_answers_YN/"
    )
    main: ClassVar[str] = "score"
    instruction: ClassVar[str | None] = "Answer the question using a single word or phrase."

    def __post_init__(self) -> None:
        if unknown := [task for task in self.tasks if task not in PERCEPTION + COGNITION]:
            raise ValueError(f"tasks: {', '.join(unknown)} is none of {', '.join(PERCEPTION + COGNITION)}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks={self.tasks!r}: name at least one subtask, and each once")

    def items(self) -> list[Item]:
        root = self._root()
        if missing := [task for task in self.tasks if not (root / task).is_dir()]:
            raise OSError(f"{root} has no folder for {', '.join(missing)}; add them, or leave them out of tasks")
        return [item for task in self.tasks for item in self._of(task, root / task)]

    def _root(self) -> Path:
        """The folder with the subtasks' folders."""
        data = self.need_data()
        if not data.is_dir():
            raise OSError(f"--data {data} is a file; {self.name} reads {self.layout}")
        roots = [data / name for name in _ROOTS]
        return next((root for root in roots if any((root / task).is_dir() for task in self.tasks)), data)

    def _of(self, task: str, folder: Path) -> Iterator[Item]:
        """The questions of one subtask."""
        texts = folder / "questions_answers_YN"
        apart = texts.is_dir()
        home = folder if self.images is None else self.images / task
        pictures = home / "images" if apart and (self.images is None or (home / "images").is_dir()) else home
        if not pictures.is_dir():
            raise OSError(f"there is no folder {pictures} with the images of {task}; {self.name} reads {self.layout}")
        known = {file.stem: file for file in sorted(pictures.iterdir()) if file.suffix.lower() in SUFFIXES}
        files = sorted((texts if apart else folder).glob("*.txt"))
        if not files:
            raise ValueError(f"{texts if apart else folder} holds no .txt file with questions; {task} is empty")
        if missing := [file.stem for file in files if file.stem not in known]:
            raise OSError(f"{pictures} has no image {', '.join(missing)} for {task}'s .txt files; add them")
        for file in files:
            for number, (question, answer) in enumerate(pair(file), start=1):
                yield Item(
                    id=f"{task}/{file.stem}/{number}",
                    question=question,
                    images=(known[file.stem],),
                    answer=answer,
                    groups={"part": "perception" if task in PERCEPTION else "cognition", "subtask": task},
                    cluster=f"{task}/{file.stem}",
                )

    def chosen(self, limit: int | None) -> list[Item]:
        """Both questions about an image or none, as acc+ needs them."""
        return drawn_together(super().chosen(None), limit, f"{self.name}/{self.seed}", lambda item: str(item.cluster))

    def score(self, item: Item, told: str) -> float:
        return float(said(told) == item.answer)

    def unreadable(self, item: Item, told: str) -> bool:
        """An answer that begins with neither yes nor no."""
        return said(told) is None

    def metrics(self, items: Sequence[Item], told: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
        """acc and acc+ as fractions and the score of each subtask, and the sums of the scores."""
        images: dict[str, dict[str, list[float]]] = {}
        for item, score in zip(items, scores, strict=True):
            images.setdefault(item.groups["subtask"], {}).setdefault(str(item.cluster), []).append(score)
        found: dict[str, Any] = {"score": 0.0, "perception": 0.0, "cognition": 0.0}
        for task, own in images.items():
            answers = [score for both in own.values() for score in both]
            acc, plus = sum(answers) / len(answers), sum(all(both) for both in own.values()) / len(own)
            worth = 100 * (acc + plus)
            found |= {f"{task}/acc": acc, f"{task}/acc+": plus, f"{task}/score": worth}
            found["perception" if task in PERCEPTION else "cognition"] += worth
            found["score"] += worth
        return found


def pair(file: Path) -> list[tuple[str, str]]:
    """The two (question, answer) of an image, without MME's request. Raises ValueError naming the file and the line."""
    found = []
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        question, tab, answer = line.rstrip().rpartition("\t")
        question = question.strip().removesuffix(_REQUEST).rstrip()
        answer = answer.strip().lower()
        if not tab or not question:
            raise ValueError(f"{file}, line {number}: no question, tab and answer; check the line")
        if answer not in ("yes", "no"):
            raise ValueError(f"{file}, line {number}: the answer {answer!r} is neither yes nor no; correct it")
        found.append((question, answer))
    if len(found) != 2:
        raise ValueError(f"{file} has {len(found)} questions; acc+ needs two about each image")
    return found


def said(told: str) -> str | None:
    """What an answer says: "yes" or "no" if that is among its first four letters, None otherwise."""
    start = told.strip().lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None
