"""Greedy diversity against plain loops: distances one by one, determinants of every candidate."""

from __future__ import annotations

import math

import pytest
import torch

from simignore.diversity import both, dpp, levelled, max_min, units


def ragged(sizes, d, seed, levels=None):
    """Features [B, N, D] in float64 with NaN in the padding, and which are real; few ``levels`` make equal tokens."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(sizes), max(sizes), d, generator=generator, dtype=torch.float64)
    x = (x * levels).round() if levels else x
    valid = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    return x.masked_fill(~valid[..., None], math.nan), valid


def cosine(a, b):
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def first_best(gains):
    """The first whose gain is the largest, where differences in the last digits are none."""
    top = max(gains.values())
    if math.isinf(top):
        return next(i for i, gain in gains.items() if gain == top)
    return next(i for i, gain in gains.items() if gain >= top - 1e-5 * abs(top))


def max_min_loop(rows, count, weight=None):
    n = len(rows)
    far = [[1 - cosine(rows[i], rows[j]) for j in range(n)] for i in range(n)]
    if weight is None:
        chosen = [first_best({i: min([far[i][j] for j in range(n) if j != i], default=math.inf) for i in range(n)})]
    else:
        chosen = [first_best(dict(enumerate(weight)))]
    while len(chosen) < count:
        left = [i for i in range(n) if i not in chosen]
        gains = {i: min(far[i][j] for j in chosen) * (weight[i] if weight else 1) for i in left}
        chosen.append(first_best(gains))
    return chosen


def dpp_loop(rows, quality, count):
    n = len(rows)
    kernel = torch.tensor([[quality[i] * cosine(rows[i], rows[j]) * quality[j] for j in range(n)] for i in range(n)])
    kernel = kernel.double()
    largest = max(float(kernel[i, i]) for i in range(n))
    chosen: list[int] = []
    done = 1.0
    while len(chosen) < count:
        left = [i for i in range(n) if i not in chosen]
        # how much larger the determinant gets; nothing at all where it vanishes
        gains = {i: float(torch.linalg.det(kernel[[*chosen, i]][:, [*chosen, i]])) / done for i in left}
        if max(gains.values()) <= 1e-6 * largest:
            return chosen + sorted(left, key=lambda i: (-quality[i], i))[: count - len(chosen)]
        best = first_best(gains)
        done *= gains[best]
        chosen.append(best)
    return chosen


SIZES = [[9, 4, 12], [1, 7], [6]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_max_min_is_the_loop(sizes, levels, weighted):
    for seed in range(4):
        x, valid = ragged(sizes, 3, seed, levels)
        weight = torch.rand(valid.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        order = max_min(units(x, valid), valid, max(sizes), weight if weighted else None)
        for b, size in enumerate(sizes):
            for count in {1, size // 2 or 1, size}:
                expected = max_min_loop(x[b, :size].tolist(), count, weight[b, :size].tolist() if weighted else None)
                assert order[b, :count].tolist() == expected
            own, there = x[b : b + 1, :size], valid[b : b + 1, :size]
            alone = max_min(units(own, there), there, size, weight[b : b + 1, :size] if weighted else None)
            assert alone[0].tolist() == order[b, :size].tolist()


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("d", [2, 5, 20])
@pytest.mark.parametrize("levels", [None, 1])
def test_dpp_is_greedy_by_determinants(sizes, d, levels):
    """With d = 2 only two tokens raise the determinant; the others follow by quality."""
    for seed in range(3):
        x, valid = ragged(sizes, d, seed, levels)
        quality = torch.rand(valid.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
        order = dpp(units(x, valid), quality, valid, max(sizes))
        for b, size in enumerate(sizes):
            expected = dpp_loop(x[b, :size].tolist(), quality[b, :size].tolist(), size)
            assert order[b, :size].tolist() == expected
            assert sorted(order[b, :size].tolist()) == list(range(size))


def test_equal_tokens_zero_vectors_and_no_quality_follow_in_reading_order():
    valid = torch.ones(1, 6, dtype=torch.bool)
    same = units(torch.ones(1, 6, 4), valid)
    quality = torch.tensor([[0.2, 0.9, 0.5, 0.9, 0.0, 0.1]])
    assert dpp(same, quality, valid, 6).tolist() == [[1, 3, 2, 0, 5, 4]]
    assert max_min(same, valid, 6).tolist() == [[0, 1, 2, 3, 4, 5]]
    nothing = units(torch.zeros(1, 6, 4), valid)
    assert dpp(nothing, quality, valid, 3).tolist() == [[1, 3, 2]] and max_min(nothing, valid, 2).tolist() == [[0, 1]]
    assert dpp(same, torch.zeros(1, 6), valid, 6).tolist() == [[0, 1, 2, 3, 4, 5]]


def test_levels_run_from_nought_to_one_in_each_group():
    valid = torch.tensor([[True] * 5 + [False]])
    score = torch.tensor([[2.0, 4.0, 3.0, 10.0, 20.0, math.nan]])
    assert levelled(score, valid)[0].tolist() == pytest.approx([0, 2 / 18, 1 / 18, 8 / 18, 1, 0])
    groups = torch.tensor([[0, 0, 0, 1, 1, -1]])
    assert levelled(score, valid, groups)[0].tolist() == pytest.approx([0, 1, 0.5, 0, 1, 0])
    assert levelled(torch.ones(1, 6), valid)[0].tolist() == [1, 1, 1, 1, 1, 0]
    infinite = torch.tensor([[math.inf, 1.0, 3.0, -math.inf, 2.0, 0.0]])
    assert levelled(infinite, valid)[0].tolist() == [1, 0, 1, 0, 0.5, 0]
    assert levelled(torch.full((1, 6), math.inf), valid)[0].tolist() == [1, 1, 1, 1, 1, 0]
    assert bool(levelled(score.masked_fill(score == 3, math.nan), valid)[0, 2].isnan())


def test_both_is_the_weighted_geometric_mean():
    valid = torch.ones(1, 3, dtype=torch.bool)
    a, b = torch.tensor([[0.0, 5.0, 10.0]]), torch.tensor([[4.0, 2.0, 3.0]])
    assert both(a, b, valid, 0.25)[0].tolist() == pytest.approx([0, 0, 1 * 0.5**0.25])
    assert both(a, b, valid, 0)[0].tolist() == [0, 0.5, 1] and both(a, b, valid, 1)[0].tolist() == [1, 0, 0.5]
