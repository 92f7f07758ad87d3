"""PyramidDrop: its cuts one after the other, against a plain loop over attention."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import models
from grids import chosen, image, lying, one, seeing
from simignore import FastV
from simignore.budget import AtLeast, Schedule
from simignore.falling import Falling
from simignore.methods.pyramiddrop import PyramidDrop


def attention(view, layer, b, n):
    """What is paid to token ``n`` of sample ``b`` before ``layer``; ties included."""
    return ((n * 7 + b * 3 + int(layer * 11)) % 13) / 13


def run(method, sizes):
    """The tokens that each cut leaves of each sample, the view of each cut being of those that the one before left."""
    alive = [list(range(n)) for n in sizes]
    told = []
    for cut in method.cuts():
        longest = max(len(own) for own in alive)
        view = seeing(lying([[image(1, len(own))] if own else [] for own in alive]))
        paid = torch.full((len(sizes), longest), math.nan)
        for b, own in enumerate(alive):
            for place, n in enumerate(own):
                paid[b, place] = attention(view, cut.layer, b, n)
        view = dataclasses.replace(view, attention=paid, totals=tuple(sizes))
        found = cut.choose(view)
        for b, n in enumerate(view.counts):
            if n:
                alone = dataclasses.replace(one(view, b), attention=paid[b : b + 1, :n])
                assert chosen(cut.choose(alone)) == chosen(found, b)
        alive = [[own[i] for i in chosen(found, b)] for b, own in enumerate(alive)]
        told.append((cut.layer, alive))
    return told


def loop(sizes, layers, keep):
    alive = [list(range(n)) for n in sizes]
    told = []
    for number, layer in enumerate(layers, 1):
        for b, total in enumerate(sizes):
            share = keep if isinstance(keep, float) else keep / max(total, 1)
            count = math.floor(total * share ** (number / len(layers)) + 0.5 + 1e-9)
            count = 0 if not total else min(len(alive[b]), max(1, count))
            ranked = sorted(alive[b], key=lambda n: (-attention(None, layer, b, n), n))
            alive[b] = sorted(ranked[:count])
        told.append((layer, [list(own) for own in alive]))
    return told


@pytest.mark.parametrize("keep", [0.125, 0.4, 1.0, 1, 3, 5])
@pytest.mark.parametrize("layers", [(0.25, 0.5, 0.75), (1, 3), (2,)])
@pytest.mark.parametrize("sizes", [(16, 16), (5, 24, 0), (7, 6)])
def test_as_the_loop_has_it(keep, layers, sizes):
    found = run(PyramidDrop(keep=keep, layers=layers), sizes)
    assert found == loop(sizes, layers, keep)
    last = [len(own) for own in found[-1][1]]
    assert last == [min(n, keep if isinstance(keep, int) else max(1, math.floor(keep * n + 0.5))) for n in sizes]


def test_the_cuts_are_those_published():
    cuts = PyramidDrop(layers=(8, 16, 24)).cuts()
    assert [cut.site for cut in cuts] == [("layer", 8), ("layer", 16), ("layer", 24)]
    assert [cut.keep.count(torch.zeros(576), 576)[0] for cut in cuts] == [288, 144, 72]
    assert all(
        isinstance(cut, PyramidDrop)
        and isinstance(cut.keep, Falling)
        and "PyramidDrop(" in repr(cut)
        and cut.cuts() == (cut,)
        for cut in cuts
    )


def test_schedules_and_rules():
    told = PyramidDrop(keep=Schedule({2: 9, 0.5: 0.25}), hide="mask")
    assert [(cut.site, cut.hide) for cut in told.cuts()] == [(("layer", 2), "mask"), (("layer", 0.5), "mask")]
    assert told.site == ("layer", 2) and told.cuts()[0].keep == 9
    rule = PyramidDrop(keep=AtLeast(0.1), layers=(2, 4))
    assert [cut.keep for cut in rule.cuts()] == [AtLeast(0.1)] * 2
    single = PyramidDrop(keep=4, layer=3)
    assert single.cuts() == (single,) and single.site == ("layer", 3) and PyramidDrop().site == ("layer", 0.25)
    view = seeing(lying([[image(3, 3)]]), attention=torch.rand(1, 9))
    assert chosen(single.choose(view)) == chosen(FastV(keep=4, layer=3).choose(view))
    for method in (told, rule, single, PyramidDrop(), *PyramidDrop(keep=9).cuts()):
        assert eval(repr(method)) == method == eval(str(method)) and hash(method) == hash(eval(repr(method)))


def test_what_is_refused():
    with pytest.raises(ValueError, match="cuts before the decoder, and PyramidDrop reads the layer before"):
        PyramidDrop(keep=Schedule({0: 9, 4: 5}))
    with pytest.raises(ValueError, match="do not rise"):
        PyramidDrop(layers=(16, 8))
    with pytest.raises(ValueError, match="keep=20 image tokens, but there are only 9"):
        view = seeing(lying([[image(3, 3)]]), attention=torch.rand(1, 9))
        PyramidDrop(keep=20).cuts()[0].choose(view)
    with pytest.raises(ValueError, match="NaN"):
        broken = seeing(lying([[image(3, 3)]]), attention=torch.full((1, 9), math.nan))
        PyramidDrop(keep=3).cuts()[0].choose(broken)


def test_a_model_runs_under_it():
    """16 tokens in three steps to 2: each step counts in the tokens that there were before any cut (``view.totals``)."""
    model, inputs = models.model(), models.batch(models.prompt(), models.prompt(words=9, seed=2))
    with torch.no_grad(), PyramidDrop(keep=2, layers=(1, 2, 3))(model) as trace:
        model(**inputs)
    assert [step.selection.count.tolist() for step in trace.steps[0]] == [[8, 8], [4, 4], [2, 2]]
    assert trace.selections[0].count.tolist() == [2, 2]
