"""HiPrune against a plain loop over the grid."""

from __future__ import annotations

import math

import pytest
import torch

import towers
from simignore.budget import budget
from simignore.methods.hiprune import HiPrune, around
from simignore.types import Look


def beside(seen, b):
    """For each token of a sample the set of its neighbours, by looking at all pairs."""
    where = seen.patches
    places = [tuple(int(x[b, i]) for x in (where.grid, where.row, where.column)) for i in range(seen.counts[b])]
    return [{j for j, (h, s, d) in enumerate(places) if g == h and abs(r - s) + abs(c - d) == 1} for g, r, c in places]


def by_loop(seen, b, amount, alpha):
    middle, last = towers.row(seen, "received", b, towers.OBJECTS), towers.row(seen, "received", b)
    anchors = towers.top(middle, math.floor(alpha * amount / 5 + 1e-9))
    near = beside(seen, b)
    chosen = {*anchors}.union(*(near[a] for a in anchors)) if anchors else set()
    rest = [i for i in range(len(last)) if i not in chosen]
    return sorted([*chosen, *towers.top(last, amount - len(chosen), rest)])


GRIDS = [[(5, 6)], [(3, 4), (1, 7)], [(2, 2), (4, 3), (2, 2)], [(1, 1)], [(9, 1)]]


@pytest.mark.parametrize("make", [towers.random_look, towers.coarse_look])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("keep", [1, 0.3, 0.5, 0.9, 1.0])
def test_the_published_rule(make, seed, alpha, keep):
    sizes = [sum(r * c for r, c in own) for own in GRIDS]
    seen = towers.view(sizes, seed, grids=GRIDS, make=make)
    chosen = HiPrune(keep=keep, alpha=alpha).choose(seen)
    for b, size in enumerate(sizes):
        assert towers.kept(chosen, b) == by_loop(seen, b, budget(keep, size), alpha)
    assert chosen.blend is None


def test_neighbours_lie_in_the_same_grid_and_stop_at_its_border():
    sizes = [sum(r * c for r, c in own) for own in GRIDS]
    seen = towers.view(sizes, grids=GRIDS)
    table = around(seen.patches)
    for b in range(len(sizes)):
        assert [{j for j in row if j >= 0} for row in table[b].tolist()][: sizes[b]] == beside(seen, b)
        assert (table[b, sizes[b] :] == -1).all()
    # after a cut some neighbours are gone
    index = torch.tensor([[0, 1, 6, 8, -1]])
    five = towers.patches([[(5, 6)]]).take(index)
    assert around(five).tolist() == [[[-1, 2, -1, 1], [-1, -1, 0, -1], [0, -1, -1, -1], [-1] * 4, [-1] * 4]]


def test_anchors_are_counted_so_that_they_fit():
    assert [math.floor(0.1 * k / 5 + 1e-9) for k in (49, 50, 64, 128, 192)] == [0, 1, 1, 2, 3]
    seen = towers.view([64], 7, grids=[[(8, 8)]])
    chosen = HiPrune(keep=50).choose(seen)
    assert towers.top(towers.row(seen, "received", 0, towers.OBJECTS), 1)[0] in towers.kept(chosen, 0)


def test_the_middle_layer_is_a_choice():
    assert HiPrune(keep=3).looks == (Look("received", 0.375), Look("received"))
    for layer in (3, -2, 0):
        assert HiPrune(keep=3, object_layer=layer).looks[0] == Look("received", layer)


@pytest.mark.parametrize(
    "wrong", [dict(alpha=1.2), dict(alpha=float("nan")), dict(object_layer=1.5), dict(object_layer="9")]
)
def test_bad_values(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        HiPrune(keep=4, **wrong)
