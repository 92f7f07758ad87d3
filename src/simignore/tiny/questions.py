"""Questions about a scene, each with its answer, its options and the things that one must look at to answer it.

Fourteen kinds, from look-ups (`What colour is the star?`) to three hops (`What colour is the object closest to the
large object closest to the blue ring?`). `ask` either finds a question of the kind that has exactly one right answer, or
returns None.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from simignore.wording import LETTERS

from .scenes import COLOURS, MOST, NUMBERS, PATTERNS, SHAPES, SIDE, SIZES, Scene, Thing

RELATIONS = ("left of", "right of", "above", "below")
CORNERS = ("top left", "top right", "bottom left", "bottom right")
CLEAR = 6.0  # units by which centres must differ for a relation to count as true or false
NEARER = 16.0  # units by which the closest thing must be closer than the next
CENTRE = 5.0  # units around the middle lines in which `where` is not asked


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    `options` are distinct, in the order shown, and hold `answer` once. `needs` are indices into `scene.things`: with
    any other thing taken away the answer stays right (they are not always the fewest such). `free` says that the answer
    is the only right one even without options. `context` is the text of the context line, or None for no such line.
    """

    kind: str
    question: str
    options: tuple[str, ...]
    answer: str
    needs: tuple[int, ...]
    free: bool = True
    context: str | None = None

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return LETTERS[self.options.index(self.answer)]


@dataclass(frozen=True)
class _Draft:
    """A question before its options are drawn; `wrong` holds false answers, the most tempting first."""

    text: str
    answer: str
    wrong: tuple[str, ...]
    needs: tuple[int, ...]
    free: bool = True


def ask(kind: str, scene: Scene, rng: random.Random) -> Question | None:
    """Draw a question of `kind`, with 2 to 4 options in random order; None if this draw has no single answer.

    Raises ValueError for an unknown kind.
    """
    if kind not in _DRAFTERS:
        raise ValueError(f"there is no question kind {kind!r}; choose one of {', '.join(KINDS)}")
    draft = _DRAFTERS[kind](scene.things, rng)
    if draft is None:
        return None
    wrong = [word for word in dict.fromkeys(draft.wrong) if word != draft.answer][: rng.randint(2, 3)]
    options = [draft.answer, *wrong]
    rng.shuffle(options)
    return Question(kind, draft.text, tuple(options), draft.answer, draft.needs, draft.free)


def ask_surely(kind: str, scene: Scene, rng: random.Random, tries: int = 20) -> Question | None:
    """`ask`, drawn again up to `tries` times; None if the scene seems to have no such question."""
    for _ in range(tries):
        question = ask(kind, scene, rng)
        if question is not None:
            return question
    return None


def holds(one: Thing, relation: str, other: Thing) -> bool | None:
    """Whether `one` is `relation` (such as `left of`) `other`; None if the centres are too close to say."""
    dx, dy = one.x - other.x, one.y - other.y
    margin = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[relation]
    return None if abs(margin) <= CLEAR else margin > 0


def closest(things: tuple[Thing, ...], j: int, others: list[int]) -> int | None:
    """Which of `others` has its centre closest to that of thing `j`; None if there is none, or it is too close to say."""
    apart = {i: math.hypot(things[i].x - things[j].x, things[i].y - things[j].y) for i in others}
    near = sorted(others, key=lambda i: apart[i])
    clear = len(near) == 1 or (len(near) > 1 and apart[near[1]] - apart[near[0]] > NEARER)
    return near[0] if clear else None


