"""LearnedSimignore with heads that judge what is worth keeping, and with heads that look beside what they found."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from methods.test_learned import HEAD, kept
from methods.test_methods import view
from safetensors.torch import load_file, save_file

import models
from benchmarks.heads import random_head
from grids import lying
from oracles import captured
from rebuilding import NAMES
from simignore import AtLeast, Chain, FastV, LearnedSimignore, Schedule
from simignore.budget import OfAll
from simignore.head import CONFIG, WEIGHTS, Head, load_head
from simignore.hops import spots
from simignore.types import Grid

QUERY = torch.tensor([10, 11, 12])


@pytest.fixture
def judging(tmp_path):
    """The folder of HEAD with a threshold that was learnt: this much higher than it was."""

    def made(raised=0.0, head=HEAD):
        folder = tmp_path / f"judging {raised}"
        shutil.copytree(head, folder)
        told = json.loads((folder / CONFIG).read_text()) | {"judges": True}
        (folder / CONFIG).write_text(json.dumps(told))
        weights = load_file(folder / WEIGHTS)
        save_file(weights | {"threshold": weights["threshold"] + raised}, folder / WEIGHTS)
        return str(folder)

    return made


def scores(seen, folder):
    """[B][n] of each sample alone."""
    head, found = load_head(folder), []
    for b, n in enumerate(seen.counts):
        found.append(head(seen.visual[b : b + 1, :n], seen.text[b : b + 1], seen.text_valid[b : b + 1])[0].tolist())
    return found


def seeing(seed=0):
    return view(sizes=[16, 24], seed=seed)


@pytest.mark.parametrize("raised", [-9.0, 0.0, 1.0, 2.0, 9.0])
@pytest.mark.parametrize("sharpness", [None, 0.0, 5.0, 60.0])
@pytest.mark.parametrize("keep", [1, 6, 0.5, 1.0])
@pytest.mark.parametrize("fill", ["lowest", "highest"])
def test_what_is_worth_keeping_comes_first_and_the_budget_is_filled_from_one_end(
    keep, sharpness, raised, fill, judging
):
    folder = judging(raised)
    for seed in range(3):
        seen = seeing(seed)
        chosen = LearnedSimignore(keep=keep, head=folder, sharpness=sharpness, fill=fill).choose(seen)
        for b, own in enumerate(scores(seen, folder)):
            most = keep if isinstance(keep, int) else int(keep * len(own))
            best = own.index(max(own))
            worth = {n for n, score in enumerate(own) if score >= 0} or {best}
            found = kept(chosen, b)
            assert len(found) == most
            if len(worth) >= most:
                assert set(found) <= worth and (sharpness == 0 or best in found)
                continue
            others = sorted(set(range(len(own))) - worth, key=lambda n: own[n] if fill == "lowest" else -own[n])
            assert set(found) == worth | set(others[: most - len(worth)])


@pytest.mark.parametrize("sharpness", [None, 5.0])
def test_never_taught_to_judge_it_is_filled_with_the_highest(sharpness):
    seen, plain = seeing(), LearnedSimignore(keep=6, head=HEAD, sharpness=sharpness)
    assert torch.equal(plain.choose(seen).index, replace(plain, fill="highest").choose(seen).index)


@pytest.mark.parametrize("sharpness", [None, 5.0])
@pytest.mark.parametrize("fill", ["lowest", "highest"])
def test_rules_that_read_scores_keep_the_tokens_that_they_name(sharpness, fill, judging):
    folder, seen = judging(1.0), seeing()
    for least in (0, -1):
        method = LearnedSimignore(keep=AtLeast(least), head=folder, sharpness=sharpness, fill=fill)
        chosen = method.choose(seen)
        for b, own in enumerate(scores(seen, folder)):
            assert kept(chosen, b) == [n for n, score in enumerate(own) if score >= least]
            assert len(kept(chosen, b)) > 1
    capped = LearnedSimignore(keep=AtLeast(0, cap=2), head=folder, sharpness=sharpness, fill=fill).choose(seen)
    assert capped.count.tolist() == [2, 2]


def test_a_fraction_of_all_tokens_is_filled_like_any_other(judging):
    """A schedule's fractions are turned into those."""
    seen, folder = seeing(), judging(2.0)
    one, other = (LearnedSimignore(keep=keep, head=folder).choose(seen) for keep in (0.75, OfAll(0.75)))
    assert torch.equal(one.index, other.index) and one.count.tolist() == [12, 18]
    cut = LearnedSimignore(keep=Schedule({0: 0.75, 2: 0.5}), head=folder).cuts()[0]
    assert torch.equal(cut.choose(seen).index, one.index)


