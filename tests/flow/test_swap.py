"""Counterfactual answers, each against the model's own generation under masks."""

from __future__ import annotations

import pytest
import torch
from counterfactuals import ANSWER, asking, breaking, state, told_step_by_step

import models
import oracles
import simignore
from simignore.flow import swap as room
from simignore.flow.copies import forced
from simignore.flow.given import Given
from simignore.flow.swap import swaps
from simignore.prompt import build
from simignore.tiny import EXAMPLE_QUESTION, example

WHAT = (room.ALL, room.KEPT, room.RESTORED, room.OPPOSITE, room.NONE, room.RANDOM)


@pytest.mark.parametrize("layer", [None, 1])
@pytest.mark.parametrize(
    "name", ["llava-clip-llama", "llava-next-clip-llama", "idefics3", "qwen2-vl", "gemma3", "paligemma"]
)
def test_each_answer_is_that_of_a_mask(name, layer):
    case, inputs = asking(name)
    model, processor = case.model(), case.shared_processor()
    image = forced(model, inputs, ANSWER).image
    kept = torch.arange(len(image)) % 3 == 0
    found = swaps(model, processor, inputs, ANSWER, kept, max_new_tokens=5, layer=layer)
    assert tuple(one.what for one in found) == WHAT
    few = int(kept.sum())
    assert [one.kept for one in found] == [len(image), few, len(image), len(image) - few, 0, few]
    sets = (torch.ones_like(kept), kept, torch.ones_like(kept), ~kept, torch.zeros_like(kept))
    length = inputs["input_ids"].shape[1]
    for one, own in zip(found, sets, strict=False):
        place = (layer or 0) if own.any() else 0  # no image token at all is one that the decoder never saw
        hidden = torch.zeros(1, length, dtype=torch.bool)
        hidden[0, image[~own]] = True
        with torch.no_grad(), oracles.hiding(model, {place: hidden}, length):
            ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, length:]
            value = told_step_by_step(model, inputs)
        assert one.answer == processor.decode(ids, skip_special_tokens=True).strip()
        assert one.log_probability == pytest.approx(value, abs=1e-5)
        assert one.same == (one.answer == found[0].answer)
    assert found[0].same and found[2].same


def test_recurrent_layers_never_see_what_was_dropped():
    """Tokens are dropped, not hidden: the answer is the model's own under the same selection."""
    case, inputs = asking("qwen3.5")
    model, processor = case.model(), case.shared_processor()
    kept = torch.arange(9) < 4
    found = swaps(model, processor, inputs, ANSWER, kept, max_new_tokens=5)
    with Given.mask(~kept[None])(model), torch.no_grad():
        ids = model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert found[3].answer == processor.decode(ids, skip_special_tokens=True).strip()


def test_the_bundled_model_needs_the_image_and_its_answer_comes_back():
    model, processor = simignore.tiny.load()
    inputs = dict(build(processor, example(), EXAMPLE_QUESTION).inputs)
    with torch.no_grad():
        answer = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    count = len(forced(model, inputs, answer).image)
    kept = torch.ones(count, dtype=torch.bool)
    kept[0] = False  # a corner that shows nothing
    whole, alone, restored, opposite, none, drawn = swaps(model, processor, inputs, answer, kept, max_new_tokens=8)
    assert whole.answer == alone.answer == restored.answer == drawn.answer == "7"
    assert opposite.answer == none.answer and opposite.kept == 1 and none.kept == 0
    assert none.log_probability < whole.log_probability
    every = swaps(model, processor, inputs, answer, torch.ones(count, dtype=torch.bool), max_new_tokens=8)
    assert every == (whole, none)  # with nothing dropped there is nothing to swap


def test_the_seed_decides_which_ones_are_drawn():
    case, inputs = asking("llava-clip-llama")
    kept = torch.arange(16) < 5
    runs = [
        swaps(case.model(), case.shared_processor(), inputs, ANSWER, kept, max_new_tokens=1, seed=s) for s in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0][-1].log_probability != runs[2][-1].log_probability and runs[0][:-1] == runs[2][:-1]


@pytest.mark.parametrize(
    "kept", [torch.ones(16), torch.ones(15, dtype=torch.bool), torch.ones(1, 16, dtype=torch.bool)]
)
def test_another_shape_is_refused(kept):
    case, inputs = asking("llava-clip-llama")
    with pytest.raises(ValueError, match=r"pass bool \[16\]"):
        swaps(case.model(), case.shared_processor(), inputs, ANSWER, kept)


def test_several_prompts_are_refused():
    with pytest.raises(ValueError, match="2 prompts came in"):
        swaps(models.model(), None, models.batch(models.prompt(), models.prompt()), ANSWER, torch.ones(16) > 0)


def test_the_model_is_as_before_also_after_an_exception():
    case, inputs = asking("llava-next-clip-llama")
    model, kept = case.model(), torch.arange(21) < 5
    before = state(model, inputs)
    swaps(model, case.shared_processor(), inputs, ANSWER, kept, max_new_tokens=2)
    assert state(model, inputs) == before
    with breaking(model), pytest.raises(KeyboardInterrupt):
        swaps(model, case.shared_processor(), inputs, ANSWER, kept, max_new_tokens=2)
    assert state(model, inputs) == before
