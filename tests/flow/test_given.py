"""Exactly the image tokens that are given stay, none among them, and the splice says so."""

from __future__ import annotations

import pytest
import torch

import models
import oracles
from simignore import Random
from simignore.flow.given import Given
from simignore.methods import METHODS

PROMPTS = models.prompt(5), models.prompt(3, seed=1)


@pytest.mark.parametrize("layer", [None, 2])
@pytest.mark.parametrize("name", ["clip-llama", "siglip-phi"])
def test_what_is_given_stays_and_the_answer_is_that_of_a_mask(name, layer):
    """A plain loop over the decoder's layers with explicit masks is the oracle; one sample keeps no image token at all."""
    model, inputs = models.model(name), models.batch(*PROMPTS)
    method = Given(((0, 3, 15), ()), layer=layer)
    settings = dict(max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True)
    with method(model) as trace:
        output = model.generate(**inputs, **settings)
    selection = trace.selections[0]
    assert selection.count.tolist() == [3, 0] and selection.index[0].tolist() == [0, 3, 15]
    hidden = {layer or 0: oracles.dropped_places(inputs, selection)}
    ids, logits = oracles.greedy(model, inputs, hidden, 4)
    assert output.sequences[:, -4:].tolist() == ids.tolist()
    torch.testing.assert_close(torch.stack(output.logits, 1), logits, atol=1e-5, rtol=1e-4)


def test_no_image_token_of_any_sample_shortens_by_all_of_them():
    inputs = models.batch(PROMPTS[0])
    with Given(((),))(models.model()) as trace, torch.no_grad():
        models.model()(**inputs)
    assert trace.tokens_before[0] - trace.tokens_after[0] == models.PATCHES


def test_all_of_them_change_no_bit():
    model, inputs = models.model(), models.batch(PROMPTS[0])
    with torch.no_grad():
        plain = model(**inputs).logits
        with Given.mask(torch.ones(1, models.PATCHES, dtype=torch.bool))(model):
            assert torch.equal(model(**inputs).logits, plain)


def test_its_repr_builds_it_again_and_a_mask_makes_the_same():
    method = Given(((3, 1), ()), layer=2, hide="mask")
    assert method.tokens == ((1, 3), ()) and eval(repr(method)) == method
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, [1, 3]] = True
    assert Given.mask(mask, 2) == Given(((1, 3), ()), layer=2)
    assert str(method) == repr(method) and "given" not in METHODS


@pytest.mark.parametrize(
    "make, error, told",
    [
        (lambda: Given(((1, 1),)), ValueError, "name each once"),
        (lambda: Given(((-1,),)), ValueError, "counted from 0"),
        (lambda: Given(((0.5,),)), TypeError, "integer"),
        (lambda: Given.mask(torch.zeros(1, 5)), ValueError, "boolean"),
        (lambda: Given.mask(torch.zeros(5, dtype=torch.bool)), ValueError, r"\(5,\)"),
    ],
)
def test_what_cannot_be_given_is_refused(make, error, told):
    with pytest.raises(error, match=told):
        make()


@pytest.mark.parametrize("tokens, told", [(((0,), (0,)), "2 samples, and 1"), (((16,),), "token 16 .* has 16")])
def test_tokens_that_are_not_there_are_refused(tokens, told):
    model, inputs = models.model(), models.batch(PROMPTS[0])
    with torch.no_grad(), Given(tokens)(model), pytest.raises(ValueError, match=told):
        model(**inputs)


def test_a_method_that_does_not_say_so_may_not_clear_a_sample():
    class Nothing(Random):
        def choose(self, view):
            return Given(((),)).choose(view)

    model, inputs = models.model(), models.batch(PROMPTS[0])
    with torch.no_grad(), Nothing(keep=1)(model), pytest.raises(ValueError, match="returned nothing for sample 0"):
        model(**inputs)
