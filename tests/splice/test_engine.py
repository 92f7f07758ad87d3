"""Everyday and odd uses of a model under a method, beyond the six guarantees."""

from __future__ import annotations

import copy
import threading
import time

import pytest
import torch
from transformers import DynamicCache, StaticCache

import models
import oracles
from simignore import Chain, FasterVLM, FastV, HiPrune, Random, Simignore, UnsupportedCallError, observe, tower
from simignore.parts import parts
from simignore.splice import ShortCache

CLOSE = dict(atol=2e-5, rtol=1e-4)
QUERY = torch.tensor([7, 8, 9])
METHODS = [
    Simignore(keep=5),
    FastV(keep=5, layer=2),
    Chain(Simignore(keep=9), FastV(keep=4, layer=2)),
    Chain(FastV(keep=9, layer=1), FastV(keep=4, layer=3)),
    Simignore(keep=5, positions="reindex"),
    FastV(keep=5, layer=2, positions="reindex"),
]
each_method = pytest.mark.parametrize("method", METHODS, ids=repr)


def masked(method):
    """The same method, hiding instead of dropping."""
    if isinstance(method, Chain):
        return Chain(*(masked(part) for part in method.methods))
    return type(method)(**{**vars(method), "hide": "mask"})


def generate(model, inputs, **more):
    return model.generate(
        **inputs, **{"max_new_tokens": 5, "do_sample": False, **more}, output_logits=True, return_dict_in_generate=True
    )


@pytest.fixture
def model():
    return models.model()


# ---------------------------------------------------------------- plain forwards


@each_method
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_forward_returns_logits_of_the_length_it_was_given(model, method, side):
    inputs = models.batch(models.prompt(), models.prompt(words=11, seed=2), side=side)
    with torch.no_grad(), method(model, query=QUERY) as trace:
        output = model(**inputs, output_hidden_states=True)
    with torch.no_grad(), masked(method)(model, query=QUERY):
        expected = model(**inputs).logits
    assert output.logits.shape == expected.shape
    assert {h.shape[1] for h in output.hidden_states} == {inputs["input_ids"].shape[1]}
    text = (inputs["input_ids"] != models.IMAGE) & inputs["attention_mask"].bool()
    torch.testing.assert_close(output.logits[text], expected[text], **CLOSE)
    dropped = oracles.dropped_places(inputs, trace.selections[0])
    bias = 0 if model.lm_head.bias is None else model.lm_head.bias
    assert bool((output.logits[dropped] == bias).all())  # documented: zeros went into the head


@each_method
@pytest.mark.parametrize("cached", [True, False])
def test_labels_give_the_loss_of_masking_and_its_gradients(method, cached):
    """All text is labelled, as training code does, also the token right after the image."""
    model, inputs = models.fresh(), models.batch(models.prompt(), models.prompt(words=11, seed=2))
    labels = inputs["input_ids"].masked_fill(
        (inputs["input_ids"] == models.IMAGE) | (inputs["attention_mask"] == 0), -100
    )
    found = []
    for way in (method, masked(method)):
        model.zero_grad()
        with way(model, query=QUERY):
            loss = model(**inputs, labels=labels, use_cache=cached).loss
        loss.backward()
        found.append((loss.detach(), model.model.multi_modal_projector.linear_1.weight.grad.clone()))
    torch.testing.assert_close(found[0][0], found[1][0], **CLOSE)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=1e-3)
    assert found[0][1].abs().max() > 0


def test_the_loss_equals_that_of_the_plain_model_under_a_mask(model):
    """The oracle is transformers itself: the same forward with zeros in the attention mask, outside any method."""
    inputs = models.batch(models.prompt())
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == models.IMAGE, -100)
    with torch.no_grad():
        with Simignore(keep=3)(model, query=QUERY) as trace:
            loss = model(**inputs, labels=labels).loss
        mask = inputs["attention_mask"].masked_fill(oracles.dropped_places(inputs, trace.selections[0]), 0)
        place = torch.arange(mask.shape[1])[None]
        plain = model(**{**inputs, "attention_mask": mask}, position_ids=place, labels=labels).loss
    torch.testing.assert_close(loss, plain, **CLOSE)


