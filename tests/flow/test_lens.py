"""The logit lens against the model's own norm and head, called by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from zoo import CASES, Sample, picture

import models
import processors
from simignore.flow import lens as module
from simignore.flow.capture import Tail, record, without_labels
from simignore.flow.lens import chosen, lens
from simignore.parts import parts

PLACES = np.arange(3, 19)  # of the image tokens in models.prompt()


def taken():
    p = parts(models.model())
    return p, record(p, models.batch(models.prompt()))


@pytest.mark.parametrize("held", [2**24, 3 * models.VOCABULARY, 1])
def test_words_are_those_of_norm_and_head(held, monkeypatch):
    """However few states go through at once."""
    monkeypatch.setattr(module, "LOGITS", held)
    p, tape = taken()
    tail, sizes = Tail(p, 5), []
    hook = p.model.lm_head.register_forward_hook(lambda _, __, out: sizes.append(out.shape[1]))
    found = lens(tape, tail, processors.tokenizer(), PLACES, [(7, "why not"), (0, "first")], top=4)
    hook.remove()
    assert max(sizes) == min(10, max(1, held // models.VOCABULARY)) and sum(sizes) == 10
    assert found.tokens == (7, 0) and found.why == ("why not", "first")
    told = processors.tokenizer()
    for token, words in zip((7, 0), found.words, strict=True):
        assert len(words) == 5
        for layer, state in enumerate(words):
            hidden = tape.end if layer == 4 else tape.entered(layer)
            with torch.no_grad():
                logits = p.model.lm_head(p.decoder.norm(hidden[0, PLACES[token]]))
            best = logits.softmax(-1).sort(descending=True)
            assert [word for word, _ in state] == [told.decode([i]) for i in best.indices[:4].tolist()]
            np.testing.assert_allclose([share for _, share in state], best.values[:4].numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["qwen3-vl", "gemma4", "aya-vision", "blip-2", "qwen3.5", "aria"])
def test_the_last_state_says_what_the_model_says_there(name):
    case = CASES[name]
    p = parts(case.model())
    inputs = case.inputs(Sample(images=(picture(*case.sizes[0]),)))
    tape = record(p, inputs)
    with torch.no_grad():
        logits = p.model(**without_labels(inputs), use_cache=False).logits[0]
    places = (inputs["input_ids"][0] == p.image_token).nonzero()[:, 0]
    found = lens(tape, Tail(p, 5), case.shared_processor().tokenizer, places, [(2, "a"), (5, "b")])
    for token, words in zip((2, 5), found.words, strict=True):
        assert len(words) == len(p.layers) + 1
        expected = logits[places[token]].float().softmax(-1).topk(3).values
        np.testing.assert_allclose([share for _, share in words[-1]], expected.numpy(), atol=1e-5)


def test_no_gradient_is_kept_and_more_words_than_there_are_is_all():
    p, tape = taken()
    found = lens(tape, Tail(p, 5), processors.tokenizer(), PLACES, [(1, "x")], top=10**6)
    shares = [share for _, share in found.words[0][0]]
    assert len(shares) == models.VOCABULARY and sum(shares) == pytest.approx(1, abs=1e-5)
    assert lens(tape, Tail(p, 5), processors.tokenizer(), PLACES, []).words == ()


def test_what_is_not_there_is_refused():
    p, tape = taken()
    for choose, top, message in (
        ([(16, "x")], 3, "16 is not among the 16"),
        ([(-1, "x")], 3, "-1"),
        ([(0, "x")], 0, "top=0"),
    ):
        with pytest.raises(ValueError, match=message):
            lens(tape, Tail(p, 5), processors.tokenizer(), PLACES, choose, top)


def test_tokens_worth_a_look():
    views = {
        "similarity": np.array([0.1, 0.9, 0.3, 0.0, 0.2]),
        "flow": np.array([[1.0, 9, 2, 3, 0], [1, 0, 9, 3, 0]]),  # means 1, 4.5, 5.5, 3, 0
        "sink": np.array([9.0, 1, 1, 1, 1]),
    }
    kept = np.array([True, False, True, True, False])
    assert chosen(views, kept) == (
        (1, "most like the text; dropped, with most flow into the answer"),
        (2, "most flow into the answer"),
        (0, "most attention from the end of the prompt"),
        (3, "least like the text"),
    )
    everything = ((1, "most like the text"), *chosen(views, kept)[1:])
    assert chosen(views) == everything == chosen(views, np.ones(5, dtype=bool))
    assert chosen({"flow": views["flow"]}) == ((2, "most flow into the answer"),)
    assert chosen({"sink": np.zeros(3)}) == ((0, "most attention from the end of the prompt"),)
    assert chosen({}) == () == chosen({"flow": np.empty((2, 0))})
