"""ScienceQA (Lu et al., NeurIPS 2022): school questions with options, many of them about an image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simignore.evaluate.benchmark import Benchmark, Item, Picture
from simignore.evaluate.copies import is_copy, read_copy
from simignore.evaluate.folder import read_json, read_text
from simignore.evaluate.reading import read_letter
from simignore.evaluate.statistics import share
from simignore.wording import LETTERS, NO_CONTEXT, AnswerAs, wording

SUBSETS = ("image", "all")
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
COLUMNS = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12")  # of the paper's tables


@dataclass(frozen=True)
class ScienceQA(Benchmark):
    """ScienceQA, the questions with an image or all, answered by letter; accuracy by subject, context and grade.

    data: LLaVA's question file (``llava_test_CQM-A.json``); the data set's ``problems.json``, with ``pid_splits.json`` beside
        it, or the folder with both; or a copy of Hugging Face's ``datasets``: what ``save_to_disk`` wrote, or Parquet files.
    images: the folder with ``5/image.png`` or ``test/5/image.png``. subset: "image" or "all". split: of ``pid_splits.json``.
    LLaVA's file has no subjects and grades; they are read from a ``problems.json`` beside it, if there is one.
    Item.answer: the letter.
    """

    subset: str = "image"
    split: str = "test"

    name: ClassVar[str] = "scienceqa"
    title: ClassVar[str] = "ScienceQA"
    source: ClassVar[str] = "Lu et al., NeurIPS 2022"
    layout: ClassVar[str] = "LLaVA's question file, problems.json + pid_splits.json, or a `datasets` copy"
    answer_as: ClassVar[AnswerAs | None] = "letter"

    def __post_init__(self) -> None:
        if self.subset not in SUBSETS:
            raise ValueError(f"subset={self.subset!r} is none of {', '.join(SUBSETS)}")

    def items(self) -> list[Item]:
        data = self.need_data()
        if is_copy(data):
            rows = read_copy(data, self.split)
            found = [self._problem(str(n), problem, _embedded(problem), data) for n, problem in enumerate(rows)]
        elif data.is_dir() or data.name == "problems.json":
            found = self._original(data if data.is_dir() else data.parent)
        else:
            found = self._llava(data)
        if self.subset == "image":
            found = [item for item in found if item.images]
        return found

    def score(self, item: Item, told: str) -> float:
        return float(read_letter(told, len(item.options)) == item.answer)

    def unreadable(self, item: Item, told: str) -> bool:
        return read_letter(told, len(item.options)) is None

    def metrics(self, items: Sequence[Item], told: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
        """Accuracy in the columns of the paper's tables, as far as the files tell subject and grade."""
        columns: dict[str, list[float]] = {}
        for item, score in zip(items, scores, strict=True):
            own = {item.groups.get(kind) for kind in ("subject", "text", "image", "no context", "grade")}
            for column in COLUMNS:
                if column in own:
                    columns.setdefault(column, []).append(score)
        return {column: share(columns[column])["accuracy"] for column in COLUMNS if column in columns}

    # layouts

    def _original(self, folder: Path) -> list[Item]:
        problems, splits = read_json(folder / "problems.json"), read_json(folder / "pid_splits.json")
        if self.split not in splits:
            raise ValueError(f"{folder / 'pid_splits.json'} has no split {self.split!r}; it has {', '.join(splits)}")
        if unknown := [pid for pid in splits[self.split] if str(pid) not in problems]:
            raise ValueError(f"pid_splits.json names problems that problems.json lacks: {', '.join(map(str, unknown))}")
        found = []
        for pid in map(str, splits[self.split]):
            problem = problems[pid]
            name = problem.get("image")
            images = (self._file(f"{pid}/{name}"),) if name else ()
            found.append(self._problem(pid, problem, images, folder / "problems.json"))
        return found

    def _problem(self, pid: str, problem: Mapping[str, Any], images: tuple[Picture, ...], file: Path) -> Item:
        """An item from a problem of the data set's own fields."""
        try:
            options, right = tuple(map(str, problem["choices"])), int(problem["answer"])
            question = str(problem["question"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: problem {pid!r} lacks a usable {error}; it needs question, choices, answer"
            ) from None
        if not 0 <= right < len(options) <= len(LETTERS):
            raise ValueError(f"{file}: problem {pid!r} has answer {right} for {len(options)} choices, counted from 0")
        hint = str(problem.get("hint") or "").strip()
        return _item(pid, question, options, LETTERS[right], hint, images, problem)

    def _llava(self, file: Path) -> list[Item]:
        import json

        try:
            rows = json.loads(read_text(file))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} is no JSON ({error}); {self.name} reads {self.layout}") from error
        if not isinstance(rows, list):
            raise ValueError(f"{file} holds no list of questions; {self.name} reads {self.layout}")
        beside = file.parent / "problems.json"
        problems = read_json(beside) if beside.is_file() else {}
        return [self._conversation(number, row, problems, file) for number, row in enumerate(rows, start=1)]

    def _conversation(self, number: int, row: Any, problems: Mapping[str, Any], file: Path) -> Item:
        try:
            pid, said, answer = str(row["id"]), row["conversations"][0]["value"], row["conversations"][1]["value"]
            context, question, options = _taken_apart(said)
            right = read_letter(answer, len(options))
            if right is None:
                raise ValueError(f"its answer {answer!r} names none of its {len(options)} options")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(f"{file}, question {number}: not as LLaVA writes it ({error})") from None
        images = (self._file(row["image"]),) if row.get("image") else ()
        return _item(pid, question, options, right, context, images, problems.get(pid, {}))

    def _file(self, name: str) -> Path:
        """Where an image is: by its problem's number, in a folder of its split or not."""
        folder = self.folder()
        roots = (folder, folder / self.split, folder / "images", folder / "images" / self.split)
        return next((root / name for root in roots if (root / name).is_file()), folder / name)


