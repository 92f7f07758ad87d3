"""Attention knockout against masks of the test's own, against a decoder written out in loops, and against the whole thing
masked by the user."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from counterfactuals import (
    ANSWER,
    FAMILIES,
    asking,
    breaking,
    layers_without,
    mean_log_probability,
    state,
    told,
)

import models
import oracles
from simignore.families import UnsupportedModelError
from simignore.flow import severed
from simignore.flow.copies import forced
from simignore.flow.knockout import ROUTES, knockout, windows, without_attention
from simignore.parts import parts

A = len(ANSWER)


def spans_of(inputs: dict, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Places of each span; the question includes the prompt's last token, which also belongs to what predicts the answer."""
    prompt = inputs["input_ids"].shape[1]
    return {
        "image": image,
        "question": torch.arange(prompt - 4, prompt),
        "last": torch.arange(prompt - 1, prompt + A - 1),
    }


def pairs_of(route: str, spans: dict, length: int) -> torch.Tensor:
    """[T, T] which pairs a route cuts, by loops."""
    pairs = torch.zeros(length, length, dtype=torch.bool)
    key, query = route.split(" to ")
    for q in spans[query].tolist():
        for k in spans[key].tolist():
            pairs[q, k] = q != k
    return pairs


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_window_is_what_masks_of_those_layers_give(name, attention):
    case, inputs = asking(name)
    model, full = case.model(attention), told(inputs, model_type=case.model_type)
    image = forced(model, inputs, ANSWER).image
    spans, length = spans_of(inputs, image), full["input_ids"].shape[1]
    p = parts(model)
    layers = len(p.layers)

    def run(pairs, own):
        own = [n for n in own if p.attentions[n] is not None]
        with torch.no_grad(), layers_without(model, pairs, own):
            return mean_log_probability(model(**full, use_cache=False).logits[0, -A - 1 : -1])

    plain = run(torch.zeros(length, length, dtype=torch.bool), ())
    found = knockout(model, inputs, ANSWER, spans["image"], spans["question"], window=2, stride=2)
    assert tuple(one.route for one in found) == ROUTES
    for one in found:
        pairs = pairs_of(one.route, spans, length)
        for (first, last), change in zip((*one.windows, (0, layers - 1)), (*one.change, one.everywhere), strict=True):
            own = range(first, last + 1)
            if all(p.attentions[n] is None for n in own):
                assert math.isnan(change)
            else:
                assert run(pairs, own) - plain == pytest.approx(float(change), abs=2e-5)
        assert abs(one.everywhere) > 1e-4  # the cut is felt


def test_layers_without_attention_are_named_and_windows_of_them_alone_are_no_number():
    case, inputs = asking("qwen3.5")
    model = case.model()
    assert without_attention(parts(model)) == (0, 1, 3, 4) and without_attention(parts(models.model())) == ()
    spans = spans_of(inputs, forced(model, inputs, ANSWER).image)
    for one in knockout(model, inputs, ANSWER, spans["image"], spans["question"], window=2, stride=1):
        assert one.windows == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))
        assert np.isnan(one.change).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_everywhere_is_a_run_under_a_mask_that_the_user_made(attention):
    """A 4-D mask is handed to the model; no hook, and nothing of simignore."""
    model, inputs = models.model("clip-llama", attention), models.batch(models.prompt())
    spans = spans_of(inputs, (inputs["input_ids"][0] == models.IMAGE).nonzero()[:, 0])
    full = told(inputs)
    length = full["input_ids"].shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()

    def run(allowed):
        mask = torch.zeros(1, 1, length, length).masked_fill(~allowed, torch.finfo(torch.float32).min)
        with torch.no_grad():
            logits = model(**{**full, "attention_mask": mask}, use_cache=False).logits
        return mean_log_probability(logits[0, -A - 1 : -1])

    for one in knockout(model, inputs, ANSWER, spans["image"], spans["question"]):
        cut = run(causal & ~pairs_of(one.route, spans, length))
        assert cut - run(causal) == pytest.approx(one.everywhere, abs=1e-5)


def test_a_window_is_what_a_decoder_written_out_gives():
    model, inputs = models.model("clip-llama"), models.batch(models.prompt())
    spans = spans_of(inputs, (inputs["input_ids"][0] == models.IMAGE).nonzero()[:, 0])
    full = told(inputs)
    x = oracles.merged_embeddings(model, full)
    plain = written_out(model, x, {})
    with torch.no_grad():
        torch.testing.assert_close(plain, model(**full).logits[0], atol=1e-4, rtol=1e-4)
    for one in knockout(model, inputs, ANSWER, spans["image"], spans["question"], window=2, stride=1):
        pairs = pairs_of(one.route, spans, x.shape[1])
        for (first, last), change in zip(one.windows, one.change, strict=True):
            cut = written_out(model, x, dict.fromkeys(range(first, last + 1), pairs))
            value = mean_log_probability(cut[-A - 1 : -1]) - mean_log_probability(plain[-A - 1 : -1])
            assert value == pytest.approx(float(change), abs=1e-5)