@each_method
def test_arguments_by_position_without_a_mask_and_with_the_inner_model(model, method):
    inputs = models.batch(models.prompt())
    with torch.no_grad():
        with method(model, query=QUERY):
            a = model(**inputs).logits[:, -1]
            b = model(inputs["input_ids"], inputs["pixel_values"]).logits[:, -1]
            c = model(inputs["input_ids"], inputs["pixel_values"], use_cache=False).logits[:, -1]
        with method(model.model, query=QUERY) as trace:
            d = model.model(**inputs).last_hidden_state[:, -1]
    assert len(trace.selections) == 1
    for other in (b, c, model.lm_head(d)):
        torch.testing.assert_close(a, other, **CLOSE)


@each_method
def test_logits_to_keep_and_inputs_embeds(model, method):
    inputs = models.batch(models.prompt(), models.prompt(words=9, seed=3))
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    with torch.no_grad(), method(model, query=QUERY):
        full = model(**inputs).logits
        last = model(**inputs, logits_to_keep=1).logits
        some = model(**inputs, logits_to_keep=torch.tensor([0, 27])).logits
        by_embeds = model(
            inputs_embeds=embeds, attention_mask=inputs["attention_mask"], pixel_values=inputs["pixel_values"]
        ).logits
    torch.testing.assert_close(last, full[:, -1:], **CLOSE)
    torch.testing.assert_close(some, full[:, [0, 27]], **CLOSE)
    assert torch.equal(by_embeds, full)


@each_method
def test_a_four_dimensional_mask_is_cut_too(model, method):
    inputs = models.batch(models.prompt())
    t = inputs["input_ids"].shape[1]
    wide = torch.ones(1, 1, t, t, dtype=torch.bool).tril()
    with torch.no_grad(), method(model, query=QUERY):
        a = model(**inputs).logits[:, -1]
        b = model(**{**inputs, "attention_mask": wide}).logits[:, -1]
    torch.testing.assert_close(a, b, **CLOSE)


@each_method
def test_eager_and_sdpa_choose_the_same_tokens(method):
    inputs = models.batch(models.prompt(), models.prompt(words=11, seed=2))
    found = []
    for attention in ("sdpa", "eager"):
        model = models.model("clip-llama", attention)
        with torch.no_grad(), method(model, query=QUERY) as trace:
            found.append((trace, generate(model, inputs)))
    assert torch.equal(found[0][0].selections[0].index, found[1][0].selections[0].index)
    assert torch.equal(found[0][1].sequences, found[1][1].sequences)


def test_fastv_keeps_what_the_eager_attention_maps_say():
    model, inputs = models.model("clip-llama", "eager"), models.batch(models.prompt(), models.prompt(words=11, seed=2))
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions
        with FastV(keep=5, layer=2)(model) as trace:
            model(**inputs)
    row = maps[1].mean(1)[:, -1]  # [B, T] the last token in the layer before the cut
    for b in range(2):
        image = row[b][inputs["input_ids"][b] == models.IMAGE]
        assert trace.selections[0].index[b].tolist() == sorted(image.topk(5).indices.tolist())
        torch.testing.assert_close(trace.selections[0].score[b], image, **CLOSE)


def test_bfloat16_runs_and_keeps_its_type():
    model, inputs = models.fresh().bfloat16(), models.batch(models.prompt())
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    for method in METHODS:
        with torch.no_grad(), method(model, query=QUERY):
            assert model(**inputs).logits.dtype == torch.bfloat16
            generate(model, inputs)


def test_training_mode_with_dropout_works_and_the_choice_is_not_random():
    """Documented: dropout acts inside the model as usual; choosing is not disturbed by it."""
    model = models.fresh(attention_dropout=0.5).train()
    inputs = models.batch(models.prompt())
    with Simignore(keep=4)(model, query=QUERY) as trace:
        for _ in range(3):
            model(**inputs).logits.sum().backward()
    assert all(torch.equal(trace.selections[0].index, other.index) for other in trace.selections)
    assert model.training


