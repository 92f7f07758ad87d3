"""A decoder's forward taken down on every family: nothing is left behind, and each piece run again gives what it gave."""

from __future__ import annotations

import pytest
import torch
from zoo import EVERY, Case, Sample, picture

import models
from simignore.flow.capture import Tail, answered, evaluating, record, without_labels
from simignore.parts import parts

NEW = 3
# between the first layers these add features of the image to the hidden states, outside the layers
DEEPSTACK = {"qwen3-vl", "qwen3-vl-moe"}


def asked(case: Case) -> dict:
    return case.inputs(Sample("what colour is the star ?", (picture(*case.sizes[0]),)))


def logits_of(p, inputs):
    """[T, V] what the whole model gives."""
    with torch.no_grad():
        return p.model(**without_labels(inputs), use_cache=False).logits[0]


def state(model):
    hooks = [(name, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()]
    return hooks, [m.training for m in model.modules()], torch.is_grad_enabled()


@pytest.mark.parametrize("name", EVERY)
def test_layers_and_the_end_run_again_as_they_ran(name):
    model, inputs = EVERY[name].model(), asked(EVERY[name])
    p = parts(model)
    tape, logits = record(p, inputs), logits_of(p, inputs)
    length = inputs["input_ids"].shape[1]
    assert len(tape.args) == len(p.layers) and len(logits) == length
    with torch.no_grad():
        for number, layer in enumerate(p.layers):
            out = tape.again(layer, number, tape.entered(number))
            if not (name in DEEPSTACK and number < 2):
                assert torch.equal(out, tape.entered(number + 1))
            else:  # only the image tokens differ
                text = inputs["input_ids"][0] != p.image_token
                assert torch.equal(out[0, text], tape.entered(number + 1)[0, text])
                assert not torch.equal(out[0, ~text], tape.entered(number + 1)[0, ~text])
        torch.testing.assert_close(Tail(p, 5)(tape.end[0]), logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(Tail(p, 5)(tape.end[0, 4:6]), logits[4:6], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_a_prompt_with_its_answer_gives_the_logits_of_the_steps_that_generated_it(name):
    model, inputs = EVERY[name].model(), asked(EVERY[name])
    p = parts(model)
    options = dict(max_new_tokens=NEW, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with torch.no_grad():  # random models write image tokens, too, whose images nobody could pass
        out = model.generate(**inputs, suppress_tokens=list(p.placeholders), **options)
    steps = torch.stack(out.logits, 1)[0].float()
    grown = answered(inputs, out.sequences[0, -NEW:])
    length = inputs["input_ids"].shape[1]
    assert all(grown[key].shape == (1, length + NEW) for key in ("input_ids", "attention_mask"))
    assert inputs["input_ids"].shape[1] == length
    logits = logits_of(p, grown)[-NEW - 1 :]
    torch.testing.assert_close(logits[:-1].float(), steps, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llava-clip-llama", "gemma3-window", "qwen3.5", "aya-vision", "minicpmv4.6"])
def test_the_model_is_as_before_also_after_an_exception_in_a_layer(name):
    model, inputs = EVERY[name].model(), asked(EVERY[name])
    p = parts(model)
    with torch.no_grad():
        plain = model(**inputs).logits
    before = state(model)
    record(p, inputs)
    Tail(p, 5)(torch.zeros(2, p.embed.embedding_dim))
    broken = p.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    for run in (lambda: record(p, inputs), lambda: Tail(p, 5)(torch.zeros(2, p.embed.embedding_dim))):
        with pytest.raises(ZeroDivisionError):
            run()
    broken.remove()
    assert state(model) == before
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, plain)


@pytest.mark.parametrize("name", ["paligemma-gemma2", "gemma4"])
def test_the_end_caps_logits_as_the_model_does(name):
    model, inputs = EVERY[name].build("eager"), asked(EVERY[name])
    p = parts(model)
    free = logits_of(p, inputs)
    model.config.get_text_config().final_logit_softcapping = 0.5
    tape, logits = record(p, inputs), logits_of(p, inputs)
    assert logits.abs().max() <= 0.5 < free.abs().max()
    torch.testing.assert_close(Tail(p, 5)(tape.end[0]).detach(), logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["llava-clip-llama", "aya-vision", "gemma4", "blip-2"])
def test_the_end_is_differentiable_and_its_gradient_is_the_slope(name):
    """Central differences along a random direction; layers before the last have no part in it."""
    p = parts(EVERY[name].model())
    end, generator = Tail(p, 5), torch.Generator().manual_seed(0)
    states, way = torch.randn(2, 3, p.embed.embedding_dim, generator=generator)
    states.requires_grad_(True)
    (slope,) = torch.autograd.grad(end(states)[1, 7], states)
    assert slope[1].any() and not slope[0].any() and not slope[2].any()
    with torch.no_grad():
        rise = (end(states + 0.01 * way)[1, 7] - end(states - 0.01 * way)[1, 7]) / 0.02
    assert abs(float(rise)) > 0.05
    torch.testing.assert_close((slope * way).sum(), rise, atol=1e-3, rtol=1e-3)


def test_a_tape_without_its_end_says_so():
    p, inputs = parts(models.model()), models.batch(models.prompt())
    tape = record(p, inputs)
    tape.end = None
    with pytest.raises(RuntimeError, match="did not run"):
        tape.entered(len(p.layers))


def test_evaluating_puts_every_module_back():
    model = models.fresh()
    model.train()
    model.model.vision_tower.eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(module.training for module in model.modules())
        _ = 1 / 0
    assert [module.training for module in model.modules()] == before and len(set(before)) == 2
