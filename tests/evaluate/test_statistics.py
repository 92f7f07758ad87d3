"""Intervals and paired comparisons against formulas worked out by hand and against plain resampling."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simignore.evaluate import Benchmark, Item, mcnemar, paired, share, wilson
from simignore.evaluate.benchmark import by_group, report


class Bare(Benchmark):
    """A benchmark without questions of its own."""

    def items(self):
        return []

    def score(self, item, told):
        return 0.0


def test_wilson_against_a_published_example():
    # 81 of 263 (Newcombe 1998, table I): 0.2553 to 0.3662
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(15, 148)  # the same table: 0.0624 to 0.1605
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)
    assert wilson(0, 20)[0] == 0 and round(wilson(0, 20)[1], 4) == 0.1611
    assert wilson(20, 20)[1] == 1


def test_share_of_partial_scores_uses_the_normal_interval():
    found = share([0.0, 0.3, 0.6, 1.0])
    # mean 0.475; variance (0.475^2 + 0.175^2 + 0.125^2 + 0.525^2) / 3 = 0.1825; error sqrt(0.1825 / 4) = 0.213600
    assert found["accuracy"] == pytest.approx(0.475) and found["right"] == pytest.approx(1.9)
    assert found["low"] == pytest.approx(0.475 - 1.959964 * 0.213600, abs=1e-5)
    assert found["high"] == pytest.approx(0.475 + 1.959964 * 0.213600, abs=1e-5)
    with pytest.raises(ValueError, match="nothing was asked"):
        share([])


def plain_bootstrap(these, those, clusters, rounds):
    """Resample whole clusters by name, one after the other."""
    members = {}
    for number, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(number)
    rng, names, means = random.Random(3), list(members), []
    for _ in range(rounds):
        drawn = [n for name in rng.choices(names, k=len(names)) for n in members[name]]
        means.append(sum(these[n] - those[n] for n in drawn) / len(drawn))
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.parametrize("cluster", [1, 5])
def test_paired_bootstrap_against_plain_resampling(cluster):
    rng = random.Random(1)
    those = [float(rng.random() < 0.6) for _ in range(300)]
    these = [float(rng.random() < 0.7) if rng.random() < 0.5 else x for x in those]
    clusters = [str(n // cluster) for n in range(300)]
    found = paired(these, those, clusters)
    low, high = plain_bootstrap(these, those, clusters, 3000)
    assert found["difference"] == pytest.approx(np.mean(these) - np.mean(those))
    assert found["low"] == pytest.approx(low, abs=0.01) and found["high"] == pytest.approx(high, abs=0.01)


def test_questions_of_one_image_make_a_wider_interval():
    these = [1.0] * 50 + [0.0] * 50
    those = [0.0] * 50 + [1.0] * 50
    alone, together = paired(these, those), paired(these, those, [str(n // 25) for n in range(100)])
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60))
def test_paired_is_antisymmetric_and_holds_its_mean(pairs):
    these, those = map(list, zip(*pairs, strict=True))
    one, other = paired(these, those), paired(those, these)
    assert one["difference"] == -other["difference"]
    assert one["low"] - 1e-9 <= one["difference"] <= one["high"] + 1e-9 or len(pairs) < 8
    assert not (one["better"] and one["worse"])


def test_too_few_differences_say_nothing():
    assert paired([1.0], [0.0])["better"] is False and paired([1.0] * 3, [0.0] * 3)["better"] is False
    assert paired([1.0] * 100, [0.0] * 4 + [1.0] * 96)["better"] is False  # four to none: p = 0.125
    assert paired([1.0] * 100, [0.0] * 6 + [1.0] * 94)["better"] is True
    assert paired([1.0] * 40, [0.0] * 40, ["one image"] * 40)["better"] is False  # forty questions about one image


def test_questions_of_one_image_widen_the_interval_of_an_accuracy():
    scores, clusters = [1.0] * 50 + [0.0] * 50, [str(n // 25) for n in range(100)]
    alone, together = share(scores), share(scores, clusters)
    assert alone["accuracy"] == together["accuracy"] == 0.5
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])
    assert share([1 / 3])["low"] < 1 / 3 < share([1 / 3])["high"]  # one question leaves much open


def test_identical_answers_are_neither_better_nor_worse():
    found = paired([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (found["low"], found["high"], found["better"], found["worse"]) == (0, 0, False, False)
    with pytest.raises(ValueError, match="same questions"):
        paired([1.0], [1.0, 0.0])


def test_mcnemar_by_hand():
    # 8 questions only the first has right, 2 only the second: 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 112 / 1024
    these = [True] * 8 + [False] * 2 + [True] * 5
    those = [False] * 8 + [True] * 2 + [True] * 5
    found = mcnemar(these, those)
    assert (found["only_these"], found["only_those"]) == (8, 2)
    assert found["p"] == pytest.approx(112 / 1024)
    assert mcnemar([True], [True])["p"] == 1
    assert math.isfinite(mcnemar([True] * 5000 + [False] * 4000, [False] * 5000 + [True] * 4000)["p"])


def test_groups_have_the_intervals_of_whole_images_too():
    """Two questions about each image, of two kinds that lie across images, and one that no images share."""
    items = [
        Item(str(n), "?", (), None, groups={"half": "ab"[n % 80 >= 40], "own": str(n % 2)}, cluster=f"{n // 2}")
        for n in range(160)
    ]
    scores = [float(n // 2 % 3 == 0) for n in range(160)]  # both answers about an image are alike
    found = by_group(items, scores)
    for name, side in (("a", False), ("b", True)):
        chosen = [n for n in range(160) if (n % 80 >= 40) is side]
        clusters = [items[n].cluster for n in chosen]
        wide = share([scores[n] for n in chosen], clusters)
        assert found["half"][name] == wide
        alone = share([scores[n] for n in chosen])
        assert wide["high"] - wide["low"] > 1.2 * (alone["high"] - alone["low"])
    assert found["own"]["0"] == share(scores[::2])  # one question of each image: nothing is shared
    assert found == report(Bare(), items, [""] * 160, scores)["groups"]
