"""The flow benchmark: its truth by pixels, its means by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.flow import gathered, looked_at, mean, needed
from simignore import tiny
from simignore.evaluate import BENCHMARKS
from simignore.tiny.questions import ask_surely
from simignore.tiny.scenes import render, sample_scene


@pytest.fixture(scope="module")
def asked():
    benchmark = BENCHMARKS["scenes"](per_kind=1, seed=7)
    return tiny.load(), benchmark, benchmark.items()


def test_needed_patches_are_those_with_most_pixels_of_a_needed_object(asked):
    (model, _), _, items = asked
    size = model.config.vision_config.patch_size
    for item in items[:4]:
        kind, number = item.id.split("/")
        scene = sample_scene(int(number))
        question = ask_surely(kind, scene, random.Random(f"scenes/{kind}/{number}"))
        assert question.question == item.question
        owner = render(scene, 1)[1]
        found = needed(model, item).reshape(owner.shape[0] // size, -1)
        for row in range(found.shape[0]):
            for column in range(found.shape[1]):
                patch = owner[row * size : (row + 1) * size, column * size : (column + 1) * size]
                share = np.isin(patch, [1 + i for i in question.needs]).mean()
                assert found[row, column] or share < 0.5, "a patch that is mostly a needed object is needed"
                assert not found[row, column] or share > 0, "a needed patch shows some of a needed object"


def test_means_and_intervals_by_hand():
    values = [0.5, 0.9, None, 1.0]
    half = 1.959964 * np.std([0.5, 0.9, 1.0], ddof=1) / np.sqrt(3)
    found = mean(values)
    assert found["mean"] == pytest.approx(0.8) and found["questions"] == 3
    assert found["low"] == pytest.approx(0.8 - half, abs=1e-6) and found["high"] == 1.0  # no area is above 1
    assert mean([None]) == {"mean": None, "low": None, "high": None, "questions": 0}
    assert mean([-0.5, -0.9], -1.0)["low"] == -1.0


def test_a_question_is_one_line_and_lines_are_averaged(asked):
    (model, processor), benchmark, items = asked
    lines = [looked_at(model, processor, item, benchmark.words(item)) for item in items[:2]]
    found = gathered(lines)
    assert found["questions"] == 2 and set(found["auc by kind"]) == {item.groups["type"] for item in items[:2]}
    for name, one in found["auc"].items():
        assert one["mean"] == pytest.approx(np.mean([line["auc"][name] for line in lines]))
        assert 0 <= one["low"] <= one["mean"] <= one["high"] <= 1
    layer = found["rho"]["attention to answer"][4]["mean"]
    assert layer == pytest.approx(np.mean([line["rho"]["attention to answer"][4] for line in lines]))
    assert sum(found["convergence"]["saliency"]) == 2
