"""What a caller's model is after training from Python, and what training never ends with."""

from __future__ import annotations

import pytest
from records import SHORT

from simignore import tiny
from simignore.train import Scenes, Settings, train, trainer
from simignore.train.objective import Objective


def state(model) -> tuple[list, list]:
    return [p.requires_grad for p in model.parameters()], [module.training for module in model.modules()]


def half_frozen():
    model, processor = tiny.load()
    model.train()
    first = list(model.parameters())[0]
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
    answers = Objective(flow=0, answer_from=0, spans=("question",))
    settings = Settings(steps=1, batch=1, adapters=2, objective=answers)
    for _ in ("trained", "read"):  # the second time it is finished
        model, processor = half_frozen()
        own = [(p, p.requires_grad) for p in model.parameters()]
        train(model, processor, Scenes(4), tmp_path, settings)
        assert all(p.requires_grad == before for p, before in own)
        assert any("lora_A" in name for name, _ in model.named_parameters())
