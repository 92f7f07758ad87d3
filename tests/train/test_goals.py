"""Goals that learn from regions: refused before a run where no example has one, and never where one does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from test_train_run import command

from simignore.train import Example, Objective, Records, Region, Scenes
from simignore.train.goals import check_labels

BOX = (0.1, 0.1, 0.5, 0.5)
SEEN, NEEDED = Region("a red bus", BOX), Region("a blue bus", BOX, needed=True)
NOTHING = {"flow": 0, "answer": 0}


def examples(*regions):
    return [Example(Path("a.png"), "what?", "red", regions=own) for own in regions]


@pytest.mark.parametrize(
    ("goal", "without", "remedy"),
    [
        ("needed", [(), (SEEN,)], '"needed": true'),
        ("separate", [(), (SEEN,)], '"needed": true'),
        ("alignment", [(), (SEEN, Region("a red bus", (0.6, 0.6, 1, 1)))], "two regions of different words"),
    ],
)
def test_a_goal_that_no_example_serves_is_named_with_its_data_and_the_remedy(goal, without, remedy):
    aim = Objective(**NOTHING, **{goal: 0.5})
    with pytest.raises(
        ValueError, match=rf"{goal}=0.5 learns from .* none of the 2 examples of mine .*{goal}=0"
    ) as told:
        check_labels(aim, examples(*without), data="mine")
    assert remedy in str(told.value)
    served = examples(*without, (SEEN, NEEDED))
    check_labels(aim, served)  # one among others is enough
    with pytest.raises(ValueError, match="none of the 2 examples"):
        check_labels(aim, served, count=2)  # the third is never looked at


def test_goals_without_regions_and_scenes_are_not_asked():
    check_labels(Objective(), examples(()))
    check_labels(Objective(**NOTHING, needed=1, separate=1, alignment=1), Scenes(50_000), 9)


def test_the_command_ends_before_it_writes_anything(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file, out = tmp_path / "q.jsonl", tmp_path / "head"
    file.write_text(json.dumps({"image": "a.png", "question": "what is it?", "answer": "red"}) + "\n")
    goals = ("flow=0", "answer=0", "needed=1", "separate=1")
    found = command("train", file, "--steps", 1, "--out", out, *(word for goal in goals for word in ("--goal", goal)))
    assert found.exit_code == 2 and "needed=1 learns from regions, and none of the 1 examples of" in found.stderr
    assert str(file) in found.stderr.replace("\n", "") and not out.exists()
    assert len(Records(file)) == 1
