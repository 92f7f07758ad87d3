"""The accuracy benchmark: rows, and figures of runs that are only partly done."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from benchmarks.rows import CHANCE, collected, known_rows
from benchmarks.scenes import ablation, rows
from simignore.evaluate import paired
from simignore.methods import METHODS
from simignore.tiny.questions import KINDS


def test_every_method_for_images_stands_in_it_with_all_tokens_and_chance():
    found = rows()
    assert found[0].method is None
    kinds = {type(row.method) for row in found if row.method is not None}
    assert kinds == {kind for kind in METHODS.values() if not kind.video}
    for some in (found, ablation()):
        assert len({row.key for row in some}) == len(some)
        for keep in {row.keep for row in some if row.keep < 1}:
            assert sum(row.label == CHANCE and row.keep == keep for row in some) == 3


def write(folder, scores):
    folder.mkdir(parents=True)
    lines = [
        {"id": str(n), "score": float(score), "groups": {"type": KINDS[n % len(KINDS)]}, "held": 25.0}
        for n, score in enumerate(scores)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_all_rows_have_answered_is_collected(tmp_path):
    rng, count = np.random.default_rng(0), len(KINDS)
    some = [row for row in rows() if row.keep == 1 or (row.keep == 0.125 and row.label in (CHANCE, "DivPrune"))]
    scores = {row: rng.integers(0, 2, 3 * count + n).tolist() for n, row in enumerate(some)}
    for row in some:
        write(tmp_path / row.key, scores[row])
    found = {(one["label"], one["method"]): one for one in collected(tmp_path, rows())}  # the others have not begun
    assert len(found) == len(some) == 5
    chance = np.mean([scores[row][: 3 * count] for row in some if row.label == CHANCE], axis=0).tolist()
    for row in some:
        one, own = found[row.label, repr(row.method) if row.method else "None"], scores[row][: 3 * count]
        assert one["questions"] == 3 * count and one["accuracy"] == pytest.approx(np.mean(own), abs=1e-5)
        bits = np.unpackbits(np.frombuffer(base64.b64decode(one["hits"]), np.uint8))[: 3 * count]
        assert bits.tolist() == own
        assert sum(kind["right"] for kind in one["kinds"].values()) == sum(own)
        assert one["versus_random"] == (paired(own, chance) if row.label == "DivPrune" else None)


def test_a_table_grows_as_if_it_had_been_measured_at_once(tmp_path):
    rng, count = np.random.default_rng(1), len(KINDS)
    some = [row for row in rows() if row.keep == 1 or (row.keep == 0.125 and row.label in (CHANCE, "DivPrune"))]
    for row in some:
        scores = rng.integers(0, 2, 5 * count).tolist()
        write(tmp_path / "all" / row.key, scores)
        write(tmp_path / "first" / row.key, scores[: 2 * count])
        write(tmp_path / "then" / row.key, scores[2 * count :])
    known = known_rows({"rows": collected(tmp_path / "first", rows())}, rows())
    assert collected(tmp_path / "then", rows(), known) == collected(tmp_path / "all", rows())
    del known[some[0].key]
    with pytest.raises(ValueError, match="cannot grow"):
        collected(tmp_path / "then", rows(), known)


def test_nothing_begun_is_said(tmp_path):
    with pytest.raises(ValueError, match="holds no run of these rows"):
        collected(tmp_path, rows())
    write(tmp_path / rows()[0].key, [1.0])
    with pytest.raises(ValueError, match="has answered no 14 questions yet"):
        collected(tmp_path, rows())
