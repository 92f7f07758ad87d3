"""An independent judge: reads a question's words and answers it from the scene's description.

It shares nothing with `questions.ask` but the geometry of `holds` and `NEARER`, so that tests can catch an answer that does not
follow from the words that the model is shown. Things are found by reading noun phrases, such as `object closest to the
star closest to the blue ring`, from the right end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from .questions import NEARER, holds
from .scenes import COLOURS, PATTERNS, SHAPES, SIDE, SIZES, Scene, Thing

Things = tuple[Thing, ...]
_HOP = re.compile(r"(.+?) closest to the (.+)")


class _UnclearError(Exception):
    """The words point to no thing, to several, or to one that is too close to say."""


def solve(question: str, scene: Scene, options: tuple[str, ...] = ()) -> str | None:
    """The one right answer to `question`, or None if it has none or several (among `options`, where they are given).

    Raises ValueError for wording that it cannot read.
    """
    for pattern, answers in _READERS:
        match = re.fullmatch(pattern, question)
        if match:
            try:
                found = set(answers(scene.things, *match.groups()))
            except _UnclearError:
                return None
            right = found & set(options) if options else found
            return right.pop() if len(right) == 1 else None
    raise ValueError(f"cannot read the question {question!r}; use the wording of questions.ask")


def _one(things: Things, phrase: str) -> Thing:
    """The only thing that a noun phrase (without article) can mean."""
    found = _all(things, phrase)
    if len(found) != 1:
        raise _UnclearError
    return found[0]


def _all(things: Things, phrase: str) -> list[Thing]:
    hop = _HOP.fullmatch(phrase)
    if hop is None:
        return [thing for thing in things if _is(thing, phrase)]
    noun, rest = hop.groups()
    anchor = _one(things, rest)
    by_distance = {math.dist((t.x, t.y), (anchor.x, anchor.y)): t for t in things if t is not anchor and _is(t, noun)}
    least = min(by_distance, default=0.0)
    if any(0 < distance - least <= NEARER for distance in by_distance):
        raise _UnclearError
    return [by_distance[least]] if by_distance else []


def _is(thing: Thing, noun: str) -> bool:
    """Whether a noun of one or two words fits: `star`, `object`, `red star`, `large object`."""
    known = (*COLOURS, *SHAPES, *SIZES, *PATTERNS, "object")
    if strange := [word for word in noun.split() if word not in known]:
        raise ValueError(f"{strange[0]!r} names no thing; use {', '.join(known)}")
    return set(noun.split()) <= {thing.colour, thing.shape, thing.size, thing.pattern, "object"}


def _colour(things: Things, phrase: str) -> list[str]:
    return [_one(things, phrase).colour]


def _shape(things: Things, phrase: str) -> list[str]:
    return [_one(things, phrase).shape]


def _size(things: Things, phrase: str) -> list[str]:
    return [_one(things, phrase).size]


def _pattern(things: Things, phrase: str) -> list[str]:
    return [_one(things, phrase).pattern]


def _number(things: Things, phrase: str) -> list[str]:
    number = _one(things, phrase).number
    return [] if number is None else [number]


def _numbered(things: Things, number: str) -> list[str]:
    return [thing.name for thing in things if thing.number == number]


def _where(things: Things, phrase: str) -> list[str]:
    thing = _one(things, phrase)
    return [("top " if thing.y < SIDE / 2 else "bottom ") + ("left" if thing.x < SIDE / 2 else "right")]


def _exist(things: Things, phrase: str) -> list[str]:
    return ["yes" if _all(things, phrase) else "no"]


def _relation(things: Things, first: str, relation: str, second: str) -> list[str]:
    truth = holds(_one(things, first), relation, _one(things, second))
    return [] if truth is None else ["yes" if truth else "no"]


def _which(things: Things, phrase: str) -> list[str]:
    return [_one(things, f"object closest to the {phrase}").name]


def _count(things: Things, word: str | None) -> list[str]:
    fits = (word in (None, thing.colour, thing.shape, thing.size, thing.pattern) for thing in things)
    return [str(sum(fits))]


def _compare(things: Things, word: str, first: str, second: str) -> list[str]:
    one, other = sorted((_one(things, first), _one(things, second)), key=lambda thing: thing.radius)
    return [] if one.size == other.size else [other.name if word == "larger" else one.name]


def _odd(things: Things, by: str, *phrases: str) -> list[str]:
    some = [_one(things, phrase) for phrase in phrases]
    values = [getattr(thing, by) for thing in some]
    return [thing.name for thing, value in zip(some, values, strict=True) if values.count(value) == 1]


_READERS: tuple[tuple[str, Callable[..., list[str]]], ...] = (
    (r"What colou?r is the (.+)\?", _colour),
    (r"What shape is the (.+)\?", _shape),
    (r"What size is the (.+)\?", _size),
    (r"What pattern does the (.+) have\?", _pattern),
    (r"What number is on the (.+)\?", _number),
    (r"Which object has the number (\d)\?", _numbered),
    (r"Where is the (.+)\?", _where),
    (r"Is there a (.+)\?", _exist),
    (r"Is the (.+) (left of|right of|above|below) the (.+)\?", _relation),
    (r"Which object is closest to the (.+)\?", _which),
    (r"How many (?:(\w+) )?(?:objects|shapes) are there\?", _count),
    (r"Which is (larger|smaller), the (.+) or the (.+)\?", _compare),
    (r"Which is the odd one out in (pattern|size), the (.+), the (.+) or the (.+)\?", _odd),
)
