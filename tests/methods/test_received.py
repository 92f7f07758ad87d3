"""Received against the plain rule."""

from __future__ import annotations

import pytest

import towers
from simignore.budget import Mass, budget
from simignore.methods.received import Received


@pytest.mark.parametrize("make", [towers.random_look, towers.coarse_look])
@pytest.mark.parametrize("keep", [0.05, 0.25, 0.5, 1.0])
def test_the_tokens_that_receive_most_attention_stay(make, keep):
    seen = towers.view([12, 0, 7, 1], seed=4, make=make)
    chosen = Received(keep=keep).choose(seen)
    for b, size in enumerate(seen.counts):
        assert towers.kept(chosen, b) == towers.top(towers.row(seen, "received", b), budget(keep, size))


def test_budgets_read_the_scores():
    seen = towers.view([9], seed=6)
    score = sorted(towers.row(seen, "received", 0), reverse=True)
    count = next(k for k in range(1, 10) if sum(score[:k]) >= 0.7 * sum(score))
    assert len(towers.kept(Received(keep=Mass(0.7)).choose(seen), 0)) == count
