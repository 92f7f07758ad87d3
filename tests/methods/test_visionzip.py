"""VisionZip against a plain loop over the published rule."""

from __future__ import annotations

import pytest

import towers
from simignore.budget import budget
from simignore.methods.visionzip import VisionZip


def by_loop(seen, b, amount, context):
    """(kept, source) of one sample."""
    attention, keys = towers.row(seen, "attention", b), towers.mean_keys(seen, b)
    size = len(attention)
    dominant = towers.top(attention, amount - context)
    rest = [i for i in range(size) if i not in dominant]
    step = len(rest) // context if context else 0
    targets = [rest[i * step] for i in range(context)]
    source = [i if i in dominant or i in targets else -1 for i in range(size)]
    for i in rest:
        if i not in targets and targets:
            source[i] = targets[towers.first_best([towers.cosine(keys[i], keys[t]) for t in targets])]
    return sorted(dominant + targets), source


@pytest.mark.parametrize("make", [towers.random_look, towers.coarse_look])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("sizes", "keep", "contextual"),
    [
        ([24, 17, 0, 1], 0.5, 10 / 64),
        ([24, 17, 13], 9, 3),
        ([40, 33], 0.3, 0.5),
        ([12, 30], 12, 1.0),
        ([9, 5], 4, 0),
        ([9, 5], 4, 7),
        ([6, 2], 1, 0.2),
    ],
)
def test_the_published_rule(make, seed, sizes, keep, contextual):
    seen = towers.view(sizes, seed, make=make)
    method = VisionZip(keep=keep, contextual=contextual)
    chosen = method.choose(seen)
    for b, size in enumerate(sizes):
        amount = budget(keep, size)
        context = min(contextual, amount) if isinstance(contextual, int) else int(contextual * amount + 0.5)
        stay, source = by_loop(seen, b, amount, context)
        assert towers.kept(chosen, b) == stay
        assert chosen.source[b, :size].tolist() == source
        assert chosen.source[b, size:].tolist() == [-1] * (chosen.source.shape[1] - size)
        towers.same_mix(towers.mixed(chosen, b), towers.groups(source))


def test_the_published_splits():
    for keep, context in ((64, 10), (128, 20), (192, 30)):
        assert VisionZip(keep=keep).split(keep) == context


@pytest.mark.parametrize("contextual", [-1, 1.5, True, float("nan"), "a few"])
def test_bad_values(contextual):
    with pytest.raises(ValueError, match="contextual="):
        VisionZip(keep=4, contextual=contextual)
