"""PruMerge and PruMerge+ against plain loops."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

import towers
from simignore.budget import OfAll, Outliers, budget
from simignore.methods.prumerge import PruMerge
from simignore.methods.prumerge_plus import PruMergePlus


def outliers(attention, factor=1.5):
    """How many values lie above the fence; quartiles by linear interpolation."""
    if len(attention) == 1:
        return 1
    first, _, third = statistics.quantiles(attention, n=4, method="inclusive")
    return max(1, sum(x > third + factor * (third - first) for x in attention))


def absorbing(seen, b, stay, count):
    """(source, mixture) of one sample whose tokens ``stay``."""
    attention, keys = towers.row(seen, "attention", b, towers.DEEP), towers.long_keys(seen, b)
    gone = [i for i in range(len(keys)) if i not in stay]
    mix, found = {}, {i: [] for i in gone}
    for s in stay:
        near = {i: round(towers.cosine(keys[s], keys[i]), 12) for i in gone}
        taken = sorted(gone, key=lambda i, near=near: (-near[i], i))[:count]
        if not taken:
            continue
        for i in taken:
            found[i].append((-near[i], s))
        weight = {i: attention[i] for i in (s, *taken)}
        total = sum(weight.values())
        mix[s] = {i: w / total if total else 1 / len(weight) for i, w in weight.items()}
    source = [i if i in stay else min(found[i])[1] if found[i] else -1 for i in range(len(keys))]
    return source, mix


def compare(chosen, seen, b, stay, count):
    size = seen.counts[b]
    source, mix = absorbing(seen, b, stay, count)
    assert towers.kept(chosen, b) == stay
    assert chosen.source[b].tolist() == source + [-1] * (chosen.source.shape[1] - size)
    towers.same_mix(towers.mixed(chosen, b), mix)


@pytest.mark.parametrize("make", [towers.random_look, towers.coarse_look])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 3, 32])
@pytest.mark.parametrize("keep", [Outliers(), Outliers(0.2, cap=3), 1, 0.4, OfAll(0.3), 1.0])
def test_the_published_rule(make, seed, count, keep):
    seen = towers.view([24, 17, 0 if isinstance(keep, float) else 5, 1], seed, make=make)
    chosen = PruMerge(keep=keep, neighbours=count).choose(seen)
    for b, size in enumerate(seen.counts):
        attention = towers.row(seen, "attention", b, towers.DEEP)
        if isinstance(keep, Outliers):
            amount = min(outliers(attention, keep.factor), keep.cap or size)
        else:
            amount = budget(getattr(keep, "fraction", keep), size)
        compare(chosen, seen, b, towers.top(attention, amount), count)


def plus(attention, keep, extra):
    """The tokens that PruMerge+ keeps of one sample."""
    size = len(attention)
    if isinstance(keep, Outliers):
        lead = min(outliers(attention, keep.factor), keep.cap or size)
        amount = min(lead + math.floor(extra * lead + 0.5), keep.cap or size, size)
    else:
        amount = budget(getattr(keep, "fraction", keep), size)
        lead = min(amount, max(1, math.floor(amount / (1 + extra) + 0.5)))
    leading = towers.top(attention, lead)
    rest = [i for i in range(size) if i not in leading]
    added = amount - lead
    step = len(rest) // added if added else 1
    return sorted(leading + [rest[i * step] for i in range(added)])


@pytest.mark.parametrize("make", [towers.random_look, towers.coarse_look])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("extra", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("keep", [Outliers(), Outliers(0.2, cap=4), 1, 5, 0.4, OfAll(0.3), 1.0])
def test_plus_adds_evenly_strided_tokens(make, seed, extra, keep):
    sizes = [24, 17, 6, 5] if keep == 5 else [24, 17, 0 if isinstance(keep, float) else 5, 1]
    seen = towers.view(sizes, seed, make=make)
    chosen = PruMergePlus(keep=keep, neighbours=4, extra=extra).choose(seen)
    for b in range(len(sizes)):
        compare(chosen, seen, b, plus(towers.row(seen, "attention", b, towers.DEEP), keep, extra), 4)


def test_a_count_stays_a_count_and_a_quarter_of_it_is_by_attention():
    seen = towers.view([576], 1)
    chosen = PruMergePlus(keep=144).choose(seen)
    assert len(towers.kept(chosen, 0)) == 144
    assert set(towers.top(towers.row(seen, "attention", 0, towers.DEEP), 36)) <= set(towers.kept(chosen, 0))


def test_tokens_that_nobody_attends_to_are_averaged_plainly():
    seen = towers.view([6], 2, attention=torch.zeros(1, 6))
    for cls in (PruMerge, PruMergePlus):
        chosen = cls(keep=2, neighbours=3).choose(seen)
        assert all(abs(w - 0.25) < 1e-6 for own in towers.mixed(chosen, 0).values() for w in own.values())


def test_what_stands_out_of_nothing_is_told():
    seen = towers.view([6, 6], 2, attention=torch.ones(2, 6))
    assert PruMerge().choose(seen).notes[0] == "no image token stands out; the best one stayed"
    assert PruMergePlus().choose(seen).notes[1] == "no image token stands out; the best one stayed"
    assert PruMergePlus().choose(seen).count.tolist() == [4, 4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PruMerge(neighbours=0), "neighbours=0"),
        (lambda: PruMergePlus(neighbours=1.5), "neighbours=1.5"),
        (lambda: PruMergePlus(extra=-1), "extra=-1"),
        (lambda: PruMergePlus(extra=float("inf")), "extra=inf"),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()