def test_gradient_checkpointing_before_the_decoder_and_not_inside():
    model, inputs = models.fresh().train(), models.batch(models.prompt())
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == models.IMAGE, -100)
    weight, found = model.model.multi_modal_projector.linear_1.weight, []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        with Simignore(keep=4)(model, query=QUERY):
            model(**inputs, labels=labels, use_cache=False).loss.backward()
        found.append(weight.grad.clone())
    torch.testing.assert_close(*found)
    with FastV(keep=4, layer=2)(model), pytest.raises(UnsupportedCallError, match="gradient_checkpointing_disable"):
        model(**inputs, labels=labels, use_cache=False)


# ---------------------------------------------------------------- caches


def chat(model, first, more, cache):
    """Two turns on one cache: the second passes all token ids again, as transformers' chat example does."""
    one = generate(model, first, past_key_values=cache)
    ids = torch.cat([one.sequences, more], 1)
    two = generate(
        model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, past_key_values=one.past_key_values
    )
    return one, two


@each_method
def test_a_chat_goes_on_with_the_same_cache(model, method):
    first, more = models.batch(models.prompt()), torch.tensor([[11, 12, 13, 14]])
    found = []
    with torch.no_grad():
        for way in (method, masked(method)):
            with way(model, query=QUERY) as trace:
                found.append(chat(model, first, more, DynamicCache(config=model.config)))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a.sequences, b.sequences)
        torch.testing.assert_close(torch.stack(a.logits), torch.stack(b.logits), **CLOSE)
    assert [selection.source.shape[1] for selection in trace.selections] == [models.PATCHES, 0]


@each_method
def test_a_chat_equals_the_plain_loop(model, method):
    """The second turn against an oracle that recomputes both turns under explicit masks."""
    if "reindex" in repr(method):
        pytest.skip("the loop keeps positions")
    first, more = models.batch(models.prompt()), torch.tensor([[11, 12, 13, 14]])
    with torch.no_grad(), method(model, query=QUERY) as trace:
        one, two = chat(model, first, more, DynamicCache(config=model.config))
    x = torch.cat([oracles.merged_embeddings(model, first), *[]], 1)
    added = model.get_input_embeddings()(torch.cat([one.sequences[:, first["input_ids"].shape[1] :], more], 1)).detach()
    x = torch.cat([x, added], 1)
    hidden = {
        (0 if step.site == "projector" else step.site[1]): torch.nn.functional.pad(
            oracles.dropped_places(first, step.selection), (0, added.shape[1])
        )
        for step in trace.steps[0]
    }
    mask = torch.ones(x.shape[:2], dtype=torch.long)
    logits = oracles.layered_logits(model, x, mask, hidden, oracles.positions(mask))
    torch.testing.assert_close(two.logits[0], logits[:, -1], **CLOSE)


@each_method
def test_a_second_image_in_the_second_turn_is_cut_too(model, method):
    a, b = models.prompt(), models.prompt(seed=5)[1:]
    both = models.batch(torch.cat([a, b]))
    first, second = ({"pixel_values": pixels} for pixels in both["pixel_values"].split(1))
    found = []
    with torch.no_grad():
        for way in (method, masked(method)):
            with way(model, query=QUERY) as trace:
                cache = DynamicCache(config=model.config)
                model(input_ids=a[None], past_key_values=cache, **first)
                out = model(input_ids=b[None], past_key_values=cache, **second)
                found.append(out.logits[:, -1])
                assert cache.get_seq_length() == len(a) + len(b)
    torch.testing.assert_close(*found, **CLOSE)
    assert len(trace.selections) == 2 and trace.selections[1].count.tolist() == trace.selections[0].count.tolist()


