"""The sweep against autograd on eager attention maps, for every family, and against a transformer written out in the test."""

from __future__ import annotations

import pytest
import torch
from zoo import EVERY, Sample, picture

import models
from simignore.families import UnsupportedModelError
from simignore.flow import maths
from simignore.flow import sweep as room
from simignore.flow.capture import answered
from simignore.flow.sweep import log_odds, sweep
from simignore.parts import parts

ANSWER = torch.tensor([7, 9, 12])


def inputs_of(name: str) -> dict:
    case = EVERY[name]
    return case.inputs(Sample(images=(picture(*case.sizes[0], seed=3),)))


def eager(name: str, inputs: dict):
    """Attention maps of all layers and the gradients of each answer token's log-odds, by the eager implementation."""
    model = EVERY[name].model("eager")
    out = model(**answered(inputs, ANSWER[:-1]), output_attentions=True, use_cache=False)
    maps = [one for one in getattr(out, "language_model_outputs", out).attentions if one is not None]
    odds = log_odds(out.logits[0, -len(ANSWER) :], ANSWER)
    slopes = [torch.autograd.grad(one, maps, retain_graph=True) for one in odds]
    return [one[0].detach() for one in maps], [[one[0] for one in own] for own in slopes], out.logits[0, -len(ANSWER) :]


@pytest.mark.parametrize("name", EVERY)
def test_every_view_is_what_autograd_gives_on_eager_maps(name):
    inputs = inputs_of(name)
    p = parts(EVERY[name].model())
    prompt = inputs["input_ids"].shape[1]
    question = torch.arange(prompt - 4, prompt - 1)
    found = sweep(p, inputs, ANSWER, question)
    maps, slopes, logits = eager(name, inputs)
    assert torch.allclose(found.logits, logits, atol=1e-4, rtol=1e-4)
    layers = [n for n, attention in enumerate(p.attentions) if attention is not None]
    assert len(maps) == len(layers)
    without = [n for n in range(len(p.layers)) if n not in layers]
    assert bool(found.attention[:, without].isnan().all())
    exact = len({*p.key_sources}) == len(p.layers)  # gradients through keys that layers share are left out
    for k, layer in enumerate(layers):
        close(found.question_attention[layer], maps[k][:, question].mean((0, 1)))
        for a in range(len(ANSWER)):
            place = prompt - 1 + a
            close(found.attention[a, layer], maps[k][:, place].mean(0))
            if exact or layer == layers[-1]:
                close(found.saliency[a, layer], (maps[k] * slopes[a][k])[:, place].abs().sum(0))
        if exact:
            close(found.question_saliency[layer], (maps[k] * slopes[0][k])[:, question].abs().sum(0).mean(0))
    if exact:
        products(found, maps, slopes, prompt)


def products(found, maps, slopes, prompt: int) -> None:
    """Rollout and relevancy as products of whole maps."""
    one = torch.eye(maps[0].shape[-1])
    for a in range(len(ANSWER)):
        rolled, relevant = one, one
        for k, paid in enumerate(maps):
            rolled = (one + paid.mean(0)) / 2 @ rolled
            relevant = relevant + (paid * slopes[a][k]).clamp(min=0).mean(0) @ relevant
        close(found.rollout[a], rolled[prompt - 1 + a])
        close(found.relevancy[a], relevant[prompt - 1 + a])


def close(these: torch.Tensor, those: torch.Tensor) -> None:
    largest = float(those.abs().max())
    assert torch.allclose(these, those, atol=2e-4 * largest + 1e-9, rtol=2e-3), (these - those).abs().max() / largest


