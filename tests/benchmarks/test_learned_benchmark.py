"""What the benchmark of learned heads compares, and how it is told."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.learned import BUNDLED, INSIDE, KEEPS, against, rows
from simignore.methods import METHODS
from simignore.tiny.questions import KINDS


def row(label: str, keep: float, hits: Sequence[int]) -> dict:
    return {
        "label": label,
        "keep": keep,
        "accuracy": sum(hits) / len(hits),
        "questions": len(hits),
        "kinds": dict.fromkeys(KINDS),
        "hits": base64.b64encode(np.packbits(np.array(hits) > 0).tobytes()).decode(),
    }


def test_every_method_before_the_decoder_is_compared_at_every_budget():
    found = rows(KEEPS, {})
    assert len({one.key for one in found}) == len(found)
    wanted = {kind.__name__ for kind in METHODS.values() if not kind.video} - {*INSIDE, "Random"}
    for keep in KEEPS:
        assert wanted <= {one.label for one in found if one.keep == keep}
    assert all(one.method is None or one.method.layer is None for one in found)
    told = [one for one in found if one.label in ("Simignore", "Simignore2", "CDPruner", BUNDLED)]
    assert {one.method.span for one in told} == {"question"}


def test_the_bundled_head_is_compared_question_by_question_and_on_two_hops_alone():
    count, hop = 4 * len(KINDS), KINDS.index("two_hop")
    none = [0] * count
    hops = [int(n % len(KINDS) == hop) for n in range(count)]
    found = against([row("all", 1.0, [1] * count), row(BUNDLED, 0.125, hops), row("other", 0.125, none)])
    assert found[1]["of_full"] == pytest.approx(1 / len(KINDS), abs=1e-5) and "learned_minus_this" not in found[1]
    other = found[2]
    assert other["learned_minus_this"]["difference"] == pytest.approx(1 / len(KINDS))
    assert other["learned_minus_this_two_hop"]["difference"] == 1.0
    assert found[0]["learned_minus_this"]["difference"] == pytest.approx(1 / len(KINDS) - 1)  # an eighth against all


def test_rows_are_compared_on_what_both_answered_and_on_shapes_that_a_head_never_saw():
    kinds = len(KINDS)
    rng = np.random.default_rng(0)
    long, short, whole = rng.random(9 * kinds) < 0.6, rng.random(5 * kinds) < 0.5, rng.random(7 * kinds) < 0.9
    unseen = rng.random(9 * kinds) < 0.2
    found = against([row("all", 1.0, whole), row(BUNDLED, 0.125, long), row("other", 0.125, short)], unseen.tolist())
    difference = long[: len(short)].astype(float) - short
    assert found[2]["learned_minus_this"]["difference"] == pytest.approx(difference.mean())
    assert found[2]["learned_minus_this_unseen"]["difference"] == pytest.approx(difference[unseen[: len(short)]].mean())
    assert found[2]["unseen"] == {"right": short[unseen[: len(short)]].sum(), "asked": unseen[: len(short)].sum()}
    assert found[1]["of_full"] == pytest.approx(long[: len(whole)].sum() / whole.sum(), abs=1e-5)
    assert found[2]["of_full"] == pytest.approx(short.sum() / whole[: len(short)].sum(), abs=1e-5)