def _item(
    pid: str,
    question: str,
    options: tuple[str, ...],
    right: str,
    hint: str,
    images: tuple[Picture, ...],
    problem: Mapping[str, Any],
) -> Item:
    try:
        wording(question, context=hint, options=options)
    except ValueError as error:
        raise ValueError(f"problem {pid!r} cannot be asked: {error}") from None
    groups = {"text": "TXT"} if hint else {}
    groups |= {"image": "IMG"} if images else {}
    groups |= {} if groups else {"no context": "NO"}
    if (subject := SUBJECTS.get(str(problem.get("subject")))) is not None:
        groups["subject"] = subject
    if grade := re.fullmatch(r"grade(\d+)", str(problem.get("grade"))):
        groups["grade"] = "G1-6" if int(grade.group(1)) <= 6 else "G7-12"
    return Item(pid, question, images, right, options, hint or NO_CONTEXT, groups)


def _taken_apart(said: str) -> tuple[str, str, tuple[str, ...]]:
    """(context, question, options) of LLaVA's wording. Raises ValueError for another one."""
    found = re.fullmatch(
        r"Context: (?P<context>.*?)\nQuestion: (?P<question>.*)\nOptions: (?P<options>.*)",
        said.replace("<image>", "").strip(),
        re.DOTALL,
    )
    if found is None:
        raise ValueError("no lines Context:, Question: and Options:")
    rest, options = found["options"], []
    for letter in LETTERS:
        if not rest.startswith(f"({letter}) "):
            raise ValueError(f"its options do not go on with ({letter})")
        following = f" ({chr(ord(letter) + 1)}) "
        own, cut, after = rest[4:].partition(following)
        options.append(own.strip())
        rest = following[1:] + after
        if not cut:
            break
    context = found["context"].strip()
    return "" if context == NO_CONTEXT else context, found["question"], tuple(options)


def _embedded(problem: Mapping[str, Any]) -> tuple[Picture, ...]:
    """The image that a table holds, decoded when it is needed."""
    image = problem.get("image")
    return () if image is None else (image,)
