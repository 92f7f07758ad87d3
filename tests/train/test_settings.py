"""Settings and objectives that cannot be, folders that hold something else, and the rate of short runs."""

from __future__ import annotations

import json

import pytest
from records import QUICK, SHORT, records, written
from test_train_run import command

from simignore import tiny
from simignore.train import Objective, Scenes, Settings, train
from simignore.train.arguments import arguments


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": "3"}, "steps='3' must be a whole number of at least 1"),
        ({"batch": 0}, "batch=0 must be a whole number of at least 1"),
        ({"workers": -1}, "workers=-1 must be a whole number of at least 0"),
        ({"rate": "fast"}, "rate='fast' is not a finite number"),
        ({"rate": float("nan")}, "rate=nan is not a finite number"),
        ({"objective": {"flow": 1}}, "objective=.* must be a simignore.train.Objective"),
    ],
)
def test_settings_that_cannot_be_are_told(given, message):
    with pytest.raises(ValueError, match=message):
        Settings(**given)


@pytest.mark.parametrize("given", [{"keeps": 0.5}, {"layers": 3}, {"spans": "question"}])
def test_an_objectives_lists_are_lists(given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=f"{name}={value!r} must be a tuple; for one alone write {name}=.{value!r},."):
        Objective(**given)
    assert Objective(**{name: [value]}) == Objective(**{name: (value,)})


def test_warming_up_is_at_most_a_tenth_of_all_steps(tmp_path):
    found = {steps: arguments(tmp_path, Settings(steps=steps)).warmup_steps for steps in (1, 2, 50, 200, 600, 1600)}
    assert found == {1: 0, 2: 0, 50: 5, 200: 20, 600: 20, 1600: 20}


def test_one_step_trains_in_a_folder_named_by_a_text_and_no_examples_are_told(tmp_path):
    head = train(*tiny.load(), Scenes(4), str(tmp_path / "head"), SHORT, prepared=str(tmp_path / "kept"))
    assert bool(head.text.any())
    with pytest.raises(ValueError, match="nothing to train on: list holds no examples"):
        train(*tiny.load(), [], tmp_path / "other", SHORT)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("text", ["{half", "[1]"])
def test_a_broken_record_is_named(tmp_path, text):
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(ValueError, match="training.json is no record of a run.*; delete it, or name another --out"):
        train(*tiny.load(), Scenes(4), tmp_path, SHORT)


def test_fewer_examples_than_are_to_be_prepared_are_told_and_the_option_is_named(tmp_path):
    file, out = written(tmp_path, records(3)), tmp_path / "head"
    goals = [word for goal in ("flow=0", "answer=0", "needed=1") for word in ("--goal", goal)]
    line = ("train", file, "--steps", 1, "--batch", 2, *goals, "--out", out)
    done = command(*line, "--prepare", 500)
    assert done.exit_code == 0, done.output
    assert "--prepare 500: there are 3 examples, and all of them are prepared" in done.stderr
    assert json.loads((out / "training.json").read_text())["settings"]["objective"]["needed"] == QUICK.needed
    other = command(*line, "--prepare", 3)
    assert "holds another run, with prepared 500, now 3 (--prepare); go on" in " ".join(other.output.split())
