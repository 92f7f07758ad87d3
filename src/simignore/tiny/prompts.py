"""Questions as text for the model, and captions.

The prompts use the wording of ScienceQA as LLaVA asks it (Lu et al., "Learn to explain", NeurIPS 2022): context, question,
options.
"""

from __future__ import annotations

from simignore.wording import LAST_LINE, lettered

from .questions import Question
from .scenes import Scene, Thing

BY_LETTER, BY_TEXT = LAST_LINE["letter"], LAST_LINE["text"]
BRIEFLY = "Answer briefly."
DESCRIBE = "Describe the image."


def caption(scene: Scene) -> str:
    """All things from left to right: `large striped red star 7, small plain ... .`"""
    return ", ".join(_described(thing) for thing in sorted(scene.things, key=lambda thing: thing.x)) + "."


def same_caption(told: str, scene: Scene) -> bool:
    """Whether a caption names every thing of the scene rightly, each once and nothing else, in any order."""
    return sorted(told.strip().rstrip(".").split(", ")) == sorted(_described(thing) for thing in scene.things)


def _described(thing: Thing) -> str:
    number = f" {thing.number}" if thing.number else ""
    return f"{thing.size} {thing.pattern} {thing.name}{number}"


def option_prompt(question: Question, letter: bool) -> str:
    """The question with its options, asking for the option's letter or for its text."""
    context = "" if question.context is None else f"Context: {question.context}\n"
    options = lettered(question.options)
    return f"{context}Question: {question.question}\nOptions: {options}\n{BY_LETTER if letter else BY_TEXT}"


def free_prompt(question: Question) -> str:
    """The question without options, in its trained form. The bare question works too."""
    return f"Question: {question.question}\n{BRIEFLY}"
