"""LearnedSimignore: what its head scores highest stays, alone and inside other methods."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from methods.test_methods import view
from torch.nn.functional import normalize

import models
from benchmarks.heads import random_head
from rebuilding import NAMES
from simignore import AtLeast, Chain, Diverse, FastV, LearnedSimignore, Merged, Product, Simignore
from simignore.answer import span_of
from simignore.head import load_head

HEAD, OWN = random_head(4), random_head(models.WIDTH)
PROMPTS = models.prompt(seed=1), models.prompt(words=11, seed=2, before=4)


def scores(seen, head=HEAD):
    """[B][n] of each sample alone, real tokens only."""
    found = load_head(head)
    sizes = seen.valid.sum(1).tolist()
    return [
        found(seen.visual[b : b + 1, :n], seen.text[b : b + 1], seen.text_valid[b : b + 1])[0].tolist()
        for b, n in enumerate(sizes)
    ]


def kept(selection, b):
    return [n for n in selection.index[b].tolist() if n >= 0]


@pytest.mark.parametrize("seed", range(3))
def test_it_keeps_what_the_head_scores_highest(seed):
    seen = view(sizes=[9, 14], seed=seed)
    chosen = LearnedSimignore(keep=4, head=HEAD, sharpness=None).choose(seen)
    for b, own in enumerate(scores(seen)):
        assert kept(chosen, b) == sorted(sorted(range(len(own)), key=lambda n: -own[n])[:4])


def greedy(features, score, sharpness, count):
    """The greedy choice that makes the determinant of diag(q) S diag(q) largest, q = exp(sharpness (score - best)); what the
    slack of gains would call equal must not be left to it, so no gain may come that close to another."""
    unit = normalize(features.double(), dim=-1)
    quality = (sharpness * (score.double() - score.double().max())).exp()
    kernel = quality[:, None] * (unit @ unit.T) * quality[None]
    chosen: list[int] = []
    for _ in range(count):
        left = [i for i in range(len(score)) if i not in chosen]
        grown = {i: float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]])) for i in left}
        best, second = [*sorted(grown.values(), reverse=True), 0.0][:2]
        assert best > second * (1 + 1e-4) or not chosen
        chosen.append(max(grown, key=grown.get))
    return sorted(chosen)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 5.0])
def test_with_a_sharpness_it_is_the_highest_scores_made_diverse(seed, sharpness):
    seen, head = view(sizes=[9, 14], d=8, seed=seed), random_head(8)
    chosen = LearnedSimignore(keep=4, head=head, sharpness=sharpness).choose(seen)
    flat = LearnedSimignore(keep=4, head=head, sharpness=None).choose(seen)
    for b, own in enumerate(scores(seen, head)):
        assert kept(chosen, b) == greedy(seen.visual[b, : len(own)], torch.tensor(own), sharpness, 4)
    assert sharpness > 0.1 or not torch.equal(chosen.index, flat.index)
    torch.testing.assert_close(chosen.score, flat.score, equal_nan=True)
    assert LearnedSimignore(keep=4, head=head) == LearnedSimignore(keep=4, head=head, sharpness=5)


@pytest.mark.parametrize("seed", range(3))
def test_with_great_sharpness_the_highest_scores_stay_also_far_below_the_best(seed):
    """There qualities are tiny, and their order is still that of the scores."""
    seen = view(sizes=[30, 40], seed=seed)
    flat = LearnedSimignore(keep=20, head=HEAD, sharpness=None).choose(seen)
    assert torch.equal(LearnedSimignore(keep=20, head=HEAD, sharpness=12).choose(seen).index, flat.index)


@pytest.mark.parametrize("wrong", [-1, float("nan"), "much"])
def test_a_sharpness_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="sharpness="):
        LearnedSimignore(keep=4, head=HEAD, sharpness=wrong)


def test_its_order_is_not_simignores():
    seen = view(n=60)
    assert not torch.equal(
        LearnedSimignore(keep=20, head=HEAD, sharpness=None).choose(seen).index, Simignore(keep=20).choose(seen).index
    )


def split():
    """A view in which the head wants another number of tokens of each sample, none of them all or none."""
    for seed in range(50):
        seen = view(sizes=[24, 40], seed=seed)
        counts = [sum(score >= 0 for score in own) for own in scores(seen)]
        if counts[0] != counts[1] and min(counts) > 4 and counts[0] < 24 and counts[1] < 40:
            return seen, counts
    raise AssertionError("no such view")


def test_at_least_zero_follows_the_heads_own_threshold_for_each_sample_and_a_cap_holds():
    seen, counts = split()
    assert LearnedSimignore(keep=AtLeast(0), head=HEAD).choose(seen).count.tolist() == counts
    chosen = LearnedSimignore(keep=AtLeast(0), head=HEAD, sharpness=None).choose(seen)
    assert chosen.count.tolist() == counts
    for b, own in enumerate(scores(seen)):
        assert kept(chosen, b) == [n for n, score in enumerate(own) if score >= 0]
    capped = LearnedSimignore(keep=AtLeast(0, cap=4), head=HEAD, sharpness=None).choose(seen)
    assert capped.count.tolist() == [4, 4]
    for b, own in enumerate(scores(seen)):
        assert kept(capped, b) == sorted(sorted(range(len(own)), key=lambda n: -own[n])[:4])
    share = LearnedSimignore(keep=AtLeast(0, cap=0.125), head=HEAD).choose(seen)
    assert share.count.tolist() == [3, 5]


def test_its_repr_rebuilds_it_and_a_path_is_a_head_too():
    method = LearnedSimignore(keep=AtLeast(0.0, cap=0.25), head=Path(HEAD), span="user", hide="mask")
    assert method.head == HEAD and method == replace(method, head=HEAD)
    assert eval(repr(method), NAMES) == method and eval(str(method), NAMES) == method
    assert str(LearnedSimignore(keep=5)) == "LearnedSimignore(keep=5)"
    again = pickle.loads(pickle.dumps(Chain(method, FastV(keep=3))))
    assert again == Chain(method, FastV(keep=3))
    seen = view(n=12)
    assert torch.equal(again.methods[0].choose(seen).index, method.choose(seen).index)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"head": "absent"}, "head 'absent' is no folder here"),
        ({"span": "nonsense"}, "span='nonsense' is none of 'auto', 'user'"),
        ({"keep": 0}, "keep=0 would keep no image token"),
    ],
)
def test_bad_configurations_are_told_before_a_model_is(wrong, said):
    with pytest.raises(ValueError, match=said):
        LearnedSimignore(**{"keep": 3, "head": HEAD} | wrong)


def test_a_head_of_another_width_is_told_with_both_and_the_model_is_as_before():
    model, inputs = models.model(), models.batch(*PROMPTS)
    with torch.no_grad():
        before = model(**inputs).logits
        with LearnedSimignore(keep=3, head=HEAD)(model), pytest.raises(ValueError, match=r"width 4, .* here have 32"):
            model(**inputs)
        assert torch.equal(model(**inputs).logits, before)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda method: method,
        lambda method: Chain(method, FastV(keep=4, layer=2)),
        lambda method: Diverse(method),
        lambda method: Product(Simignore(keep=4), method),
        lambda method: Merged(method),
        lambda method: Chain(Merged(Diverse(method)), FastV(keep=4, layer=2)),
    ],
    ids=["alone", "chain", "diverse", "product", "merged", "all"],
)
def test_its_own_default_span_is_no_wish_and_another_one_is(wrap):
    model, inputs = models.model(), models.batch(*PROMPTS)
    plain = {"keep": 4, "head": OWN, "sharpness": None, "fill": "highest"}  # what reads scores loses nothing of it
    silent, asking = LearnedSimignore(**plain), LearnedSimignore(**plain, span="options")
    assert span_of(wrap(silent)) == "question"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splice = wrap(silent)(model)
        wrap(asking)(model, query=torch.tensor([5, 6]))
        wrap(LearnedSimignore(**plain, span="auto"))(model)
    with torch.no_grad(), splice as trace:
        model(**inputs)
    assert trace.selections[0].count.tolist() == [4, 4]
    with pytest.warns(UserWarning, match=r"the span 'options', but no query was given.*pass query=prompt.query"):
        wrap(asking)(model)


def test_simignores_question_is_a_wish():
    with pytest.warns(UserWarning, match="the span 'question', but no query was given"):
        Simignore(keep=3, span="question")(models.model())


def test_composed_it_counts_as_what_it_chooses_alone():
    seen = view(n=16)
    seen = replace(seen, hidden=seen.visual)
    alone = LearnedSimignore(keep=5, head=HEAD, sharpness=None, fill="highest")
    chosen = alone.choose(seen)
    assert torch.equal(Merged(alone).choose(seen).index, chosen.index)
    assert torch.equal(Product(alone, Simignore(keep=5), weight=0).choose(seen).index, chosen.index)
    assert torch.equal(Product(Simignore(keep=5), alone, weight=1).choose(seen).index, chosen.index)
    assert Diverse(alone).choose(seen).count.tolist() == [5, 5]
    assert torch.equal(Diverse(alone).score(seen), alone.score(seen))
    model, inputs = models.model(), models.batch(*PROMPTS)
    chain = Chain(LearnedSimignore(keep=8, head=OWN), LearnedSimignore(keep=3, head=OWN))
    with torch.no_grad(), chain(model) as twice:
        model(**inputs)
    with torch.no_grad(), LearnedSimignore(keep=3, head=OWN)(model) as once:
        model(**inputs)
    assert twice.steps[0][-1].selection.count.tolist() == [3, 3]
    assert twice.tokens_after == once.tokens_after


def test_a_head_without_a_threshold_says_so_where_its_threshold_is_asked_for():
    seen = view(n=16)
    assert not load_head(HEAD).judges
    (first, second) = LearnedSimignore(keep=AtLeast(-9), head=HEAD).choose(seen).notes
    assert first == second and "trained without a threshold" in first
    assert LearnedSimignore(keep=3, head=HEAD).choose(seen).notes == ()


def test_the_query_decides():
    model, inputs = models.model(), models.batch(PROMPTS[0])
    found = []
    for query in ([5, 6, 7], [40, 41, 42]):
        with torch.no_grad(), LearnedSimignore(keep=5, head=OWN)(model, query=torch.tensor(query)) as trace:
            model(**inputs)
        found.append(trace.selections[0].index[0].tolist())
    assert found[0] != found[1]
