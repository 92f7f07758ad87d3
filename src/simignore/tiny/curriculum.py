"""What the decoder is asked in training: probes, copying drills, questions and captions, easy before hard.

Full questions from the start stay at chance for a long time. So first come probes, the shortest text from which a fact
can be told (`colour star` -> red; `colour object closest to blue star` -> green), then questions in their full wording. Copying
drills need no picture: the answer is given, find its letter. They keep the induction circuit alive that letter answers
are made with.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from simignore.wording import LETTERS, lettered

from .prompts import DESCRIBE, caption, free_prompt, option_prompt
from .questions import CORNERS, KINDS, Question, ask, ask_surely
from .scenes import COLOURS, MOST, NUMBERS, PATTERNS, SHAPES, SIZES, Scene, Thing
from .words import CONTEXTS, EOS, VOCABULARY, encode

_SMALL = ("a", "the", "is", "does", "have", "or", "in")  # words that probes leave out
IGNORED = -100  # label of positions without a loss
LOOK_UPS = ("colour", "shape", "size", "pattern", "number", "where")
HARD = ("exist", "relation_yes_no", "count", "compare", "odd_one_out", "two_hop", "three_hop")
EARLY = (0.8, 0.8, 0.7, 0.7, 1.4, 0.8, 1.0, 1.4, 1.8, 1.8, 1.1, 1.6, 2.6, 2.4)  # how often each of KINDS is asked
LATE = (0.6, 0.6, 0.6, 0.6, 1.0, 0.6, 0.8, 1.4, 1.8, 2.4, 0.9, 2.6, 2.6, 2.6)  # what is learnt last, more often
TASKS = (*KINDS, "caption", "copy")  # what accuracies are logged for


@dataclass(frozen=True)
class Mix:
    """Shares of what is asked. Those of `Segment` sorts sum to 1 with full questions taking the rest; those of forms
    likewise with the option's text taking the rest.

    `lettered` is the share of look-up probes that go on with options, to be answered by letter too; `look_ups` says that
    full questions are restricted to the look-ups and `exist`; `wordy` is the share of option questions with context line;
    `weights` how often each of `KINDS` is asked.
    """

    probe: float = 0.0
    hard_probe: float = 0.0
    lettered: float = 0.0
    copy: float = 0.0
    caption: float = 0.0
    look_ups: bool = False
    letter: float = 0.35
    free: float = 0.2
    bare: float = 0.08
    wordy: float = 0.6
    weights: tuple[float, ...] = EARLY


@dataclass(frozen=True)
class Segment:
    """Tokens of one exchange after the picture, and for each the token to predict next (`IGNORED`: none)."""

    tokens: list[int]
    labels: list[int]
    task: str


def mix_at(stage: str, progress: float) -> Mix:
    """The mix of a stage at `progress` in [0, 1)."""
    if stage == "copying":
        return Mix(copy=1.0)
    if stage == "symbols":
        if progress < 0.10:
            return Mix(probe=0.7, lettered=0.4, copy=0.15, look_ups=True, free=0.7, bare=0.0, letter=0.1, wordy=0.0)
        if progress < 0.42:
            return Mix(probe=0.2, lettered=0.8, hard_probe=0.45, copy=0.05, caption=0.01, letter=0.4, wordy=0.0)
        if progress < 0.60:
            return Mix(probe=0.1, lettered=0.8, hard_probe=0.25, copy=0.05, caption=0.02, letter=0.4, wordy=0.1)
        return Mix(
            probe=0.05, lettered=0.8, hard_probe=0.10, copy=0.03, caption=0.03, letter=0.42, wordy=0.25, weights=LATE
        )
    if progress < 0.7:
        return Mix(probe=0.02, hard_probe=0.05, copy=0.06, caption=0.06, weights=LATE)
    return Mix(copy=0.03, caption=0.08, wordy=0.8, weights=LATE)


def draw(scene: Scene, mix: Mix, rng: random.Random) -> Segment:
    """Draw one segment about `scene`."""
    dice = rng.random()
    if dice < mix.probe:
        return probe(scene, rng, lettered_too=rng.random() < mix.lettered)
    dice -= mix.probe
    if dice < mix.hard_probe:
        return hard_probe(scene, rng)
    dice -= mix.hard_probe
    if dice < mix.copy:
        return copy_drill(rng)
    if dice < mix.copy + mix.caption:
        return exchange(DESCRIBE, caption(scene), "caption")
    return question(scene, mix, rng)


def exchange(prompt: str, answer: str, task: str, early: str | None = None) -> Segment:
    """A user's turn and the answer to it, ended; `early` is an answer to predict at the question mark already, which
    helps the decoder work the answer out before it reads the options."""
    asked = [VOCABULARY["\n"], *encode(prompt), VOCABULARY["assistant:"]]
    told = [*encode(answer), EOS]
    labels = [IGNORED] * (len(asked) - 1) + told
    if early is not None:
        labels[asked.index(VOCABULARY["?"])] = encode(early)[0]
    return Segment(asked + told[:-1], labels, task)


def question(scene: Scene, mix: Mix, rng: random.Random) -> Segment:
    """A full question in one of the trained wordings."""
    dice = rng.random()
    free = dice < mix.free + mix.bare
    asked = _any_question(scene, mix, free, rng)
    if rng.random() < mix.wordy:
        asked = replace(asked, context=rng.choice(CONTEXTS))
    if dice < mix.free:
        return exchange(free_prompt(asked), asked.answer, asked.kind)
    if free:
        return exchange(asked.question, asked.answer, asked.kind)
    early = asked.answer if asked.free else None
    if dice < mix.free + mix.bare + mix.letter:
        return exchange(option_prompt(asked, True), asked.letter, asked.kind, early)
    prompt = option_prompt(asked, False)
    if rng.random() < 0.05:
        prompt = prompt.rsplit("\n", 1)[0]  # options, but no word on how to answer: by text
    return exchange(prompt, asked.answer, asked.kind, early)


def _any_question(scene: Scene, mix: Mix, free: bool, rng: random.Random) -> Question:
    weights = dict(zip(KINDS, mix.weights, strict=True))
    kinds = (*LOOK_UPS, "exist") if mix.look_ups else KINDS
    while True:
        asked = ask_surely(rng.choices(kinds, [weights[kind] for kind in kinds])[0], scene, rng)
        if asked is not None and (asked.free or not free):
            return asked


def probe(scene: Scene, rng: random.Random, lettered_too: bool = False) -> Segment:
    """A look-up in two or three words: `colour star`, `shape red`, `size red star`, `left or right red star`.

    With `lettered_too` options follow, and the right one's letter is to be found after the answer:
    `colour star (A) red (B) blue` -> red after `star`, A at the end.
    """
    thing, kind = rng.choice(scene.things), rng.choices(LOOK_UPS, (0.27, 0.27, 0.11, 0.11, 0.12, 0.12))[0]
    if kind == "where" or (kind == "number" and thing.number is None):
        return _where_probe(thing, rng)
    name = {"colour": thing.shape, "shape": thing.colour}.get(kind, thing.name)
    if sum(name in (other.shape, other.colour, other.name) for other in scene.things) > 1:
        kind, name = "pattern", thing.name
    text, answer = f"{kind} {name}", getattr(thing, kind)
    if not lettered_too:
        return _probe(text, answer, kind)
    pool = {"colour": tuple(COLOURS), "shape": SHAPES, "size": SIZES, "pattern": PATTERNS, "number": NUMBERS}[kind]
    options = [answer, *rng.sample([word for word in pool if word != answer], rng.randint(1, min(3, len(pool) - 1)))]
    rng.shuffle(options)
    segment = _probe(f"{text} {lettered(options)}", LETTERS[options.index(answer)], kind)
    segment.labels[len(encode(text))] = encode(answer)[0]
    return segment


def hard_probe(scene: Scene, rng: random.Random) -> Segment:
    """A fact about two things, or about all, in the words that matter: `colour object closest to blue star`."""
    if rng.random() < 0.2:
        return _where_probe(rng.choice(scene.things), rng)
    while True:
        kind = rng.choices(HARD, (1, 3, 1.5, 1, 1.5, 5, 3))[0]
        asked = ask(kind, scene, rng)
        if asked is not None:
            words = asked.question[:-1].replace(",", "").split()
            first, last = {
                "exist": (2, None),  # (Is there) a red star
                "relation_yes_no": (2, None),  # (Is the) red star left of the blue ring
                "count": (2, -2),  # (How many) red objects (are there)
                "compare": (2, None),  # (Which is) larger the red star or the blue ring
                "odd_one_out": (6, None),  # (Which is the odd one out) in size the red star the blue ring or ...
                "two_hop": (1, None),  # (What) colour is the star closest to the blue ring
                "three_hop": (1, None),
            }[kind]
            short = [word for word in words[first:last] if word not in _SMALL]
            return _probe(" ".join(short), asked.answer, kind)


def copy_drill(rng: random.Random) -> Segment:
    """Find a given option's letter: bare (`(A) red (B) blue blue` -> B), or worded like a question."""
    counts = ("0", *NUMBERS[:MOST])
    pools = (tuple(COLOURS), SHAPES, counts, NUMBERS, CORNERS, ("yes", "no"), PATTERNS, SIZES, _names(rng))
    pool = rng.choices(pools, (3, 2, 1.5, 1, 1, 1, 1, 0.5, 2.5))[0]
    options = rng.sample(pool, min(len(pool), rng.randint(2, 4)))
    right = rng.choice(options)
    if rng.random() < 0.5:
        return _probe(f"{lettered(options)} {right}", LETTERS[options.index(right)], "copy")
    asked = Question("copy", right, tuple(options), right, ())
    if rng.random() < 0.3:
        asked = replace(asked, context=rng.choice(CONTEXTS))
    return exchange(option_prompt(asked, True), asked.letter, "copy")


def _names(rng: random.Random) -> tuple[str, ...]:
    return tuple({f"{rng.choice(list(COLOURS))} {rng.choice(SHAPES)}": None for _ in range(6)})


def _where_probe(thing: Thing, rng: random.Random) -> Segment:
    across = rng.random() < 0.5
    return _probe(
        f"{'left or right' if across else 'top or bottom'} {thing.name}", thing.corner.split()[across], "where"
    )


def _probe(text: str, answer: str, task: str) -> Segment:
    """The answer follows the last word at once, without a turn."""
    asked, told = [VOCABULARY["\n"], *encode(text)], encode(answer)
    return Segment(asked + told[:-1], [IGNORED] * (len(asked) - 1) + told, task)
