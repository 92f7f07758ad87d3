"""An independent judge: reads a question's words and answers it from the scene's description.

It shares nothing with `questions.ask` but the geometry of `holds`, so that tests can catch an answer that does not
follow from the words that the model is shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from .questions import holds
from .scenes import SIDE, Scene, Thing

_THING = r"(\w+) (\w+)"
_RELATION = r"(left of|right of|above|below)"


def solve(question: str, scene: Scene, options: tuple[str, ...] = ()) -> str | None:
    """The one right answer to `question`, or None if it has none or several (among `options`, where they are given).

    Raises ValueError for wording that it cannot read.
    """
    for pattern, answers in _READERS:
        match = re.fullmatch(pattern, question)
        if match:
            found = set(answers(scene.things, *match.groups()))
            right = found & set(options) if options else found
            return right.pop() if len(right) == 1 else None
    raise ValueError(f"cannot read the question {question!r}; use the wording of questions.ask")


def _named(things: tuple[Thing, ...], colour: str, shape: str) -> Thing:
    return next(thing for thing in things if (thing.colour, thing.shape) == (colour, shape))


def _of_shape(things: tuple[Thing, ...], shape: str) -> list[str]:
    found = [thing.colour for thing in things if thing.shape == shape]
    return found if len(found) == 1 else []


def _of_colour(things: tuple[Thing, ...], colour: str) -> list[str]:
    found = [thing.shape for thing in things if thing.colour == colour]
    return found if len(found) == 1 else []


def _size(things: tuple[Thing, ...], colour: str, shape: str) -> list[str]:
    return [_named(things, colour, shape).size]


def _pattern(things: tuple[Thing, ...], colour: str, shape: str) -> list[str]:
    return [_named(things, colour, shape).pattern]


def _where(things: tuple[Thing, ...], colour: str, shape: str) -> list[str]:
    thing = _named(things, colour, shape)
    return [("top " if thing.y < SIDE / 2 else "bottom ") + ("left" if thing.x < SIDE / 2 else "right")]


def _exist(things: tuple[Thing, ...], colour: str, shape: str) -> list[str]:
    return ["yes" if any((thing.colour, thing.shape) == (colour, shape) for thing in things) else "no"]


def _relation(things: tuple[Thing, ...], c1: str, s1: str, relation: str, c2: str, s2: str) -> list[str]:
    truth = holds(_named(things, c1, s1), relation, _named(things, c2, s2))
    return [] if truth is None else ["yes" if truth else "no"]


def _related(things: tuple[Thing, ...], relation: str, colour: str, shape: str) -> list[Thing]:
    other = _named(things, colour, shape)
    return [thing for thing in things if thing is not other and holds(thing, relation, other)]


def _which(things: tuple[Thing, ...], relation: str, colour: str, shape: str) -> list[str]:
    return [thing.name for thing in _related(things, relation, colour, shape)]


def _two_hop(things: tuple[Thing, ...], what: str, relation: str, colour: str, shape: str) -> list[str]:
    found = _related(things, relation, colour, shape)
    return [thing.shape if what == "shape" else thing.colour for thing in found] if len(found) == 1 else []


def _count(things: tuple[Thing, ...], word: str | None) -> list[str]:
    return [str(sum(word in (None, thing.colour, thing.shape, thing.size) for thing in things))]


def _compare(things: tuple[Thing, ...], word: str, c1: str, s1: str, c2: str, s2: str) -> list[str]:
    one, other = sorted((_named(things, c1, s1), _named(things, c2, s2)), key=lambda thing: thing.radius)
    return [] if one.size == other.size else [other.name if word == "larger" else one.name]


_READERS: tuple[tuple[str, Callable[..., list[str]]], ...] = (
    (r"What colou?r is the (\w+)\?", _of_shape),
    (r"What shape is the (\w+) object\?", _of_colour),
    (rf"What size is the {_THING}\?", _size),
    (rf"What pattern does the {_THING} have\?", _pattern),
    (rf"Where is the {_THING}\?", _where),
    (rf"Is there a {_THING}\?", _exist),
    (rf"Is the {_THING} {_RELATION} the {_THING}\?", _relation),
    (rf"Which object is {_RELATION} the {_THING}\?", _which),
    (r"How many (?:(\w+) )?(?:objects|shapes) are there\?", _count),
    (rf"Which is (larger|smaller), the {_THING} or the {_THING}\?", _compare),
    (rf"What (colou?r|shape) is the (?:object|shape) {_RELATION} the {_THING}\?", _two_hop),
)