def test_a_neighbour_in_the_batch_decides_nothing(judging):
    seen, folder = seeing(), judging(1.0)
    for sharpness in (None, 5.0):
        method = LearnedSimignore(keep=8, head=folder, sharpness=sharpness)
        both = method.choose(seen)
        for b, n in enumerate(seen.counts):
            alone = view(sizes=[n], d=4)
            alone = replace(alone, visual=seen.visual[b : b + 1, :n], text=seen.text[b : b + 1])
            assert kept(method.choose(alone), 0) == kept(both, b)


def test_scores_of_exactly_0_are_worth_keeping(judging, tmp_path):
    """All tokens alike, and the threshold is their score."""
    seen = seeing()
    seen = replace(seen, visual=torch.ones_like(seen.visual), text=torch.ones_like(seen.text))
    head = Head(4, 1, judges=True).requires_grad_(False)
    head.threshold.copy_(head(seen.visual, seen.text, seen.text_valid)[0, 0])
    head.save_pretrained(tmp_path / "even")
    for sharpness in (None, 5.0):
        method = LearnedSimignore(keep=5, head=str(tmp_path / "even"), sharpness=sharpness)
        assert method.choose(seen).index.tolist() == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("sharpness", [None, 5.0])
@pytest.mark.parametrize("what", ["visual", "text"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_no_numbers_are_refused(what, bad, sharpness, judging):
    seen = seeing()
    broken = getattr(seen, what).clone()
    broken[1, 1, 0] = bad
    method = LearnedSimignore(keep=5, head=judging(), sharpness=sharpness)
    with pytest.raises(ValueError, match="not a number|NaN or infinity"):
        method.choose(replace(seen, **{what: broken}))


@pytest.mark.parametrize("filler", [torch.nan, 1e30])
def test_what_stands_in_the_padding_decides_nothing(filler, judging):
    seen = seeing()
    other = replace(seen, visual=seen.visual.masked_fill(~seen.valid[..., None], filler))
    for sharpness in (None, 5.0):
        method = LearnedSimignore(keep=8, head=judging(), sharpness=sharpness)
        assert torch.equal(method.choose(other).index, method.choose(seen).index)
        shutil.rmtree(method.head)


def test_its_repr_rebuilds_it():
    method = LearnedSimignore(keep=5, head=HEAD, fill="highest")
    assert eval(repr(method), NAMES) == method != replace(method, fill="lowest")
    assert eval(str(method), NAMES) == method and "fill='highest'" in str(method)
    assert "fill" not in str(LearnedSimignore(keep=5, head=HEAD))


def hopping(folder, width=models.WIDTH, **more):
    head, generator = Head(width, 4, hops=2, **more), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    head.save_pretrained(folder)
    return str(folder)


def traced(method, inputs, model=None, query=QUERY):
    model = model or models.model()
    with torch.no_grad(), method(model, query=query) as trace:
        model(**inputs)
    return trace.selections[0]


PROMPTS = models.prompt(images=2, seed=1), models.prompt(words=11, seed=2, before=4), models.prompt(images=3, seed=3)


def test_a_head_with_hops_is_told_where_the_tokens_of_a_model_lie(tmp_path):
    """Scores are those of the head on each sample alone: its tokens before the decoder, and images of 4 x 4 patches."""
    folder, inputs, model = hopping(tmp_path / "hops"), models.batch(*PROMPTS), models.model()
    chosen = traced(LearnedSimignore(keep=5, head=folder, sharpness=None), inputs)
    embeddings, head = captured(model, inputs), load_head(folder)
    text = model.get_input_embeddings()(QUERY)[None].detach()
    for b, images in enumerate((2, 1, 3)):
        own = embeddings[b][inputs["input_ids"][b] == models.IMAGE]
        where = spots(lying([[Grid(4, 4, image) for image in range(images)]]))
        score = head(own[None], text, torch.ones(1, 3, dtype=torch.bool), where)[0]
        torch.testing.assert_close(chosen.score[b, : len(own)], score)
        assert kept(chosen, b) == sorted(sorted(range(len(own)), key=lambda n: -float(score[n]))[:5])
    assert bool(chosen.score[1, 16:].isnan().all())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("sharpness", [None, 5.0])
def test_a_batch_with_other_numbers_of_images_and_one_without_gives_each_what_it_gets_alone(side, sharpness, tmp_path):
    method = LearnedSimignore(keep=0.4, head=hopping(tmp_path / "hops", judges=True), sharpness=sharpness)
    prompts = *PROMPTS, models.prompt(images=0, words=4)
    inputs = models.batch(*prompts, side=side)
    both, done = traced(method, inputs), 0
    assert both.count.tolist()[3] == 0 and min(both.count.tolist()[:3]) > 0
    for b, images in enumerate((2, 1, 3)):
        own = models.batch(prompts[b])
        own["pixel_values"], done = inputs["pixel_values"][done : done + images], done + images
        assert kept(traced(method, own), 0) == kept(both, b)
    text = models.batch(prompts[3])
    with torch.no_grad():
        plain = models.model()(**text).logits
        with method(models.model(), query=QUERY):
            assert torch.equal(models.model()(**text).logits, plain)


def test_hops_inside_the_decoder_within_images_and_behind_another_cut(tmp_path):
    folder, inputs = hopping(tmp_path / "hops"), models.batch(*PROMPTS)
    method = LearnedSimignore(keep=3, head=folder)
    assert traced(replace(method, layer=2), inputs).count.tolist() == [3, 3, 3]
    assert traced(replace(method, within="image"), inputs).count.tolist() == [6, 3, 9]
    assert traced(Chain(FastV(keep=7, layer=1), replace(method, layer=2)), inputs).count.tolist() == [3, 3, 3]
    every = traced(replace(method, keep=1.0), inputs)
    assert every.count.tolist() == [32, 16, 48]


def test_hops_beside_a_model_in_half_precision(tmp_path):
    model = models.fresh().to(torch.bfloat16)
    inputs = models.batch(*PROMPTS)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    chosen = traced(LearnedSimignore(keep=3, head=hopping(tmp_path / "hops"), sharpness=5.0), inputs, model)
    assert chosen.count.tolist() == [3, 3, 3] and chosen.score.dtype == torch.float32


def test_hops_among_tokens_without_places_are_refused_with_the_remedy(tmp_path):
    seen = seeing()
    loose = lying([[Grid(1, 16, 0, "tokens")], [Grid(1, 24, 0)]])
    method = LearnedSimignore(keep=3, head=hopping(tmp_path / "hops", 4))
    with pytest.raises(ValueError, match=r"no places to be beside; train a head with hops=0"):
        method.choose(replace(seen, patches=loose))
    assert LearnedSimignore(keep=3, head=random_head(4)).choose(replace(seen, patches=loose)).count.tolist() == [3, 3]


def test_one_image_token_and_one_word_are_enough(tmp_path, judging):
    seen = view(sizes=[1, 1], m=1)
    for folder in (hopping(tmp_path / "hops", 4, judges=True), judging(99.0)):
        for keep in (1, 0.1, AtLeast(0)):
            assert LearnedSimignore(keep=keep, head=folder).choose(seen).index.tolist() == [[0], [0]]
