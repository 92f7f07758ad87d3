"""Every generated answer follows from the question's words; nothing that the question needs is left out."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from simignore.tiny.prompts import caption, free_prompt, option_prompt, same_caption
from simignore.tiny.questions import KINDS, Question, ask, ask_surely
from simignore.tiny.scenes import SPLITS, Scene, sample_scene
from simignore.tiny.solve import solve
from simignore.tiny.words import LETTER_WORDS, UNKNOWN, build_tokenizer, encode
from simignore.wording import LETTERS


def _questions(kind: str, count: int) -> list[tuple[Scene, Question]]:
    rng, found = random.Random(kind), []
    for seed in SPLITS["validation"]:
        scene = sample_scene(seed)
        question = ask_surely(kind, scene, rng)
        if question:
            found.append((scene, question))
        if len(found) == count:
            break
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_solver_agrees(kind: str) -> None:
    for scene, question in _questions(kind, 500):
        assert solve(question.question, scene, question.options) == question.answer
        if question.free:
            assert solve(question.question, scene) == question.answer


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_distinct_and_hold_the_answer(kind: str) -> None:
    for _, question in _questions(kind, 200):
        assert 2 <= len(question.options) <= 4
        assert len(set(question.options)) == len(question.options)
        assert question.options[LETTERS.index(question.letter)] == question.answer


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_beyond_needs_is_needed(kind: str) -> None:
    for scene, question in _questions(kind, 200):
        assert question.needs and len(set(question.needs)) == len(question.needs)
        for other in set(range(len(scene.things))) - set(question.needs):
            rest = replace(scene, things=tuple(t for i, t in enumerate(scene.things) if i != other))
            assert solve(question.question, rest, question.options) == question.answer


@pytest.mark.parametrize("kind", KINDS)
def test_the_place_of_the_right_option_says_nothing(kind: str) -> None:
    places = Counter((len(q.options), q.letter) for _, q in _questions(kind, 600))
    for count in {size for size, _ in places}:
        seen = [places[count, letter] for letter in LETTERS[:count]]
        if sum(seen) > 200:
            assert min(seen) > 0.6 * sum(seen) / count


def test_yes_and_no_are_balanced() -> None:
    for kind in ("exist", "relation_yes_no"):
        yes = sum(question.answer == "yes" for _, question in _questions(kind, 600))
        assert 0.43 < yes / 600 < 0.57


@pytest.mark.parametrize("kind", ["two_hop", "three_hop"])
def test_no_hop_can_be_skipped(kind: str) -> None:
    """Put the first thing into each corner, one of which may be near, and mostly the answer is another one or does not
    follow any more; nor does the noun alone tell which thing is meant."""
    same = moves = 0
    for scene, question in _questions(kind, 200):
        noun = question.question.split(" closest to ")[0].split(" the ", 1)[1].split()[0]
        fitting = [t for t in scene.things if noun in (t.shape, t.colour, t.size, t.pattern, "object")]
        assert len(fitting) > 1 or noun == "object"
        first = question.needs[0]
        for x, y in ((15.0, 15.0), (97.0, 15.0), (15.0, 97.0), (97.0, 97.0)):
            moved = replace(scene.things[first], x=x, y=y)
            things = (*scene.things[:first], moved, *scene.things[first + 1 :])
            same += solve(question.question, replace(scene, things=things)) == question.answer
            moves += 1
    assert same < 0.45 * moves


@pytest.mark.parametrize("which", [0, 1, -1])
def test_the_size_of_a_number_says_little_about_the_count(which: int) -> None:
    """The smallest, the second and the largest of the options are right less than half of the time."""
    some = _questions("count", 600)
    hits = sum(sorted(question.options, key=int)[which] == question.answer for _, question in some)
    assert hits < 0.5 * len(some)


@pytest.mark.parametrize("kind", ["which_relation", "two_hop", "three_hop", "compare", "odd_one_out", "number"])
def test_what_the_question_names_says_little(kind: str) -> None:
    """Leaving out the options whose words stand in the question, or those whose words do not, is no way to guess."""
    some = _questions(kind, 600)
    for keep_named in (True, False):
        chances = []
        for _, question in some:
            left = [o for o in question.options if all(w in question.question for w in o.split()) == keep_named]
            left = left or list(question.options)
            chances.append((question.answer in left) / len(left))
        blind = sum(1 / len(question.options) for _, question in some) / len(some)
        assert sum(chances) / len(chances) < blind + 0.1


def test_unknown_kinds_and_wordings_are_refused() -> None:
    with pytest.raises(ValueError, match="'smell'"):
        ask("smell", sample_scene(0), random.Random(0))
    with pytest.raises(ValueError, match="Who"):
        solve("Who is there?", sample_scene(0))


def test_prompts_use_the_wording_of_scienceqa() -> None:
    question = Question("colour", "What colour is the star?", ("red", "blue"), "blue", (0,), context="N/A")
    assert option_prompt(question, letter=True) == (
        "Context: N/A\nQuestion: What colour is the star?\nOptions: (A) red (B) blue\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert option_prompt(replace(question, context=None), letter=False) == (
        "Question: What colour is the star?\nOptions: (A) red (B) blue\nAnswer with the option's text."
    )
    assert free_prompt(question) == "Question: What colour is the star?\nAnswer briefly."


def test_captions_name_every_thing_once() -> None:
    for seed in range(50):
        scene = sample_scene(seed)
        said = caption(scene)
        assert said.endswith(".") and said.count(",") == len(scene.things) - 1
        assert all(f"{thing.size} {thing.pattern} {thing.name}" in said for thing in scene.things)
        assert [said.index(thing.name) for thing in sorted(scene.things, key=lambda thing: thing.x)] == sorted(
            said.index(thing.name) for thing in scene.things
        )


def test_captions_are_judged_without_regard_to_order() -> None:
    scene = sample_scene(1)
    some = caption(scene).rstrip(".").split(", ")
    assert same_caption(", ".join(reversed(some)) + ".", scene)
    assert not same_caption(", ".join(some[1:]) + ".", scene)
    assert not same_caption(", ".join([*some, some[0]]) + ".", scene)
    assert not same_caption(caption(scene).replace(scene.things[0].colour, "mauve"), scene)


def test_hops_are_hops() -> None:
    """A question of n hops needs n + 1 things, and names none of them but the first."""
    for kind, count in (("two_hop", 2), ("three_hop", 3)):
        for scene, question in _questions(kind, 100):
            assert len(question.needs) == count
            assert scene.things[question.needs[0]].name in question.question
            assert all(scene.things[i].name not in question.question for i in question.needs[1:])


def test_the_vocabulary_knows_every_word_and_ignores_case() -> None:
    tokenizer, rng = build_tokenizer(), random.Random(0)
    for seed in range(20):
        scene = sample_scene(seed)
        texts = [caption(scene)]
        for kind in KINDS:
            question = ask_surely(kind, scene, rng)
            if question:
                texts += [option_prompt(question, letter) for letter in (True, False)]
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids == encode(text) and UNKNOWN not in ids
            assert encode(text.replace("What", "what")) == ids
    assert tokenizer.decode(encode(caption(scene))) == caption(scene)
    assert tokenizer.decode(encode("quokka")) == "<unk>"
    assert all(len(encode(word)) == 1 for word in LETTER_WORDS)
    assert encode("A") != encode("a")
