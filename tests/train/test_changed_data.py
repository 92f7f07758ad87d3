"""Data that changed under the same name are noticed: in a run's folder, among prepared examples, and from Python."""

from __future__ import annotations

import json

import pytest
from records import QUICK, SHORT, records, written
from test_train_run import command

from simignore import tiny
from simignore.head import Head
from simignore.train import Records, Scenes, Student, train, trainer
from simignore.train.collator import Collator
from simignore.train.prepare import prepare

LINE = ("--steps", 1, "--batch", 2, "--rank", 2, "--goal", "flow=0", "--goal", "answer=0", "--goal", "needed=1")


def test_a_finished_run_says_so_and_edited_records_are_refused(tmp_path):
    file, out = written(tmp_path, records(3)), tmp_path / "head"
    line = ("train", file, *LINE, "--out", out)
    first, again = command(*line), command(*line)
    assert first.exit_code == 0 and f"wrote {out}; try it" in first.stdout.replace("\n", ""), first.output
    assert again.exit_code == 0 and "already finished, nothing was trained; try it" in again.stdout.replace("\n", "")
    assert "wrote" not in again.stdout
    told = records(3)
    told[2]["answer"] = "another"
    written(tmp_path, told)
    edited = command(*line)
    assert edited.exit_code == 2 and "holds another run, with examples records with digest " in " ".join(
        edited.output.split()
    )
    record = json.loads((out / "training.json").read_text())  # one from before examples were told goes on
    del record["examples"]
    (out / "training.json").write_text(json.dumps(record))
    assert command(*line).exit_code == 0


def test_a_finished_run_is_only_read(tmp_path, monkeypatch):
    model, processor = tiny.load()
    head = train(model, processor, Scenes(4), tmp_path, SHORT)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    monkeypatch.setattr(trainer, "HeadTrainer", lambda *_, **__: pytest.fail("nothing is left to train"))
    again = train(model, processor, Scenes(4), tmp_path, SHORT)
    assert {name: value.tolist() for name, value in again.state_dict().items()} == {
        name: value.tolist() for name, value in head.state_dict().items()
    }
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_other_examples_without_words_for_them_are_refused(tmp_path):
    model, processor = tiny.load()
    file, folder = written(tmp_path, records(3)), tmp_path / "head"
    train(model, processor, Scenes(4), folder, SHORT)
    for others in (Records(file), Scenes(4, seed=1), [Scenes(4)[n] for n in range(4)]):
        with pytest.raises(ValueError, match="holds another run, with examples 4 scenes of seed 0, .*, now "):
            train(model, processor, others, folder, SHORT)


def test_an_edit_behind_the_first_prepared_examples_is_noticed(tmp_path):
    model, processor = tiny.load()
    student = Student(model, Head(192, 2), QUICK)
    collator = Collator(model, processor, ("question",), regions=True)
    prepare(student, collator, Records(written(tmp_path, records(5))), tmp_path / "kept", 1, {}, batch=1)
    told = records(5)
    told[4]["answer"] = "another"
    file = written(tmp_path, told)
    with pytest.raises(ValueError, match="was prepared with another file; take the same"):
        prepare(student, collator, Records(file), tmp_path / "kept", 1, {}, batch=1)
    about = json.loads((tmp_path / "kept" / "prepared.json").read_text())
    del about["file"]  # as it was prepared before files had digests
    (tmp_path / "kept" / "prepared.json").write_text(json.dumps(about))
    assert len(prepare(student, collator, Records(file), tmp_path / "kept", 1, {}, batch=1)) == 1
