"""EVS against a plain loop over frames, and what is no video refused."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import models
from grids import Waits, chosen, film, image, lying, one, seeing
from simignore.methods.evs import EVS, changes, earlier
from simignore.methods.frame_budget import FrameBudget
from simignore.methods.uniform_grid import UniformGrid

STILL = [image(2, 2)]


def cosine(a, b):
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def loop(view, b, video_of):
    """Scores of sample ``b``: each token against the last one before it of the same video, row and column."""
    last, scores = {}, []
    patches = view.patches
    for n in range(view.counts[b]):
        grid = int(patches.grid[b, n])
        key = (video_of(grid), int(patches.row[b, n]), int(patches.column[b, n]))
        if key[0] is None or key not in last:
            scores.append(math.inf)
        else:
            scores.append(1 - cosine(view.visual[b, n], view.visual[b, last[key]]))
        last[key] = n
    return scores


def best(scores, keep):
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:keep])


CASES = {
    "a video": ([film(4, 2, 3)], lambda g: 0),
    "two videos": ([film(2, 2, 2) + film(3, 1, 3, number=1)], lambda g: 0 if g < 2 else 1),
    "images as frames": ([[image(2, 3, number=n) for n in range(3)]], lambda g: 0),
    "learned queries as frames": ([[image(1, 5, "tokens", number=n) for n in range(3)]], lambda g: 0),
    "a still beside a video": ([[*STILL, *film(3, 2, 2, number=1)]], lambda g: None if g == 0 else 0),
    "stills around a video": (
        [[*STILL, *film(3, 2, 2, number=1), image(2, 2, number=2)]],
        lambda g: 0 if 0 < g < 4 else None,
    ),
    "frames that change size": ([film(2, 2, 2) + film(2, 3, 2)], lambda g: 0 if g < 2 else 1),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("gone", [(), ((0, 1), (0, 6), (0, 7))])
def test_as_the_loop_has_it(name, gone):
    samples, video_of = CASES[name]
    view = seeing(lying(samples, gone), seed=3)
    wanted = loop(view, 0, video_of)
    found = EVS(keep=1).score(view)[0].tolist()
    assert all(a == b or abs(a - b) < 1e-9 for a, b in zip(found, wanted, strict=True))
    for keep in range(1, view.counts[0] + 1):
        assert chosen(EVS(keep=keep).choose(view)) == best(wanted, keep)
    # tokens that an earlier cut took are skipped: the last that is there counts


def test_a_batch_gives_each_sample_its_own():
    view = seeing(lying([film(3, 2, 2), [], film(2, 3, 3), [image(2, 2, number=n) for n in range(4)]]), seed=1)
    found = EVS(keep=0.5).choose(view)
    assert found.count.tolist() == [6, 0, 9, 8]
    for b in (0, 2, 3):
        assert chosen(EVS(keep=0.5).choose(one(view, b))) == chosen(found, b)
    assert found.score is not None and bool(found.score[~view.real].isnan().all())


def test_what_stands_still_goes_and_ties_go_to_the_first():
    visual = torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(0)).expand(1, 12, 6).clone()
    visual[0, 10] = -visual[0, 10]
    view = seeing(lying([film(3, 2, 2)]), visual=visual)
    score = EVS(keep=5).score(view)[0]
    assert score[4:10].tolist() == [0.0] * 6 and abs(float(score[10]) - 2) < 1e-6 and float(score[11]) == 0
    assert chosen(EVS(keep=5).choose(view)) == [0, 1, 2, 3, 10]
    assert chosen(EVS(keep=7).choose(view)) == [0, 1, 2, 3, 4, 5, 10]
    assert chosen(EVS(keep=2).choose(view)) == [0, 1]  # less than the first frame
    zero = seeing(lying([film(3, 2, 2)]), visual=torch.zeros(1, 12, 6))
    assert EVS(keep=5).score(zero)[0, 4:].tolist() == [0.0] * 8


def test_chunks_do_not_change_the_score(monkeypatch):
    view = seeing(lying([film(5, 3, 3)]), seed=2)
    whole = EVS(keep=3).score(view)
    monkeypatch.setattr("simignore.methods.evs.CHUNK", 4)
    assert torch.equal(EVS(keep=3).score(view), whole)
    assert changes(torch.zeros(2, 0, 3), torch.zeros(2, 0, dtype=torch.long)).shape == (2, 0)


@pytest.mark.parametrize(
    "grids",
    [
        STILL,
        film(1, 2, 2),
        [image(2, 2), image(2, 3, number=1)],
        [image(2, 2, "tile"), image(2, 2, "tile"), image(2, 2, "overview")],
        [image(2, 2), *film(1, 2, 2, number=1)],
    ],
)
def test_what_is_no_video_is_refused(grids):
    view = seeing(lying([film(2, 2, 2), grids]))
    with pytest.raises(ValueError, match="sample 1 is no video: EVS compares frames.*Pass a video or several images"):
        EVS(keep=2).choose(view)


def test_other_errors():
    with pytest.raises(ValueError, match="within='grid' puts each frame by itself"):
        EVS(keep=3, within="grid")
    view = seeing(lying([film(2, 2, 2)], ((0, 4),)))
    for token in (0, 1, 5):  # also one that is compared with nothing, neither before nor behind
        visual = view.visual.clone()
        visual[0, token, 2] = math.nan
        with pytest.raises(ValueError, match="NaN"):
            EVS(keep=3).choose(dataclasses.replace(view, visual=visual))
    method = EVS(keep=0.25, within="image")
    assert eval(repr(method)) == method == eval(str(method))


def test_nothing_waits_for_the_device():
    view = seeing(lying([film(3, 2, 2)]))
    before = earlier(view.patches)
    with Waits() as waits:
        changes(view.visual, before)
    assert not waits.found


@pytest.mark.parametrize("method", [EVS(keep=9), FrameBudget(EVS(keep=9), floor=2), UniformGrid(keep=9)], ids=str)
def test_a_model_runs_under_it(method):
    """Three images of one size, taken for frames; beside them in the batch three others."""
    model = models.model()
    inputs = models.batch(models.prompt(images=3), models.prompt(words=9, images=3, seed=2))
    with torch.no_grad(), method(model) as trace:
        model(**inputs)
    assert trace.selections[0].count.tolist() == [9, 9]
    with torch.no_grad(), EVS(keep=9)(model), pytest.raises(ValueError, match="sample 0 is no video"):
        model(**models.batch(models.prompt()))
