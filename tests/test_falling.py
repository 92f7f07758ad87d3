"""Budgets that fall from cut to cut."""

from __future__ import annotations

import pytest
import torch

from simignore.budget import Mass, Schedule
from simignore.falling import Falling, check_layers, falling


@pytest.mark.parametrize("total", [*range(1, 40), 576, 577, 2880])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_each_step_shrinks_by_the_same_factor(total, steps):
    for keep in (0.125, 0.3, 1.0, 1, max(1, total // 7), total):
        share = keep if isinstance(keep, float) else keep / total
        before = total
        for step in range(1, steps + 1):
            found, note = Falling(keep, step, steps).count(torch.zeros(before), total)
            exact = total * share ** (step / steps)
            assert note == "" and abs(found - max(exact, 1)) <= 0.5 + 1e-6 and found <= before
            before = found
        last = keep if isinstance(keep, int) else max(1, int(keep * total + 0.5))
        assert before == last


def test_the_published_shares():
    assert [Falling(0.125, step, 3).count(torch.zeros(576), 576)[0] for step in (1, 2, 3)] == [288, 144, 72]
    assert [Falling(72, step, 3).count(torch.zeros(576), 576)[0] for step in (1, 2, 3)] == [288, 144, 72]
    assert [Falling(0.125, step, 3).count(torch.zeros(n), 3)[0] for step, n in ((1, 3), (2, 2), (3, 1))] == [2, 1, 1]


def test_what_is_there_bounds_it():
    assert Falling(0.5, 1, 2).count(torch.zeros(10), 100) == (10, "")  # an earlier cut took the rest
    assert Falling(5, 1, 3).count(torch.zeros(0), 0) == (0, "")
    for step in (1, 3):
        with pytest.raises(ValueError, match="keep=11 image tokens, but there are only 10 to choose among"):
            Falling(11, step, 3).count(torch.zeros(10), 100)


def test_the_steps_of_a_method():
    assert falling(0.125, (8, 16)) == [(8, Falling(0.125, 1, 2)), (16, Falling(0.125, 2, 2))]
    assert falling(Mass(0.5), (8, 16)) == [(8, Mass(0.5)), (16, Mass(0.5))]
    rule = Falling(0.125, 1, 2)
    assert (
        eval(repr(rule)) == rule
        and hash(rule) == hash(eval(repr(rule)))
        and repr(rule) == "Falling(keep=0.125, step=1, steps=2)"
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Falling(0, 1, 2), "keep=0 would keep no image token"),
        (lambda: Falling(5, 0, 2), "step=0 must be a whole number of at least 1"),
        (lambda: Falling(5, 3, 2), "step=3 comes after the last of 2 steps"),
        (lambda: check_layers("X", 5, ()), "layers=.. names no layer to cut at; say layers="),
        (lambda: check_layers("X", 5, 8), "layers=8 names no layer"),
        (lambda: check_layers("X", 5, (8, 8)), "layers=.8, 8. do not rise; name each layer once"),
        (lambda: check_layers("X", 5, (0.5, 0.25)), "do not rise"),
        (lambda: check_layers("X", 5, (0, 2)), "layer=0 must be a whole number of at least 1"),
        (lambda: check_layers("X", 5, (1.5,)), "layer=1.5 is no share"),
        (
            lambda: check_layers("X", Schedule({0: 9, 2: 5}), (2,)),
            "cuts before the decoder, and X reads the layer before",
        ),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
    assert check_layers("X", 5, [2, 6]) == (2, 6) and check_layers("X", 5, (2, 0.5)) == (2, 0.5)
