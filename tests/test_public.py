"""Public names: what resolves, and what a star brings along."""

from __future__ import annotations

import pytest

import simignore
from simignore import budget, methods

WRAPS = ("Chain", "Diverse", "Merged", "Product", "FrameBudget")


@pytest.mark.parametrize("name", ["ABC", "Integral", "Real", "Tensor", "Mapping", "Sequence", "Nothing"])
def test_what_a_room_imports_is_no_name_of_the_library(name):
    with pytest.raises(AttributeError, match=f"module 'simignore' has no attribute '{name}'"):
        getattr(simignore, name)


def test_every_method_and_every_budget_is_one():
    for kind in (
        *methods.METHODS.values(),
        *(getattr(methods, n) for n in WRAPS),
    ):
        assert getattr(simignore, kind.__name__) is kind
    for name in ("AtLeast", "Budget", "Mass", "OfAll", "Outliers", "Schedule"):
        assert getattr(simignore, name) is getattr(budget, name)
    assert all(getattr(simignore, name) is not None for name in simignore.__all__)


def test_a_star_brings_methods_and_no_modules():
    found: dict[str, object] = {}
    exec("from simignore.methods import *", found)
    found.pop("__builtins__")
    kinds = {kind.__name__ for kind in methods.METHODS.values()}
    others = {
        "Method",
        "Scorer",
        "Chain",
        "Diverse",
        "FrameBudget",
        "Merged",
        "Product",
        "METHODS",
        "PRESETS",
        "preset",
    }
    assert set(found) == kinds | others
