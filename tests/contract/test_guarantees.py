"""The six guarantees of ARCHITECTURE.md, for every method and every kind of model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import models
import oracles
from contract.cases import MATRIX, NAMES, make
from simignore import Simignore, UnsupportedModelError

KEEP = 5
CLOSE = dict(atol=2e-5, rtol=1e-4)
PROMPTS = models.prompt(seed=1), models.prompt(words=11, seed=2, before=4)


def hidden_by(trace, inputs):
    """Layer -> [B, T] places hidden from there on, read from the trace's steps."""
    return {
        (0 if step.site == "projector" else step.site[1]): oracles.dropped_places(inputs, step.selection)
        for step in trace.steps[0]
    }


def blends_by(trace, inputs):
    """Layer -> what tokens take in of others before it."""
    places = [(ids == models.IMAGE).nonzero()[:, 0] for ids in inputs["input_ids"]]
    found = {}
    for step in trace.steps[0]:
        layer = 0 if step.site == "projector" else step.site[1]
        found.setdefault(layer, []).append(oracles.taking_in(step.selection, places))
    return found


def snapshot(model: nn.Module):
    """Everything of a model that a hook or a patch could change."""
    return (
        [(name, id(module), type(module)) for name, module in model.named_modules()],
        [
            (name, len(m._forward_pre_hooks), len(m._forward_hooks), sorted(set(vars(m)) - {"_is_full_backward_hook"}))
            for name, m in model.named_modules()
        ],
        [(name, id(getattr(m, "config", None)), id(m.forward.__func__)) for name, m in model.named_modules()],
        model.config.to_dict(),
        model.config._attn_implementation,
        model.generation_config.to_dict(),
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["normal", "error inside the block", "a layer that raises"])
def test_1_model_is_as_before(name, how):
    model, inputs = models.model(), models.batch(*PROMPTS)
    with torch.no_grad():
        before = model(**inputs).logits
        state = snapshot(model)
        bomb = None
        try:
            with make(name, KEEP)(model):
                model(**inputs)
                if how == "error inside the block":
                    raise ZeroDivisionError
                if how == "a layer that raises":
                    bomb = model.model.language_model.layers[3].mlp.register_forward_pre_hook(explode)
                    model(**inputs)
        except ZeroDivisionError:
            pass
        finally:
            if bomb:
                bomb.remove()
        assert how == "normal" or not hasattr(model, "nothing")
        assert snapshot(model) == state
        assert torch.equal(model(**inputs).logits, before)
        with make(name, KEEP)(model) as trace:  # and it can be used again
            model(**inputs)
        assert len(trace.selections) == 1


def explode(*_):
    raise ZeroDivisionError


