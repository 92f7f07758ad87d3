"""Asking: answers and costs, through `ask` and through transformers' own pipeline."""

from __future__ import annotations

import time

import pytest
import torch
from listening import Listening
from PIL import Image
from transformers import pipeline
from zoo import CASES, Sample, picture

import models
import processors
from simignore import FastV, Random, Simignore, ask, build
from simignore.answer import Stopwatch
from simignore.cli.beside import compared_with
from simignore.cost import cost

PICTURE = Image.new("RGB", (40, 32), "red")


@pytest.fixture(scope="module")
def model():
    return models.fresh()


@pytest.fixture(scope="module")
def processor():
    return processors.processor()


@pytest.mark.parametrize("method", [None, Simignore(keep=4), FastV(keep=4, layer=2), Random(keep=0.25)], ids=repr)
def test_an_answer_and_what_it_cost(model, processor, method):
    prompt = build(processor, PICTURE, "What colour is the star?", options=["red", "blue"])
    answer = ask(model, processor, prompt, method, max_new_tokens=5)
    assert len(answer.ids) == 5 and answer.prefill > 0 and answer.decode > 0
    assert answer.image_tokens == models.PATCHES and answer.kept == (models.PATCHES if method is None else 4)
    length = prompt.inputs["input_ids"].shape[1] + 4  # the last token is never fed back
    per_layer = 2 * 2 * 8 * 4  # keys and values, 2 heads of 8 numbers of 4 bytes
    cut_layers = 0 if method is None else 2 if isinstance(method, FastV) else 4
    expected = per_layer * (length * 4 - cut_layers * (models.PATCHES - 4))
    assert answer.cache_bytes == expected
    assert (answer.trace is None) == (method is None) and (answer.selection > 0) == (method is not None)


def test_asking_leaves_the_prompt_as_it_was(model, processor):
    prompt = build(processor, PICTURE, "What colour is the star?")
    before = prompt.inputs["pixel_values"].clone()
    ask(models.fresh().bfloat16(), processor, prompt, max_new_tokens=1)
    assert torch.equal(prompt.inputs["pixel_values"], before)
    with pytest.raises(ValueError, match="num_return_sequences: `ask` gives one answer"):
        ask(model, processor, prompt, num_return_sequences=2)


def test_the_methods_span_is_what_it_compares_with(model, processor):
    prompt = build(processor, PICTURE, "What colour is the star?", options=["red", "blue"])
    by_span = ask(model, processor, prompt, Simignore(keep=4, span="options-plain"), max_new_tokens=2)
    with Simignore(keep=4)(model, query=prompt.query("options-plain")) as trace, torch.no_grad():
        model(**prompt.inputs)
    assert torch.equal(by_span.trace.selections[0].index, trace.selections[0].index)


def test_a_method_that_reads_the_question_gets_it_from_the_processor(model, processor):
    """This model has no folder in which a tokenizer could be found."""
    prompt, heard = build(processor, PICTURE, "What colour is the star?"), Listening.heard
    heard.clear()
    assert ask(model, processor, prompt, Listening(keep=4), max_new_tokens=2).trace.query == "given"
    cost(model, processor, prompt, {"it": Listening(keep=4)}, rounds=1, tokens=1)
    assert set(heard) == {"What colour is the star ?"} and len(heard) == 4  # two rounds, and FLOPs
    assert compared_with(Listening(keep=4), prompt) == {"span": "user", "tokens": 6}


def test_a_prompt_without_an_image(model, processor):
    answer = ask(model, processor, build(processor, None, "What colour is it?"), Simignore(keep=4), max_new_tokens=2)
    assert (answer.image_tokens, answer.kept) == (0, 0)


def test_transformers_pipeline_runs_under_a_method(model, processor):
    """Several chats in one call, batched; the pipeline never hears of the method."""
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": PICTURE}, {"type": "text", "text": text}]}]
        for text in ("What colour is the star?", "Where is the cat in this picture?", "how many are there?")
    ]
    settings = {"generate_kwargs": {"max_new_tokens": 4, "do_sample": False}, "return_full_text": False}
    with Simignore(keep=4)(model, processor=processor) as trace:
        together = pipe(text=chats, batch_size=3, **settings)
    assert trace.query == "user text" and trace.selections[0].count.tolist() == [4, 4, 4]
    for chat, output in zip(chats, together, strict=True):
        prompt = build(processor, PICTURE, chat[0]["content"][1]["text"])
        alone = ask(model, processor, prompt, Simignore(keep=4), max_new_tokens=4)
        assert (output[0] if isinstance(output, list) else output)["generated_text"].strip() == alone.text


@pytest.mark.parametrize("name", ["blip-2", "instructblip"])
def test_decoding_is_told_from_the_prefill_where_the_language_model_generates(name):
    """BLIP-2 hands `generate` on, past its own forward. The first forward sleeps, and the others nearly do not."""
    case = next(case for key, case in CASES.items() if key.startswith(name))
    model, processor = case.model(), case.processor()
    slept, inner = [], model.language_model

    def sleep(*_):
        slept.append(0.3 if not slept else 0.05)
        time.sleep(slept[-1])

    handle = inner.register_forward_pre_hook(sleep)
    try:
        answer = ask(model, processor, build(processor, PICTURE, "what ?"), Random(keep=4), max_new_tokens=4)
    finally:
        handle.remove()
    assert len(slept) == len(answer.ids) == 4
    assert answer.prefill > 0.3 and answer.decode > 0.15
    with Stopwatch(model) as watch, torch.no_grad():
        pass
    assert watch.rest == 0 and not inner._forward_hooks and not inner._forward_pre_hooks


def test_a_forward_inside_another_is_part_of_it():
    """Llama 4 keeps a language model that could generate inside its own forward."""
    model, inputs = CASES["llama4"].model(), CASES["llama4"].inputs(Sample("what ?", (picture(24, 24),)))
    with Stopwatch(model) as watch, torch.no_grad():
        for _ in range(3):
            model(**inputs)
    assert len(watch._clocks) == 3 and watch.first > 0 and watch.rest > 0
