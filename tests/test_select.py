"""Properties of choosing, on random scores (hypothesis), and the published rules against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from simignore.budget import AtLeast, budget, check_keep
from simignore.select import compose, from_kept, identity, lift, top_k, walk
from simignore.similarity import best_similarity, similarities

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**31)
KEEPS = st.one_of(st.integers(1, 12), st.floats(0.01, 1.0))


def scored(sizes, seed, levels=None):
    """Random scores [B, N] with padding; few ``levels`` make many ties."""
    generator = torch.Generator().manual_seed(seed)
    wide = max(sizes)
    score = torch.randn(len(sizes), wide, generator=generator)
    if levels:
        score = (score * levels).round()
    valid = torch.arange(wide) < torch.tensor(sizes)[:, None]
    return score.masked_fill(~valid, 99.0), valid  # padding looks attractive


def by_loop(row, size, count):
    order = sorted(range(size), key=lambda i: (-float(row[i]), i))
    return sorted(order[:count])


@given(SIZES, SEEDS, KEEPS, st.sampled_from([None, 1, 3]))
@settings(max_examples=150, deadline=None)
def test_top_k_keeps_the_promised_best_in_order(sizes, seed, keep, levels):
    if isinstance(keep, int):
        keep = min([keep, *(size for size in sizes if size)])
        sizes = [size or keep for size in sizes]
    score, valid = scored(sizes, seed, levels)
    chosen = top_k(score, valid, keep)
    for b, size in enumerate(sizes):
        count = budget(keep, size)
        row = chosen.index[b]
        assert row[row >= 0].tolist() == by_loop(score[b], size, count)
        assert (row[row >= 0] == row[: len(row[row >= 0])]).all()  # padding comes last
        assert chosen.source[b].tolist() == [i if i in row.tolist() and i < size else -1 for i in range(valid.shape[1])]
    assert chosen.count.tolist() == [budget(keep, size) for size in sizes]


@given(SIZES, SEEDS, st.floats(-2, 2), st.one_of(st.none(), KEEPS))
@settings(max_examples=100, deadline=None)
def test_threshold_keeps_what_reaches_it_up_to_the_cap_and_at_least_one(sizes, seed, at_least, cap):
    score, valid = scored(sizes, seed)
    chosen = top_k(score, valid, AtLeast(at_least, cap))
    for b, size in enumerate(sizes):
        reached = sum(float(score[b, i]) >= at_least for i in range(size))
        most = size if cap is None or (isinstance(cap, int) and cap > size) else budget(cap, size)
        count = min(max(reached, 1), most) if size else 0
        row = chosen.index[b]
        assert row[row >= 0].tolist() == by_loop(score[b], size, count)
        assert bool(chosen.notes and chosen.notes[b]) == (size > 0 and reached == 0)


@given(st.integers(1, 9), st.integers(1, 6), SEEDS, st.integers(0, 5), st.integers(1, 4), st.data())
@settings(max_examples=150, deadline=None)
def test_walk_equals_the_loop_also_with_ties(n, m, seed, skip, stride, data):
    keep = data.draw(st.integers(1, n))
    generator = torch.Generator().manual_seed(seed)
    pairs = (torch.randn(1, n, m, generator=generator) * 2).round()
    kept: list[int] = []
    order = sorted(((float(pairs[0, i, j]), i) for i in range(n) for j in range(m)), key=lambda pair: -pair[0])
    for _, i in [*order[skip::stride], *order]:
        if i not in kept and len(kept) < keep:
            kept.append(i)
    chosen = walk(pairs, torch.ones(1, n, dtype=torch.bool), torch.ones(1, m, dtype=torch.bool), keep, skip, stride)
    assert chosen.index[0].tolist() == sorted(kept)


@pytest.mark.parametrize("kind", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize(("skip", "stride", "keep"), [(0, 1, 144), (1, 1, 452), (0, 2, 451), (3, 7, 20)])
def test_simignore_at_full_size_equals_the_published_loop(kind, skip, stride, keep):
    """576 image tokens; a second sample with fewer text tokens shares the batch and must not matter."""
    generator = torch.Generator().manual_seed(7)
    visual, text = (torch.randn(2, size, 32, generator=generator).double() for size in (576, 9))
    text_valid = torch.ones(2, 9, dtype=torch.bool)
    text_valid[1, 4:] = False
    valid = torch.ones(2, 576, dtype=torch.bool)
    if (skip, stride) == (0, 1):
        chosen = top_k(best_similarity(visual, text, text_valid, kind), valid, keep)
    else:
        chosen = walk(similarities(visual, text, kind), valid, text_valid, keep, skip, stride)
    for b, m in ((0, 9), (1, 4)):
        assert chosen.index[b].tolist() == oracles.simignore_loop(visual[b], text[b, :m], keep, kind, skip, stride)


@given(SIZES, SEEDS)
@settings(max_examples=60, deadline=None)
def test_two_cuts_in_a_row_are_one_selection(sizes, seed):
    """Choosing among the chosen, lifted and composed, equals following each token by hand."""
    score, valid = scored(sizes, seed)
    first = top_k(score, valid, AtLeast(0.0))
    among = first.index
    second = top_k(torch.randn(among.shape), among >= 0, 0.5)
    both = compose(first, lift(second, among, valid.shape[1]))
    for b in range(len(sizes)):
        inner = [int(among[b, i]) for i in second.index[b].tolist() if i >= 0]
        assert both.index[b][both.valid[b]].tolist() == inner
        assert both.kept[b].nonzero()[:, 0].tolist() == inner


def test_identity_and_from_kept():
    valid = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert identity(valid).index.tolist() == [[0, 1], [0, -1], [-1, -1]]
    assert from_kept(torch.tensor([[False, True, True]])).source.tolist() == [[-1, 1, 2]]
    assert repr(identity(valid)) == "Selection(image tokens kept: 2, 1, 0 of at most 3)"


@pytest.mark.parametrize(
    ("keep", "tokens", "count"),
    [
        (0.5, 5, 3),
        (0.25, 144, 36),
        (0.9, 10, 9),
        (0.01, 10, 1),
        (1.0, 7, 7),
        (3, 3, 3),
        (1, 9, 1),
        (0.125, 576, 72),
        (5, 0, 0),
    ],
)
def test_budget(keep, tokens, count):
    assert budget(keep, tokens) == count


@pytest.mark.parametrize(
    ("keep", "error", "message"),
    [
        (0, ValueError, "keep=0 would keep no image token"),
        (-3, ValueError, "keep=-3"),
        (0.0, ValueError, "not a fraction"),
        (1.5, ValueError, "for a count write keep=2"),
        (math.nan, ValueError, "keep=nan"),
        (math.inf, ValueError, "keep=inf"),
        (True, TypeError, "keep=True is neither"),
        ("half", TypeError, "say keep=64 or keep=0.25"),
        (None, TypeError, "neither"),
    ],
)
def test_bad_budgets_name_value_and_remedy(keep, error, message):
    with pytest.raises(error, match=message):
        check_keep(keep)


def test_scores_that_are_no_numbers_are_refused_but_infinity_is_a_score():
    valid = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"image token 1 in sample 0 is not a number \(NaN\).*Look for an overflow"):
        top_k(torch.tensor([[1.0, math.nan, 0.0]]), valid, 1)
    with pytest.raises(ValueError, match=r"scores have shape \(1, 2\), the image tokens \(1, 3\)"):
        top_k(torch.zeros(1, 2), valid, 1)
    ragged = torch.tensor([[True, True, False]])
    assert top_k(torch.tensor([[-math.inf, -math.inf, 5.0]]), ragged, 2).index.tolist() == [[0, 1]]
    assert top_k(torch.tensor([[0.0, 1.0, math.nan]]), ragged, 1).index.tolist() == [[1]]  # padding may hold anything
