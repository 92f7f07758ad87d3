"""Every place of a prompt in exactly one part, on every family; the oracle is the processor on each image alone."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from zoo import EVERY, Case, Sample, frames, picture

import models
import processors
from simignore.flow.spans import Spans, _adopt, partition
from simignore.parts import parts
from simignore.prompt import build
from simignore.query import Template

ONE = ("blip-2", "instructblip", "llava_onevision")  # take one image, or lay several out otherwise than one
CROPS = {
    "idefics2-split",
    "gemma3-crops",
    "aria-crops",
    "minicpmv4.6",
}  # each crop stands in the prompt as an image does
JOINED = {"deepseek-vl"}  # discovered: two images side by side are one run of tokens
TEXT = "who sees the red circle ?"


def placeholders(case: Case, inputs: dict) -> list[int]:
    marks = torch.tensor(parts(case.model()).placeholders)
    return torch.isin(inputs["input_ids"][0], marks).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("name", EVERY)
def test_every_image_has_its_own_tokens_and_all_between_them(name):
    case = EVERY[name]
    shown = [picture(*case.sizes[0]), picture(*case.sizes[-1], seed=1)][: 1 if case.model_type in ONE else 2]
    inputs = case.inputs(Sample(TEXT, tuple(shown)))
    found = partition(parts(case.model()), inputs, None, 3)
    places = placeholders(case, inputs)
    alone = [len(placeholders(case, case.inputs(Sample(TEXT, (image,))))) for image in shown]
    assert sum(alone) == len(places)
    expected = []
    for count in alone:
        own, places = places[:count], places[count:]
        expected.append(list(range(own[0], own[-1] + 1)))
    told = [found.places(name).tolist() for name in found.names if name.startswith("image")]
    if name in CROPS | JOINED:
        assert (len(told) > len(shown)) == (name in CROPS)
        assert set(placeholders(case, inputs)) <= set(chain(*told))
    else:
        assert told == expected
    check_whole(found, inputs, 3)
    words = torch.tensor(case.shared_processor().tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    question = inputs["input_ids"][0, found.places("question")]
    assert set(words.tolist()) <= set(question.tolist())
    assert set(found.places("question").tolist()).isdisjoint(chain(*told))


def check_whole(found: Spans, inputs: dict, answer: int) -> None:
    """Every place is in one part, parts are named in order, and counts are those of the places before each answer token."""
    length = inputs["input_ids"].shape[1]
    every = np.concatenate([found.places(name) for name in found.names])
    assert sorted(every.tolist()) == list(range(length + answer - 1))
    assert found.names[-1] == "earlier answer" and len(set(found.names)) == len(found.names)
    assert found.places("earlier answer").tolist() == list(range(length, length + answer - 1))
    for a in range(answer):
        seen = [sum(int(place) < length + a for place in found.places(name)) for name in found.names]
        assert found.counts[a].tolist() == seen


@pytest.mark.parametrize("name", [name for name, case in EVERY.items() if case.video])
def test_videos_are_parts_of_their_own(name):
    case, video = EVERY[name], (frames(4, *EVERY[name].sizes[0]),)
    p = parts(case.model())
    own = p.video_token is not None or "glm" in name  # others show frames as images
    apart = own and "glm" not in name
    image = (picture(*case.sizes[0]),) if apart else ()
    inputs = case.inputs(Sample(TEXT, image, video))
    found = partition(p, inputs, None, 1)
    shown = [name for name in found.names if name.startswith(("image", "video"))]
    assert shown == ([*["image 1"] * apart, "video 1"] if own else [f"image {n + 1}" for n in range(len(shown))])
    places = placeholders(case, inputs)
    assert found.places(shown[-1])[-1] == places[-1] and found.places(shown[0])[0] == places[0]
    if own:
        assert set(places) <= {place for name in shown for place in found.places(name)}
    check_whole(found, inputs, 1)


def told(found: Spans, prompt) -> dict[str, str]:
    ids = prompt.inputs["input_ids"][0]
    own = [name for name in found.names if not name.startswith("image") and name != "earlier answer"]
    tokens = {name: prompt.tokenizer.convert_ids_to_tokens(ids[found.places(name)]) for name in own}
    return {name: " ".join(token for token in said if token != "\n") for name, said in tokens.items()}


@pytest.mark.parametrize("template", ["vicuna", "turns"])
def test_context_question_options_and_the_rest_are_told_apart(template):
    processor = processors.processor(template)
    prompt = build(
        processor,
        picture(32, 32),
        "What colour is this star ?",
        context="a cat and dog",
        options=("red", "blue"),
    )
    found = partition(parts(models.model()), prompt.inputs, prompt.spans, 1)
    assert found.names == ("system", "image 1", "context", "question", "options", "template", "earlier answer")
    said = told(found, prompt)
    assert said["context"] == "a cat and dog" and said["question"] == "What colour is this star ?"
    assert said["options"] == "( A ) red ( B ) blue"
    assert "Options" in said["template"] and "Answer with" in said["template"]
    assert ("a chat between" in said["system"]) == (template == "vicuna")


@pytest.mark.parametrize("template", ["vicuna", "turns"])
def test_without_spans_the_words_of_the_last_turn_are_the_question(template):
    processor = processors.processor(template)
    prompt = build(processor, picture(32, 32), "What colour is this star ?")
    p = parts(models.model())
    known = partition(p, prompt.inputs, prompt.spans, 2)
    read = partition(p, prompt.inputs, None, 2, Template(processor, p.image_token))
    assert known.names == read.names and known.number.tolist() == read.number.tolist()
    blind = partition(p, prompt.inputs, None, 2)  # no template is at hand: all behind the image
    assert set(blind.places("question")) > set(known.places("question"))


def test_overlaps_go_to_the_image_first_then_question_options_context():
    ids = models.prompt(words=6, before=2)  # begin, 2 words, 16 of the image, separator, 6 words
    where = {
        "question": torch.tensor([17, 20, 21]),
        "options": torch.tensor([21, 22]),
        "context+question": torch.tensor([1, 20, 21, 22, 23]),
    }
    found = partition(parts(models.model()), models.batch(ids), where, 1)
    told = {name: found.places(name).tolist() for name in found.names}
    assert told == {
        "system": [0, 2],
        "image 1": list(range(3, 19)),
        "context": [1, 23],
        "question": [20, 21],
        "options": [22],
        "template": [19, 24, 25],
        "earlier answer": [],
    }


def test_a_question_before_the_image_is_found():
    ids = torch.cat([torch.tensor([models.BOS, 10, 11]), torch.full((models.PATCHES,), models.IMAGE)])
    found = partition(parts(models.model()), models.batch(ids), None, 1)
    assert found.places("question").tolist() == [1, 2] and found.places("system").tolist() == [0]


def test_what_cannot_be_parted_is_refused():
    p, good = parts(models.model()), models.batch(models.prompt())
    span = {"question": torch.tensor([20])}
    refused = [
        (models.batch(models.prompt(), models.prompt()), span, 1, "2 prompts"),
        ({"attention_mask": good["attention_mask"]}, span, 1, "no input_ids"),
        (models.batch(models.prompt(images=0)), span, 1, "no image tokens"),
        (good, span, 0, "0 tokens"),
        (good, {"question": torch.tensor([99])}, 1, "place 99"),
        (good, {"question": torch.tensor([-2, 4])}, 1, "place -2"),
        (good, {"options": torch.tensor([20])}, 1, "'options'] hold no 'question'"),
        (good, {"question": torch.tensor([], dtype=torch.long)}, 1, "no question"),
    ]
    for inputs, spans, answer, message in refused:
        with pytest.raises(ValueError, match=message.replace("]", "\\]")):
            partition(p, inputs, spans, answer)


def test_placeholders_on_no_grid_go_to_the_image_that_they_stand_beside():
    owner = np.array([-1, -1, -1, 0, 0, -1, -1, -1, 1, -1])
    held = np.array(
        [0, 1, 1, 1, 1, 1, 0, 1, 1, 1], dtype=bool
    )  # a run before the first image, one behind it, both round the second
    _adopt(owner, held)
    assert owner.tolist() == [-1, 0, 0, 0, 0, 0, -1, 1, 1, 1]