def test_saliency_is_autograd_on_a_transformer_written_out_by_hand():
    """A llama's layers in a dozen lines, whose attention maps are leaves of the graph."""
    model = models.model()
    inputs = models.batch(models.prompt())
    found = sweep(parts(model), inputs, ANSWER, torch.tensor([1]))
    decoder = model.model.language_model
    hidden = found.tape.entered(0).detach()
    length, heads = hidden.shape[1], 4
    cos, sin = decoder.rotary_emb(hidden, torch.arange(length)[None])

    def turned(x):  # [1, H, T, d]
        left, right = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat([-right, left], -1) * sin[:, None]

    maps = []
    hidden = hidden.requires_grad_()
    for layer in decoder.layers:
        own = layer.self_attn
        normed = layer.input_layernorm(hidden)
        q, k, v = (getattr(own, f"{x}_proj")(normed).view(1, length, -1, 8).transpose(1, 2) for x in ("q", "k", "v"))
        k, v = turned(k).repeat_interleave(heads // k.shape[1], 1), v.repeat_interleave(heads // v.shape[1], 1)
        logits = turned(q) @ k.transpose(2, 3) / 8**0.5
        logits = logits.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf"))
        maps.append(logits.softmax(-1))
        mixed = (maps[-1] @ v).transpose(1, 2).reshape(1, length, -1)
        hidden = hidden + own.o_proj(mixed)
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    logits = model.lm_head(decoder.norm(hidden))[0, -len(ANSWER) :]
    probability = logits.softmax(-1).gather(1, ANSWER[:, None])[:, 0]
    odds = (probability / (1 - probability)).log()
    for a, one in enumerate(odds):
        for layer, slope in enumerate(torch.autograd.grad(one, maps, retain_graph=True)):
            expected = (maps[layer] * slope)[0, :, a - len(ANSWER)].abs().sum(0)
            close(found.saliency[a, layer], expected)


def test_small_chunks_and_small_groups_give_the_same(monkeypatch):
    model = models.model()
    inputs = models.batch(models.prompt())
    whole = sweep(parts(model), inputs, ANSWER, torch.arange(20, 24))
    monkeypatch.setattr(maths, "HELD", 4 * 4 * 24 * 3)
    monkeypatch.setattr(room, "GROUP", 1)
    pieces = sweep(parts(model), inputs, ANSWER, torch.arange(20, 24))
    for name in ("attention", "saliency", "rollout", "relevancy", "question_attention", "question_saliency", "logits"):
        close(getattr(pieces, name), getattr(whole, name))


def test_the_log_odds_have_the_shares_of_the_log_probability_and_do_not_vanish_where_it_is_sure():
    logits = torch.tensor([[30.0, 1.0, 2.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(log_odds(logits, torch.tensor([0])).sum(), logits)
    assert slope[0, 0] == pytest.approx(1.0)
    mild = torch.tensor([[0.3, 1.0, 2.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(log_odds(mild, torch.tensor([0])).sum(), mild)
    (usual,) = torch.autograd.grad(mild.log_softmax(-1)[0, 0], mild)
    assert torch.allclose(slope / slope.sum().abs().clamp(min=1), slope) and torch.allclose(
        slope * (1 - mild.softmax(-1)[0, 0]), usual, atol=1e-6
    )


def hooks(model) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def test_the_model_is_as_before_also_when_a_layer_raises(monkeypatch):
    model = models.fresh()
    inputs = models.batch(models.prompt())
    before = model(**inputs).logits
    before_hooks = hooks(model)
    configs = [layer.self_attn.config for layer in model.model.language_model.layers]
    sweep(parts(model), inputs, ANSWER, torch.tensor([1]))
    broken = model.model.language_model.layers[1].mlp
    monkeypatch.setattr(broken, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        sweep(parts(model), inputs, ANSWER, torch.tensor([1]))
    monkeypatch.undo()
    assert torch.equal(model(**inputs).logits, before)
    assert all(
        layer.self_attn.config is config
        for layer, config in zip(model.model.language_model.layers, configs, strict=True)
    )
    assert hooks(model) == before_hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_a_layer_whose_attention_cannot_be_read_is_named(monkeypatch):
    model = models.fresh()
    own = model.model.language_model.layers[0].self_attn
    monkeypatch.setattr(own, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(UnsupportedModelError, match="LlamaAttention did not compute its attention through"):
        sweep(parts(model), models.batch(models.prompt()), ANSWER, torch.tensor([1]))
