"""Shares of flow on what a method kept, against loops and exact expectations."""

from __future__ import annotations

import numpy as np
import pytest

from simignore.flow.kept import _spread, draws, flow_share


def test_the_share_is_the_mean_over_answer_tokens_of_what_lies_on_kept_tokens():
    view = np.random.default_rng(0).random((3, 7))
    stays = np.array([1, 0, 0, 1, 0, 1, 0], dtype=bool)
    expected = 0.0
    for row in view:
        expected += sum(value for value, stay in zip(row, stays, strict=True) if stay) / sum(row) / 3
    assert flow_share(view, stays) == pytest.approx(expected)


def test_no_flow_at_all_is_a_share_of_nothing():
    assert flow_share(np.zeros((2, 4)), np.ones(4, dtype=bool)) == 0.0


def test_the_range_of_chance_is_the_middle_95_percent_of_its_draws():
    view = np.random.default_rng(2).random((2, 12)) ** 4
    drawn = draws(12, 4, seed=1)
    shares = sorted(flow_share(view, one) for one in drawn.T)
    mean, low, high = _spread(view, drawn)
    assert mean == pytest.approx(sum(shares) / len(shares))
    for end, part in ((low, 0.025), (high, 0.975)):  # between the two draws that frame this part of them, in order
        at = part * (len(shares) - 1)
        assert shares[int(at)] <= end <= shares[int(at) + 1]


def test_random_choices_keep_the_count_and_share_what_chance_shares():
    drawn = draws(20, 5, seed=3)
    assert drawn.shape == (20, 1000) and set(drawn.sum(0)) == {5}
    view = np.random.default_rng(1).random((1, 20))
    found = np.mean([flow_share(view, one) for one in drawn.T])
    assert found == pytest.approx(0.25, abs=0.01)
    assert (draws(20, 5, seed=3) == drawn).all() and (draws(20, 5, seed=4) != drawn).any()
