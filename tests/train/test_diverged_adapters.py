"""Adapters that are no numbers: their gradient may overflow while the head's does not."""

from __future__ import annotations

import pytest
import torch

from simignore import tiny
from simignore.train import Objective, Scenes, Settings, train
from simignore.train.student import Student

GOAL = Objective(flow=0, answer=1, answer_from=0, spans=("question",))
SHORT = Settings(steps=1, batch=2, rank=2, adapters=2, objective=GOAL)


def test_adapters_that_have_diverged_are_not_written(tmp_path, monkeypatch):
    pytest.importorskip("peft")
    plain = Student.begin

    def overflowing(self, *given):
        for name, weight in self.base.named_parameters():
            if "lora_B" in name:
                weight.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
                break
        return plain(self, *given)

    monkeypatch.setattr(Student, "begin", overflowing)
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", lambda *_, **__: torch.zeros(()))  # the head stays finite
    with pytest.raises(
        ValueError, match=r"after step 1 .*lora_B.* is not finite: training has diverged, and no head was"
    ):
        train(*tiny.load(), Scenes(4), tmp_path, SHORT)
    assert not list(tmp_path.rglob("*.safetensors"))
