"""The teacher against eager attention maps and autograd on them, a batch against each sample alone."""

from __future__ import annotations

import pytest
import torch
from zoo import CASES, EVERY, Sample, picture

import models
from simignore.families import UnsupportedModelError
from simignore.flow.sweep import sweep
from simignore.parts import parts
from simignore.splice.reading import read
from simignore.train import teacher
from simignore.train.teacher import answer_places, attention_flow, saliency_flow

FAMILIES = ("llava-clip-llama", "qwen2-vl", "gemma3")
LAYERS = (1, 2)
TEXTS = ("what colour is the star ? red", "is the cat left of the dog in this picture ? yes no")


def inputs_of(name: str, *numbers: int) -> dict:
    case = CASES[name]
    samples = [Sample(TEXTS[n], (picture(*case.sizes[n % len(case.sizes)], seed=n),)) for n in numbers]
    return {key: value for key, value in case.inputs(*samples).items() if key != "labels"}


def labelled(inputs: dict, answer: int) -> torch.Tensor:
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -answer:] = inputs["input_ids"][:, -answer:]
    return labels


def asked(inputs: dict) -> torch.Tensor:
    """Three places of the first sample, two of all others."""
    length = inputs["input_ids"].shape[1]
    into = torch.tensor([[length - 5, length - 4, length - 3], [length - 6, length - 3, -1]])
    return into[: len(inputs["input_ids"])]


def maps_of(name: str, inputs: dict) -> tuple[list[torch.Tensor], torch.Tensor]:
    out = CASES[name].model("eager")(**inputs, output_attentions=True, use_cache=False)
    return list(out.attentions), out.logits


