"""Deletion and insertion against runs under masks, at the known end points, and on the bundled model."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from counterfactuals import ANSWER, asking, breaking, mean_log_probability, state, told

import models
import oracles
import simignore
from simignore.flow.copies import forced
from simignore.flow.likely import likely
from simignore.flow.removal import removal
from simignore.prompt import build
from simignore.tiny import EXAMPLE_QUESTION, example


def masked(model, inputs, image, gone, model_type=""):
    """The answer's mean log-probability with some image tokens hidden in every layer, by hooks of the test's own."""
    full = told(inputs, model_type=model_type)
    length = full["input_ids"].shape[1]
    hidden = torch.zeros(1, length, dtype=torch.bool)
    hidden[0, image[gone]] = True
    with torch.no_grad(), oracles.hiding(model, {0: hidden}, length):
        return mean_log_probability(model(**full, use_cache=False).logits[0, -len(ANSWER) - 1 : -1])


@pytest.mark.parametrize(
    "name", ["llava-clip-llama", "llava-next-clip-llama", "idefics3", "qwen3-vl", "gemma3", "qwen2-vl"]
)
def test_each_point_is_a_run_under_a_mask(name):
    case, inputs = asking(name)
    model = case.model()
    image = forced(model, inputs, ANSWER).image
    count = len(image)
    view = np.random.default_rng(3).normal(size=count)
    found = removal(model, inputs, ANSWER, {"view": view}, steps=4, draws=1)
    order = sorted(range(count), key=lambda token: -view[token])
    for f, fraction in enumerate(found.fractions):
        first = order[: round(fraction * count)]
        others = [token for token in range(count) if token not in first]
        for curve, gone in ((found.deletion["view"], first), (found.insertion["view"], others)):
            gone = torch.tensor(gone, dtype=torch.long)
            assert masked(model, inputs, image, gone, case.model_type) == pytest.approx(float(curve[f]), abs=1e-5)


@pytest.mark.parametrize("name", ["llava-clip-llama", "gemma3", "qwen3.5"])
def test_ends_are_the_known_ones_and_areas_those_under_the_curves(name):
    case, inputs = asking(name)
    model = case.model()
    count = len(forced(model, inputs, ANSWER).image)
    views = {"rising": np.arange(count), "flat": np.ones(count)}
    found = removal(model, inputs, ANSWER, views, steps=5, draws=3, seed=1)
    deleted = [*found.deletion.values(), *found.random["deletion"]]
    inserted = [*found.insertion.values(), *found.random["insertion"]]
    assert len({curve[0] for curve in deleted} | {curve[-1] for curve in inserted}) == 1  # all image tokens
    assert len({curve[-1] for curve in deleted} | {curve[0] for curve in inserted}) == 1  # none
    with torch.no_grad():
        logits = model(**told(inputs)).logits[0, -len(ANSWER) - 1 : -1]
    assert mean_log_probability(logits) == pytest.approx(float(deleted[0][0]), abs=1e-5)
    assert found.random["deletion"].shape == (3, len(found.fractions)) and len(found.area) == 3
    for name, (deletion, insertion) in found.area.items():
        curves = [found.random["deletion"], found.random["insertion"]] if name == "random" else None
        curves = curves or [found.deletion[name][None], found.insertion[name][None]]
        for area, several in zip((deletion, insertion), curves, strict=True):
            assert 0 < area < 1
            assert np.mean(
                [np.interp(np.linspace(0, 1, 20001), found.fractions, np.exp(c)).mean() for c in several]
            ) == (pytest.approx(area, abs=1e-4))


def test_equal_tokens_go_in_an_order_that_the_seed_alone_decides():
    model, inputs = models.model(), models.batch(models.prompt())
    flat = {"flat": np.zeros(16), "level": np.full(16, 7.0)}
    one, same, other = (removal(model, inputs, ANSWER, flat, steps=4, draws=2, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.deletion["flat"], same.deletion["flat"])
    assert np.array_equal(one.random["insertion"], same.random["insertion"])
    assert not np.array_equal(one.deletion["flat"], other.deletion["flat"])
    reading = removal(model, inputs, ANSWER, {"order": -np.arange(16)}, steps=4, draws=1)
    assert not np.array_equal(one.deletion["flat"], reading.deletion["order"])


def test_fractions_are_those_of_whole_tokens():
    model, inputs = models.model(), models.batch(models.prompt())
    found = removal(model, inputs, ANSWER, {}, steps=11, draws=1)
    assert (found.fractions * 16).tolist() == [0, 2, 3, 5, 6, 8, 10, 11, 13, 14, 16]
    assert removal(model, inputs, ANSWER, {}, steps=99, draws=1).fractions.tolist() == [n / 16 for n in range(17)]
    assert not found.deletion and list(found.area) == ["random"]


@pytest.mark.parametrize(
    "views, options, told",
    [
        ({"a": [0.0, np.nan] * 8}, {}, "view 'a' holds 8 numbers that are none"),
        ({"a": np.ones(15)}, {}, r"\(15,\).* 16 image tokens"),
        ({"random": np.ones(16)}, {}, "name of chance"),
        ({}, {"steps": 1}, "steps=1"),
        ({}, {"draws": 0}, "draws=0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(views, options, told):
    with pytest.raises(ValueError, match=told):
        removal(models.model(), models.batch(models.prompt()), ANSWER, views, **options)


def test_the_model_is_as_before_also_after_an_exception():
    case, inputs = asking("qwen3-vl")
    model = case.model()
    before = state(model, inputs)
    removal(model, inputs, ANSWER, {}, steps=3, draws=1)
    assert state(model, inputs) == before
    with breaking(model), pytest.raises(KeyboardInterrupt):
        removal(model, inputs, ANSWER, {}, steps=3, draws=1)
    assert state(model, inputs) == before


@cache
def bundled():
    model, processor = simignore.tiny.load()
    inputs = dict(build(processor, example(), EXAMPLE_QUESTION).inputs)
    with torch.no_grad():
        answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    return model, inputs, answer


def test_on_the_bundled_model_all_of_random_deletion_is_no_image():
    """The image token's own embeddings never enter: hiding all of them by masks of the test's own gives the same."""
    model, inputs, answer = bundled()
    prompt = forced(model, inputs, answer)
    found = removal(model, inputs, answer, {}, steps=3, draws=2)
    full = told(inputs, answer)
    length = full["input_ids"].shape[1]
    hidden = torch.isin(full["input_ids"], torch.tensor(prompt.parts.placeholders))
    with torch.no_grad(), oracles.hiding(model, {0: hidden}, length):
        without = mean_log_probability(model(**full, use_cache=False).logits[0, -len(answer) - 1 : -1], answer)
    assert found.random["deletion"][:, -1] == pytest.approx(without, abs=1e-4)
    assert found.random["deletion"][0, 0] > -0.1 > without  # it answers right, and not without the image


def test_on_the_bundled_model_the_tokens_of_the_star_beat_chance():
    """The answer is read off one star, whose centre lies in row 11 and column 10 of 14 x 14 patches. A view made of how likely
    the answer is with one block of 4 x 4 patches alone finds it, and is far more faithful than chance."""
    model, inputs, answer = bundled()
    prompt = forced(model, inputs, answer)
    token = torch.arange(len(prompt.image))
    block = token // 14 // 4 * 4 + token % 14 // 4
    alone = likely(prompt, torch.stack([block == own for own in range(16)]))
    assert float(alone[block[11 * 14 + 10]]) > -0.1
    found = removal(model, inputs, answer, {"alone": alone[block].numpy()}, steps=6, draws=3)
    deletion, insertion = found.area["alone"]
    assert deletion < found.area["random"][0] - 0.3 and insertion > found.area["random"][1]
