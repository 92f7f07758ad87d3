"""The benchmark of needed patches: its figures by hand, and its batches against prompts one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.needed import _told, chosen, figures, measured
from benchmarks.rows import Row
from simignore import FasterVLM, LearnedSimignore, Random, Simignore, UniformGrid, tiny
from simignore.evaluate import BENCHMARKS
from simignore.evaluate.answering import Answerer
from simignore.prompt import build

nan = float("nan")


def test_figures_by_hand():
    truth = np.array([True, False, True, False])
    kept = np.array([True, True, False, True])
    assert figures(np.array([4.0, 3.0, 2.0, 1.0]), kept, truth) == (0.75, 0.5)
    area, share = figures(np.array([nan] * 4), kept, truth)
    assert math.isnan(area) and share == 0.5
    assert all(map(math.isnan, figures(np.array([4.0, 3.0, 2.0, 1.0]), kept, np.zeros(4, bool))))


def test_means_leave_out_questions_that_need_nothing():
    told = _told([(0.5, 1.0), (nan, 0.5), (1.0, nan)], ["count", "two_hop", "count"])
    assert told["auc"]["mean"] == 0.75 and told["auc"]["questions"] == 2
    assert told["kept"]["mean"] == 0.75 and told["kept by kind"]["count"]["mean"] == 1.0
    assert told["auc by kind"]["two_hop"]["mean"] is None


@pytest.mark.parametrize(
    "method",
    [Simignore(keep=0.125, span="question"), FasterVLM(keep=0.125), LearnedSimignore(keep=0.125), UniformGrid(keep=25)],
)
def test_what_a_batch_chooses_is_what_each_prompt_does(method):
    model, processor = tiny.load()
    benchmark = BENCHMARKS["scenes"](per_kind=1, seed=7)
    items = benchmark.items()[:3]
    answerer = Answerer(model, processor, benchmark)
    scores, kept = chosen(answerer, answerer.see(answerer.ready(items)), method)
    for item, own, stays in zip(items, scores, kept, strict=True):
        prompt = build(processor, item.images[0](), **benchmark.words(item))
        with torch.inference_mode(), method(model, query=prompt.query("question")) as trace:
            model(**prompt.inputs)
        assert np.array_equal(stays, np.asarray(trace.selections[0].kept[0])) and stays.sum() == round(
            0.125 * 196 + 0.5
        )
        if trace.selections[0].score is not None:
            np.testing.assert_allclose(own, np.asarray(trace.selections[0].score[0]), rtol=1e-3, atol=1e-4)
        else:
            assert np.isnan(own).all()


def test_a_head_finds_what_chance_does_not():
    found = measured(
        [Row("head", 0.125, LearnedSimignore(keep=0.125)), Row("chance", 0.125, Random(keep=0.125))], 2, 7, 14
    )
    head, chance = found
    assert head["auc"]["mean"] > 0.9 > 0.7 > chance["auc"]["mean"] > 0.3
    assert head["kept"]["mean"] > 0.7 > 0.3 > chance["kept"]["mean"] and head["kept"]["questions"] > 14
