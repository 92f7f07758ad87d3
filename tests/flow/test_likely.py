"""How likely an answer is under sets of image tokens: against generate, token by token, and against masks of the test's own."""

from __future__ import annotations

import pytest
import torch
from counterfactuals import ANSWER, FAMILIES, asking, breaking, mean_log_probability, state, told, told_step_by_step
from zoo import CASES, Sample

import models
import oracles
from simignore.flow.copies import forced
from simignore.flow.given import Given
from simignore.flow.likely import likely
from simignore.parts import parts


def some_sets(count: int) -> torch.Tensor:
    """[6, N] a third, two thirds, all, none, one, and a third again."""
    share = torch.tensor([0.3, 0.6, 2.0, -1.0, -1.0, 0.3])
    sets = torch.rand(1, count, generator=torch.Generator().manual_seed(0)) < share[:, None]
    sets[4, count // 2] = True
    return sets


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_what_generate_says_token_by_token(name):
    case, inputs = asking(name)
    model = case.model()
    prompt = forced(model, inputs, ANSWER)
    sets = some_sets(len(prompt.image))
    found = likely(prompt, sets)
    assert found.shape == (6,) and found.dtype == torch.float32 and found[0] == found[5]
    assert told_step_by_step(model, inputs) == pytest.approx(float(found[2]), abs=1e-5)  # without any method
    inside = likely(prompt, sets[:1], layer=1)
    for own, value, layer in ((sets[0], found[0], None), (sets[3], found[3], None), (sets[0], inside[0], 1)):
        with Given.mask(own[None], layer)(model):
            assert told_step_by_step(model, inputs) == pytest.approx(float(value), abs=1e-5)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(
    "name", [name for name in FAMILIES if name != "qwen3.5"]
)  # its recurrent layers see every token
def test_it_is_that_of_a_mask(name, images):
    """Hooks of the test's own hide the dropped places in every layer of the plain model."""
    case, inputs = asking(name, images)
    model, full = case.model(), told(inputs, model_type=case.model_type)
    prompt = forced(model, inputs, ANSWER)
    length = full["input_ids"].shape[1]
    sets = some_sets(len(prompt.image))
    for own, value in zip(sets, likely(prompt, sets), strict=True):
        hidden = torch.zeros(1, length, dtype=torch.bool)
        hidden[0, prompt.image[~own]] = True
        with torch.no_grad(), oracles.hiding(model, {0: hidden}, length):
            logits = model(**full, use_cache=False).logits[0, -len(ANSWER) - 1 : -1]
        assert mean_log_probability(logits) == pytest.approx(float(value), abs=1e-5)


def test_batches_of_any_size_say_the_same_and_images_are_encoded_once_for_each():
    case, inputs = asking("llava-next-clip-llama", 2)
    model = case.model()
    prompt = forced(model, inputs, ANSWER)
    sets = some_sets(len(prompt.image))
    seen = []
    hook = parts(model).vision.register_forward_hook(lambda *_: seen.append(1))
    once = likely(prompt, sets)
    assert len(seen) == 1
    torch.testing.assert_close(likely(prompt, sets, tokens=1), once, atol=1e-5, rtol=0)
    assert len(seen) == 1 + 5  # two of the six are equal
    hook.remove()


def test_the_model_is_as_before_also_after_an_exception_and_when_it_was_training():
    case, inputs = asking("llava-clip-llama")
    model = case.build("sdpa")
    parts(model).layers[1].train()
    before = state(model, inputs)
    prompt = forced(model, inputs, ANSWER)
    sets = some_sets(len(prompt.image))
    likely(prompt, sets)
    assert state(model, inputs) == before
    with breaking(model), pytest.raises(KeyboardInterrupt):
        likely(prompt, sets)
    assert state(model, inputs) == before


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda i, a: (models.batch(models.prompt(), models.prompt()), a), "2 prompts came in .*by itself"),
        (lambda i, a: ({"pixel_values": i["pixel_values"]}, a), "no input_ids"),
        (lambda i, a: (models.batch(models.prompt(images=0)), a), "no image tokens"),
        (lambda i, a: (models.batch(models.prompt()[:-7]), a), "ends in an image token"),
        (lambda i, a: (i, a[:0]), "row of token ids"),
        (lambda i, a: (i, a[None]), r"\(1, 3\)"),
        (lambda i, a: (i, torch.tensor([4, models.IMAGE])), "image token's id"),
    ],
)
def test_what_cannot_be_asked_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        forced(models.model(), *change(models.batch(models.prompt()), ANSWER))


@pytest.mark.parametrize(
    "sets", [torch.ones(2, 5, dtype=torch.bool), torch.ones(16, dtype=torch.bool), torch.ones(2, 16)]
)
def test_sets_of_another_shape_are_refused(sets):
    prompt = forced(models.model(), models.batch(models.prompt()), ANSWER)
    with pytest.raises(ValueError, match=r"bool \[S, 16\]"):
        likely(prompt, sets)


def test_text_alone_is_refused_by_a_real_processor_too():
    case = CASES["qwen2-vl"]
    with pytest.raises(ValueError, match="no image tokens"):
        forced(case.model(), case.inputs(Sample()), ANSWER)
