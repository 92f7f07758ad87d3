"""Curves by plain sums over the places of each part, convergence by its written definition, entropy by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simignore.flow.curves import convergence, curves
from simignore.flow.spans import Spans

NAMES = ("system", "image 1", "question", "template", "earlier answer")
# the image's row end at place 3 is in its part and is no image token
SPANS = Spans(NAMES, np.array([0, 1, 1, 1, 2, 2, 3, 4, 4]), prompt=7, answer=3)
IMAGE = np.array([1, 2])


def rows(layers: int = 4, seed: int = 0):
    """What attention looks like: nothing from later places, rows that sum to 1, a layer without attention."""
    given = np.random.default_rng(seed).random((3, layers, 9)).astype(np.float32)
    for a in range(3):
        given[a, :, 7 + a :] = 0
    given /= given.sum(-1, keepdims=True)
    asked = np.random.default_rng(seed + 1).random((layers, 9)).astype(np.float32)
    given[:, 2] = asked[2] = np.nan
    return given, asked


def test_every_number_is_the_sum_over_its_places():
    given, asked = rows()
    found = curves("attention", given, asked, SPANS, IMAGE)
    assert found.measure == "attention" and found.spans == NAMES
    assert found.counts.tolist() == [[1, 3, 2, 1, 0], [1, 3, 2, 1, 1], [1, 3, 2, 1, 2]]
    for a in range(3):
        for layer in (0, 1, 3):
            for s in range(5):
                expected = sum(float(given[a, layer, t]) for t in range(9) if SPANS.number[t] == s)
                assert found.into[a, layer, s] == pytest.approx(expected, abs=1e-12)
            assert found.into[a, layer].sum() == pytest.approx(1, abs=1e-6)
            assert found.tokens[a, layer].tolist() == [given[a, layer, 1], given[a, layer, 2]]
    assert np.isnan(found.into[:, 2]).all() and not np.isnan(found.into[:, [0, 1, 3]]).any()
    assert found.question[[0, 1, 3]].tolist() == asked[[0, 1, 3]][:, IMAGE].tolist()
    assert np.isnan(found.question[2]).all() and np.isnan(found.tokens[:, 2]).all()
    flow = [sum(given[a, layer, t] for a in range(3) for t in IMAGE) / 3 for layer in range(4)]
    np.testing.assert_allclose(found.convergence.flow, flow, rtol=1e-6)
    assert found.per_token[1, 0, 4] == found.into[1, 0, 4] and found.per_token[2, 0, 4] == found.into[2, 0, 4] / 2
    assert found.share[0, 0].sum() == pytest.approx(1)


def test_a_layer_without_attention_has_no_number_even_for_an_empty_part():
    given, asked = rows()
    one = Spans(NAMES, SPANS.number[:7], prompt=7, answer=1)
    found = curves("saliency", given[:1, :, :7], asked[:, :7], one, IMAGE)
    assert np.isnan(found.into[0, 2]).all() and (found.into[0, [0, 1, 3], 4] == 0).all()


@pytest.mark.parametrize(
    ("flow", "layer", "first", "last"),
    [
        ([0.1, 0.2, 0.9, 0.45, 0.44, 0.8], 2, 2, 3),  # just half is enough, and what lies beyond a gap is not near
        ([0.5, 0.9, 0.9, 0.1], 1, 0, 2),  # the first of equals
        ([0.9, math.nan, 0.5, math.nan], 0, 0, 2),  # layers without attention do not part the run, and do not end it
        ([math.nan, 0.1, math.nan, 0.9, math.nan, 0.2], 3, 3, 3),
        ([0.7], 0, 0, 0),
        ([0.0, 0.0, math.nan], -1, -1, -1),
    ],
)
def test_the_convergence_layer_and_the_run_around_it(flow, layer, first, last):
    found = convergence(np.array(flow), np.array(flow)[:, None])
    assert (found.layer, found.first, found.last) == (layer, first, last)
    np.testing.assert_array_equal(found.flow, flow)


def test_the_spread_is_the_exponential_of_the_entropy():
    tokens = np.array([[1, 0, 0, 0], [2, 2, 2, 2], [1, 1, 0, 0], [5, 3, 2, 0], [0, 0, 0, 0], [np.nan] * 4])
    found = convergence(tokens.sum(-1), tokens).spread
    by_hand = math.exp(-sum(p * math.log(p) for p in (0.5, 0.3, 0.2)))
    np.testing.assert_allclose(found[:4], [1, 4, 2, by_hand], rtol=1e-12)
    assert np.isnan(found[4:]).all()
    huge = convergence(tokens[:4].sum(-1) * 1e-30, tokens[:4] * 1e-30).spread  # the spread has no unit
    np.testing.assert_allclose(huge, found[:4], rtol=1e-12)


def test_what_does_not_fit_is_refused():
    given, asked = rows()
    for wrong, message in (
        ((given[:2], asked), "answer of 3 tokens"),
        ((given[..., :8], asked), "9 places"),
        ((given, asked[:3]), "question_rows"),
        ((np.full_like(given, np.nan), asked), "none of the 4 layers"),
        ((-given, asked), "below zero"),
    ):
        with pytest.raises(ValueError, match=message):
            curves("attention", *wrong, SPANS, IMAGE)
    with pytest.raises(ValueError, match="do not fit together"):
        convergence(np.ones(3), np.ones((2, 4)))
