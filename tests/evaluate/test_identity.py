"""A run's identity: what its answers depend on, and nothing that they do not."""

from __future__ import annotations

import shutil

import pytest
import torch

from benchmarks.heads import random_head
from simignore import AtLeast, Chain, Diverse, FastV, LearnedSimignore, Merged, Product, Random, Simignore
from simignore.evaluate import evaluate
from simignore.evaluate.identity import identified
from simignore.head import Head

WRAPS = [
    lambda method: method,
    Merged,
    Diverse,
    lambda method: Product(Simignore(keep=9), method),
    lambda method: Chain(Merged(method), FastV(keep=4)),
]


def known(method, scenes):
    return identified({}, scenes, method, [], 2)


def rewrite(folder, by):
    """The same head, one number of it moved a little; the file's size stays."""
    head = Head.from_pretrained(folder)
    with torch.no_grad():
        head.image[-1, -1] += by
    head.save_pretrained(folder)


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_head_that_was_written_anew_is_another_run(wrap, scenes, tmp_path):
    head = shutil.copytree(random_head(192), tmp_path / "head")
    method = wrap(LearnedSimignore(keep=9, head=str(head), sharpness=None, fill="highest"))
    before = known(method, scenes)
    assert known(method, scenes) == before and before["method"] == repr(method)
    rewrite(head, 1e-3)
    after = known(method, scenes)
    assert {name for name in after if after[name] != before.get(name)} == {"method_weights_sha256"}
    rewrite(head, 1e-3)
    assert known(method, scenes) not in (before, after)


def test_the_same_weights_elsewhere_are_told_by_the_folder_alone_and_the_bundled_head_has_a_digest(scenes, tmp_path):
    copy = shutil.copytree(random_head(192), tmp_path / "copy")
    one, other = (known(LearnedSimignore(keep=9, head=str(head)), scenes) for head in (random_head(192), copy))
    assert one["method_weights_sha256"] == other["method_weights_sha256"] and one["method"] != other["method"]
    bundled = known(LearnedSimignore(keep=AtLeast(0)), scenes)
    assert len(bundled["method_weights_sha256"]) == 16
    assert bundled["method_weights_sha256"] != one["method_weights_sha256"]


def test_methods_without_heads_are_known_as_before(scenes):
    for method in (None, Random(keep=9), Chain(Diverse(Simignore(keep=9)), FastV(keep=4))):
        assert set(known(method, scenes)) == {
            "benchmark",
            "version",
            "questions",
            "questions_sha256",
            "method",
            "batch",
            "generation",
        }


def test_a_run_does_not_go_on_with_another_head(bundled, scenes, items, tmp_path):
    head = shutil.copytree(random_head(192), tmp_path / "head")
    method, run = LearnedSimignore(keep=9, head=str(head)), tmp_path / "run"
    evaluate(*bundled, scenes, method, items=items[:2], batch=2, folder=run)
    evaluate(*bundled, scenes, method, items=items[:2], batch=2, folder=run)
    rewrite(head, 1e-3)
    with pytest.raises(ValueError, match="another configuration .*method_weights_sha256: '.*' there, '.*' here"):
        evaluate(*bundled, scenes, method, items=items[:2], batch=2, folder=run)