@pytest.mark.parametrize(("name", "kind"), MATRIX)
def test_2_keeping_everything_changes_no_bit(name, kind):
    model, inputs = models.model(kind), models.batch(*PROMPTS)
    with torch.no_grad():
        plain = model(**inputs).logits
        words = model.generate(
            **inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        with make(name, 1.0)(model) as trace:
            assert torch.equal(model(**inputs).logits, plain)
            again = model.generate(
                **inputs, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
    assert torch.equal(torch.stack(words.logits), torch.stack(again.logits))
    assert trace.selections[0].count.tolist() == [models.PATCHES] * 2


@pytest.mark.parametrize(("name", "kind"), MATRIX)
def test_3_dropping_equals_an_explicit_mask(name, kind):
    """Against a plain loop over the layers that never heard of simignore, prompt and greedy decoding with the cache."""
    model, inputs = models.model(kind), models.batch(*PROMPTS)
    for hide in ("drop", "mask"):
        with make(name, KEEP, hide=hide)(model) as trace, torch.no_grad():
            output = model.generate(
                **inputs, max_new_tokens=5, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        ids, logits = oracles.greedy(model, inputs, hidden_by(trace, inputs), 5, blends_by(trace, inputs))
        assert torch.equal(output.sequences[:, -5:], ids)
        torch.testing.assert_close(torch.stack(output.logits, 1), logits, **CLOSE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["greedy", "beams", "sampling"])
@pytest.mark.parametrize("positions", ["keep", "reindex"])
def test_3_dropping_equals_masking_through_generate(name, how, positions):
    model, inputs = models.model(), models.batch(*PROMPTS)
    ways = {
        "greedy": dict(do_sample=False),
        "beams": dict(do_sample=False, num_beams=3, num_return_sequences=2),
        "sampling": dict(do_sample=True, num_return_sequences=2, top_k=0),
    }
    found = {}
    for hide in ("drop", "mask"):
        torch.manual_seed(0)
        with make(name, KEEP, hide=hide, positions=positions)(model), torch.no_grad():
            found[hide] = model.generate(
                **inputs, max_new_tokens=6, **ways[how], output_logits=True, return_dict_in_generate=True
            )
    assert torch.equal(found["drop"].sequences, found["mask"].sequences)
    torch.testing.assert_close(torch.stack(found["drop"].logits), torch.stack(found["mask"].logits), **CLOSE)


@pytest.mark.parametrize(("name", "kind"), MATRIX)
@pytest.mark.parametrize("keep", [KEEP, 0.3])
def test_4_a_batch_gives_each_sample_what_it_gets_alone(name, kind, keep):
    """Padded left, one image beside two, so that a fraction keeps different counts in the two samples."""
    model = models.model(kind)
    prompts = models.prompt(seed=1), models.prompt(words=11, images=2, seed=2)
    together = models.batch(*prompts)
    with make(name, keep)(model) as trace, torch.no_grad():
        output = model.generate(
            **together, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
    logits = torch.stack(output.logits, 1)
    pixels = together["pixel_values"].split([1, 2])
    for b, prompt in enumerate(prompts):
        alone = {**models.batch(prompt), "pixel_values": pixels[b]}
        with make(name, keep)(model) as single, torch.no_grad():
            own = model.generate(
                **alone, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        chosen = trace.selections[0].index[b]
        assert chosen[chosen >= 0].tolist() == single.selections[0].index[0].tolist()
        assert torch.equal(output.sequences[b, -4:], own.sequences[0, -4:])
        torch.testing.assert_close(logits[b], torch.stack(own.logits, 1)[0], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [1, 5, models.PATCHES, 0.01, 0.25, 0.5, 1.0])
def test_5_exactly_the_promised_count_stays_in_order_with_all_text(name, keep):
    if name.startswith("chain") and keep == models.PATCHES:
        pytest.skip("the chain's first link would have to keep more tokens than there are")
    model, inputs = models.model(), models.batch(*PROMPTS)
    lengths = []
    last = model.model.language_model.layers[3]
    watch = last.register_forward_hook(
        lambda m, a, out: lengths.append((out[0] if isinstance(out, tuple) else out).shape[1])
    )
    promised = keep if isinstance(keep, int) else max(1, int(keep * models.PATCHES + 0.5))
    if name.startswith("chain") and isinstance(keep, float):
        first = max(1, int(min(1.0, keep * 2) * models.PATCHES + 0.5))
        promised = max(1, int(keep * first + 0.5))
    with make(name, keep)(model) as trace, torch.no_grad():
        model(**inputs)
    watch.remove()
    selection = trace.selections[0]
    assert selection.count.tolist() == [promised] * 2
    assert bool((selection.index[:, 1:] > selection.index[:, :-1]).all())
    assert lengths == [inputs["input_ids"].shape[1] - models.PATCHES + promised]  # every text token is still there
    assert trace.tokens_before == [inputs["input_ids"].shape[1]] and trace.tokens_after == lengths
    assert selection.kept.sum(1).tolist() == [promised] * 2 and bool((selection.source.amax(1) < models.PATCHES).all())


@pytest.mark.parametrize("name", NAMES)
def test_6_a_prompt_without_an_image_passes_untouched(name):
    model, inputs = models.model(), models.batch(models.prompt(images=0), models.prompt(images=0, words=9))
    with torch.no_grad():
        plain = model(**inputs).logits
        words = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        with make(name, KEEP)(model) as trace:
            assert torch.equal(model(**inputs).logits, plain)
            assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), words)
    assert [selection.count.tolist() for selection in trace.selections] == [[0, 0]] * 2


@pytest.mark.parametrize("name", NAMES)
def test_6_an_image_beside_none(name):
    """A sample without an image in a batch with one gets what it gets alone."""
    model = models.model()
    prompts = models.prompt(images=0, words=4), models.prompt(seed=3)
    both, text = models.batch(*prompts), models.batch(prompts[0])
    with torch.no_grad():
        alone = model.generate(
            **text, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        with make(name, 0.3)(model) as trace:
            output = model.generate(
                **both, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
    assert trace.selections[0].count.tolist()[0] == 0
    torch.testing.assert_close(torch.stack(output.logits, 1)[0], torch.stack(alone.logits, 1)[0], **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_6_a_model_that_cannot_be_served_raises_at_once_and_says_what_to_do(name):
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=3, num_attention_heads=2, vocab_size=10)
    with pytest.raises(UnsupportedModelError, match=r"'llama'.*Known: .*llava.*families\.py"):
        make(name, KEEP)(LlamaForCausalLM(config))
    with pytest.raises(TypeError, match="got str"):
        Simignore(keep=KEEP)("llava-hf/llava-1.5-7b-hf")