@each_method
def test_decoding_by_hand_and_copies_of_the_cache(model, method):
    """A prefilled cache is copied; two continuations of it do not disturb each other, nor do interleaved ones."""
    inputs = models.batch(models.prompt(), models.prompt(words=9, seed=3))
    words = torch.tensor([[21], [22]]), torch.tensor([[31], [32]])
    with torch.no_grad(), method(model, query=QUERY):
        start = model(**inputs).past_key_values
        assert isinstance(start, ShortCache) and start.get_seq_length() == inputs["input_ids"].shape[1]
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
        place = inputs["attention_mask"].sum(1, keepdim=True)
        alone = []
        for word in words:
            cache = copy.deepcopy(start)
            alone.append(model(input_ids=word, attention_mask=mask, position_ids=place, past_key_values=cache).logits)
        left, right = copy.deepcopy(start), copy.deepcopy(start)
        for _ in range(2):
            a = model(input_ids=words[0], attention_mask=mask, position_ids=place, past_key_values=left).logits
            b = model(input_ids=words[1], attention_mask=mask, position_ids=place, past_key_values=right).logits
            assert torch.equal(a, alone[0]) and torch.equal(b, alone[1])
            left.crop(-1), right.crop(-1)


@each_method
def test_assisted_decoding_is_refused_by_name(model, method):
    """Its first forward holds guessed tokens, which would take part in the choice."""
    inputs = models.batch(torch.cat([models.prompt(), torch.tensor([21, 22, 23, 21, 22, 23, 21, 22])]))
    with (
        torch.no_grad(),
        method(model, query=QUERY),
        pytest.raises(UnsupportedCallError, match=r"assisted decoding.*Leave"),
    ):
        model.generate(**inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)
    with torch.no_grad():
        model.generate(**inputs, max_new_tokens=8, do_sample=False, prompt_lookup_num_tokens=3)


@each_method
def test_without_a_cache_each_step_is_a_prefill(model, method):
    inputs = models.batch(models.prompt())
    with torch.no_grad(), method(model, query=QUERY) as trace:
        output = generate(model, inputs, max_new_tokens=3, use_cache=False)
    assert len(trace.selections) == 3 and output.sequences.shape[1] == inputs["input_ids"].shape[1] + 3


def test_a_shortened_cache_is_refused_outside_the_block(model):
    inputs = models.batch(models.prompt())
    with torch.no_grad():
        with Simignore(keep=4)(model, query=QUERY):
            cache = model(**inputs).past_key_values
        with pytest.raises(UnsupportedCallError, match="shortened by simignore.*Continue inside"):
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)
        with Random(keep=3)(model):  # any later block may go on with it
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)


@pytest.mark.parametrize("first", METHODS[:4], ids=repr)
@pytest.mark.parametrize("second", METHODS[:4], ids=repr)
def test_another_method_may_go_on_with_the_cache(model, first, second):
    """Turn one under one method, turn two with another image under another: layers part where either cuts."""
    a, b = models.prompt(), models.prompt(seed=5)[1:]
    pixels = models.batch(torch.cat([a, b]))["pixel_values"].split(1)
    found = []
    with torch.no_grad():
        for way in (lambda m: m, masked):
            cache = DynamicCache(config=model.config)
            with way(first)(model, query=QUERY):
                model(input_ids=a[None], pixel_values=pixels[0], past_key_values=cache)
            with way(second)(model, query=QUERY):
                out = model(input_ids=b[None], pixel_values=pixels[1], past_key_values=cache)
                out = model(input_ids=torch.tensor([[5]]), past_key_values=cache)
            found.append(out.logits)
    torch.testing.assert_close(*found, **CLOSE)


@each_method
def test_rolling_back_words_and_saying_others(model, method):
    """Text after the image can be taken back and replaced; the cut tokens themselves cannot."""
    ids = models.prompt(words=6)
    inputs = models.batch(ids)
    other = torch.tensor([[41, 42]])
    with torch.no_grad(), method(model, query=QUERY):
        cache = model(**inputs).past_key_values
        model(input_ids=torch.tensor([[51, 52, 53]]), past_key_values=cache)
        expected = model(input_ids=other, past_key_values=copy.deepcopy(cache)).logits
        model(input_ids=torch.tensor([[61, 62]]), past_key_values=cache)
        cache.crop(-2)
        torch.testing.assert_close(model(input_ids=other, past_key_values=cache).logits, expected, **CLOSE)
        cache.crop(-2 - 3 - 6)  # all words after the image
        cache.crop(0)
        with pytest.raises(UnsupportedCallError, match="cannot take 15 tokens back"):
            cache.crop(-15)


