"""Sinks against the eager implementation's maps of both prompts, on families of each kind of decoder."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from zoo import CASES, Sample, picture

import models
import processors
from simignore.flow.hypothesis import rank_correlation
from simignore.flow.sinks import _words, sinks
from simignore.flow.spans import partition
from simignore.parts import parts
from simignore.splice.reading import read

TEXT = "who sees the red circle ?"
# grouped heads, tiles, learned rows, rotary in three axes, linear layers between, short windows, both directions, capped scores
KINDS = (
    "llava-clip-llama",
    "llava-next-siglip-qwen2",
    "idefics3",
    "qwen2-vl",
    "qwen3.5",
    "gemma3-window",
    "paligemma-gemma2",
)


def question(case, inputs):
    found = partition(parts(case.model()), inputs, None, 1).places("question")
    words = case.shared_processor().tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return np.array([place for place in found if int(inputs["input_ids"][0, place]) in words])


def by_maps(case, inputs):
    """[N] what the last token pays to the image tokens, from eager maps: as a multiple of their mean."""
    given = {name: value for name, value in inputs.items() if name != "labels"}
    with torch.no_grad():
        maps = case.model("eager")(**given, output_attentions=True).attentions
    row = torch.stack([m[0, :, -1].mean(0) for m in maps if m is not None]).double().mean(0)
    row = row[read(parts(case.model()), inputs).image[0]].numpy()
    return row / row.mean()


@pytest.mark.parametrize("name", KINDS)
def test_both_rows_are_those_of_the_eager_maps(name):
    case = CASES[name]
    inputs = case.inputs(Sample(TEXT, (picture(*case.sizes[0]),)))
    places, tokenizer = question(case, inputs), case.shared_processor().tokenizer
    before = copy.deepcopy(inputs)
    found = sinks(case.model(), inputs, places, tokenizer, seed=1, threshold=1.2)
    assert all(torch.equal(inputs[key], before[key]) for key in inputs if isinstance(inputs[key], torch.Tensor))
    words, shuffled = TEXT.split(), found.shuffled.replace("?", " ? ").split()
    assert sorted(words) == sorted(shuffled) and all(a != b for a, b in zip(words, shuffled, strict=True))
    ids = inputs["input_ids"].clone()
    ids[0, places] = torch.tensor(tokenizer(found.shuffled, add_special_tokens=False)["input_ids"])
    asked, other = by_maps(case, inputs), by_maps(case, {**inputs, "input_ids": ids})
    assert not np.allclose(asked, other, atol=1e-6)
    np.testing.assert_allclose(found.asked, asked, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found.other, other, atol=1e-5, rtol=1e-4)
    assert found.tokens == tuple(n for n in range(len(asked)) if asked[n] >= 1.2 and other[n] >= 1.2)
    assert found.correlation == pytest.approx(rank_correlation(found.asked, found.other))


def test_a_sink_is_one_with_either_question():
    """Some tokens gather enough with one order alone, and those are none."""
    model, ids = models.model(), models.prompt()
    found = sinks(model, models.batch(ids), np.arange(20, 26), processors.tokenizer(), threshold=1.0)
    either = set(np.flatnonzero(found.asked >= 1)) | set(np.flatnonzero(found.other >= 1))
    assert set(found.tokens) < either and found.tokens
    high = sinks(model, models.batch(ids), np.arange(20, 26), processors.tokenizer(), threshold=50)
    assert high.tokens == () and np.array_equal(high.asked, found.asked)


def test_the_seed_sets_the_order_and_padding_is_no_place():
    model, ids = models.model(), models.prompt()
    places = torch.arange(20, 26)
    found = [sinks(model, models.batch(ids), places, processors.tokenizer(), seed=seed) for seed in (0, 0, 1)]
    assert found[0].shuffled == found[1].shuffled != found[2].shuffled
    for side in ("left", "right"):
        both = models.batch(ids, models.prompt(words=9), side=side)
        padded = {name: value[:1] for name, value in both.items()}
        padded["pixel_values"] = models.batch(ids)["pixel_values"]
        own = sinks(model, padded, places + (3 if side == "left" else 0), processors.tokenizer())
        np.testing.assert_allclose(own.asked, found[0].asked, atol=1e-4)


class Pieces:
    """A tokenizer of pieces, some of which begin with a blank."""

    known = ("what", " col", "our", " is", " it", "?")

    def decode(self, ids):
        return "".join(self.known[i] for i in ids)


def test_words_stay_whole():
    assert _words([0, 1, 2, 3, 4, 5], Pieces()) == [[0], [1, 2], [3], [4, 5]]
    ids = models.prompt()
    ids[20:26] = torch.arange(6)
    model = models.model()
    seen = {sinks(model, models.batch(ids), range(20, 26), Pieces(), seed=seed).shuffled for seed in range(6)}
    assert len(seen) > 2 and all(" colour" in f" {said}" and "it?" in said for said in seen)
    ids[20:22] = torch.tensor([1, 2])  # one word: its pieces change places
    assert sinks(model, models.batch(ids), [20, 21], Pieces()).shuffled == "our col"


def test_a_question_of_one_token_has_no_other_order():
    ids = models.prompt()
    ids[20:23] = 40
    for places in ([20], [20, 21, 22], []):
        assert sinks(models.model(), models.batch(ids), torch.tensor(places), processors.tokenizer()) is None


def test_the_model_is_as_before_also_after_an_exception():
    model, inputs = models.fresh(), models.batch(models.prompt())
    model.train()
    configs = [layer.self_attn.config for layer in model.model.language_model.layers]
    sinks(model, inputs, range(20, 26), processors.tokenizer())
    broken = model.model.language_model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sinks(model, inputs, range(20, 26), processors.tokenizer())
    broken.remove()
    assert all(
        layer.self_attn.config is own for layer, own in zip(model.model.language_model.layers, configs, strict=True)
    )
    assert all(module.training for module in model.modules()) and torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "places", "threshold", "message"),
    [
        ({}, [20], 0.0, "threshold=0.0"),
        ({}, [20, 26], 5.0, r"\[20, 26\] are not all text of a prompt of 26"),
        ({}, [-1, 20], 5.0, "not all text"),
        ({}, [5, 20], 5.0, "not all text"),  # a place of the image
        (models.batch(models.prompt(images=0)), [4], 5.0, "no image tokens"),
        (models.batch(models.prompt(), models.prompt()), [20], 5.0, "2 prompts"),
        ({"input_ids": None}, [20], 5.0, "no input_ids"),
    ],
)
def test_what_cannot_be_asked_is_refused(change, places, threshold, message):
    inputs = {**models.batch(models.prompt()), **change}
    with pytest.raises(ValueError, match=message):
        sinks(models.model(), inputs, places, processors.tokenizer(), threshold=threshold)
