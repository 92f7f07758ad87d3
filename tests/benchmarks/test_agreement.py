"""The comparison of choices in two precisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from simignore import tiny
from simignore.evaluate import BENCHMARKS
from simignore.methods import Random, Simignore


@pytest.fixture
def agreement(monkeypatch):
    """The benchmark's module, imported from the checkout."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    import benchmarks.agreement

    return benchmarks.agreement


def test_the_share_is_of_all_tokens_that_were_chosen_first(agreement):
    assert agreement.shared([{1, 2}, {3, 4, 5, 6}], [{2, 9}, {3, 4, 5, 7}]) == pytest.approx(4 / 6)
    assert agreement.shared([{1}], [{1, 2}]) == 1.0


def test_a_model_agrees_with_itself_and_chance_with_no_rule(agreement):
    model, processor = tiny.load()
    some = BENCHMARKS["scenes"](per_kind=1).items()[:4]
    similar, again, chance = (
        agreement.chosen(model, processor, some, method)
        for method in (Simignore(keep=0.125), Simignore(keep=0.125), Random(keep=0.125))
    )
    assert agreement.shared(similar, again) == 1.0 and agreement.shared(similar, chance) < 0.5
