"""What a caller's model is after training from Python, and what training never ends with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from records import SHORT

from simignore import tiny
from simignore.head import load_head
from simignore.train import Scenes, Settings, train, trainer
from simignore.train.adapters import adapt
from simignore.train.objective import Objective


def state(model) -> tuple[list, list]:
    return [p.requires_grad for p in model.parameters()], [module.training for module in model.modules()]


def half_frozen():
    model, processor = tiny.load()
    model.train()
    first = next(iter(model.parameters()))
    first.requires_grad_(False)
    next(model.children()).eval()
    return model, processor


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_learns_and_is_in_training_as_before(tmp_path, monkeypatch, fails):
    model, processor = half_frozen()
    before = state(model)
    assert len(set(before[0])) == len(set(before[1])) == 2
    if fails:
        monkeypatch.setattr(trainer.HeadTrainer, "go_on", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(model, processor, Scenes(4), tmp_path, SHORT)
    else:
        head = train(model, processor, Scenes(4), tmp_path, SHORT)
        assert not any(module.training for module in head.modules())
    assert state(model) == before


def test_adapters_stay_in_the_model_whose_own_weights_learn_as_before(tmp_path):
    assert Settings(adapters=2, objective=Objective(flow=0, answer=0, budget=1)).adapters == 2
    answers = Objective(flow=0, answer_from=0, spans=("question",))
    settings = Settings(steps=1, batch=1, adapters=2, objective=answers)
    for _ in ("trained", "read"):  # the second time it is finished
        model, processor = half_frozen()
        own = [(p, p.requires_grad) for p in model.parameters()]
        train(model, processor, Scenes(4), tmp_path, settings)
        assert all(p.requires_grad == before for p, before in own)
        assert any("lora_A" in name for name, _ in model.named_parameters())


def test_adapters_begin_as_the_seed_says_whatever_was_drawn_before():
    def begun(seed: int, drawn: int) -> list:
        torch.manual_seed(drawn)
        state = torch.get_rng_state()
        made = adapt(tiny.load()[0], 2, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return [value for name, value in made.named_parameters() if "lora_A" in name]

    one, same, other = begun(3, 0), begun(3, 1), begun(4, 0)
    assert one and all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("after", [1, 2])
def test_a_diverged_run_stops_with_step_and_parts_and_keeps_the_checkpoint_from_before(tmp_path, monkeypatch, after):
    """After the second update the weights are not finite: no checkpoint holds them, and no head is written."""
    model, processor = tiny.load()
    plain = trainer.HeadTrainer.compute_loss

    def broken(self, *given, **named):
        if self.state.global_step == after:
            with torch.no_grad():
                self.student.head.text.fill_(torch.nan)
        return plain(self, *given, **named)

    monkeypatch.setattr(trainer.HeadTrainer, "compute_loss", broken)
    settings = replace(SHORT, steps=3, save_every=1)
    with pytest.raises(
        ValueError, match=rf"the loss of step {after + 1} is nan \(needed nan\): .* lower rate than 0.002"
    ) as told:
        train(model, processor, Scenes(4), tmp_path, settings)
    assert str(tmp_path / f"checkpoint-{after}") in str(told.value) and not (tmp_path / "model.safetensors").exists()
    assert load_head(tmp_path / f"checkpoint-{after}").text.isfinite().all()
    assert "finished" not in (tmp_path / "training.json").read_text()


def test_no_checkpoint_holds_weights_that_are_not_finite(tmp_path, monkeypatch):
    model, processor = tiny.load()
    plain = trainer.HeadTrainer.create_optimizer

    def huge(self, *given):
        plain(self).register_step_post_hook(lambda *_: self.student.head.text.data.fill_(torch.inf))
        return self.optimizer

    monkeypatch.setattr(trainer.HeadTrainer, "create_optimizer", huge)
    with pytest.raises(ValueError, match="after step 1 text is not finite: .*there is no checkpoint from before"):
        train(model, processor, Scenes(4), tmp_path, replace(SHORT, steps=3, save_every=1))
    assert trainer.last_whole(tmp_path) is None and not (tmp_path / "model.safetensors").exists()
