"""Budgets against plain loops, their bounds, and their errors read aloud."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simignore.budget import (
    AtLeast,
    Mass,
    OfAll,
    Outliers,
    Schedule,
    budget,
    check_count,
    check_keep,
    check_layer,
    check_number,
)
from simignore.select import top_k

SCORES = st.lists(st.integers(-8, 8).map(lambda x: x / 8), min_size=1, max_size=12)
CAPS = st.sampled_from([None, 1, 3, 100, 0.25, 1.0])


def bounded(wanted, cap, tokens):
    """At least one, at most the cap and what is there."""
    most = tokens if cap is None else cap if isinstance(cap, int) else max(1, math.floor(cap * tokens + 0.5))
    return min(max(wanted, 1), most, tokens)


@settings(deadline=None)
@given(scores=SCORES, threshold=st.integers(-9, 9).map(lambda x: x / 8), cap=CAPS)
def test_at_least(scores, threshold, cap):
    reached = sum(1 for s in scores if s >= threshold)
    found, note = AtLeast(threshold, cap).count(torch.tensor(scores), 99)
    assert found == bounded(reached, cap, len(scores))
    assert note == ("" if reached else f"no image token reached the threshold {threshold:g}; the best one stayed")


@settings(deadline=None)
@given(scores=SCORES, share=st.sampled_from([0.01, 0.3, 0.5, 0.9, 1.0]), cap=CAPS)
def test_mass_of_scores_as_they_are(scores, share, cap):
    scores = [abs(s) for s in scores]
    running, wanted = 0.0, 0
    for s in sorted(scores, reverse=True):  # eighths: the sums are exact
        if wanted and running >= share * sum(scores):
            break
        running, wanted = running + s, wanted + 1
    assert Mass(share, cap).count(torch.tensor(scores), 99) == (bounded(wanted, cap, len(scores)), "")


@settings(deadline=None)
@given(scores=SCORES, share=st.sampled_from([0.3, 0.9]), temperature=st.sampled_from([0.1, 1.0, 10]))
def test_mass_after_a_softmax(scores, share, temperature):
    powers = sorted((math.exp((s - max(scores)) / temperature) for s in scores), reverse=True)
    found, _ = Mass(share, temperature=temperature).count(torch.tensor(scores), 99)
    assert sum(powers[:found]) >= share * sum(powers) * (1 - 1e-9)
    assert found == 1 or sum(powers[: found - 1]) < share * sum(powers) * (1 + 1e-9)


def quantile(ordered, q):
    """Between neighbours in a straight line."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


@settings(deadline=None)
@given(scores=SCORES, factor=st.sampled_from([-0.5, 0.0, 0.5, 1.5]), cap=CAPS)
def test_outliers(scores, factor, cap):
    first, third = quantile(sorted(scores), 0.25), quantile(sorted(scores), 0.75)
    found = sum(1 for s in scores if s > third + factor * (third - first))
    count, note = Outliers(factor, cap).count(torch.tensor(scores), 99)
    assert count == bounded(found, cap, len(scores))
    assert note == ("" if found else "no image token stands out; the best one stayed")


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        ([math.inf] * 4 + [0.1, 0.2, 0.3, 0.4], 4),  # a clip's first frame, as EVS scores it
        ([math.inf] * 6 + [0.1, 9.0], 6),
        ([math.inf] * 2 + [0.0] * 9 + [1.0], 3),
        ([-math.inf] * 4 + [0.0] * 9 + [1.0], 1),
        ([math.inf] * 3, 3),
        ([-math.inf] * 3, 0),
    ],
)
def test_infinite_scores_leave_the_quartiles_to_the_others(scores, found):
    note = "" if found else "no image token stands out; the best one stayed"
    assert Outliers().count(torch.tensor(scores), 99) == (max(found, 1), note)


@settings(deadline=None)
@given(there=st.integers(0, 30), more=st.integers(0, 30), fraction=st.sampled_from([0.01, 0.3, 0.5, 1.0]), cap=CAPS)
def test_of_all(there, more, fraction, cap):
    total = there + more
    wanted = math.floor(fraction * total + 0.5)
    expected = bounded(wanted, cap, there) if there else 0
    assert OfAll(fraction, cap).count(torch.zeros(there), total) == (expected, "")
    assert OfAll(fraction, cap).count(torch.zeros(there), 0)[0] <= there  # 0 stands for what is there


