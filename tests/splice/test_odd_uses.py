"""Uses in which an earlier version went wrong silently, or could: ragged batches, odd prompts, modes of generate."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LlavaForConditionalGeneration

import models
import oracles
from simignore import (
    AtLeast,
    Chain,
    FastV,
    Random,
    Scorer,
    Simignore,
    SparseVLM,
    UnsupportedCallError,
    UnsupportedModelError,
)
from splice.test_engine import CLOSE, QUERY, each_method, generate, masked


@pytest.fixture
def model():
    return models.model()


# ---------------------------------------------------------------- ragged batches


RAGGED = {
    "text beside an image": (models.prompt(images=0, words=4), models.prompt(seed=3)),
    "long text beside an image": (models.prompt(images=0, words=60), models.prompt(seed=3)),
    "one image beside three": (models.prompt(words=3), models.prompt(images=3, seed=2)),
}


@each_method
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", RAGGED)
def test_every_text_place_of_a_ragged_batch_is_right(model, method, side, case):
    """Logits, loss and hidden states at all text places, not only the last."""
    inputs = models.batch(*RAGGED[case], side=side)
    text = (inputs["input_ids"] != models.IMAGE) & inputs["attention_mask"].bool()
    labels = inputs["input_ids"].masked_fill(~text, -100)
    with torch.no_grad():
        with method(model, query=QUERY):
            short = model(**inputs, labels=labels, output_hidden_states=True)
        with masked(method)(model, query=QUERY):
            full = model(**inputs, labels=labels, output_hidden_states=True)
    torch.testing.assert_close(short.logits[text], full.logits[text], **CLOSE)
    torch.testing.assert_close(short.loss, full.loss, **CLOSE)
    for a, b in zip(short.hidden_states, full.hidden_states, strict=True):
        torch.testing.assert_close(a[text], b[text], **CLOSE)


def test_hidden_states_come_from_their_own_run(model):
    """Two runs of the same width that hold other tokens: the projector keeps 8 and 16, FastV 8 of each."""
    inputs = models.batch(models.prompt(), models.prompt(images=2, seed=2))
    method = Chain(Simignore(keep=0.5), FastV(keep=8, layer=2))
    text = (inputs["input_ids"] != models.IMAGE) & inputs["attention_mask"].bool()
    with torch.no_grad():
        with method(model, query=QUERY):
            short = model(**inputs, output_hidden_states=True).hidden_states
        with masked(method)(model, query=QUERY):
            full = model(**inputs, output_hidden_states=True).hidden_states
    for a, b in zip(short, full, strict=True):
        torch.testing.assert_close(a[text], b[text], **CLOSE)


def test_padding_is_not_carried_along(model):
    """A short text beside an image that is dropped: the batch gets as short as its longest sample needs."""
    inputs = models.batch(models.prompt(images=0, words=2), models.prompt(images=3))
    with torch.no_grad(), Random(keep=0.1)(model) as trace:
        model(**inputs)
    assert trace.tokens_before == [60] and trace.tokens_after == [60 - 48 + 5]


def test_a_threshold_that_keeps_one_sample_whole(model):
    """Counts 16 and fewer in one batch."""
    inputs = models.batch(models.prompt(), models.prompt(seed=3))
    with torch.no_grad():
        with Simignore(keep=1.0)(model, query=QUERY) as trace:
            model(**inputs)
        least = float(trace.selections[0].score[0].min())
        found = {}
        for hide in ("drop", "mask"):
            with Simignore(keep=AtLeast(least), hide=hide)(model, query=QUERY) as trace:
                found[hide] = model(**inputs).logits
    assert trace.selections[0].count[0] == models.PATCHES
    text = (inputs["input_ids"] != models.IMAGE) & inputs["attention_mask"].bool()
    torch.testing.assert_close(found["drop"][text], found["mask"][text], **CLOSE)


@each_method
def test_a_right_padded_sample_gets_what_it_gets_alone(model, method):
    """FastV's last prompt token is then not the last column."""
    prompts = models.prompt(), models.prompt(words=11, seed=2)
    together = models.batch(*prompts, side="right")
    with torch.no_grad(), method(model, query=QUERY) as trace:
        logits = model(**together).logits
    for b, prompt in enumerate(prompts):
        alone = {**models.batch(prompt), "pixel_values": together["pixel_values"][b : b + 1]}
        with torch.no_grad(), method(model, query=QUERY) as single:
            own = model(**alone).logits
        assert torch.equal(single.selections[0].index[0], trace.selections[0].index[b])
        torch.testing.assert_close(logits[b, len(prompt) - 1], own[0, -1], **CLOSE)


# ---------------------------------------------------------------- prompts


