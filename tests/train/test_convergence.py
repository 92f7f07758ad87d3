"""Where and in what the convergence layers are looked for before a run."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from simignore import tiny
from simignore.train import Example, Settings, trainer


class Enough(Exception):
    """Nothing more has to happen."""


def test_convergence_is_looked_for_on_the_device_of_training_and_in_the_images_of_training(tmp_path, monkeypatch):
    seen = []

    def looked(model, prompt, *_, **__):
        seen.append((next(model.parameters()).device.type, [image.size for image in prompt.images]))
        raise Enough

    Image.new("RGB", (60, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(trainer, "measure", looked)
    monkeypatch.setattr(trainer.TrainingArguments, "device", property(lambda _: torch.device("meta")))
    for square, size in ((False, (60, 20)), (True, (60, 60))):
        with pytest.raises(Enough):
            example = Example(tmp_path / "a.png", "What colour is it?", "red")
            trainer.train(*tiny.load(), [example], tmp_path / "head", Settings(square=square))
        assert seen.pop() == ("meta", [size])