@pytest.mark.parametrize("rule", [AtLeast(0.2), Mass(0.5, temperature=1.0), Outliers(), OfAll(0.5)])
def test_a_sample_without_tokens_keeps_none_and_one_token_stays(rule):
    assert rule.count(torch.zeros(0), 7) == (0, "")
    assert rule.count(torch.zeros(1), 1)[0] == 1
    assert rule.count(torch.zeros(6), 6)[0] >= 1
    assert all(rule.count(torch.rand(n), n)[0] <= n for n in range(1, 9))


@pytest.mark.parametrize("rule", [AtLeast(0.2, cap=3), Mass(0.6, temperature=0.5), Outliers(0.1), OfAll(0.5)])
def test_rules_in_a_batch_read_each_sample_alone(rule):
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(4, 9, generator=generator)
    valid = torch.arange(9) < torch.tensor([9, 4, 0, 1])[:, None]
    found = top_k(score.masked_fill(~valid, math.nan), valid, rule, totals=(20, 4, 0, 3))
    for b, (n, total) in enumerate(((9, 20), (4, 4), (0, 0), (1, 3))):
        count, note = rule.count(score[b, :n], total)
        best = sorted(range(n), key=lambda i: (-float(score[b, i]), i))[:count]
        assert [i for i in found.index[b].tolist() if i >= 0] == sorted(best)
        assert (found.notes[b] if found.notes else "") == note


def test_thresholds_hold_to_the_bit_of_the_scores_type():
    assert AtLeast(0.3).count(torch.tensor([0.3, 0.29999]), 2)[0] == 1
    assert AtLeast(0.3).count(torch.tensor([0.3, 0.2], dtype=torch.float64), 2)[0] == 1
    assert AtLeast(0.0).count(torch.tensor([math.inf, -math.inf, 0.0]), 3)[0] == 2
    assert Mass(1.0).count(torch.full((10,), 0.1), 10)[0] == 10
    assert Mass(0.5).count(torch.zeros(4), 4)[0] == 1


RULES = [
    AtLeast(0.3),
    AtLeast(1, cap=4),
    Mass(0.9),
    Mass(0.5, cap=0.5, temperature=0.1),
    Outliers(),
    Outliers(2, cap=9),
    OfAll(0.25),
    OfAll(0.5, cap=7),
    Schedule({2: 303, 6: 110, 15: 36}),
    Schedule([(0, 0.5), (0.5, Mass(0.9)), (3, 1.0)]),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_repr_rebuilds_it(rule):
    assert eval(repr(rule)) == rule and hash(eval(repr(rule))) == hash(rule)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: AtLeast(x(0.5), cap=x(0.5)),
        lambda x: Mass(x(0.5), cap=x(0.25)),
        lambda x: Outliers(x(0.5)),
        lambda x: Schedule({x(0.5): x(0.25)}),
    ],
)
def test_numbers_of_numpy_become_plain_ones(make):
    assert repr(make(np.float64)) == repr(make(float)) and repr(make(np.float32)) == repr(make(float))


@pytest.mark.xfail(reason="reported: temperature and fraction are checked, but not converted", strict=True)
@pytest.mark.parametrize("make", [lambda x: Mass(0.5, temperature=x(0.5)), lambda x: OfAll(x(0.5))])
def test_more_numbers_of_numpy_become_plain_ones(make):
    assert repr(make(np.float64)) == repr(make(float))


def test_the_cuts_of_a_schedule():
    assert Schedule({2: 303, 6: 110}).cuts() == [(2, 303), (6, 110)]
    assert Schedule({0: 0.5, 0.25: 0.25, 3: Mass(0.5), 4: 1.0}).cuts() == [
        (None, OfAll(0.5)),
        (0.25, OfAll(0.25)),
        (3, Mass(0.5)),
        (4, 1.0),
    ]
    assert Schedule({2: 5}) == Schedule([(2, 5)]) != Schedule({2: 6})
    assert Schedule({np.int64(2): np.int32(5)}).cuts() == [(2, 5)]


@pytest.mark.parametrize(
    ("keep", "tokens", "count"),
    [(5, 9, 5), (9, 9, 9), (0.5, 9, 5), (0.5, 8, 4), (0.01, 9, 1), (1.0, 9, 9), (0.25, 2, 1), (3, 0, 0), (0.5, 0, 0)],
)
def test_budget(keep, tokens, count):
    """Fractions round half up, and at least one token stays."""
    assert budget(keep, tokens) == count