def _others(words: list[str], pool: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """False answers: those that another thing of the scene would give first, then any."""
    return tuple(rng.sample(words, len(words)) + rng.sample(pool, len(pool)))


def _colour(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    i = rng.randrange(len(things))
    thing = things[i]
    if sum(other.shape == thing.shape for other in things) > 1:
        return None
    wrong = _others([other.colour for other in things], tuple(COLOURS), rng)
    return _Draft(f"What {_spelling(rng)} is the {thing.shape}?", thing.colour, wrong, (i,))


def _shape(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    i = rng.randrange(len(things))
    thing = things[i]
    if sum(other.colour == thing.colour for other in things) > 1:
        return None
    wrong = _others([other.shape for other in things], SHAPES, rng)
    return _Draft(f"What shape is the {thing.colour} object?", thing.shape, wrong, (i,))


def _number(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    """What is written on a thing, or which thing it is written on."""
    i = rng.randrange(len(things))
    number = things[i].number
    if number is None:
        return None
    others = tuple(j for j in range(len(things)) if things[j].number and j != i)
    if rng.random() < 0.7:
        wrong = _others([str(things[j].number) for j in others], NUMBERS, rng)
        return _Draft(f"What number is on the {things[i].name}?", number, wrong, (i,))
    if len(others) < 2 or any(things[j].number == number for j in others):
        return None
    wrong = tuple(things[j].name for j in rng.sample(others, len(others)))
    return _Draft(f"Which object has the number {number}?", things[i].name, wrong, (i,))


def _size(things: tuple[Thing, ...], rng: random.Random) -> _Draft:
    i = rng.randrange(len(things))
    return _Draft(f"What size is the {things[i].name}?", things[i].size, SIZES, (i,))


def _pattern(things: tuple[Thing, ...], rng: random.Random) -> _Draft:
    i = rng.randrange(len(things))
    wrong = tuple(rng.sample(PATTERNS, len(PATTERNS)))
    return _Draft(f"What pattern does the {things[i].name} have?", things[i].pattern, wrong, (i,))


def _where(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    i = rng.randrange(len(things))
    thing = things[i]
    if min(abs(thing.x - SIDE / 2), abs(thing.y - SIDE / 2)) < CENTRE:
        return None
    return _Draft(f"Where is the {thing.name}?", thing.corner, tuple(rng.sample(CORNERS, len(CORNERS))), (i,))


def _exist(things: tuple[Thing, ...], rng: random.Random) -> _Draft:
    """Half the time of something that is there; else of a pair that is not, mostly mixed from two things that are."""
    everyone = tuple(range(len(things)))
    if rng.random() < 0.5:
        i = rng.choice(everyone)
        return _Draft(f"Is there a {things[i].name}?", "yes", ("no",), (i,))
    names = {thing.name for thing in things}
    colour, shape = things[0].colour, things[0].shape
    while f"{colour} {shape}" in names:
        colour = rng.choice(things).colour if rng.random() < 0.7 else rng.choice(list(COLOURS))
        shape = rng.choice(things).shape if rng.random() < 0.7 else rng.choice(SHAPES)
    needs = tuple(i for i in everyone if things[i].colour == colour or things[i].shape == shape)
    return _Draft(f"Is there a {colour} {shape}?", "no", ("yes",), needs or everyone)


def _relation_yes_no(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    i, j = rng.sample(range(len(things)), 2)
    relation = rng.choice(RELATIONS)
    truth = holds(things[i], relation, things[j])
    if truth is None:
        return None
    answer, wrong = ("yes", "no") if truth else ("no", "yes")
    return _Draft(f"Is the {things[i].name} {relation} the {things[j].name}?", answer, (wrong,), (i, j))


def _which_relation(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    j = rng.randrange(len(things))
    others = [i for i in range(len(things)) if i != j]
    i = closest(things, j, others)
    if i is None:
        return None
    wrong = tuple(things[k].name for k in rng.sample(others, len(others)))
    return _Draft(f"Which object is closest to the {things[j].name}?", things[i].name, wrong, (j, i))


def _count(things: tuple[Thing, ...], rng: random.Random) -> _Draft:
    """All numbers that some word gives are equally likely but 0, or most answers would be 0 and 1."""
    everyone = tuple(range(len(things)))
    fitting = {"objects": everyone}
    for by, pool in (("colour", tuple(COLOURS)), ("shape", SHAPES), ("size", SIZES), ("pattern", PATTERNS)):
        for word in pool:
            noun = f"{word} {'shapes' if by == 'shape' else 'objects'}"
            fitting[noun] = tuple(i for i in everyone if getattr(things[i], by) == word)
    right = 0 if rng.random() < 0.1 else rng.choice(sorted({len(some) for some in fitting.values()} - {0}))
    what, needs = rng.choice([pair for pair in fitting.items() if len(pair[1]) == right])
    first = rng.randint(max(0, right - 3), min(right, MOST - 3))  # of four numbers in a row, so that rank says little
    wrong = tuple(str(n) for n in rng.sample(range(first, first + 4), 4))
    return _Draft(f"How many {what} are there?", str(right), wrong, needs or everyone)


def _compare(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    i, j = rng.sample(range(len(things)), 2)
    if things[i].size == things[j].size:
        return None
    word = rng.choice(("larger", "smaller"))
    small, large = sorted((i, j), key=lambda k: SIZES.index(things[k].size))
    right, wrong = (large, small) if word == "larger" else (small, large)
    text = f"Which is {word}, the {things[i].name} or the {things[j].name}?"
    return _Draft(text, things[right].name, (things[wrong].name,), (i, j))


def _odd_one_out(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    """Three things by name, two of which share a pattern or a size."""
    if len(things) < 3:
        return None
    by, some = rng.choice(("pattern", "size")), rng.sample(range(len(things)), 3)
    values = [getattr(things[i], by) for i in some]
    odd = [i for i, value in zip(some, values, strict=True) if values.count(value) == 1]
    if len(odd) != 1:
        return None
    first, second, third = (things[i].name for i in some)
    text = f"Which is the odd one out in {by}, the {first}, the {second} or the {third}?"
    return _Draft(text, things[odd[0]].name, tuple(things[i].name for i in some), tuple(some))


def _two_hop(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    """An attribute of what is closest to a thing."""
    j = rng.randrange(len(things))
    asked = rng.choices(("colour", "shape", "pattern"), (0.4, 0.4, 0.2))[0]
    step = _beside(things, j, asked, rng)
    return None if step is None else _attribute(things, asked, f"{step[1]} the {things[j].name}", (j, step[0]), rng)


def _three_hop(things: tuple[Thing, ...], rng: random.Random) -> _Draft | None:
    """An attribute of what is closest to what is closest to a thing."""
    j = rng.randrange(len(things))
    asked = rng.choice(("colour", "shape"))
    first = _beside(things, j, rng.choice(("colour", "shape", "pattern")), rng)
    second = None if first is None else _beside(things, first[0], asked, rng)
    if first is None or second is None or second[0] == j:
        return None
    text = f"{second[1]} the {first[1]} the {things[j].name}"
    return _attribute(things, asked, text, (j, first[0], second[0]), rng)


def _beside(things: tuple[Thing, ...], j: int, asked: str, rng: random.Random) -> tuple[int, str] | None:
    """The thing closest to thing `j`, and words for it: `object closest to`, or narrower `large object closest to`.

    At least two things fit the noun, so that it does not give the thing away, nor its attribute `asked`. None if this
    draw has no such thing. (A relation such as `left of` would not do: the only star left of something is the leftmost.)
    """
    noun, others = "object", [i for i in range(len(things)) if i != j]
    if others and rng.random() < 0.5:
        by = rng.choice([kind for kind in ("colour", "shape", "size", "pattern") if kind != asked])
        word = getattr(things[rng.choice(others)], by)
        noun = word if by == "shape" else f"{word} object"
        others = [i for i in others if getattr(things[i], by) == word]
    i = closest(things, j, others) if len(others) > 1 else None
    return None if i is None else (i, f"{noun} closest to")


def _attribute(
    things: tuple[Thing, ...], asked: str, phrase: str, needs: tuple[int, ...], rng: random.Random
) -> _Draft:
    """Ask for an attribute of the last thing needed, which `phrase` describes."""
    pool = {"colour": tuple(COLOURS), "shape": SHAPES, "pattern": PATTERNS}[asked]
    unnamed = [getattr(things[i], asked) for i in range(len(things)) if i != needs[0]]
    wrong = _others(unnamed, pool, rng)
    if asked == "pattern":
        text = f"What pattern does the {phrase} have?"
    else:
        text = f"What {_spelling(rng) if asked == 'colour' else asked} is the {phrase}?"
    return _Draft(text, getattr(things[needs[-1]], asked), wrong, needs)


def _spelling(rng: random.Random) -> str:
    return "color" if rng.random() < 0.1 else "colour"


_DRAFTERS = {
    "colour": _colour,
    "shape": _shape,
    "size": _size,
    "pattern": _pattern,
    "number": _number,
    "where": _where,
    "exist": _exist,
    "relation_yes_no": _relation_yes_no,
    "which_relation": _which_relation,
    "count": _count,
    "compare": _compare,
    "odd_one_out": _odd_one_out,
    "two_hop": _two_hop,
    "three_hop": _three_hop,
}
KINDS = tuple(_DRAFTERS)