def test_words_that_rate_the_image_are_asked_for_where_there_are_none(model):
    """Zeros would keep the first tokens; a text-only sample beside it needs no words."""
    ends = torch.cat([models.prompt(images=0, words=2), torch.full((models.PATCHES,), models.IMAGE)])
    method = SparseVLM(keep=4, layers=(1, 3))
    with (
        torch.no_grad(),
        method(model),
        pytest.raises(ValueError, match=r"sample 1 ends with its image.*Put the question"),
    ):
        model(**models.batch(models.prompt(), ends))
    with torch.no_grad(), method(model) as trace:
        model(**models.batch(models.prompt(), models.prompt(images=0)))
    assert trace.selections[0].count.tolist() == [4, 0]


@each_method
def test_a_prompt_that_ends_with_its_image(model, method):
    """The last token says what comes next, so it stays, unseen, even if it is not chosen."""
    ids = torch.cat([models.prompt(images=0, words=0), torch.full((models.PATCHES,), models.IMAGE)])
    inputs = models.batch(ids)
    found = []
    with torch.no_grad():
        for way in (method, masked(method)):
            with way(model, query=QUERY):
                found.append(generate(model, inputs))
    assert torch.equal(found[0].sequences, found[1].sequences)
    torch.testing.assert_close(torch.stack(found[0].logits), torch.stack(found[1].logits), **CLOSE)


def native(model, inputs, selection):
    """The same prompt as if it had been short from the start: embeddings of what stayed, no method, fresh positions."""
    x = oracles.merged_embeddings(model, inputs)
    stays = ~oracles.dropped_places(inputs, selection)[0]
    return x[:, stays]


def test_reindex_equals_a_natively_short_prompt_over_two_turns(model):
    first, more = models.batch(models.prompt()), torch.tensor([[11, 12, 13, 14]])
    method = Simignore(keep=5, positions="reindex")
    with torch.no_grad():
        with method(model, query=QUERY) as trace:
            cache = DynamicCache(config=model.config)
            one = generate(model, first, past_key_values=cache)
            ids = torch.cat([one.sequences, more], 1)
            both = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            two = generate(model, both, past_key_values=cache)
        x = native(model, first, trace.selections[0])
        embed = model.get_input_embeddings()
        answer = one.sequences[:, first["input_ids"].shape[1] :]
        decoder, head = model.model.language_model, model.lm_head
        expected = head(decoder(inputs_embeds=torch.cat([x, embed(answer)], 1)).last_hidden_state)
        torch.testing.assert_close(torch.stack(one.logits, 1), expected[:, x.shape[1] - 1 : -1], **CLOSE)
        x = torch.cat([x, embed(answer), embed(more), embed(two.sequences[:, ids.shape[1] :])], 1)
        expected = head(decoder(inputs_embeds=x).last_hidden_state)
        torch.testing.assert_close(torch.stack(two.logits, 1), expected[:, -6:-1], **CLOSE)


def test_positions_are_counted_on_without_being_passed(model):
    """A second turn by hand without position ids, against the plain loop."""
    first, more = models.batch(models.prompt()), torch.tensor([[11, 12, 13]])
    with torch.no_grad(), Simignore(keep=5)(model, query=QUERY) as trace:
        cache = model(**first).past_key_values
        logits = model(input_ids=more, past_key_values=cache).logits
    x = torch.cat([oracles.merged_embeddings(model, first), model.get_input_embeddings()(more).detach()], 1)
    hidden = torch.nn.functional.pad(oracles.dropped_places(first, trace.selections[0]), (0, 3))
    mask = torch.ones(x.shape[:2], dtype=torch.long)
    expected = oracles.layered_logits(model, x, mask, {0: hidden}, oracles.positions(mask))
    torch.testing.assert_close(logits, expected[:, -3:], **CLOSE)


def test_scores_and_sources_of_a_chain_are_told_in_the_users_numbers(model):
    inputs = models.batch(models.prompt())
    with torch.no_grad():
        with Simignore(keep=9)(model, query=QUERY) as alone:
            model(**inputs)
        with Chain(Simignore(keep=9), FastV(keep=4, layer=2))(model, query=QUERY) as trace:
            model(**inputs)
    first, second = (step.selection for step in trace.steps[0])
    assert torch.equal(first.index, alone.selections[0].index)
    torch.testing.assert_close(trace.selections[0].score, alone.selections[0].score)
    assert torch.equal(~second.score.isnan(), first.kept)  # the second cut scored those that the first one left
    best = second.score.nan_to_num(-1).topk(4).indices.sort().values
    assert torch.equal(trace.selections[0].index, best)


# ---------------------------------------------------------------- masks and caches


