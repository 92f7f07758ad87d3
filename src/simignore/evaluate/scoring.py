"""Score a file of answers that any program wrote, without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simignore.evaluate.benchmark import Benchmark, Item, check_ids, report
from simignore.evaluate.folder import read_jsonl
from simignore.evaluate.statistics import mcnemar, paired

ID, TEXT = ("question_id", "id"), ("text", "told")  # as LLaVA names them, and as predictions.jsonl does


@dataclass(frozen=True)
class Scored:
    """The questions that were answered, what was told, and how right it is; ``unanswered``: ids without an answer."""

    items: list[Item]
    told: list[str]
    scores: list[float]
    report: dict[str, Any]
    unanswered: list[str]


def read_answers(file: Path) -> dict[str, str]:
    """Answers by question id, from a JSONL file as LLaVA writes it (``question_id``, ``text``) or ``predictions.jsonl``.

    Raises ValueError naming the line for one that cannot be read, lacks a field, or repeats an id.
    """
    found: dict[str, str] = {}
    for number, row in read_jsonl(file):
        name = next((row[key] for key in ID if key in row), None)
        text = next((row[key] for key in TEXT if key in row), None)
        if name is None or not isinstance(text, str):
            raise ValueError(f"{file}, line {number}, lacks question_id or text; it has {', '.join(row) or 'nothing'}")
        if str(name) in found:
            raise ValueError(
                f"{file}, line {number}, answers question {name!r} a second time; each may be answered once"
            )
        found[str(name)] = text
    if not found:
        raise ValueError(f"{file} holds no answer")
    return found


def score(benchmark: Benchmark, answers: Mapping[str, str], *, partial: bool = False) -> Scored:
    """Score answers by question id.

    partial: leave questions without an answer out; otherwise they raise ValueError, as do answers to unknown questions.
    """
    items = benchmark.items()
    check_ids(benchmark.name, items)
    known = {item.id for item in items}
    if not items:
        raise ValueError(f"{benchmark.name} found no question in {benchmark.data}; check the file")
    if unknown := [name for name in answers if name not in known]:
        raise ValueError(
            f"{len(unknown)} answers are to unknown questions: {_some(unknown)}; is it another split or subset?"
        )
    unanswered = [item.id for item in items if item.id not in answers]
    if unanswered and not partial:
        raise ValueError(
            f"{len(unanswered)} of {len(items)} questions have no answer: {_some(unanswered)}; --partial scores the rest alone"
        )
    answered = [item for item in items if item.id in answers]
    told = [answers[item.id] for item in answered]
    scores = [benchmark.score(item, text) for item, text in zip(answered, told, strict=True)]
    return Scored(answered, told, scores, report(benchmark, answered, told, scores), unanswered)


def against(one: Scored, other: Scored) -> dict[str, Any]:
    """Two files of answers on the questions that both answer: paired difference and McNemar's test."""
    theirs = dict(zip((item.id for item in other.items), other.scores, strict=True))
    both = [(item, score) for item, score in zip(one.items, one.scores, strict=True) if item.id in theirs]
    if not both:
        raise ValueError("the two files have no question in common")
    ours, others = [score for _, score in both], [theirs[item.id] for item, _ in both]
    return {
        "questions": len(both),
        **paired(ours, others, [item.cluster for item, _ in both]),
        **mcnemar([score == 1 for score in ours], [score == 1 for score in others]),
    }


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:10]))
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
