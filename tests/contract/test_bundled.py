"""The guarantees on the bundled model: trained weights, the real processor, prompts of different lengths in one batch."""

from __future__ import annotations

import pytest
import torch

import oracles
from contract.cases import NAMES, make
from simignore import tiny
from simignore.prompt import build
from simignore.tiny.questions import KINDS, ask
from simignore.tiny.scenes import SPLITS, render, sample_scene

CLOSE = dict(atol=2e-4, rtol=1e-4)
SETTINGS = dict(do_sample=False, output_logits=True, return_dict_in_generate=True, max_new_tokens=6)


@pytest.fixture(scope="module")
def bundled():
    return tiny.load()


@pytest.fixture(scope="module")
def prompts(bundled):
    """One question of each of three kinds about test scenes, of three lengths."""
    import random

    made = []
    for number, kind in enumerate(("colour", "two_hop", "compare")):
        assert kind in KINDS
        seeds = iter(range(SPLITS["test"].start + 900_000 + 100 * number, SPLITS["test"].stop))
        asked, scene = None, None
        while asked is None:
            scene = sample_scene(next(seeds))
            asked = ask(kind, scene, random.Random(number))
        made.append(build(bundled[1], render(scene)[0], asked.question, options=asked.options, answer="text"))
    return made


@pytest.fixture(scope="module")
def batch(bundled, prompts):
    _, processor = bundled
    inputs = processor(
        images=[prompt.images[0] for prompt in prompts],
        text=[prompt.text for prompt in prompts],
        padding=True,
        return_tensors="pt",
    )
    assert len({int(n) for n in inputs["attention_mask"].sum(1)}) == 3
    return dict(inputs)


def image_steps(trace, inputs, model):
    """Layer -> places hidden from there on."""
    image = inputs["input_ids"] == model.config.image_token_id
    hidden = {}
    for step in trace.steps[0]:
        places = torch.zeros_like(image)
        for b in range(len(image)):
            places[b, image[b].nonzero()[:, 0][~step.selection.kept[b]]] = True
        hidden[0 if step.site == "projector" else step.site[1]] = places
    return hidden


def image_blends(trace, inputs, model):
    """Layer -> what tokens take in of others before it."""
    places = [(ids == model.config.image_token_id).nonzero()[:, 0] for ids in inputs["input_ids"]]
    found = {}
    for step in trace.steps[0]:
        layer = 0 if step.site == "projector" else step.site[1]
        found.setdefault(layer, []).append(oracles.taking_in(step.selection, places))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_guarantee(name, bundled, prompts, batch):
    model, _ = bundled
    width = model.get_input_embeddings().embedding_dim
    queries = [prompt.query() for prompt in prompts]
    with torch.no_grad():
        plain = model(**batch).logits
        with make(name, 1.0, width=width)(model, query=queries):
            assert torch.equal(model(**batch).logits, plain)
        with make(name, 36, width=width)(model, query=queries) as trace:
            short = model.generate(**batch, **SETTINGS)
        assert torch.equal(model(**batch).logits, plain)
    assert trace.selections[0].count.tolist() == [36] * 3
    ids, logits = oracles.greedy(
        model,
        batch,
        image_steps(trace, batch, model),
        short.sequences.shape[1] - plain.shape[1],
        image_blends(trace, batch, model),
    )
    torch.testing.assert_close(torch.stack(short.logits, 1)[:, 0], logits[:, 0], **CLOSE)
    running = torch.ones(3, dtype=torch.bool)
    for step in range(ids.shape[1]):  # a sequence that ended is filled up, so it is compared no further
        assert torch.equal(short.sequences[running, plain.shape[1] + step], ids[running, step])
        running &= ids[:, step] != model.generation_config.eos_token_id
    for b, prompt in enumerate(prompts):
        with torch.no_grad(), make(name, 36, width=width)(model, query=queries[b]) as alone:
            own = model.generate(**prompt.inputs, **SETTINGS)
        torch.testing.assert_close(own.logits[0][0], short.logits[0][b], **CLOSE)
        assert torch.equal(alone.selections[0].index[0], trace.selections[0].index[b])


def test_without_a_query_the_users_words_are_found(bundled, prompts):
    model, _ = bundled
    with torch.no_grad(), make("simignore", 36)(model) as found:
        model(**prompts[0].inputs)
    with torch.no_grad(), make("simignore", 36)(model, query=prompts[0].query("user")) as given:
        model(**prompts[0].inputs)
    assert found.query == "user text" and torch.equal(found.selections[0].index, given.selections[0].index)
