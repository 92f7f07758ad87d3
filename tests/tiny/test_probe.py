"""What is said of embeddings is measured rightly: areas against counting pairs, truths against embeddings made to hold them."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from simignore.tiny.model import TINY, build_model, build_processor
from simignore.tiny.probe import areas, auc
from simignore.tiny.questions import ask_surely
from simignore.tiny.scenes import patch_owner, render, sample_scene
from simignore.tiny.words import VOCABULARY


@pytest.mark.parametrize("seed", range(20))
def test_auc_counts_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, positive = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert auc(score, positive) == pytest.approx(np.mean(pairs))


def test_auc_of_nothing_to_tell_apart() -> None:
    assert math.isnan(auc(np.arange(3.0), np.array([True, True, True])))
    assert math.isnan(auc(np.arange(3.0), np.array([False, False, False])))


def test_embeddings_that_hold_the_truth_are_found_out() -> None:
    """A projector replaced by one that speaks the words of each patch's owner; lengths tell too, as background is short."""
    scene = sample_scene(4)
    asked = ask_surely("colour", scene, random.Random(0))
    assert asked is not None and len(asked.needs) == 1
    asked = replace(asked, question=f"{scene.things[asked.needs[0]].name}?", options=("yes", "no"))
    torch.manual_seed(0)
    model, processor = build_model(TINY).eval(), build_processor(TINY)
    words = model.model.language_model.embed_tokens.weight
    with torch.no_grad():
        words.copy_(torch.nn.functional.normalize(torch.randn_like(words), dim=1))
        told = torch.zeros(TINY.patches, TINY.width)
        for patch, owner in enumerate(patch_owner(render(scene)[1])):
            if owner:
                thing = scene.things[owner - 1]
                told[patch] = words[VOCABULARY[thing.colour]] + words[VOCABULARY[thing.shape]]
            else:
                told[patch] = 0.1 * torch.randn(TINY.width) / TINY.width**0.5
        model.model.multi_modal_projector.forward = lambda features: told[None]
        found = areas(model, processor, scene, asked)
        assert found["word"] > 0.97 and found["length"] == 1.0 and found["similarity"] > 0.97
        wrong = replace(asked, needs=tuple({0, 1, 2} - set(asked.needs)))
        assert areas(model, processor, scene, wrong)["similarity"] < 0.9, "the needed patches count"
        assert 0 <= found["cls"] <= 1
        model.model.multi_modal_projector.forward = lambda features: torch.nn.functional.normalize(
            torch.randn(1, TINY.patches, TINY.width), dim=-1
        )
        assert found["word"] - areas(model, processor, scene, asked)["word"] > 0.3
    assert model.model.vision_tower.config._attn_implementation != "eager", "the tower is left as it was"
