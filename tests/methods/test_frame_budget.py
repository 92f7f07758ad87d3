"""FrameBudget against a plain loop: shares by weight, then each frame's best."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grids import chosen, film, image, lying, one, seeing
from simignore import Diverse, FastV, Random, Simignore
from simignore.budget import AtLeast, Schedule
from simignore.methods import Chain
from simignore.methods.base import Scorer
from simignore.methods.evs import EVS
from simignore.methods.frame_budget import FrameBudget
from simignore.methods.pyramiddrop import PyramidDrop
from simignore.methods.sparsevlm import SparseVLM


@dataclass(frozen=True)
class First(Scorer):
    """The first feature is the score."""

    def score(self, view):
        return view.visual[..., 0]


def loop(scores, frames, count, floor, top):
    """Tokens kept of one sample: ``frames`` are lists of tokens. Shares are shared out token by token."""
    finite = [s for s in scores if math.isfinite(s)]
    low, high = (min(finite), max(finite)) if finite else (0, 0)

    def level(s):
        if s == math.inf:
            return Fraction(1)
        return (Fraction(max(s, low)) - Fraction(low)) / (Fraction(high) - Fraction(low)) if high > low else Fraction(0)

    ranked = [sorted(own, key=lambda i: (-scores[i], i)) for own in frames]
    heads = [own[: max(1, math.floor(top * len(own) + 0.5))] for own in ranked]
    weights = [round(float(sum(level(scores[i]) for i in head) / len(head)), 12) for head in heads]
    shares = [0] * len(frames)
    for turn in range(floor):
        for f in sorted(range(len(frames)), key=lambda f: -weights[f]):
            if sum(shares) < count and shares[f] == turn < len(frames[f]):
                shares[f] += 1
    while (rest := count - sum(shares)) > 0:
        free = [f for f in range(len(frames)) if shares[f] < len(frames[f])]
        weigh = {f: Fraction(weights[f]) for f in free}
        if not any(weigh.values()):
            weigh = dict.fromkeys(free, Fraction(1))
        quota = {f: rest * weigh[f] / sum(weigh.values()) for f in free}
        over = [f for f in free if shares[f] + quota[f] > len(frames[f])]
        if over:
            for f in over:
                shares[f] = len(frames[f])
            continue
        for f in free:
            shares[f] += int(quota[f])
        for f in sorted(free, key=lambda f: -(quota[f] - int(quota[f])))[: count - sum(shares)]:
            shares[f] += 1
    return sorted(i for own, share in zip(ranked, shares, strict=True) for i in own[:share])


def frames_of(view, b):
    grid = view.patches.grid[b].tolist()
    return [[i for i, g in enumerate(grid) if g == number] for number in sorted({*grid} - {-1})]


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 9999),
    floor=st.integers(0, 3),
    top=st.sampled_from([0.1, 0.5, 1.0]),
    flat=st.booleans(),
    data=st.data(),
)
def test_as_the_loop_has_it(seed, floor, top, flat, data):
    samples = [film(4, 2, 3), [*film(2, 2, 2), image(1, 3, number=1)], []]
    view = seeing(lying(samples, ((0, 2), (0, 3), (1, 0))), seed)
    score = torch.randint(-3, 4, view.visual.shape[:2], generator=torch.Generator().manual_seed(seed)).double()
    score = torch.zeros_like(score) if flat else score
    score[0, :2] = data.draw(st.sampled_from([math.inf, -math.inf, 1.0]))
    view = dataclasses.replace(view, visual=score[..., None].masked_fill(~view.real[..., None], math.nan))
    keep = data.draw(st.sampled_from([1, 3, 7, 0.4, 1.0]))
    method = FrameBudget(First(keep), floor, top)
    found = method.choose(view)
    for b, n in enumerate(view.counts):
        assert len(chosen(found, b)) == method.amounts(view)[b]
        if n:
            wanted = loop(score[b, :n].tolist(), frames_of(view, b), method.amounts(view)[b], floor, top)
            assert chosen(found, b) == wanted
            assert chosen(method.choose(one(view, b))) == wanted
    assert found.blend is None and bool(found.score[~view.real].isnan().all())


def test_by_hand():
    """Frames of four tokens: top-k takes all of the second; a floor leaves each frame its best, the rest goes by weight."""
    score = [0.0, 0.1, 0.0, 0.0, 0.9, 0.8, 1.0, 0.7, 0.2, 0.0, 0.1, 0.0]
    view = seeing(lying([film(3, 2, 2)]), visual=torch.tensor(score).view(1, 12, 1))
    assert chosen(First(4).choose(view)) == [4, 5, 6, 7]
    # weights .1, 1, .2; one each, then 2 are left: 0.15, 1.54, 0.31
    assert chosen(FrameBudget(First(5)).choose(view)) == [1, 4, 5, 6, 8]
    assert chosen(FrameBudget(First(5), floor=0).choose(view)) == [4, 5, 6, 7, 8]  # 0.38, 3.85, 0.77
    assert chosen(FrameBudget(First(2)).choose(view)) == [6, 8]  # the heaviest frames while it lasts


def test_a_rule_decides_the_total():
    view = seeing(lying([film(3, 2, 2)]), visual=torch.linspace(0, 1, 12).view(1, 12, 1))
    method = FrameBudget(First(AtLeast(0.5)))
    assert len(chosen(method.choose(view))) == 6 and len({i // 4 for i in chosen(method.choose(view))}) == 3
    assert FrameBudget(First(AtLeast(5.0))).choose(view).notes == (
        "no image token reached the threshold 5; the best one stayed",
    )


def test_it_is_the_scorer_in_all_else():
    inner = Simignore(keep=0.25, layer=3, hide="mask", positions="reindex", within="image", span="question")
    method = FrameBudget(inner, floor=2)
    for name in ("keep", "layer", "hide", "positions", "within", "needs", "looks", "site", "span"):
        assert getattr(method, name) == getattr(inner, name), name
    assert method.raters(seeing(lying([film(1, 1, 1)]))) is None and not method.merges
    for made in (method, FrameBudget(EVS(keep=9)), FrameBudget(Random(keep=0.5, seed=3), top=0.5)):
        assert eval(repr(made)) == made == eval(str(made)) and hash(made) == hash(eval(repr(made)))
    assert str(FrameBudget(EVS(keep=9))) == "FrameBudget(EVS(keep=9))"
    assert FrameBudget(FastV(keep=9)).cuts() == (FrameBudget(FastV(keep=9)),)
    pyramid = FrameBudget(PyramidDrop(keep=8)).cuts()
    assert [cut.site for cut in pyramid] == [("layer", layer) for layer in (0.25, 0.5, 0.75)]
    assert all(isinstance(cut, FrameBudget) for cut in pyramid)
    steps = FrameBudget(Simignore(keep=Schedule({0: 20, 3: 10}))).cuts()
    assert [cut.site for cut in steps] == ["projector", ("layer", 3)] and [cut.keep for cut in steps] == [20, 10]
    raters = FrameBudget(SparseVLM(keep=4))
    assert raters.needs == SparseVLM.needs


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: FrameBudget(Chain(Random(keep=3))), TypeError, "of a method with scores, got Chain"),
        (lambda: FrameBudget(Random), TypeError, "got Random: FrameBudget"),
        (lambda: FrameBudget(SparseVLM(keep=4, recycle=True)), TypeError, "merges what it drops"),
        (lambda: FrameBudget(Diverse(Random(keep=3))), TypeError, "FrameBudget would lose the rest"),
        (lambda: FrameBudget(Random(keep=3), floor=-1), ValueError, "floor=-1 must be a whole number of at least 0"),
        (lambda: FrameBudget(Random(keep=3), top=0.0), ValueError, "top=0.0 is not a fraction"),
        (lambda: FrameBudget(Random(keep=3), top=3), ValueError, "top=3 is a count; give the share"),
    ],
)
def test_what_is_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_equal_means_are_equal_in_whatever_order_they_are_summed_up():
    """The first and the third frame both have a mean level of 5/12, which sums up to different last digits."""
    scores = [0, 0, 6, 4, 6, 5, 6, 2, 4, 2, 3, 0, 1, 3, 4, 4, 2, 2, 5, 2, 3, 5]
    frames = [image(1, 4, time=0), *(image(1, 6, time=t) for t in (1, 2, 3))]
    view = seeing(lying([frames]), visual=torch.tensor(scores, dtype=torch.float64)[None, :, None])
    weights = [
        torch.tensor(scores[a:b]).double().div(6).sort(descending=True).values.mean() for a, b in ((0, 4), (10, 16))
    ]
    assert weights[0] != weights[1] and round(float(weights[0]), 12) == round(float(weights[1]), 12)
    assert chosen(FrameBudget(First(3), 0, 1.0).choose(view)) == [2, 4, 18]


def test_scores_that_are_no_numbers():
    view = seeing(lying([film(3, 2, 2)]), visual=torch.full((1, 12, 1), math.nan))
    with pytest.raises(ValueError, match="NaN"):
        FrameBudget(First(3)).choose(view)
