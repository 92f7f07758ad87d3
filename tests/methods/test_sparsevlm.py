"""SparseVLM: raters, scores and recycling against plain loops."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from test_clusters import loop as density_peaks

from grids import Waits, chosen, image, lying, one, seeing
from simignore.budget import AtLeast, OfAll, Schedule
from simignore.falling import Falling
from simignore.merge import blended
from simignore.methods import sparsevlm
from simignore.methods.sparsevlm import SparseVLM, clusters_within
from simignore.types import PAD, View

SAMPLES = [[image(4, 5)], [image(3, 3)], [], [image(6, 6)]]


def reading(samples=SAMPLES, words=(5, 3, 2, 4), seed=0, width=6):
    """A view with words and attention; padding of both is NaN."""
    view = seeing(lying(samples), seed, width)
    generator = torch.Generator().manual_seed(seed + 1)
    there = torch.arange(max(words)) < torch.tensor(words)[:, None]
    text = torch.randn(len(words), max(words), width, generator=generator, dtype=torch.float64)
    paid = torch.randint(0, 9, view.real.shape, generator=generator).double() / 9  # with ties
    return dataclasses.replace(
        view,
        words=text.masked_fill(~there[..., None], math.nan),
        words_valid=there,
        attention=paid.masked_fill(~view.real, math.nan),
        totals=tuple(view.counts),
    )


def rater_loop(visual, words):
    """Words whose mean over image tokens of the softmax over words is at least the average."""
    ratings = [0.0] * len(words)
    for v in visual:
        logits = [sum(float(a) * float(b) for a, b in zip(v, t, strict=True)) for t in words]
        top = max(logits)
        shares = [math.exp(x - top) for x in logits]
        for t, share in enumerate(shares):
            ratings[t] += share / sum(shares) / len(visual)
    average = sum(ratings) / len(ratings)
    return [rating >= average for rating in ratings]


@pytest.mark.parametrize("seed", range(8))
def test_raters_as_the_loop_has_them(seed):
    view = reading(seed=seed)
    found = SparseVLM(keep=3).raters(view)
    assert found.shape == view.words_valid.shape and found.dtype == torch.bool
    assert not bool((found & ~view.words_valid).any())
    for b, n in enumerate(view.counts):
        words = view.words[b, view.words_valid[b]]
        if n:
            assert found[b, : len(words)].tolist() == rater_loop(view.visual[b, :n], words)
            assert torch.equal(SparseVLM(keep=3).raters(one(view, b))[0], found[b, : len(words)])
        assert bool(found[b].any())


def test_raters_of_equal_words_and_of_one(monkeypatch):
    view = reading(words=(5, 1, 2, 4))
    same = dataclasses.replace(view, words=torch.where(view.words_valid[..., None], view.words[:1, :1], math.nan))
    found = SparseVLM(keep=3).raters(same)
    assert torch.equal(found, view.words_valid)
    zero = dataclasses.replace(view, words=torch.zeros_like(view.words), visual=torch.zeros_like(view.visual))
    assert torch.equal(SparseVLM(keep=3).raters(zero), view.words_valid)
    whole = SparseVLM(keep=3).raters(view)
    monkeypatch.setattr(sparsevlm, "CHUNK", 4)
    assert torch.equal(SparseVLM(keep=3).raters(view), whole)
    none = dataclasses.replace(view, words_valid=view.words_valid & torch.tensor([[True], [False], [True], [True]]))
    assert not bool(SparseVLM(keep=3).raters(none)[1].any())  # a sample without words has none
    broken = dataclasses.replace(view, visual=torch.full_like(view.visual, math.nan))
    assert torch.equal(SparseVLM(keep=3).raters(broken), view.words_valid)


@pytest.mark.parametrize("keep", [1, 4, 9, 0.3, 1.0])
def test_without_recycling_the_best_stay(keep):
    view, method = reading(), SparseVLM(keep=keep, layer=2)
    samples = [b for b, n in enumerate(view.counts) if n]
    found = method.choose(view)
    for b in samples:
        paid = view.attention[b].tolist()
        ranked = sorted(range(view.counts[b]), key=lambda i: (-paid[i], i))
        assert chosen(found, b) == sorted(ranked[: method.amounts(view)[b]])
        assert chosen(method.choose(one(view, b))) == chosen(found, b)
    assert found.blend is None


def clusters_loop(tokens, count):
    """The fewest clusters that are enough for the tokens which they leave to be dropped."""
    for clusters in range(count):
        recycled = math.floor(0.3 * (tokens - (count - clusters)) + 0.5)
        wanted = max(1, math.floor(0.1 * recycled + 0.5)) if recycled else 0
        if wanted <= clusters or clusters == count - 1:
            return clusters, recycled
    raise AssertionError


def recycling_loop(view, b, count):
    """(kept tokens, source of each token) of sample ``b``."""
    n, paid = view.counts[b], view.attention[b].tolist()
    clusters, recycled = clusters_loop(n, count)
    ranked = sorted(range(n), key=lambda i: (-paid[i], i))
    best, others = ranked[: count - clusters], sorted(ranked[count - clusters :][:recycled]) if clusters else []
    source = [i if i in best else PAD for i in range(n)]
    if clusters:
        centres = density_peaks(view.hidden[b, others].tolist(), clusters)
        for i, centre in zip(others, centres, strict=True):
            source[i] = others[centre]
    return sorted(i for i in range(n) if source[i] == i), source


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("keep", [1, 2, 4, 9, 0.1, 0.5, 0.9, 1.0, OfAll(0.3), Falling(0.2, 1, 2)])
def test_recycling_as_the_loop_has_it(keep, seed):
    view, method = reading(seed=seed), SparseVLM(keep=keep, layer=2, recycle=True)
    found = method.choose(view)
    counts = method.amounts(view)
    assert found.count.tolist() == counts
    after = view.hidden if found.blend is None else blended(view.hidden, found.blend)
    for b, n in enumerate(view.counts):
        if not n:
            continue
        kept, source = recycling_loop(view, b, counts[b])
        assert chosen(found, b) == kept and len(kept) == counts[b]
        assert found.source[b, :n].tolist() == source
        assert bool((found.source[b, n:] == PAD).all())
        alone = method.choose(one(view, b))
        assert chosen(alone) == kept and alone.source[0].tolist() == source
        for target in kept:
            members = [i for i in range(n) if source[i] == target]
            for d in range(view.hidden.shape[-1]):
                mean = sum(float(view.hidden[b, i, d]) for i in members) / len(members)
                assert abs(float(after[b, target, d]) - mean) < 1e-6
    if keep == 1.0 and isinstance(keep, float):
        assert found.blend is None and torch.equal(found.kept, view.real)


def test_clusters_are_enough_and_leave_room():
    for tokens in range(1, 120):
        for count in range(1, tokens + 1):
            clusters, recycled = clusters_loop(tokens, count)
            assert clusters_within(tokens, count) == clusters < count
            assert clusters <= recycled or clusters == 0
    assert clusters_within(576, 192) == 12  # 396 dropped by score, 119 of them recycled, 12 clusters
    assert clusters_within(576, 576) == clusters_within(576, 1) == 0


def test_equal_tokens_zero_vectors_and_half_precision():
    view = reading()
    flat = dataclasses.replace(
        view,
        hidden=torch.zeros_like(view.hidden),
        attention=torch.ones_like(view.attention).masked_fill(~view.real, math.nan),
    )
    method = SparseVLM(keep=4, recycle=True, layer=2)
    assert chosen(method.choose(flat), 3) == [0, 1, 2, 3]  # the best three, and the first recycled one
    half = dataclasses.replace(view, hidden=view.hidden.half(), attention=view.attention.half())
    assert method.choose(half).count.tolist() == [4, 4, 0, 4]


def test_one_transfer_brings_all_to_the_host(monkeypatch):
    view, method, transfers = reading(), SparseVLM(keep=4, recycle=True, layer=2), []
    monkeypatch.setattr(View, "counts", view.counts)  # known on the host, and so are the amounts
    monkeypatch.setattr(SparseVLM, "amounts", lambda self, view: [4, 4, 0, 4])
    whole = torch.Tensor.cpu

    def transfer(x):
        transfers.append([*waits.found])
        return whole(x)

    with Waits() as waits:
        monkeypatch.setattr(torch.Tensor, "cpu", transfer)
        found = method.choose(view)
        monkeypatch.setattr(torch.Tensor, "cpu", whole)
    assert transfers[0] == [] and found.count.tolist() == [4, 4, 0, 4]  # what comes behind it is on the host
    with Waits() as waits:
        method.raters(view)
    assert not waits.found


@pytest.mark.parametrize("recycle", [False, True])
def test_features_that_are_no_numbers(recycle):
    view, method = reading(), SparseVLM(keep=4, recycle=recycle, layer=2)
    paid, hidden = view.attention.clone(), view.hidden.clone()
    paid[0, 3], hidden[0, 19, 0] = math.nan, math.nan
    with pytest.raises(ValueError, match="NaN"):
        method.choose(dataclasses.replace(view, attention=paid))
    if recycle:
        with pytest.raises(ValueError, match="NaN"):
            method.choose(dataclasses.replace(view, hidden=hidden))


def test_configurations():
    published = SparseVLM(keep=Schedule({2: 303, 6: 110, 15: 36}))
    assert [(cut.site, cut.keep) for cut in published.cuts()] == [
        (("layer", 2), 303),
        (("layer", 6), 110),
        (("layer", 15), 36),
    ]
    plain = SparseVLM(keep=64)
    assert [cut.site for cut in plain.cuts()] == [("layer", 2 / 32), ("layer", 6 / 32), ("layer", 15 / 32)]
    assert [cut.keep for cut in plain.cuts()] == [Falling(64, step, 3) for step in (1, 2, 3)]
    assert plain.site == ("layer", 2 / 32) and SparseVLM(keep=Schedule({4: 8})).site == ("layer", 4)
    old = SparseVLM(keep=64, recycle=True, layers=(0.25, 0.5))
    assert set(old.needs) - set(plain.needs) == {"hidden"} and old.merges and not plain.merges and not SparseVLM.merges
    assert all(cut.merges and cut.recycle and "hidden" in cut.needs for cut in old.cuts())
    for method in (published, plain, old, *old.cuts()):
        assert eval(repr(method)) == method == eval(str(method)) and hash(method) == hash(eval(repr(method)))
    with pytest.raises(TypeError, match="recycle='yes' is neither True nor False"):
        SparseVLM(keep=4, recycle="yes")
    with pytest.raises(TypeError, match=r"keep=AtLeast.*reads scores, and recycle=True needs to know the count"):
        SparseVLM(keep=AtLeast(0.1), recycle=True)
    with pytest.raises(ValueError, match="cuts before the decoder, and SparseVLM reads the layer before"):
        SparseVLM(keep=Schedule({0: 9}))