def test_an_emptied_cache_is_a_plain_one_again(model):
    inputs = models.batch(models.prompt())
    with torch.no_grad(), Simignore(keep=4)(model, query=QUERY):
        cache = model(**inputs).past_key_values
        cache.reset()
        assert type(cache) is DynamicCache and cache.get_seq_length() == 0
        model(**inputs, past_key_values=cache)


@pytest.mark.parametrize("method", METHODS[:2], ids=repr)
def test_fixed_size_caches_are_refused_by_name(model, method):
    inputs = models.batch(models.prompt())
    with method(model, query=QUERY), torch.no_grad():
        with pytest.raises(UnsupportedCallError, match="StaticCache.*DynamicCache"):
            model(**inputs, past_key_values=StaticCache(config=model.config, max_cache_len=64))
        with pytest.raises(UnsupportedCallError, match="StaticCache"):
            generate(model, inputs, cache_implementation="static")
    assert generate(model, inputs).sequences.shape[0] == 1  # and the model is fine


# ---------------------------------------------------------------- several of everything


@each_method
def test_several_images_are_chosen_among_together(model, method):
    inputs = models.batch(models.prompt(images=3))
    with torch.no_grad(), method(model, query=QUERY) as trace:
        output = generate(model, inputs)
    with torch.no_grad(), masked(method)(model, query=QUERY):
        expected = generate(model, inputs)
    assert trace.selections[0].source.shape == (1, 3 * models.PATCHES)
    assert [grid.size for grid in trace.patches[0].grids[0]] == [(4, 4)] * 3
    assert torch.equal(output.sequences, expected.sequences)


@each_method
def test_two_models_and_two_threads_at_once(method):
    a, b = models.fresh(), models.fresh(seed=7)
    inputs = models.batch(models.prompt()), models.batch(models.prompt(words=9, seed=3), models.prompt(seed=4))
    with torch.no_grad():
        with method(a, query=QUERY):
            alone = [generate(a, i, max_new_tokens=8).sequences for i in inputs]
        with method(a, query=QUERY) as trace, method(b, query=QUERY) as other:
            found: dict[int, list] = {0: [], 1: []}

            def work(n):
                with torch.no_grad():
                    for _ in range(6):
                        found[n].append(generate(a, inputs[n], max_new_tokens=8).sequences)

            threads = [threading.Thread(target=work, args=(n,)) for n in (0, 1)]
            for thread in threads:
                thread.start()
            generate(b, inputs[0])
            for thread in threads:
                thread.join()
    for n in (0, 1):
        assert len(found[n]) == 6 and all(torch.equal(sequences, alone[n]) for sequences in found[n])
    assert len(trace.selections) == 12 and len(other.selections) == 1


def test_nested_blocks_on_one_model_are_refused_and_leave_the_outer_one_working(model):
    inputs = models.batch(models.prompt())
    with torch.no_grad(), Simignore(keep=4)(model, query=QUERY) as trace:
        before = model(**inputs).logits
        with pytest.raises(UnsupportedCallError, match=r"inside another.*Chain"), Random(keep=2)(model):
            pass
        assert torch.equal(model(**inputs).logits, before)
    assert len(trace.selections) == 2
    with Random(keep=2)(model):
        pass


def test_a_trace_belongs_to_one_block(model):
    inputs, splice = models.batch(models.prompt()), Random(keep=2)(model)
    with torch.no_grad():
        with splice as first:
            model(**inputs)
        with splice as second:
            model(**inputs)
            model(**inputs)
    assert (len(first.selections), len(second.selections)) == (1, 2)
    assert all(seconds > 0 for seconds in second.seconds)


