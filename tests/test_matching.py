"""Matching of tokens: the pieces that the oracles of the methods reach only in one way."""

from __future__ import annotations

import pytest
import torch

from simignore import matching
from simignore.matching import absorbed, best, closest, fetched, places, ranks, strided
from simignore.select import from_kept, identity


def test_what_is_fetched_is_the_same_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    mixed = [
        torch.randn(3, 5, generator=generator, dtype=torch.float64),
        torch.randint(-(2**62), 2**62, (2, 3), generator=generator),
        torch.randn(7, generator=generator) > 0,
        torch.tensor([[float("nan"), -0.0, float("inf")]]),
        torch.zeros(2, 0, dtype=torch.long),
        torch.randn(4, 4, generator=generator).bfloat16().t(),
    ]
    for found, given in zip(fetched(*mixed), mixed, strict=True):
        assert found.dtype == given.dtype and found.shape == given.shape
        assert (
            found.contiguous().flatten().view(torch.uint8).tolist()
            == given.contiguous().flatten().view(torch.uint8).tolist()
        )


def test_ranks_put_padding_last_wherever_it_stands():
    score = torch.tensor([[1.0, float("nan"), 1.0, -torch.inf, 5.0, 1.0]])
    valid = torch.tensor([[True, False, True, True, True, False]])
    assert ranks(score, valid)[0, [0, 2, 3, 4]].tolist() == [1, 2, 3, 0]
    assert sorted(ranks(score, valid)[0].tolist()) == list(range(6))


def test_strided_tokens_are_counted_among_the_free_ones():
    free = torch.tensor([[True, False, True, True, True, False, True, True]] * 4)
    picked = strided(free, [6] * 4, [0, 1, 4, 3])
    assert [row.nonzero()[:, 0].tolist() for row in picked] == [[], [0], [0, 2, 3, 4], [0, 3, 6]]


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_blocks_of_rows_change_nothing(chunk, monkeypatch):
    monkeypatch.setattr(matching, "CHUNK", chunk)
    rows, columns = torch.randn(2, 10, 4).double(), torch.randn(2, 6, 4).double()
    there = torch.arange(6) < torch.tensor([[6], [4]])
    value, which = best(rows, columns, there)
    for b, count in enumerate((6, 4)):
        for i in range(10):
            products = [float((rows[b, i] * columns[b, j]).sum()) for j in range(count)]
            assert int(which[b, i]) == products.index(max(products))
            assert abs(float(value[b, i]) - max(products)) < 1e-12
    kept = torch.zeros(2, 10, dtype=torch.bool)
    kept[:, [2, 5, 9]] = True
    valid = torch.ones_like(kept)
    chosen = from_kept(kept, torch.rand(2, 10, generator=torch.Generator().manual_seed(1)))
    monkeypatch.setattr(matching, "CHUNK", 1000)
    whole = absorbed(chosen, rows, valid, 4)
    monkeypatch.setattr(matching, "CHUNK", chunk)
    parts = absorbed(chosen, rows, valid, 4)
    assert torch.equal(whole.source, parts.source) and torch.equal(whole.blend.origin, parts.blend.origin)


def test_closest_among_none_is_none():
    kept = torch.tensor([[False, False], [False, True]])
    cosine, into = closest(torch.ones(2, 2, 3), kept, 1)
    assert into.tolist() == [[-1, -1], [1, 1]] and cosine[0].tolist() == [-torch.inf] * 2
    assert closest(torch.ones(2, 2, 3), torch.zeros_like(kept), 0)[1].tolist() == [[-1, -1]] * 2


def test_places_name_the_marked_in_reading_order():
    order, there = places(torch.tensor([[False, True, True], [True, False, False]]), 2)
    assert order[0].tolist() == [1, 2] and order[1, 0] == 0 and there.tolist() == [[True, True], [True, False]]


def test_absorbing_needs_scores():
    with pytest.raises(ValueError, match="it has none"):
        absorbed(identity(torch.ones(1, 3, dtype=torch.bool)), torch.ones(1, 3, 2), torch.ones(1, 3), 2)