def written_out(model, x: torch.Tensor, cut: dict[int, torch.Tensor]) -> torch.Tensor:
    """[T, V] logits of a Llama decoder, its attention head by head and query by query; ``cut`` [T, T] pairs by layer."""
    decoder = model.model.language_model
    heads, groups, t = decoder.config.num_attention_heads, decoder.config.num_key_value_heads, x.shape[1]
    h = x[0]
    with torch.no_grad():
        cos, sin = (part[0] for part in decoder.rotary_emb(x, position_ids=torch.arange(t)[None]))
        for number, layer in enumerate(decoder.layers):
            a, y = layer.self_attn, layer.input_layernorm(h)
            q, k, v = a.q_proj(y).view(t, heads, -1), a.k_proj(y).view(t, groups, -1), a.v_proj(y).view(t, groups, -1)
            d = q.shape[-1]
            out = torch.zeros(t, heads, d)
            for head in range(heads):
                own = head // (heads // groups)
                turned = [
                    z * cos + torch.cat([-z[:, d // 2 :], z[:, : d // 2]], 1) * sin for z in (q[:, head], k[:, own])
                ]
                for place in range(t):
                    seen = [j for j in range(place + 1) if number not in cut or not cut[number][place, j]]
                    paid = (turned[1][seen] @ turned[0][place] / d**0.5).softmax(0)
                    out[place, head] = paid @ v[seen, own]
            h = h + a.o_proj(out.flatten(1))
            h = h + layer.mlp(layer.post_attention_layernorm(h))
        return model.lm_head(decoder.norm(h))


def test_masks_of_every_kind_lose_the_same_pairs():
    blocked = torch.zeros(2, 1, 3, 3, dtype=torch.bool)
    blocked[1, 0, 2, 0] = True
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    wanted = causal.expand(2, 1, 3, 3).clone()
    wanted[1, 0, 2, 0] = False
    low = torch.finfo(torch.float32).min
    assert torch.equal(severed.without(None, blocked), wanted)
    assert torch.equal(severed.without(None, blocked, causal=False), ~blocked)
    assert torch.equal(severed.without(causal[None, None], blocked), wanted)
    additive = severed.without(torch.zeros(3, 3).masked_fill(~causal, low)[None, None], blocked)
    assert torch.equal(additive == 0, wanted) and additive[1, 0, 2, 0] == -math.inf
    assert torch.equal(severed.without(None, blocked[:, :, 2:]), wanted[:, :, 2:])  # the last query alone


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_token_that_may_look_at_nothing_else_keeps_itself(attention):
    """Everything is cut from everything, in all layers: each token then answers by itself, and no number is lost."""
    model, inputs = models.model("clip-llama", attention), models.batch(models.prompt())
    everything = torch.arange(inputs["input_ids"].shape[1])
    for one in knockout(model, inputs, ANSWER, everything, everything):
        assert np.isfinite(one.change).all() and np.isfinite(one.everywhere)


def test_windows_cover_all_layers_and_are_few():
    for layers in range(1, 100):
        found = windows(layers)
        assert len(found) <= 8 and found[0][0] == 0 and found[-1][1] == layers - 1
        assert {n for first, last in found for n in range(first, last + 1)} == {*range(layers)}
        assert {last - first + 1 for first, last in found} == {max(1, round(layers / 3))}
    assert windows(32)[:2] == [(0, 10), (3, 13)] and windows(5, 2, 2) == [(0, 1), (2, 3), (3, 4)]


def test_batches_of_any_size_say_the_same():
    case, inputs = asking("qwen3-vl")
    model = case.model()
    spans = spans_of(inputs, forced(model, inputs, ANSWER).image)
    many, single = (knockout(model, inputs, ANSWER, spans["image"], spans["question"], tokens=n) for n in (8192, 1))
    for one, other in zip(many, single, strict=True):
        np.testing.assert_allclose(one.change, other.change, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_as_before_also_after_an_exception(attention):
    case, inputs = asking("gemma3")
    model = case.model(attention)
    spans = spans_of(inputs, forced(model, inputs, ANSWER).image)
    before = state(model, inputs)
    knockout(model, inputs, ANSWER, spans["image"], spans["question"])
    assert state(model, inputs) == before
    with breaking(model), pytest.raises(KeyboardInterrupt):
        knockout(model, inputs, ANSWER, spans["image"], spans["question"])
    assert state(model, inputs) == before


@pytest.mark.parametrize(
    "image, question, options, told",
    [
        ([4], [], {}, "question are none"),
        ([], [4], {}, "image are none"),
        ([4], [99], {}, "99 to 99 .* places 0 to 25"),
        ([-1], [4], {}, "-1 to -1"),
        ([[4]], [4], {}, r"\(1, 1\)"),
        ([4], [5], {"window": 5}, "window=5: .* 1 to 4 layers"),
        ([4], [5], {"window": 0}, "window=0"),
        ([4], [5], {"stride": 0}, "stride=0"),
    ],
)
def test_what_cannot_be_cut_is_refused(image, question, options, told):
    model, inputs = models.model(), models.batch(models.prompt())
    places = (torch.tensor(own, dtype=torch.long) for own in (image, question))
    with pytest.raises(ValueError, match=told):
        knockout(model, inputs, ANSWER, *places, **options)


def test_attention_that_takes_no_mask_is_refused_with_the_remedy():
    model, inputs = models.fresh(), models.batch(models.prompt())
    model.model.language_model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="flash_attention_2.*set_attn_implementation\\('sdpa'\\)"):
        knockout(model, inputs, ANSWER, torch.tensor([4]), torch.tensor([5]))


def test_attention_past_the_interface_is_refused():
    model, inputs = models.fresh(), models.batch(models.prompt())
    inner = model.model.language_model.layers[1].self_attn
    inner.forward = lambda hidden_states, **_: (hidden_states, None)
    with pytest.raises(UnsupportedModelError, match="nothing was cut"):
        knockout(model, inputs, ANSWER, torch.tensor([4]), torch.tensor([5]))
    assert inner.config is model.model.language_model.config
