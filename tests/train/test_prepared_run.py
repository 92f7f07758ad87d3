"""Whole runs of heads that learn from prepared examples: to the bit the same however often they were killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_train_run import command, run

import simignore
from simignore.cli import benchmarks
from simignore.cli.train import _preparing
from simignore.head import Head
from simignore.train import Objective, Settings, Student, trainer

SHARED = (
    "scenes",
    "--count",
    70,
    "--batch",
    4,
    "--rank",
    4,
    "--prepare",
    60,
    "--goal",
    "answer=0",
    "--goal",
    "needed=1",
)
LONG = (*SHARED, "--steps", 16, "--save-every", 2, "--hops", 1, "--rate", 0.03, "--goal", "hops_alone=0.8")
LONG = (*LONG, "--goal", "separate=1", "--goal", "layers=(4,5)")
SHORT = (*SHARED, "--steps", 2, "--goal", "flow=0")
SIMILARITY = {"image", "text", "bias", "sharpness"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept") / "of" / "several"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, kept: Path) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "head"
    run(folder, *LONG, "--prepared", kept)
    return folder


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of batches that the model was asked about."""
    sizes, plain = [], Student.look

    def look(self, inputs, *rest):
        sizes.append(len(inputs["input_ids"]))
        return plain(self, inputs, *rest)

    monkeypatch.setattr(Student, "look", look)
    return sizes


def test_a_run_writes_what_it_was_and_a_head_that_judges(undisturbed, kept):
    record = json.loads((undisturbed / "training.json").read_text())
    assert record["settings"]["hops"] == 1 and record["settings"]["prepared"] == 60 and record["finished"] is True
    assert record["settings"]["objective"]["hops_alone"] == 0.8 and record["settings"]["objective"]["separate"] == 1
    assert {"flow", "needed", "separate", "loss"} <= set(record["losses"])
    config = json.loads((undisturbed / "config.json").read_text())
    assert config["hops"] == 1 and config["judges"] is True
    assert sorted(path.name for path in kept.iterdir()) == [
        *(f"0000{n}.safetensors" for n in range(3)),
        "prepared.json",
    ]
    assert not (undisturbed / "prepared").exists()


def test_the_first_similarity_stands_still_until_its_turn(undisturbed):
    """0.8 of 16 steps are 12.8, so the first 13 leave it; a checkpoint is of the one after, and Adam's first step is as long as
    the rate, which rises to 0.03 in one step, a tenth of all, and falls along a cosine over the other 15."""
    new, at = Head(192, 4, hops=1).state_dict(), load_file(undisturbed / "checkpoint-14" / "model.safetensors")
    moved = {name for name, value in at.items() if not torch.equal(value, new[name])}
    assert moved >= SIMILARITY | {"threshold", "demand", "onward.text", "onward.reach"}
    rate = 0.03 * (1 + math.cos(math.pi * 12 / 15)) / 2
    for name in SIMILARITY:
        assert (at[name] - new[name]).abs().max().item() == pytest.approx(rate, rel=1e-3), name
    assert at["onward.text"].abs().max() > 2 * rate


def test_a_run_that_was_killed_while_preparing_and_again_later_ends_with_the_same_bits(undisturbed, tmp_path, looks):
    folder = tmp_path / "head"
    killed_when(folder, lambda: (folder / "prepared" / "00000.safetensors").exists())
    assert not (folder / "prepared" / "00002.safetensors").exists() and not list(folder.glob("checkpoint-*"))
    killed_when(folder, lambda: (folder / "checkpoint-2" / "trainer_state.json").exists())
    assert not (folder / "model.safetensors").exists()
    first = {path: path.stat().st_mtime_ns for path in (folder / "prepared").glob("*.safetensors")}
    run(folder, *LONG)
    assert not looks and len(first) == 3
    assert {path: path.stat().st_mtime_ns for path in (folder / "prepared").glob("*.safetensors")} == first
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def killed_when(folder: Path, there: Callable[[], bool]) -> None:
    arguments = [sys.executable, "-m", "simignore", "train", *map(str, LONG), "--out", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(simignore.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(arguments, env=environment, **quiet) as process:
        deadline = time.monotonic() + 120
        while not there():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_a_worker_changes_no_bit_and_nothing_is_computed_again(undisturbed, kept, tmp_path, looks):
    run(tmp_path / "head", *LONG, "--prepared", kept, "--workers", 1)
    assert not looks
    assert (tmp_path / "head" / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_another_run_shares_what_was_prepared_and_a_head_without_hops_moves_at_once(undisturbed, kept, tmp_path, looks):
    run(tmp_path / "head", *SHORT, "--prepared", kept)
    assert not looks
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    assert not config.get("judges") and not config.get("hops")
    assert set(json.loads((tmp_path / "head" / "training.json").read_text())["losses"]) == {"loss", "needed"}
    assert bool(load_file(tmp_path / "head" / "checkpoint-2" / "model.safetensors")["text"].any())


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--seed", 1), "data, examples"),
        (("--count", 71), "data, examples"),
        (("--goal", "spans=user"), "spans"),
        (("--square",), "square"),
        (("--goal", "flow=1", "--goal", "layers=(4,)", "--goal", "into=answer"), "into, layers"),
    ],
)
def test_a_folder_that_another_kind_of_run_prepared_is_refused(undisturbed, kept, tmp_path, changed, named):
    before = {path: path.read_bytes() for path in kept.iterdir()}
    done = command("train", *SHORT, *changed, "--prepared", kept, "--out", tmp_path / "head")
    message = f"was prepared with another {named}; take the same, or name another folder with --prepared"
    assert done.exit_code != 0 and message in " ".join(done.output.split())
    assert {path: path.read_bytes() for path in kept.iterdir()} == before


@pytest.mark.parametrize(
    "more", [{"adapters": 2}, {"objective": Objective(budget=1, answer=0)}, {"objective": Objective()}]
)
def test_what_needs_the_model_at_every_step_is_not_prepared(more):
    quick = {"objective": Objective(answer=0)}
    assert Settings(prepared=5, **quick).prepared == 5
    with pytest.raises(ValueError, match="prepared=5: .* set the goals answer=0 and budget=0 and adapters=0, or leave"):
        Settings(prepared=5, **(quick | more))


@pytest.mark.parametrize("wrong", [{"hops": -1}, {"prepared": -1}])
def test_negative_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="-1 must be a whole number of at least 0"):
        Settings(**wrong)


def test_one_process_prepares_while_the_others_wait(tmp_path, monkeypatch):
    told = []

    @contextmanager
    def first(self, *_, **__):
        told.append("waits")
        yield
        told.append("goes on")

    def prepare(*_, **__):
        told.append("prepares")
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.TrainingArguments, "main_process_first", first)
    monkeypatch.setattr(trainer, "prepare", prepare)
    command("train", *SHORT, "--out", tmp_path / "head")
    assert told == ["waits", "prepares"]


def test_the_bar_is_told_of_what_is_new_and_ends_with_the_last(monkeypatch):
    told = []

    @contextmanager
    def progress(what, total, quiet):
        told.append((total, quiet))
        yield told.append
        told.append("end")

    monkeypatch.setattr(benchmarks, "progress", progress)
    with _preparing(60) as tick:
        for done in (28, 56, 60):
            tick(done)
        told.append("steps")
    assert told == [(60, False), 28, 28, 4, "end", "steps"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    with _preparing(60):
        pass
    monkeypatch.delenv("LOCAL_RANK")
    with _preparing(0):
        pass
    assert told[6:] == [(60, True), "end", (0, True), "end"]
