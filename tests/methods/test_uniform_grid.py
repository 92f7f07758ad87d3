"""UniformGrid and Pooled: exact counts on every layout, spread, and means against plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grids import chosen, film, image, lying, one, seeing
from simignore.merge import blended
from simignore.methods.pooled import Pooled
from simignore.methods.uniform_grid import UniformGrid
from simignore.types import PAD

SAMPLES = [
    [[image(4, 4)], [image(3, 5), image(2, 2, number=1)]],
    [[image(1, 7, "tokens")], [image(5, 1)], []],
    [film(3, 3, 3), [image(2, 2, "tile")] * 4 + [image(2, 2, "overview")]],
]


@pytest.mark.parametrize("cls", [UniformGrid, Pooled])
@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("gone", [(), ((0, 0), (0, 3), (1, 2))])
@pytest.mark.parametrize("keep", [1, 2, 3, 0.3, 0.5, 0.9, 1.0])
def test_exactly_the_promised_tokens_stay(cls, samples, gone, keep):
    view = seeing(lying(samples, gone))
    method = cls(keep=keep)
    found = method.choose(view)
    assert found.count.tolist() == method.amounts(view)
    for b, n in enumerate(view.counts):
        if n:
            assert torch.equal(chosen_tensor(method.choose(one(view, b)), 0), chosen_tensor(found, b))
    if isinstance(keep, float) and keep == 1:
        assert found.blend is None and torch.equal(found.kept, view.real)
    assert found.score is None


def chosen_tensor(selection, b):
    return torch.tensor(chosen(selection, b))


def test_the_places_by_hand():
    found = UniformGrid(keep=4).choose(seeing(lying([[image(6, 6)]])))
    assert chosen(found) == [6 * r + c for r in (1, 4) for c in (1, 4)]  # the middles of four 3 x 3 cells
    found = UniformGrid(keep=2).choose(seeing(lying([[image(1, 6, "tokens")]])))
    assert chosen(found) == [1, 4]


def test_the_budget_is_shared_out_by_the_tokens_of_each_grid():
    samples = [[image(4, 4), image(2, 4, number=1), image(2, 2, number=2)]]
    found = UniformGrid(keep=7).choose(seeing(lying(samples)))
    counts = [sum(lying(samples).grid[0, i] == g for i in chosen(found)) for g in range(3)]
    assert counts == [4, 2, 1]
    few = UniformGrid(keep=1).choose(seeing(lying(samples)))
    assert all(lying(samples).grid[0, i] == 0 for i in chosen(few))  # the others get none
    assert Pooled(keep=1).choose(seeing(lying(samples))).source[0, 16:].unique().tolist() == [PAD]


@settings(deadline=None, max_examples=60)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), seed=st.integers(0, 99), data=st.data())
def test_pooling_is_the_mean_of_each_cell(rows, columns, seed, data):
    """By the source map the cells are a partition; each token that stays becomes the plain mean of its cell."""
    keep = data.draw(st.integers(1, rows * columns))
    view = seeing(lying([[image(rows, columns)], [image(6, 6)]]), seed)
    found = Pooled(keep=keep).choose(view)
    assert chosen(found) == chosen(UniformGrid(keep=keep).choose(view))
    source = found.source[0, : rows * columns].tolist()
    assert sorted({*source}) == chosen(found)
    after = view.visual[0] if found.blend is None else blended(view.visual, found.blend)[0]
    for target in chosen(found):
        members = [i for i, s in enumerate(source) if s == target]
        assert target in members
        for d in range(view.visual.shape[-1]):
            mean = sum(float(view.visual[0, i, d]) for i in members) / len(members)
            assert abs(float(after[target, d]) - mean) < 1e-6


def test_an_odd_size_is_no_error_up_to_the_last_token():
    for rows, columns in ((1, 1), (5, 7), (7, 2), (1, 13)):
        for keep in range(1, rows * columns + 1):
            found = UniformGrid(keep=keep).choose(seeing(lying([[image(rows, columns)]])))
            assert len({*chosen(found)}) == keep


def test_what_is_refused():
    from simignore.budget import AtLeast

    with pytest.raises(ValueError, match="keep=17 image tokens, but there are only 16"):
        UniformGrid(keep=17).choose(seeing(lying([[image(4, 4)]])))
    with pytest.raises(TypeError, match="reads scores, and Pooled has none"):
        Pooled(keep=AtLeast(0.3))
    for method in (UniformGrid(keep=0.5), Pooled(keep=3, within="grid")):
        assert eval(repr(method)) == method and hash(method) == hash(eval(str(method)))
