"""Merged: what a method drops goes to the nearest of what it keeps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import towers
from rebuilding import NAMES
from simignore import Chain, FastV, Random, Simignore
from simignore.budget import Schedule, budget
from simignore.methods.fastervlm import FasterVLM
from simignore.methods.merged import Merged
from simignore.methods.tome import ToMe
from simignore.types import Look


def by_loop(seen, b, stay, least):
    hidden = seen.hidden[b, : seen.counts[b]].tolist()
    source = []
    for i, own in enumerate(hidden):
        if i in stay:
            source.append(i)
            continue
        near = [towers.cosine(own, hidden[j]) for j in stay]
        to = towers.first_best(near)
        source.append(-1 if least is not None and near[to] < least else stay[to])
    return source


@pytest.mark.parametrize("make", [towers.random_look, towers.coarse_look])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("least", [None, 0.4, 2.0])
@pytest.mark.parametrize("keep", [1, 0.3, 1.0])
def test_dropped_tokens_go_to_the_nearest_kept_one(make, seed, least, keep):
    sizes = [24, 17, 0 if isinstance(keep, float) else 5, 1]
    seen = towers.view(sizes, seed, make=make)
    inner = FasterVLM(keep=keep).choose(seen)
    chosen = Merged(FasterVLM(keep=keep), least).choose(seen)
    assert torch.equal(chosen.index, inner.index)
    for b, size in enumerate(sizes):
        assert len(towers.kept(chosen, b)) == budget(keep, size)
        source = by_loop(seen, b, towers.kept(inner, b), least)
        assert chosen.source[b].tolist() == source + [-1] * (24 - size)
        towers.same_mix(towers.mixed(chosen, b), towers.groups(source))
    assert chosen.blend is not None or keep == 1.0 or least == 2.0


def test_it_takes_everything_else_from_the_method():
    inner = Simignore(keep=5, span="question", hide="mask", positions="reindex", within="image", layer=3)
    method = Merged(inner)
    for name in ("keep", "layer", "hide", "positions", "within", "source", "span", "site", "looks", "scored"):
        assert getattr(method, name) == getattr(inner, name), name
    assert method.needs == ("visual", "text", "hidden") and method.merges and not inner.merges
    assert Merged(FasterVLM(keep=3)).looks == (Look("attention"),) and Merged(FastV()).layer == 2


def test_schedules_and_chains_are_merged_at_each_cut():
    scheduled = Merged(FastV(keep=Schedule({2: 9, 6: 4})), least=0.2)
    assert scheduled.cuts() == (Merged(FastV(keep=9, layer=2), 0.2), Merged(FastV(keep=4, layer=6), 0.2))
    chained = Merged(Chain(Random(keep=9), FastV(keep=Schedule({2: 5, 3: 2}))))
    assert [str(cut) for cut in chained.cuts()] == [
        "Merged(Random(keep=9))",
        "Merged(FastV(keep=5))",
        "Merged(FastV(keep=2, layer=3))",
    ]
    assert [cut.site for cut in chained.cuts()] == ["projector", ("layer", 2), ("layer", 3)]
    single = Merged(Random(keep=2))
    assert single.cuts() == (single,) and len(Chain(single, FastV()).cuts()) == 2


def test_raters_are_asked_of_the_method():
    @dataclasses.dataclass(frozen=True)
    class Asking(Random):
        def raters(self, view):
            return torch.ones(1, 2)

    seen = towers.view([4])
    assert Merged(Asking(keep=1)).raters(seen).tolist() == [[1, 1]] and Merged(Random(keep=1)).raters(seen) is None


def test_the_repr_rebuilds_it():
    names = NAMES | {
        "Merged": Merged,
        "Schedule": Schedule,
        "FasterVLM": FasterVLM,
    }
    for method in (
        Merged(FasterVLM(keep=0.5)),
        Merged(Chain(Random(keep=3), FastV()), 0.5),
        Merged(FastV(keep=Schedule({2: 3})), least=-1),
    ):
        assert eval(repr(method), names) == method and eval(str(method), names) == method
        assert hash(eval(repr(method), names)) == hash(method)
    assert Merged(Random(keep=3)) != Merged(Random(keep=3), 0.1) and Merged(Random(keep=3)) != Random(keep=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Merged(Random(keep=3)).keep = 4


def test_what_cannot_be_merged():
    for inner in (ToMe(keep=3), Chain(Random(keep=4), ToMe(keep=3)), Merged(Random(keep=3))):
        with pytest.raises(ValueError, match="merges what it drops already"):
            Merged(inner)
    with pytest.raises(TypeError, match="got str"):
        Merged("fastv")
    with pytest.raises(ValueError, match="least=nan"):
        Merged(Random(keep=3), least=float("nan"))


def test_nan_in_the_hidden_states_is_refused():
    seen = towers.view([5, 3])
    seen.hidden[1, 2] = torch.nan
    with pytest.raises(ValueError, match="hidden states of image token 2 in sample 1 hold NaN"):
        Merged(Random(keep=2)).choose(seen)
    with pytest.raises(RuntimeError, match="no 'hidden'"):
        Merged(Random(keep=2)).choose(dataclasses.replace(seen, hidden=None))