def image_places(name: str, inputs: dict) -> list[list[int]]:
    token = parts(CASES[name].model()).image_token
    return [(ids == token).nonzero()[:, 0].tolist() for ids in inputs["input_ids"]]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, rtol=2e-3, atol=2e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_is_the_mean_of_eager_maps(name):
    inputs, p = inputs_of(name, 0, 1), parts(CASES[name].model())
    into = asked(inputs)
    flow, visual = attention_flow(p, read(p, inputs), inputs, into, LAYERS)
    maps, _ = maps_of(name, inputs)
    places = image_places(name, inputs)
    assert int((inputs["attention_mask"] == 0).sum()) > 0 and flow.shape[1] == max(map(len, places))
    for b, own in enumerate(places):
        expected = torch.zeros(len(own))
        count = 0
        for layer in LAYERS:
            for head in maps[layer][b]:
                for place in into[b].tolist():
                    if place >= 0:
                        expected += head[place, own].detach()
                        count += 1
        close(flow[b, : len(own)], expected / count)
    assert visual.shape[:2] == flow.shape


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("measure", ["attention", "saliency"])
def test_a_batch_tells_of_each_sample_what_it_tells_of_it_alone(name, measure):
    p, both = parts(CASES[name].model()), inputs_of(name, 0, 1)
    length = both["input_ids"].shape[1]

    def flow(inputs: dict, into: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = p, read(p, inputs), inputs, into, LAYERS
        return attention_flow(*given) if measure == "attention" else saliency_flow(*given, labelled(inputs, 2))

    whole, seen = flow(both, asked(both))
    for n in range(2):
        inputs = inputs_of(name, n)
        shorter = length - inputs["input_ids"].shape[1]
        into = asked(both)[n]
        alone, own = flow(inputs, (into[into >= 0] - shorter)[None])
        close(whole[n, : alone.shape[1]], alone[0])
        assert torch.allclose(seen[n, : alone.shape[1]], own[0], atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_saliency_is_autograd_on_eager_maps(name):
    """|map x gradient of all answer tokens' log-odds|, summed over heads; mean over places and layers."""
    inputs, p = inputs_of(name, 0, 1), parts(CASES[name].model())
    labels, into = labelled(inputs, 3), asked(inputs)
    flow, _ = saliency_flow(p, read(p, inputs), inputs, into, LAYERS, labels)
    maps, logits = maps_of(name, inputs)
    odds = 0
    for b in range(2):
        for t in range(labels.shape[1] - 3, labels.shape[1]):
            p_answer = logits[b, t - 1].double().softmax(-1)[labels[b, t]]
            odds = odds + (p_answer / (1 - p_answer)).log()
    slopes = torch.autograd.grad(odds, [maps[layer] for layer in LAYERS])
    for b, own in enumerate(image_places(name, inputs)):
        rows = [
            (maps[layer][b, :, place] * slope[b, :, place]).abs().sum(0)[own].detach()
            for layer, slope in zip(LAYERS, slopes, strict=True)
            for place in into[b].tolist()
            if place >= 0
        ]
        close(flow[b, : len(own)], torch.stack(rows).mean(0))


@pytest.mark.parametrize("name", FAMILIES)
def test_saliency_of_one_answer_token_is_the_sweeps(name):
    inputs, p = inputs_of(name, 0), parts(CASES[name].model())
    labels, into = labelled(inputs, 1), asked(inputs)
    flow, _ = saliency_flow(p, read(p, inputs), inputs, into, LAYERS, labels)
    prompt = {
        key: value[:, :-1] if value.shape == inputs["input_ids"].shape else value for key, value in inputs.items()
    }
    swept = sweep(p, prompt, inputs["input_ids"][0, -1:], into[0])
    (own,) = image_places(name, inputs)
    close(flow[0], torch.stack([swept.question_saliency[layer][own] for layer in LAYERS]).mean(0))
    seen, _ = attention_flow(p, read(p, inputs), inputs, into, LAYERS)
    close(seen[0], torch.stack([swept.question_attention[layer][own] for layer in LAYERS]).mean(0))
    at_answer, _ = saliency_flow(p, read(p, inputs), inputs, answer_places(labels), LAYERS, labels)
    close(at_answer[0], torch.stack([swept.saliency[0, layer][own] for layer in LAYERS]).mean(0))


def test_answer_places_come_before_the_answers_tokens():
    labels = torch.tensor([[-100, -100, -100, 7, 8, 2], [-100, -100, -100, -100, -100, 9], [-100, 5, -100, -100, 6, 3]])
    assert answer_places(labels).tolist() == [[2, 3, 4], [4, -1, -1], [0, 3, 4]]
    assert answer_places(torch.full((2, 4), -100)).tolist() == [[-1], [-1]]


def state(model) -> list[object]:
    """Hooks of every module, and whose config it has."""
    return [
        (len(m._forward_hooks), len(m._forward_pre_hooks), id(getattr(m, "config", None)), m.training)
        for m in model.modules()
    ]


@pytest.mark.parametrize("measure", ["attention", "saliency"])
def test_the_model_is_as_before_also_when_a_layer_raises(monkeypatch, measure):
    model = models.fresh()
    inputs, p = models.batch(models.prompt(), models.prompt(9)), parts(model)
    logits, before = model(**inputs).logits, state(model)
    into = torch.tensor([[22], [25]])

    def flow() -> None:
        given = p, read(p, inputs), inputs, into, LAYERS
        attention_flow(*given) if measure == "attention" else saliency_flow(*given, labelled(inputs, 2))

    flow()
    assert state(model) == before
    broken = model.model.language_model.layers[1].mlp
    monkeypatch.setattr(broken, "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        flow()
    monkeypatch.undo()
    assert state(model) == before
    assert torch.equal(model(**inputs).logits, logits)
    assert all(parameter.grad is None for parameter in model.parameters()) and torch.is_grad_enabled()


def test_layers_behind_the_last_that_is_asked_for_do_not_run(monkeypatch):
    model = models.fresh()
    inputs, p = models.batch(models.prompt()), parts(model)
    expected, _ = attention_flow(p, read(p, inputs), inputs, torch.tensor([[20]]), (0, 2))
    broken = model.model.language_model.layers[3]
    monkeypatch.setattr(broken, "forward", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("ran")))
    found, _ = attention_flow(p, read(p, inputs), inputs, torch.tensor([[20]]), (2, 0))
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("measure", ["attention", "saliency"])
def test_layers_without_attention_are_refused(measure):
    case = EVERY["qwen3.5"]
    inputs, p = case.inputs(Sample(images=(picture(*case.sizes[0]),))), parts(case.model())
    there = [n for n, attention in enumerate(p.attentions) if attention is not None]
    assert 0 < len(there) < len(p.layers)
    before = state(case.model())
    for strange in (next(n for n in range(len(p.layers)) if n not in there), len(p.layers)):
        given = p, read(p, inputs), inputs, torch.tensor([[3]]), (there[0], strange)
        with pytest.raises(UnsupportedModelError, match=f"layer {strange} .* no attention .*layers {there[0]}, "):
            attention_flow(*given) if measure == "attention" else saliency_flow(*given, labelled(inputs, 2))
    assert state(case.model()) == before


def test_ids_of_labels_that_are_not_to_be_predicted_are_those_of_transformers():
    assert torch.nn.CrossEntropyLoss().ignore_index == teacher.IGNORED
