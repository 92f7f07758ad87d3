"""Adapters beside a head: merged in by every command that runs one method, refused where methods share a model."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import torch

from benchmarks.heads import random_head
from simignore import tiny
from simignore.cli import models as loading
from simignore.cli.models import load
from simignore.evaluate.identity import fingerprint
from simignore.train import adapted
from simignore.train.adapters import adapt

QUICK = ("--limit", 14, "--batch", 14, "--keep", 9, "--cost-rounds", 0)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head for the bundled model with adapters that change it."""
    pytest.importorskip("peft")
    folder = shutil.copytree(random_head(192), tmp_path_factory.mktemp("adapted") / "head")
    made = adapt(tiny.load()[0], 2)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    made.save_pretrained(folder / "adapter")
    return str(folder)


def test_evaluate_runs_on_the_model_with_its_adapters(simignore, head, tmp_path):
    done = simignore("evaluate", "scenes", *QUICK, "--method", "learned", "--set", f"head={head}", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "config.json").read_text())["weights_sha256"]
    assert told == fingerprint(adapted(tiny.load()[0], head)) != fingerprint(tiny.load()[0])
    assert fingerprint(load("tiny")[0]) == fingerprint(load("tiny", head=random_head(192))[0])


@pytest.mark.parametrize("way", ["--head", "--set"])
@pytest.mark.parametrize("command", ["ask", "explain", "batch", "evaluate", "evaluate over Ray"])
def test_every_command_with_one_method_asks_for_its_heads_adapters(
    simignore, photo, head, tmp_path, monkeypatch, command, way
):
    asked = []

    def noted(*given, **more):
        asked.append([*given, *more.values()])
        raise ValueError("enough")

    monkeypatch.setattr(loading, "load", noted)
    monkeypatch.setattr("simignore.evaluate.ray.sweep_on_ray", lambda loader, *_, **__: loader())
    words = {
        "ask": ("ask", photo, "what?"),
        "explain": ("explain", photo, "what?", "--out", tmp_path / "page.html"),
        "batch": ("batch", photo.parent, "--question", "what?", "--out", tmp_path / "a.jsonl"),
        "evaluate": ("evaluate", "scenes", "--limit", 1),
        "evaluate over Ray": ("evaluate", "scenes", "--limit", 1, "--ray", "local"),
    }[command]
    if way == "--head" and command not in ("ask", "explain"):
        pytest.skip("has no --head")
    option = ("--head", head) if way == "--head" else ("--method", "learned", "--set", f"head={head}")
    done = simignore(*words, *option, "--keep", 9)
    assert "enough" in done.stderr and head in asked[0], done.output


def test_lmms_eval_asks_for_them_too(head, monkeypatch):
    pytest.importorskip("lmms_eval")
    from simignore.cli import lmms

    monkeypatch.setattr(lmms, "load", lambda *given: pytest.skip("asked") if head in given else pytest.fail(str(given)))
    with pytest.raises(pytest.skip.Exception):
        lmms.Typed("tiny", "learned", keep=9, head=head)


def test_compare_refuses_them_and_says_what_to_do(simignore, head):
    done = simignore("compare", "scenes", *QUICK, "--methods", "simignore,learned", "--set", f"learned.head={head}")
    told = " ".join(done.stderr.split())
    assert done.exit_code == 2 and f"{head} holds adapters, which change the model" in told
    assert f"simignore evaluate --method learned --set head={head}" in told


def test_without_peft_it_is_one_line_before_a_model_is_loaded(simignore, head, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else there(name, *rest))
    monkeypatch.setattr(loading, "_load", lambda *_: pytest.fail("the model was loaded"))
    done = simignore("ask", "--head", head, "--keep", 9)
    assert done.exit_code == 2 and "which needs the package peft: pip install 'simignore[train]'" in done.stderr


def test_training_adapters_without_peft_is_one_line_before_anything_is_read(simignore, tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else there(name, *rest))
    done = simignore("train", "scenes", "--adapters", 4, "--steps", 1, "--out", tmp_path / "head")
    assert done.exit_code == 2 and not (tmp_path / "head").exists()
    assert "--adapters 4 trains LoRA, which needs the package peft: pip install" in " ".join(done.stderr.split())
