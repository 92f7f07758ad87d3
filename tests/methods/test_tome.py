"""ToMe against a plain loop over its rounds."""

from __future__ import annotations

import pytest

import towers
from simignore.budget import budget
from simignore.methods.tome import ToMe


def by_loop(seen, b, amount):
    """The source map of one sample; the mean of a group is taken over all its patches, each round anew."""
    keys = towers.mean_keys(seen, b)
    members = {i: [i] for i in range(len(keys))}

    def mean(i):
        return [sum(keys[j][c] for j in members[i]) / len(members[i]) for c in range(len(keys[0]))]

    while len(members) > amount:
        left = sorted(members)
        even, odd = left[0::2], left[1::2]
        edges = []
        for e in even:
            similar = [round(towers.cosine(mean(e), mean(o)), 12) for o in odd]
            to = towers.first_best(similar)
            edges.append((-similar[to], e, odd[to]))
        for _, e, o in sorted(edges)[: min(len(left) // 2, len(left) - amount)]:
            members[o] += members.pop(e)
    source = [-1] * len(keys)
    for to, own in members.items():
        for i in own:
            source[i] = to
    return source


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("sizes", "keep"),
    [([24, 17, 0, 1], 0.5), ([24, 9, 40], 7), ([30, 8], 0.1), ([6, 2], 1), ([33, 5], 1), ([13, 13], 13), ([13], 1.0)],
)
def test_the_published_rule(seed, sizes, keep):
    seen = towers.view(sizes, seed)
    chosen = ToMe(keep=keep).choose(seen)
    for b, size in enumerate(sizes):
        source = by_loop(seen, b, budget(keep, size))
        assert chosen.source[b, :size].tolist() == source
        assert towers.kept(chosen, b) == sorted(set(source))
        towers.same_mix(towers.mixed(chosen, b), towers.groups(source))


@pytest.mark.parametrize("seed", range(20))
def test_ties_go_to_the_first(seed):
    """One round on vectors along the axes, whose cosines are exact."""
    seen = towers.view([14, 9], seed, make=towers.coarse_look)
    chosen = ToMe(keep=0.6).choose(seen)
    for b, size in enumerate(seen.counts):
        assert chosen.source[b, :size].tolist() == by_loop(seen, b, budget(0.6, size))