def test_numbers_are_checked_and_converted():
    assert check_keep(np.int64(3)) == 3 and type(check_keep(np.int64(3))) is int
    assert type(check_keep(np.float32(0.5))) is float and type(check_number("x", np.float64(2))) is float
    assert check_count("x", np.int64(0), 0) == 0 and type(check_count("x", np.int64(0), 0)) is int
    assert check_layer(3) == 3 and check_layer(np.float64(0.5)) == 0.5 and type(check_layer(np.int64(3))) is int


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: check_keep("64"), TypeError, "keep='64' is neither a count nor a fraction; say keep=64 or keep=0.25"),
        (lambda: check_keep(True), TypeError, "keep=True is neither"),
        (lambda: check_keep(None), TypeError, "keep=None is neither"),
        (lambda: check_keep(0), ValueError, "keep=0 would keep no image token; keep at least 1"),
        (lambda: check_keep(64.0), ValueError, "keep=64.0 is not a fraction in .0, 1.; for a count write keep=64$"),
        (lambda: check_keep(0.0), ValueError, "keep=0.0 is not a fraction in .0, 1.$"),
        (lambda: check_keep(math.nan), ValueError, "keep=nan is not a fraction"),
        (lambda: check_keep(math.inf), ValueError, "keep=inf is not a fraction in .0, 1.$"),
        (
            lambda: budget(10, 9),
            ValueError,
            "keep=10 image tokens, but there are only 9 to choose among; use a smaller",
        ),
        (lambda: check_count("seed", 1.5, 0), ValueError, "seed=1.5 must be a whole number of at least 0"),
        (lambda: check_count("seed", True, 0), ValueError, "seed=True must be"),
        (lambda: check_number("x", "1"), ValueError, "x='1' is not a finite number"),
        (lambda: check_layer(0), ValueError, "layer=0 must be a whole number of at least 1"),
        (lambda: check_layer(True), ValueError, "layer=True must be"),
        (
            lambda: check_layer(1.0),
            ValueError,
            "layer=1.0 is no share of the decoder's depth in .0, 1.; for a layer's number",
        ),
        (lambda: check_layer(math.nan), ValueError, "layer=nan is no share"),
        (lambda: check_layer("2"), ValueError, "layer='2' must be a whole number"),
        (lambda: AtLeast(math.nan), ValueError, "score=nan is not a finite number"),
        (lambda: AtLeast(0.3, cap=0), ValueError, "cap=0 would keep no image token"),
        (lambda: AtLeast(0.3, cap=1.5), ValueError, "cap=1.5 is not a fraction in .0, 1.; for a count write cap=2"),
        (lambda: Mass(0.5, cap="9"), TypeError, "cap='9' is neither a count nor a fraction; say cap=64 or cap=0.25"),
        (lambda: Mass(0), ValueError, "share=0 of the scores' sum must be in .0, 1."),
        (lambda: Mass(1.5), ValueError, "share=1.5 of the scores' sum"),
        (lambda: Mass(0.5, temperature=0), ValueError, "temperature=0 must be above 0"),
        (lambda: Mass(0.5, temperature=math.inf), ValueError, "temperature=inf is not a finite number"),
        (lambda: Outliers(math.inf), ValueError, "factor=inf is not a finite number"),
        (lambda: OfAll(5), ValueError, "fraction=5 must be in .0, 1.; a count is a budget by itself"),
        (lambda: Schedule({}), ValueError, "a schedule needs at least one step: Schedule"),
        (lambda: Schedule({-1: 5}), ValueError, "layer=-1 must be a whole number of at least 1"),
        (lambda: Schedule({False: 5}), ValueError, "layer=False must be"),
        (lambda: Schedule({2: 0}), ValueError, "keep=0 would keep no image token"),
    ],
)
def test_errors_read_aloud(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.xfail(reason="reported: the message speaks of keep=, and the field is called fraction", strict=True)
def test_one_more_error_read_aloud():
    with pytest.raises(ValueError, match="fraction=1.5"):
        OfAll(1.5)


def test_mass_says_what_to_do_with_negative_scores():
    for scores in ([0.5, -0.25], [math.inf, 0.0]):
        with pytest.raises(
            ValueError, match=r"Mass.*adds scores up, and some are negative or infinite.*give a temperature"
        ):
            Mass(0.5).count(torch.tensor(scores), 2)
