"""Which methods which families are refused for: what the published table says, and an error that names a remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from zoo import ABSENT, CASES, DISCOVERED

from simignore import METHODS, UnsupportedModelError

EVERY = {**CASES, **DISCOVERED}
RESULT = Path(__file__).resolve().parents[2] / "results" / "families.json"
PUBLISHED = {case["case"]: set(case["not_served"]) for case in json.loads(RESULT.read_text(encoding="utf-8"))["cases"]}
REMEDIES = ("Use a method that", "It can cut before layer", "cut before layer 1 at the latest")


@pytest.mark.parametrize("name", EVERY)
def test_what_the_table_calls_not_served_is_refused_with_a_remedy_and_all_else_is_taken(name):
    model = EVERY[name].model()
    refused = set()
    for method, kind in METHODS.items():
        try:
            kind(keep=0.5)(model)
        except (UnsupportedModelError, ValueError) as error:
            refused.add(method)
            assert any(remedy in str(error) for remedy in REMEDIES), error
    assert refused == PUBLISHED[name]


def test_the_table_has_every_family_of_the_zoo():
    assert PUBLISHED.keys() >= EVERY.keys() and (ABSENT or PUBLISHED.keys() == EVERY.keys())
