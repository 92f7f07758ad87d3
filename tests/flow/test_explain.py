"""The one verb: on every family, from both kinds of input, leaving the model as it was."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from zoo import EVERY, Sample, picture

import models
import simignore
from simignore import Chain, FastV, Random, Simignore, tiny
from simignore.flow import VIEWS, explain, plain
from simignore.flow.swap import KEPT, NONE, OPPOSITE
from simignore.prompt import build


@pytest.fixture(scope="module")
def bundled():
    model, processor = tiny.load()
    prompt = build(processor, tiny.example(), tiny.EXAMPLE_QUESTION, options=tiny.EXAMPLE_OPTIONS, answer="text")
    return model, processor, prompt


@pytest.fixture(scope="module")
def report(bundled):
    model, processor, prompt = bundled
    return explain(model, prompt, processor, method=Simignore(keep=0.25), rounds=1)


@pytest.mark.parametrize("name", EVERY)
def test_every_family_is_explained_as_it_is(name):
    case = EVERY[name]
    model, inputs = case.model(), case.inputs(Sample(images=(picture(*case.sizes[0], seed=3),)))
    with torch.no_grad():
        model(**inputs)  # transformers hangs hooks of its own into a model that runs for the first time
    before = state(model)
    found = explain(model, inputs, case.shared_processor(), faithful=False, rounds=0, max_new_tokens=2)
    image, answers = len(found.image), len(found.tokens)
    assert set(found.views) == set(VIEWS) and all(view.shape == (answers, image) for view in found.views.values())
    assert all(np.isfinite(view).all() for view in found.views.values())
    whole = np.nansum(found.curves["attention"].into, -1)
    known = ~np.isnan(found.curves["attention"].into).all(-1)
    assert np.allclose(whole[known], 1, atol=1e-4)  # every place is in one span, and attention sums to one
    assert (state(model) == before) is True
    json.dumps(plain(found), allow_nan=False)


def state(model):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    configs = [id(m.config) for m in model.modules() if hasattr(m, "config")]
    return hooks, configs, [m.training for m in model.modules()], torch.is_grad_enabled()


def test_a_report_of_the_bundled_model_fits_together(bundled, report):
    _, _, prompt = bundled
    assert report.answer == report.tokens[0].text == "7" and report.tokens[0].probability > 0.5
    assert report.options == prompt.options and report.question == tiny.EXAMPLE_QUESTION
    attention = report.curves["attention"]
    image = attention.spans.index("image 1")
    assert np.allclose(attention.tokens.sum(-1), attention.into[..., image], atol=1e-5)
    assert np.allclose(attention.share.sum(-1), 1) and attention.counts[0].sum() == prompt.inputs["input_ids"].shape[1]
    assert attention.convergence.layer == int(attention.into[..., image].mean(0).argmax())
    assert report.kept.selection.count.tolist() == [49] and report.kept.token_share == 0.25
    kept = report.kept.selection.kept[0].numpy()
    assert set(report.kept.flow_share) == {*VIEWS} - {"similarity"}  # which is no flow
    for name, share in report.kept.flow_share.items():
        view = report.views[name]
        assert share == pytest.approx((view[:, kept].sum(1) / view.sum(1)).mean(), abs=1e-5)
        mean, low, high = report.kept.random_share[name]
        assert low < mean < high and mean == pytest.approx(0.25, abs=0.02)
    swaps = {swap.what: swap for swap in report.swaps}
    assert swaps[KEPT].answer == report.kept.answer and swaps[KEPT].kept == 49 and swaps[OPPOSITE].kept == 147
    assert report.removal.deletion["rollout"][0] == pytest.approx(np.log(report.tokens[0].probability), abs=1e-4)
    assert set(report.cost) == {"all tokens", "simignore"}
    assert report.cost["simignore"]["prefill_flops"] < report.cost["all tokens"]["prefill_flops"]
    assert report.settings["seed"] == 0 and report.settings["versions"]["torch"] == torch.__version__


def test_the_similarity_is_what_the_method_scores_by(report):
    assert np.allclose(report.similarity, report.kept.selection.score[0].numpy(), atol=1e-6)


def test_the_model_is_as_before_to_the_bit_inside_inference_mode_too(bundled):
    model, processor, prompt = bundled
    logits = model(**prompt.inputs).logits
    before = state(model)
    with torch.inference_mode():
        found = explain(model, prompt, processor, faithful=False, rounds=0)
    assert found.answer == "7" and state(model) == before
    assert torch.equal(model(**prompt.inputs).logits, logits)


def test_a_model_in_training_mode_is_explained_in_evaluation_and_stays_in_training():
    model = models.fresh()
    model.train()
    model.model.vision_tower.eval()
    modes = [module.training for module in model.modules()]
    explain(model, models.batch(models.prompt()), faithful=False, rounds=0, max_new_tokens=1)
    assert [module.training for module in model.modules()] == modes


def test_without_words_the_numbers_are_there_and_the_rest_is_named():
    found = explain(models.model(), models.batch(models.prompt()), max_new_tokens=2, rounds=0)
    assert found.lens is None and found.sinks is None and "pass the processor" in found.notes[0]
    assert found.tokens[0].text.startswith("#") and found.removal is not None and len(found.knockout) == 3


def test_the_same_seed_gives_the_same_and_a_method_needs_a_processor(bundled, report):
    model, processor, prompt = bundled
    again = explain(model, prompt, processor, method=Simignore(keep=0.25), rounds=0)
    for name in ("removal", "kept", "correlations", "swaps", "knockout", "sinks"):
        assert plain(getattr(again, name)) == plain(getattr(report, name))
    with pytest.raises(ValueError, match="processor"):
        explain(models.model(), models.batch(models.prompt()), method=Random(keep=4), rounds=0, max_new_tokens=1)


def test_long_answers_are_explained_up_to_a_limit_that_is_named(bundled):
    model, processor, _ = bundled
    prompt = build(processor, tiny.example(), "describe the picture")
    found = explain(model, prompt, processor, faithful=False, rounds=0, most=1)
    assert (
        len(found.tokens) == 1
        and found.cut == 1
        and any("the first 1 are explained (most=1)" in note for note in found.notes)
    )


def test_without_a_method_it_is_told_what_the_model_says_without_the_picture(bundled):
    model, processor, prompt = bundled
    found = explain(model, prompt, processor, rounds=0, max_new_tokens=1)
    assert [(swap.what, swap.kept) for swap in found.swaps] == [("all image tokens", 196), ("no image token", 0)]
    assert found.swaps[0].answer == found.answer and found.swaps[1].log_probability < found.swaps[0].log_probability
    assert json.loads(found.to_json()) == plain(found) and repr(found).startswith("FlowReport('What number")


def test_linear_attention_is_explained_with_a_method_and_its_cost():
    case = EVERY["qwen3.5"]
    inputs = case.inputs(Sample(images=(picture(*case.sizes[0], seed=3),)))
    found = explain(case.model(), inputs, case.shared_processor(), method=Random(keep=4), rounds=1, max_new_tokens=2)
    assert found.kept.selection.count.tolist() == [4] and found.cost["random"]["kv_bytes"] > 0
    assert any("mix tokens without attention" in note for note in found.notes)


def test_all_answers_are_generated_alike(bundled, monkeypatch):
    model, processor, prompt = bundled
    seven = processor.tokenizer.convert_tokens_to_ids("7")
    monkeypatch.setattr(model.generation_config, "suppress_tokens", [seven])
    monkeypatch.setattr(model.generation_config, "return_dict_in_generate", True)
    found = explain(model, prompt, processor, method=Simignore(keep=1.0), rounds=0, max_new_tokens=4)
    assert found.answer != "7" and found.kept.answer == found.answer == found.swaps[0].answer


def test_counterfactuals_drop_where_the_method_does(bundled):
    """What this one token leaves of the answer hangs on the layer before which the others go."""
    model, processor, _ = bundled
    prompt = build(processor, tiny.example(), "describe the picture")
    found = explain(model, prompt, processor, method=FastV(keep=1, layer=7), rounds=0)
    told = {swap.what: swap for swap in found.swaps}
    assert found.kept.layers == (7,) and found.kept.layer == 7
    assert told[KEPT].answer == found.kept.answer != told[NONE].answer
    both = Chain(Simignore(keep=0.5), FastV(keep=20, layer=0.5))
    assert explain(model, prompt, processor, method=both, rounds=0, faithful=False).kept.layers == (None, 0.5)


def test_keys_that_layers_share_are_named():
    case = EVERY["gemma4"]
    inputs = case.inputs(Sample(images=(picture(*case.sizes[0], seed=3),)))
    found = explain(case.model(), inputs, case.shared_processor(), faithful=False, rounds=0, max_new_tokens=1)
    assert any("reuse the keys and values of earlier ones" in note for note in found.notes)


def test_the_lens_looks_at_what_sends_most_and_at_what_gathers_most(report):
    why = dict(zip(report.lens.why, report.lens.tokens, strict=True))

    def token(said):
        return next(number for words, number in why.items() if said in words)

    assert token("most flow into the answer") == report.views["saliency"].mean(0).argmax()
    assert token("most attention from the end of the prompt") == report.sinks.asked.argmax()
    assert token("most like the text") == report.similarity.argmax()


def test_the_seed_reaches_every_draw(bundled, report):
    model, processor, prompt = bundled
    other = explain(model, prompt, processor, method=Simignore(keep=0.25), rounds=0, seed=1)
    assert not np.array_equal(other.removal.random["deletion"], report.removal.random["deletion"])
    assert other.swaps[-1].log_probability != report.swaps[-1].log_probability
    assert other.kept.random_share != report.kept.random_share and other.sinks.shuffled != report.sinks.shuffled


def test_inside_a_method_it_says_where_to_put_it(bundled):
    model, processor, prompt = bundled
    with Random(keep=4)(model), pytest.raises(ValueError, match="pass the method as method="):
        explain(model, prompt, processor, rounds=0)


@pytest.mark.parametrize("wrong, error", [({"seed": -1}, ValueError), ({"method": Random}, TypeError)])
def test_wrong_arguments_are_refused_at_the_door(bundled, wrong, error):
    with pytest.raises(error, match=f"{next(iter(wrong))}="):
        explain(*bundled[:1], bundled[2], bundled[1], **wrong)


def test_it_is_a_public_name():
    assert simignore.flow.explain is explain


def test_threads_that_explain_one_model_wait_for_each_other(bundled):
    model, processor, prompt = bundled
    alone = plain(explain(model, prompt, processor, faithful=False, rounds=0).views)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(explain, model, prompt, processor, faithful=False, rounds=0) for _ in range(3)]
        assert all(plain(future.result().views) == alone for future in futures)