@pytest.mark.parametrize(
    ("method", "where", "name", "times"),
    [
        (HiPrune(keep=3, object_layer=0), tower, "received", 2),
        (FasterVLM(keep=3), tower, "class_attention", 1),
        (FastV(keep=3, layer=1), observe, "attention_row", 1),
    ],
    ids=["tower, two layers", "tower, class token", "decoder"],
)
def test_attention_that_is_computed_for_a_method_counts_as_choosing(model, monkeypatch, method, where, name, times):
    if name == "class_attention" and not tower.Tower(parts(model), method.looks).has_class:
        name = "received"
    quick = getattr(where, name)
    monkeypatch.setattr(where, name, lambda *args, **kwargs: (time.sleep(0.2), quick(*args, **kwargs))[1])
    with torch.no_grad(), method(model) as trace:
        model(**models.batch(models.prompt()))
        model(**models.batch(models.prompt()))
    for seconds in trace.seconds:
        assert 0.2 * times <= seconds < 0.2 * times + 0.2


# ---------------------------------------------------------------- queries


def test_a_query_for_all_or_for_each(model):
    inputs = models.batch(models.prompt(), models.prompt(words=9, seed=3))
    a, b = torch.tensor([7, 8]), torch.tensor([50, 51, 52])
    with torch.no_grad():
        chosen = []
        for query in (a, b, [a, b], [[7, 8], [50, 51, 52]]):
            with Simignore(keep=4)(model, query=query) as trace:
                model(**inputs)
                generate(model, inputs, num_beams=2)
            assert trace.query == "given"
            chosen.append(trace.selections[0].index)
            assert torch.equal(trace.selections[1].index[::2], trace.selections[0].index)  # beams repeat their prompt's
    assert torch.equal(chosen[2], torch.stack([chosen[0][0], chosen[1][1]])) and torch.equal(chosen[2], chosen[3])


def test_without_a_processor_the_whole_text_is_the_query(model):
    ids = models.prompt()
    text = torch.tensor([token for token in ids.tolist() if token not in (models.IMAGE, models.BOS)])
    with torch.no_grad():
        with Simignore(keep=4)(model) as trace:
            model(**models.batch(ids))
        with Simignore(keep=4)(model, query=text) as given:
            model(**models.batch(ids))
    assert trace.query == "whole prompt" and torch.equal(trace.selections[0].index, given.selections[0].index)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (torch.tensor([], dtype=torch.long), "no tokens"),
        ([], "no tokens"),
        (torch.tensor([1.5]), "1-D tensor of token ids, got torch.float32"),
        (torch.tensor([[1, 2]]), r"shape \(1, 2\)"),
        (torch.tensor([models.VOCABULARY]), "token 100 is outside the model's vocabulary of 100"),
        (torch.tensor([-1]), "token -1 is outside"),
    ],
)
def test_bad_queries_are_refused_before_anything_runs(model, query, message):
    with pytest.raises(ValueError, match=message):
        Simignore(keep=4)(model, query=query)


def test_bad_calls_name_the_value_and_the_remedy(model):
    inputs = models.batch(models.prompt(), models.prompt(seed=3))
    bare = models.batch(torch.cat([torch.tensor([models.BOS]), torch.full((models.PATCHES,), models.IMAGE)]))
    with torch.no_grad():
        with Simignore(keep=4)(model, query=[QUERY] * 3), pytest.raises(ValueError, match="3 entries for a batch of 2"):
            model(**inputs)
        with Simignore(keep=4)(model), pytest.raises(ValueError, match="no text to compare"):
            model(**bare)
        with (
            Random(keep=99)(model),
            pytest.raises(ValueError, match="keep=99 image tokens, but there are only 16"),
        ):
            model(**inputs)
        short = {**inputs, "attention_mask": inputs["attention_mask"][:, :-3]}
        with Random(keep=4)(model), pytest.raises(UnsupportedCallError, match=r"attention_mask has \d+ columns, but"):
            model(**short)
        embeds = model.get_input_embeddings()(inputs["input_ids"]).detach() + 0.1
        with Random(keep=4)(model), pytest.raises(UnsupportedCallError, match="Pass input_ids and pixel_values"):
            model(inputs_embeds=embeds)
        with pytest.raises(ValueError, match="layers 1 to 3"):
            FastV(keep=4, layer=4)(model)
        with pytest.raises(ValueError, match="put earlier cuts first"):
            Chain(FastV(keep=4, layer=2), Random(keep=3))(model)
        model(**inputs)
