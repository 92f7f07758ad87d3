"""VisPruner against a plain loop over its rounds."""

from __future__ import annotations

import math

import pytest

import towers
from simignore.budget import budget
from simignore.methods.vispruner import VisPruner


def by_loop(seen, b, amount, important, step):
    attention, features = towers.row(seen, "attention", b), towers.row(seen, "features", b)
    leading = towers.top(attention, math.floor(important * amount + 0.5))
    left = [i for i in range(len(attention)) if i not in leading]
    wanted = amount - len(leading)
    if wanted == 0:
        return leading
    while len(left) > wanted:
        even, odd = left[0::2], left[1::2]
        similar = [max(round(towers.cosine(features[i], features[j]), 12) for j in odd) for i in even]
        drop = min(step, len(even), len(left) - wanted)
        gone = sorted(range(len(even)), key=lambda e: (-similar[e], e))[:drop]
        left = [i for i in left if i not in [even[e] for e in gone]]
    return sorted(leading + left)


@pytest.mark.parametrize("make", [towers.random_look, towers.coarse_look])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("step", [1, 3, 8, 1000])
@pytest.mark.parametrize(
    ("sizes", "keep", "important"),
    [
        ([24, 17, 0, 1], 0.5, 0.5),
        ([24, 9, 40], 7, 0.75),
        ([30, 8], 0.1, 0.0),
        ([30, 8], 5, 1.0),
        ([6, 2], 1, 0.2),
        ([6, 2], 1, 0.5),
        ([13, 13], 13, 0.5),
    ],
)
def test_the_published_rule(make, seed, step, sizes, keep, important):
    seen = towers.view(sizes, seed, make=make)
    chosen = VisPruner(keep=keep, important=important, step=step).choose(seen)
    for b, size in enumerate(sizes):
        assert towers.kept(chosen, b) == by_loop(seen, b, budget(keep, size), important, step)
    assert chosen.blend is None


def test_published_shares():
    for keep, important, leading in ((64, 0.75, 48), (128, 0.5, 64), (192, 0.5, 96)):
        seen = towers.view([210], keep)
        chosen = VisPruner(keep=keep, important=important).choose(seen)
        assert set(towers.top(towers.row(seen, "attention", 0), leading)) <= set(towers.kept(chosen, 0))


@pytest.mark.parametrize(
    "wrong", [dict(important=1.2), dict(important=-0.1), dict(step=0), dict(step=1.5), dict(step=0.0)]
)
def test_bad_values(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        VisPruner(keep=4, **wrong)
