"""Figures over many questions, each against a plain loop, numpy's own, or the bootstrap."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest

from simignore.evaluate.flowsummary import PARTS, band, brief, converged, summary, whole
from simignore.evaluate.statistics import numbered, paired

ENDS = ("mean", "low", "high")


def made(generator, layers=4, score=None, cluster=None, context=True, kind="colour"):
    """A line of ``predictions.jsonl`` with made-up figures; layer 1 has no attention."""

    def line(least=0.0, most=1.0):
        return [None if layer == 1 else generator.uniform(least, most) for layer in range(layers)]

    parts = [part for part in PARTS if context or part != "context"]
    flow = {
        "share": {part: line() for part in parts},
        "per_token": {part: line(0, 0.1) for part in parts},
        "image_to_answer": line(0, 3),
        "image_to_question": line(),
        "spread": line(1, 20),
        "layer": generator.choice([-1, 0, 2, 3]),
        "rho": {"answer": line(-1, 1), "question": [None] * layers},
    }
    found = {
        "score": generator.choice([0.0, 0.3, 0.6, 1.0]) if score is None else score,
        "groups": {"type": kind},
        "image_tokens": 4,
        "answer_tokens": 2,
        "cut": 0,
        "flow": {"attention": flow, "saliency": {**flow, "layer": 2}},
    }
    return found if cluster is None else {**found, "cluster": cluster}


def test_a_band_is_mean_interval_and_quartiles_of_those_that_have_a_figure():
    generator = random.Random(0)
    lines = [[generator.gauss(0, 2) if generator.random() < 0.7 else None for _ in range(3)] for _ in range(40)]
    lines[3] = None  # a question without such a part
    found = band(lines, numbered([None] * 40))
    for layer in range(3):
        known = [line[layer] for line in lines if line is not None and line[layer] is not None]
        half = 1.959964 * statistics.stdev(known) / math.sqrt(len(known))
        mean = statistics.fmean(known)
        assert found["questions"][layer] == len(known) < 40
        assert [found[name][layer] for name in ENDS] == pytest.approx([mean, mean - half, mean + half], rel=1e-5)
        quartiles = [found[name][layer] for name in ("quarter", "median", "three_quarters")]
        assert quartiles == pytest.approx(np.quantile(known, [0.25, 0.5, 0.75]).tolist(), rel=1e-5)


def test_questions_of_one_cluster_count_as_one():
    """Each question ten times over, all copies in one cluster, is as sure as each once; and the bootstrap over whole clusters,
    unequal ones too, agrees."""
    generator = random.Random(1)
    lines = [[generator.gauss(0, 1)] for _ in range(60)]
    once = band(lines, numbered([None] * 60))
    tenfold = band(lines * 10, numbered([str(n) for n in range(60)] * 10))
    assert tenfold["questions"] == [600]
    assert [tenfold[name][0] for name in ENDS] == pytest.approx([once[name][0] for name in ENDS], rel=1e-5)
    sizes = [generator.choice([1, 1, 2, 5]) for _ in range(200)]
    clusters = [str(n) for n, size in enumerate(sizes) for _ in range(size)]
    own = [generator.gauss(0.5, 1) for _ in sizes]
    values = [own[int(name)] + generator.gauss(0, 0.3) for name in clusters]
    found = band([[value] for value in values], numbered(clusters))
    drawn = paired(values, [0.0] * len(values), clusters)
    assert found["mean"][0] == pytest.approx(drawn["difference"], rel=1e-5)
    for end in ("low", "high"):
        assert found[end][0] == pytest.approx(drawn[end], abs=0.02)  # of an interval of 0.3


def test_what_is_not_known_stays_unknown():
    nothing = band([[None, 1.0], [None, None]], numbered([None, None]), -1, 1)
    assert nothing["questions"] == [0, 1] and nothing["mean"] == [None, 1.0]
    assert nothing["low"] == nothing["high"] == [None, None]  # one question says nothing of the others
    assert nothing["median"] == [None, 1.0]
    same = band([[0.2], [0.4]], numbered(["a", "a"]))
    assert same["mean"] == pytest.approx([0.3]) and same["low"] == [None]
    cut = band([[0.0], [0.0], [0.9]], numbered([None] * 3), 0, 1)
    assert cut["low"] == [0.0] and 0.3 < cut["high"][0] <= 1
    assert band([None], numbered([None]))["mean"] == []


def test_the_histogram_of_convergence_layers():
    found = converged([2, -1, 2, 5, 0, -1, 3], 6)
    assert found["counts"] == [1, 0, 2, 1, 0, 1] and found["nothing"] == 2
    assert [found[name] for name in ("quarter", "median", "three_quarters")] == [2, 2, 3]
    assert converged([-1], 2) == {
        "counts": [0, 0],
        "nothing": 1,
        "quarter": None,
        "median": None,
        "three_quarters": None,
    }


def test_a_summary_is_all_right_wrong_and_each_group_on_its_own():
    generator = random.Random(2)
    rows = [
        made(generator, cluster=str(n // 2), context=n % 3 > 0, kind=generator.choice(["colour", "shape"]))
        for n in range(30)
    ]
    found = summary(rows)
    sides = {
        "right": [row for row in rows if row["score"] >= 0.5],
        "wrong": [row for row in rows if row["score"] < 0.5],
    }
    assert found["flow"] == {"all": whole(rows), **{side: whole(own) for side, own in sides.items()}}
    for name, group in found["groups"]["type"].items():
        assert group == brief([row for row in rows if row["groups"]["type"] == name])
        assert group["questions"] == sum(row["groups"]["type"] == name for row in rows)
    assert found["accuracy"] == pytest.approx(statistics.fmean(row["score"] for row in rows))
    assert found["layers"] == 4 and found["questions"] == 30
    every = found["flow"]["all"]["attention"]
    assert every["share"]["context"]["questions"] == [
        20,
        0,
        20,
        20,
    ]  # those that have a context; layer 1 without attention
    means = [statistics.fmean(row["flow"]["attention"]["rho"]["answer"][n] for row in rows) for n in (0, 2, 3)]
    assert [every["rho"]["answer"]["mean"][n] for n in (0, 2, 3)] == pytest.approx(means, rel=1e-5)
    assert every["rho"]["question"]["mean"] == [None] * 4
    assert every["convergence"] == converged([row["flow"]["attention"]["layer"] for row in rows], 4)
    assert found["flow"]["all"]["saliency"]["convergence"]["counts"] == [0, 0, 30, 0]


def test_a_side_without_questions_is_left_out_and_nothing_at_all_is_refused():
    rows = [made(random.Random(3), score=1.0)]
    assert set(summary(rows)["flow"]) == {"all", "right"}
    with pytest.raises(ValueError, match="no question was explained"):
        summary([])