@each_method
def test_a_mask_that_hides_more_later_is_obeyed(model, method):
    """Words that were seen at the prefill may be hidden in a decoding step."""
    inputs = models.batch(models.prompt())
    t = inputs["input_ids"].shape[1]
    mask = torch.ones(1, t + 1, dtype=torch.long)
    mask[:, 1:3] = 0
    word, place = torch.tensor([[21]]), torch.tensor([[t]])
    found = []
    with torch.no_grad():
        for way in (method, masked(method)):
            with way(model, query=QUERY):
                cache = model(**inputs).past_key_values
                later = dict(input_ids=word, position_ids=place)
                seen = model(**later, past_key_values=copy.deepcopy(cache)).logits
                hidden = model(**later, attention_mask=mask, past_key_values=cache).logits
                found.append(hidden)
                assert (seen - hidden).abs().max() > 1e-3
    torch.testing.assert_close(*found, **CLOSE)


def test_packed_rows_are_refused(model):
    ids = torch.cat([models.prompt(), models.prompt(seed=2)])
    inputs = models.batch(ids)
    places = torch.cat([torch.arange(len(ids) // 2)] * 2)[None]
    with (
        torch.no_grad(),
        Random(keep=8)(model),
        pytest.raises(UnsupportedCallError, match="packed sequences.*rows of a batch"),
    ):
        model(input_ids=ids[None], pixel_values=inputs["pixel_values"], position_ids=places, use_cache=False)


def test_words_after_a_second_image_can_be_taken_back_but_not_the_image(model):
    a, b = models.prompt(), models.prompt(seed=5)[1:]
    pixels = models.batch(torch.cat([a, b]))["pixel_values"].split(1)
    with torch.no_grad(), Simignore(keep=4)(model, query=QUERY):
        cache = DynamicCache(config=model.config)
        model(input_ids=a[None], pixel_values=pixels[0], past_key_values=cache)
        model(input_ids=b[None], pixel_values=pixels[1], past_key_values=cache)
        cache.crop(-6)
        with pytest.raises(UnsupportedCallError):
            cache.crop(-12)


@pytest.mark.skipif(
    "mm_encoder_outputs" not in inspect.signature(LlavaForConditionalGeneration.forward).parameters,
    reason="this transformers refuses chunks with an image by itself",
)
@pytest.mark.parametrize("size", [1, 7, 20, 500])
def test_prefill_in_chunks_is_refused(model, size):
    inputs = models.batch(models.prompt())
    features = {"image": model.get_image_features(inputs.pop("pixel_values"), return_dict=True)}
    settings = dict(max_new_tokens=2, do_sample=False, prefill_chunk_size=size)
    with (
        torch.no_grad(),
        FastV(keep=4)(model),
        pytest.raises(UnsupportedCallError, match="prefill_chunk_size=.*Leave it out"),
    ):
        model.generate(**inputs, mm_encoder_outputs=features, **settings)
    text = models.batch(models.prompt(images=0))
    with torch.no_grad(), FastV(keep=4)(model):
        model.generate(**text, **settings)  # nothing to choose among


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
@pytest.mark.parametrize("window", [12, 28])
def test_a_sliding_window_is_counted_among_the_tokens_that_are_left(kind, window):
    """As in a native run: the decoder called directly on the kept tokens at their positions, and then token by token."""
    more = {"use_sliding_window": True, "max_window_layers": 0} if kind == "qwen2" else {}
    model, inputs = models.fresh(f"clip-{kind}", sliding_window=window, **more), models.batch(models.prompt(words=9))
    with torch.no_grad(), Simignore(keep=6)(model, query=QUERY) as trace:
        output = generate(model, inputs, max_new_tokens=9)
    kept = oracles.kept_places(model, inputs, trace.selections[0], trace.patches[0])
    logits = oracles.native_logits(model, inputs, kept, output.sequences[0, -9:])
    torch.testing.assert_close(torch.stack(output.logits, 1)[0], logits, **CLOSE)
    wider = models.fresh(f"clip-{kind}", **more)
    with torch.no_grad(), Simignore(keep=6)(wider, query=QUERY):
        unlimited = generate(wider, inputs, max_new_tokens=9).logits[-1]
    assert torch.equal(unlimited, output.logits[-1]) == (window == 28)  # 28 places hold all that is left of 27


# ---------------------------------------------------------------- interrupts, copies, wrappers


def test_an_interrupt_in_the_decoder_leaves_nothing_behind(model):
    """KeyboardInterrupt passes torch's hooks by."""
    inputs = models.batch(models.prompt())
    t = inputs["input_ids"].shape[1]

    def interrupt(*_):
        raise KeyboardInterrupt

    for inside in (True, False):
        with torch.no_grad(), Simignore(keep=4)(model, query=QUERY):
            cache = model(**inputs).past_key_values
            hook = model.model.language_model.layers[2].register_forward_pre_hook(interrupt)
            with pytest.raises(KeyboardInterrupt):
                model(input_ids=torch.tensor([[5]]), past_key_values=cache)
            hook.remove()
            if inside:  # the next forward of the block cleans up
                model(**inputs)
                assert cache.get_seq_length() == t
        assert cache.get_seq_length() == t  # and so does leaving it
        with torch.no_grad(), pytest.raises(UnsupportedCallError, match="shortened by simignore"):
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)


def test_attention_may_be_switched_inside_the_block():
    inputs = models.batch(models.prompt())
    model = models.fresh(attention="eager")
    with torch.no_grad(), FastV(keep=5)(model):
        before = model(**inputs).logits[:, -1]
        model.set_attn_implementation("sdpa")
        torch.testing.assert_close(model(**inputs).logits[:, -1], before, **CLOSE)


def test_a_compiled_model_is_refused_and_a_compiled_decoder_works():
    model, inputs = models.fresh(), models.batch(models.prompt())
    with pytest.raises(UnsupportedModelError, match=r"Compile its decoder instead: .*language_model\.compile"):
        Random(keep=4)(torch.compile(model, backend="eager"))
    with torch.no_grad(), Random(keep=4)(model):
        before = model(**inputs).logits
    model.model.language_model.compile(backend="eager")
    with torch.no_grad(), Random(keep=4)(model) as trace:
        torch.testing.assert_close(model(**inputs).logits, before, **CLOSE)
    assert trace.selections[0].count.tolist() == [4]


def test_copies_wrappers_and_recurrent_layers(model):
    with Random(keep=4)(model), pytest.raises(UnsupportedCallError, match="copy it before or afterwards"):
        copy.deepcopy(model)
    wrapped = models.fresh()
    wrapped.get_base_model = lambda: model
    with pytest.raises(UnsupportedModelError, match="pass model.get_base_model"):
        Random(keep=4)(wrapped)
    hybrid = models.fresh()
    del hybrid.model.language_model.layers[1].self_attn
    with pytest.raises(UnsupportedModelError, match="mix tokens in an unknown way .LlamaDecoderLayer"):
        Random(keep=4)(hybrid)


def test_leaving_a_block_that_was_never_entered_frees_no_other(model):
    one, two = Random(keep=4)(model), Random(keep=3)(model)
    with one:
        two.__exit__(None, None, None)
        with pytest.raises(UnsupportedCallError, match="inside another"), two:
            pass


# ---------------------------------------------------------------- numbers of other kinds


def test_numpy_numbers_are_numbers(model):
    assert Random(keep=np.int64(5)) == Random(keep=5) and Random(keep=np.float32(0.5)) == Random(keep=0.5)
    with pytest.raises(ValueError, match=r"score='0\.3' is not a finite number"):
        AtLeast("0.3")
    for seed in (1.5, "a", None, -1):
        with pytest.raises(ValueError, match="seed="):
            Random(keep=3, seed=seed)
    for query in ("what colour", ["what"]):
        with pytest.raises(ValueError, match="a query is token ids"):
            Simignore(keep=3)(model, query=query)
    inputs = models.batch(models.prompt())
    with torch.no_grad(), Simignore(keep=3)(model, query=[np.int64(7), np.int64(8), np.int64(9)]) as trace:
        model(**inputs)
    with torch.no_grad(), Simignore(keep=3)(model, query=QUERY) as same:
        model(**inputs)
    assert torch.equal(trace.selections[0].index, same.selections[0].index)


def test_whole_numbers_are_scores_too(model):
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Even(Scorer):
        def score(self, view):
            return (torch.arange(view.valid.shape[1]) % 2 == 0).long().expand_as(view.valid)

    with torch.no_grad(), Even(keep=3)(model) as trace:
        model(**models.batch(models.prompt()))
    assert trace.selections[0].index.tolist() == [[0, 2, 4]]


def test_autocast_does_not_blur_the_choice(model):
    inputs = models.batch(models.prompt())
    with torch.no_grad():
        with Simignore(keep=5)(model, query=QUERY) as exact:
            model(**inputs)
        with torch.autocast("cpu", torch.bfloat16), Simignore(keep=5)(model, query=QUERY) as mixed:
            model(**inputs)
    assert mixed.selections[0].score.dtype == exact.selections[0].score.dtype == torch.float32
    assert len(mixed.selections[0].score.unique()) == models.PATCHES


def test_functions_that_bear_a_name_of_transformers_are_not_taken_for_its_own(model):
    """A user's `_prefill` has other variables, and a user's `_assisted_decoding` guesses nothing."""

    def _prefill():
        generation_config = SimpleNamespace(prefill_chunk_size=4)
        return model(**inputs), generation_config

    def _assisted_decoding():
        return _prefill()

    inputs = models.batch(models.prompt())
    with torch.no_grad(), Random(keep=4)(model) as trace:
        _assisted_decoding()
    assert trace.selections[0].count.tolist() == [4]
