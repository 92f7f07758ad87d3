"""The words of a question: ScienceQA's wording, as LLaVA asks it, and where its pieces are in the text.

Pure text, without torch, so that whatever asks or generates questions says it the same way.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Literal

AnswerAs = Literal["letter", "text", "free"]
Style = Literal["scienceqa", "lines"]
Pieces = dict[str, list[tuple[int, int]]]  # name -> (start, end) in characters
LETTERS = string.ascii_uppercase
NO_CONTEXT = "N/A"
PUBLISHED = (
    "simignore/llava-1.5-7b",
    "simignore/llava-1.5-13b",
)  # spans that the published code tokenises by themselves
SPANS = (
    "auto",
    "user",
    "question",
    "options",
    "options-plain",
    "question+options",
    "context+question",
    "context+question+options",
    "prompt",
    *PUBLISHED,
)
LAST_LINE = {
    "letter": "Answer with the option's letter from the given choices directly.",
    "text": "Answer with the option's text.",
    "free": "",
}


def wording(
    question: str,
    *,
    context: str | None = None,
    options: Sequence[str] = (),
    answer: AnswerAs | None = None,
    style: Style = "scienceqa",
    instruction: str | None = None,
) -> tuple[str, Pieces]:
    """The user's text, in ScienceQA's wording where there are options or a context, and where its pieces are in it.

    style: "scienceqa" names context, question and options and puts the options on one line, ``(A) red (B) blue``; "lines" puts
        each part on a line of its own, ``A. red``, as LLaVA asks MMBench.
    instruction: the last line, instead of the one that ``answer`` stands for; ``""`` for none.
    Returns the text and for each span its (start, end) pieces in characters.
    """
    question = _checked(question, options, answer)
    text = ""
    pieces: Pieces = {}

    def add(name: str | None, part: str) -> None:
        nonlocal text
        if name:
            pieces.setdefault(name, []).append((len(text), len(text) + len(part)))
        text += part

    lines = style == "lines"
    if lines and (context or "").strip():
        add("context", str(context).strip())
        add(None, "\n")
    if not lines and (options or context is not None):
        add(None, "Context: ")
        add("context", (context or "").strip() or NO_CONTEXT)
        add(None, "\nQuestion: ")
    add("question", question)
    if options and not lines:
        add(None, "\n")
        add("heading", "Options:")
    for letter, option in zip(LETTERS, options, strict=False):
        add(None, "\n" if lines else " ")
        add("letters", f"{letter}." if lines else f"({letter})")
        add(None, " ")
        add("options-plain", option.strip())
    last = instruction if instruction is not None else LAST_LINE[answer or "letter"] if options else ""
    if last:
        add(None, f"\n{last}")
    return text, _combined(pieces, len(text))


def _checked(question: str, options: Sequence[str], answer: AnswerAs | None) -> str:
    """The question without blanks around it; ValueError for what cannot be asked."""
    if isinstance(options, str) or not all(isinstance(word, str) for word in (question, *options)):
        raise ValueError(
            f'question {question!r} must be text, and options {options!r} a list of texts: ["red", "blue"]'
        )
    question = question.strip()
    if not question:
        raise ValueError("the question is empty; ask something about the image")
    if len(options) > len(LETTERS):
        raise ValueError(f"{len(options)} options are more than the {len(LETTERS)} letters A to Z; ask with fewer")
    if any(not option.strip() for option in options) or len(options) == 1:
        raise ValueError(f"options {list(options)!r}: give at least two, none of them empty")
    if len({option.strip() for option in options}) < len(options):
        raise ValueError(f"options {list(options)!r} hold the same text twice; an answer could not be told apart")
    if answer is not None and answer not in LAST_LINE:
        raise ValueError(f"answer={answer!r} is none of {', '.join(map(repr, LAST_LINE))}")
    return question


def lettered(options: Sequence[str]) -> str:
    """ScienceQA's line of options: ``(A) red (B) blue``."""
    return " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))


def _combined(pieces: Pieces, length: int) -> Pieces:
    """The spans that methods compare with, from the pieces of the text."""
    spans = {"question": pieces["question"], "user": [(0, length)]}
    context = pieces.get("context", [])
    if context:
        spans["context+question"] = context + pieces["question"]
    if plain := pieces.get("options-plain"):
        options = [(start, end) for (start, _), (_, end) in zip(pieces["letters"], plain, strict=True)]
        spans |= {"options": options, "options-plain": plain, "question+options": pieces["question"] + options}
        spans["context+question+options"] = context + pieces["question"] + options
    return spans
