"""What all methods that look at the vision tower have in common."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import towers
from simignore.budget import OfAll, Outliers, budget
from simignore.methods.fastervlm import FasterVLM
from simignore.methods.hiprune import HiPrune
from simignore.methods.merged import Merged
from simignore.methods.prumerge import PruMerge
from simignore.methods.prumerge_plus import PruMergePlus
from simignore.methods.tome import ToMe
from simignore.methods.visionzip import VisionZip
from simignore.methods.vispruner import VisPruner

CLASSES = [FasterVLM, VisionZip, VisPruner, PruMerge, PruMergePlus, HiPrune, ToMe]
NAMES = {cls.__name__: cls for cls in CLASSES} | {"Merged": Merged, "Outliers": Outliers, "OfAll": OfAll}


def over(keep):
    return [*(cls(keep=keep) for cls in CLASSES), Merged(FasterVLM(keep=keep))]


def same(a, b, row):
    """Sample ``row`` of ``a`` is the only one of ``b``."""
    size = b.source.shape[1]
    assert towers.kept(a, row) == towers.kept(b, 0)
    assert a.source[row, :size].tolist() == b.source[0].tolist() and (a.source[row, size:] == -1).all()
    towers.same_mix(towers.mixed(a, row), towers.mixed(b, 0))


@pytest.mark.parametrize("method", over(0.4), ids=lambda m: str(m).split("(keep")[0])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("padding", [math.nan, 1e30, math.inf])
def test_a_sample_does_not_see_its_neighbours(method, seed, padding):
    grids = [[(4, 5)], [(1, 1)], [(3, 3), (2, 4)], [(5, 7)]]
    seen = towers.view([20, 1, 17, 35], seed, grids=grids, padding=padding)
    chosen = method.choose(seen)
    for b in range(4):
        same(chosen, method.choose(towers.alone(seen, b)), b)


@pytest.mark.parametrize("make", [towers.random_look, towers.coarse_look])
@pytest.mark.parametrize("keep", [1, 2, 5, 0.01, 0.5, 1.0, OfAll(0.5)])
def test_counts_sources_and_weights(make, keep):
    sizes = [12, 5, 30, 0] if not isinstance(keep, int) else [12, 5, 30]
    seen = dataclasses.replace(towers.view(sizes, 4, make=make), totals=tuple(2 * size for size in sizes))
    for method in over(keep):
        chosen = method.choose(seen)
        for b, size in enumerate(sizes):
            stay = towers.kept(chosen, b)
            wanted = size if isinstance(keep, OfAll) else budget(keep, size)
            assert len(stay) == wanted and stay == sorted(set(stay)), method
            assert [i for i in range(size) if chosen.source[b, i] == i] == stay
            assert set(chosen.source[b].tolist()) <= {*stay, -1}
            for target, own in towers.mixed(chosen, b).items():
                assert target in stay and target in own and abs(sum(own.values()) - 1) < 1e-5
                assert all(o == target or o not in stay for o in own) and max(own) < size
            if method.merges and not isinstance(method, PruMerge | PruMergePlus) and stay:
                lost = [i for i in range(size) if chosen.source[b, i] < 0]
                assert not lost or (isinstance(method, VisionZip) and method.split(wanted) == 0)
        if isinstance(keep, OfAll) or (isinstance(keep, float) and keep == 1.0):
            assert chosen.blend is None and torch.equal(chosen.kept, seen.real)
        assert all(x is None or x.device.type == "cpu" for x in (chosen.index, chosen.source, chosen.score))
        assert chosen.score is None or torch.equal(chosen.score.isnan(), ~seen.real)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-30])
def test_equal_tokens_and_zero_vectors(value):
    seen = towers.view(
        [9, 4], make=lambda name, size, shape, _: torch.full((size, *shape), abs(value) if not shape else value)
    )
    for keep in (1, 3, 4, 0.5):
        for method in over(keep):
            chosen = method.choose(seen)
            assert chosen.count.tolist() == [budget(keep, 9), budget(keep, 4)], method
            assert chosen.blend is None or bool(chosen.blend.weight.isfinite().all())
    assert towers.kept(FasterVLM(keep=3).choose(seen), 0) == [0, 1, 2]
    assert towers.kept(VisPruner(keep=4, step=2).choose(seen), 0) == [0, 1, 7, 8]
    seen = towers.alone(seen, 0)
    assert ToMe(keep=5).choose(seen).source[0].tolist() == [1, 1, 1, 3, 1, 5, 1, 7, 8]
    assert ToMe(keep=6).choose(seen).source[0].tolist() == [1, 1, 1, 3, 1, 5, 6, 7, 8]


def test_a_batch_without_image_tokens():
    seen = towers.view([0, 0])
    for method in over(0.5):
        chosen = method.choose(seen)
        assert chosen.index.shape == (2, 0) and chosen.source.shape == (2, 0) and chosen.blend is None


@pytest.mark.parametrize("method", over(0.5), ids=lambda m: str(m).split("(keep")[0])
def test_nan_is_refused(method):
    for look in method.looks:
        for value in (math.nan, math.inf) if look.what in ("keys", "features") else (math.nan,):
            seen = towers.view([6, 4], 1)
            seen.tower[look][1, 3] = value
            with pytest.raises(ValueError, match="NaN"):
                method.choose(seen)


@pytest.mark.parametrize("method", over(0.5), ids=lambda m: str(m).split("(keep")[0])
def test_a_look_that_is_missing_is_told(method):
    seen = dataclasses.replace(towers.view([6]), tower={})
    with pytest.raises(RuntimeError, match="name it in the method's `looks`"):
        method.choose(seen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_and_autocast_change_nothing(dtype):
    """What a tower shows in half precision is compared in float32, under autocast too."""
    short = towers.view([30, 11], 8, dtype=dtype)
    long = dataclasses.replace(
        short, tower={look: x.float() for look, x in short.tower.items()}, hidden=short.hidden.float()
    )
    for method in over(0.3):
        wanted = method.choose(long)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = method.choose(short)
        for b in range(2):
            assert towers.kept(found, b) == towers.kept(wanted, b), method
            assert found.source[b].tolist() == wanted.source[b].tolist()


@pytest.mark.parametrize(
    "method", [*over(7), *over(0.25), PruMerge(), PruMergePlus(), HiPrune(9, object_layer=-3)], ids=str
)
def test_the_repr_rebuilds_the_method(method):
    assert eval(repr(method), NAMES) == method and eval(str(method), NAMES) == method
    assert hash(eval(repr(method), NAMES)) == hash(method)
    assert "Why" in type(method).__doc__ and "keep:" in type(method).__doc__ and method.source
    assert (Merged in type(method).__mro__) or "hidden" not in method.needs


def test_budgets_that_read_scores_are_refused_where_there_are_none():
    for cls in (VisionZip, VisPruner, HiPrune, ToMe):
        with pytest.raises(TypeError, match="reads scores"):
            cls(keep=Outliers())
