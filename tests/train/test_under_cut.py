"""The answer's loss on the shortened sequence against ordinary methods, masks and finite differences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch.nn.functional import cross_entropy
from zoo import CASES, Sample, picture

import models
from simignore import Simignore
from simignore.families import UnsupportedModelError
from simignore.methods import Method
from simignore.parts import parts
from simignore.select import from_kept
from simignore.splice.reading import read
from simignore.train.cut import cutting

FAMILIES = ("llava-clip-llama", "qwen2-vl", "gemma3")
ANSWER = 2


@dataclass(frozen=True)
class Fixed(Method):
    kept: list = field(default_factory=list, compare=False)

    def choose(self, view):
        return from_kept(self.kept[0])


def inputs_of(name: str) -> tuple[dict, torch.Tensor]:
    case = CASES[name]
    texts = ("what colour is the star ? red", "is the cat left of the dog in this picture ? yes no")
    samples = [Sample(t, (picture(*case.sizes[n % len(case.sizes)], seed=n),)) for n, t in enumerate(texts)]
    inputs = {key: value for key, value in case.inputs(*samples).items() if key != "labels"}
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[:, -ANSWER:] = inputs["input_ids"][:, -ANSWER:]
    return inputs, labels


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The answers end the prompts, so their logits are the last but one, however short the sequence is."""
    told = labels[:, -ANSWER:]
    return cross_entropy(logits[:, -ANSWER - 1 : -1].flatten(0, 1), told.flatten())


@contextmanager
def interpolated(p, inputs: dict, sample: int, number: int, by: float) -> Iterator[None]:
    """One image token moved towards the mean of its sample's image tokens."""
    place = (inputs["input_ids"][sample] == p.image_token).nonzero()[:, 0]

    def move(_, args, kwargs):
        embeds = kwargs["inputs_embeds"].clone()
        own = embeds[sample, place]
        embeds[sample, place[number]] += by * (own.mean(0) - own[number])
        return args, {**kwargs, "inputs_embeds": embeds}

    hook = p.decoder.register_forward_pre_hook(move, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_is_that_of_a_method_which_keeps_the_same(name):
    model = CASES[name].model()
    p, (inputs, labels) = parts(model), inputs_of(name)
    with torch.no_grad(), Simignore(keep=0.3)(model) as trace:
        expected = by_hand(model(**inputs).logits, labels)
    with torch.no_grad(), Simignore(keep=0.3, hide="mask")(model):
        masked = by_hand(model(**inputs).logits, labels)
    kept = trace.selections[0].source >= 0
    real = read(p, inputs).image >= 0
    assert 0 < int(kept.sum()) < int(real.sum())
    with cutting(p, read(p, inputs), lambda visual, valid: (kept, kept.to(visual.dtype))):
        out = model(**inputs, labels=labels, use_cache=False)
    whole = by_hand(model(**inputs).logits.detach(), labels)
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert out.loss.item() == pytest.approx(masked.item(), rel=1e-4)
    assert abs(whole.item() - expected.item()) > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradient_of_gates_is_what_the_loss_changes_by_when_a_token_becomes_the_mean(name):
    model = CASES[name].build("sdpa").double().requires_grad_(False)
    p, (inputs, labels) = parts(model), inputs_of(name)
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}
    found = read(p, inputs)
    real = found.image >= 0
    kept = real & (torch.arange(real.shape[1]) % 3 == 1)
    gates = kept.double().requires_grad_()
    with cutting(p, found, lambda *_: (kept, gates)):
        loss = model(**inputs, labels=labels, use_cache=False).loss
    (slope,) = torch.autograd.grad(loss, gates)
    assert bool(slope.isfinite().all()) and not bool(slope[~kept].any())

    def moved(sample: int, number: int, by: float) -> float:
        with interpolated(p, inputs, sample, number, by), torch.no_grad(), Fixed(keep=1.0, kept=[kept])(model):
            return by_hand(model(**inputs, use_cache=False).logits, labels).item()

    assert loss.item() == pytest.approx(moved(0, 1, 0.0), rel=1e-6)  # transformers' loss is in float32
    for sample, number in ((0, 1), (0, 7), (1, 4)):
        change = (moved(sample, number, -0.01) - moved(sample, number, 0.01)) / 0.02  # open minus closed
        assert slope[sample, number].item() == pytest.approx(change, rel=5e-3)
        assert abs(change) > 1e-4


def test_the_models_parameters_get_no_gradient():
    model = models.fresh()
    model.requires_grad_(False)
    inputs = models.batch(models.prompt(), models.prompt(9))
    p = parts(model)
    score = torch.zeros(2, models.PATCHES, requires_grad=True)
    kept = torch.arange(models.PATCHES).expand(2, -1) < 5
    with cutting(p, read(p, inputs), lambda *_: (kept, kept + score - score.detach())):
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
    assert bool(score.grad[kept].all()) and bool(score.grad.isfinite().all())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_choose_sees_the_image_tokens_and_which_are_real():
    model = models.fresh()
    inputs = models.batch(models.prompt(), models.prompt(5, images=2))
    p, seen = parts(model), []
    with torch.no_grad():
        features = model.get_image_features(pixel_values=inputs["pixel_values"])
    features = torch.cat(list(getattr(features, "pooler_output", features)))  # [48, D]

    def choose(visual, valid):
        seen.append((visual.detach().clone(), valid.clone()))
        return valid, valid.to(visual.dtype)

    plain = model(**inputs).logits
    with cutting(p, read(p, inputs), choose):
        assert torch.allclose(model(**inputs, use_cache=False).logits, plain, atol=1e-5)
    ((visual, valid),) = seen
    assert valid.sum(1).tolist() == [16, 32]
    assert torch.allclose(visual[0, :16], features[:16]) and torch.allclose(visual[1], features[16:])


def hooks(model) -> list[int]:
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


@pytest.mark.parametrize("where", ["choose", "layer", "inside", "nowhere"])
def test_hooks_are_removed_also_after_exceptions(monkeypatch, where):
    model = models.fresh()
    inputs = models.batch(models.prompt())
    logits = model(**inputs).logits  # transformers hooks its own modules in their first forward
    p, before = parts(model), hooks(model)

    def fail(*_, **__):
        raise RuntimeError("broken")

    def choose(visual, valid):
        return fail() if where == "choose" else (valid, valid.to(visual.dtype))

    if where == "layer":
        monkeypatch.setattr(model.model.language_model.layers[2].mlp, "forward", fail)
    try:
        with cutting(p, read(p, inputs), choose):
            model(**inputs, use_cache=False)
            if where == "inside":
                fail()
    except RuntimeError as error:
        assert str(error) == "broken" and where != "nowhere"
    monkeypatch.undo()
    assert hooks(model) == before
    assert torch.equal(model(**inputs).logits, logits)


def test_a_decoder_that_is_called_without_embeddings_is_refused():
    model = models.fresh()
    inputs = models.batch(models.prompt())
    p = parts(model)
    with (
        cutting(p, read(p, inputs), lambda visual, valid: (valid, valid.to(visual.dtype))),
        pytest.raises(UnsupportedModelError, match="LlamaModel is called without inputs_embeds"),
    ):
        p.decoder(input_ids=inputs["input_ids"][:, :2])
