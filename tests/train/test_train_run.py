"""Whole runs of the command: what they write, that a killed one goes on to the bit, and that what they write is used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import simignore
from simignore import tiny
from simignore.cli import app
from simignore.flow.measure import measure
from simignore.head import Head, load_head
from simignore.train import Objective, Scenes, Settings, adapted, trainer
from simignore.train.collator import Collator
from simignore.train.student import Student

FEW = ("--batch", 2, "--steps", 2, "--goal", "layers=(4,5)")
KILLED = (
    "scenes",
    "--steps",
    6,
    "--save-every",
    2,
    "--batch",
    4,
    "--goal",
    "answer_from=0.3",
    "--goal",
    "layers=(4,5)",
)
SHORT = ("scenes", "--batch", 4, "--accumulate", 2, "--steps", 2, "--goal", "keeps=[0.5]")


def command(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(folder: Path, *arguments: object) -> None:
    done = command("train", *arguments, "--out", folder)
    assert done.exit_code == 0, done.output


def fingerprint() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in tiny.folder().iterdir() if file.is_file()}


def scalars(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "runs"))
    events.Reload()
    return {name: [one.value for one in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "head"
    run(folder, *KILLED)
    return folder


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, undisturbed: Path) -> Path:
    """Behind another run in the same process, with gradients of two batches."""
    folder = tmp_path_factory.mktemp("short") / "head"
    run(folder, *SHORT, "--rank", 3)
    return folder


def test_a_run_writes_head_record_and_checkpoints(undisturbed):
    head = Head.from_pretrained(undisturbed)
    assert (head.width, head.rank) == (192, 32) and head.base.startswith("simignore's bundled model, weights ")
    assert bool(head.text.any()) and all(bool(parameter.isfinite().all()) for parameter in head.parameters())
    record = json.loads((undisturbed / "training.json").read_text())
    assert record["finished"] is True and record["seconds"] > 0
    assert record["data"] == "data=scenes, count=50000, seed=0"
    assert record["settings"]["steps"] == 6 and record["settings"]["objective"]["answer_from"] == 0.3
    model, _ = tiny.load()
    assert record["parameters"] == {
        "head": 32 * 192 * 2 + 32 + 192 + 2,
        "adapters": 0,
        "model": sum(parameter.numel() for parameter in model.parameters()),
    }
    saved = {path.name for path in undisturbed.glob("checkpoint-*")}
    assert saved == {"checkpoint-4", "checkpoint-6"}
    weights = load_file(undisturbed / "checkpoint-6" / "model.safetensors")
    assert all(torch.equal(weights[name], value) for name, value in head.state_dict().items())
    assert (undisturbed / "checkpoint-6" / "model.safetensors").stat().st_size < 100_000  # nothing of the model


def test_each_run_has_events_of_its_own(undisturbed, short):
    """Of fewer steps than a log's interval there is the summary alone."""
    for folder in (undisturbed, short):
        assert len(list((folder / "runs").iterdir())) == 1
        told = scalars(folder)
        assert "train/train_loss" in told and len(told["train/train_loss"]) == 1


def test_gradients_of_two_batches_make_one_step(short):
    record = json.loads((short / "training.json").read_text())
    assert record["settings"]["accumulate"] == 2 and record["settings"]["objective"]["keeps"] == [0.5]
    state = json.loads(next(short.glob("checkpoint-2/trainer_state.json")).read_text())
    assert state["global_step"] == 2 and state["epoch"] == pytest.approx(16 / 50_000, rel=1e-6)
    assert load_head(short).rank == 3


def test_convergence_layers_are_found_once_and_a_finished_run_stays_as_it_is(short, monkeypatch):
    """The layers are those between the median ends of the first examples' convergence, as the explanation gives them."""
    record, weights = json.loads((short / "training.json").read_text()), (short / "model.safetensors").read_bytes()
    model, processor = tiny.load()
    ends = []
    for example in (Scenes(50_000)[n] for n in range(trainer.TRIALS)):
        prompt = simignore.prompt.build(processor, example.image(), example.question, **options(example))
        found = measure(model, prompt, processor, max_new_tokens=8).curves["attention"].convergence
        if found.layer >= 0:
            ends.append((found.first, found.last))
    first, last = (sorted(end)[len(end) // 2] for end in zip(*ends, strict=True))
    assert record["layers"] == list(range(first, last + 1)) and 0 <= first <= last < 10
    monkeypatch.setattr(trainer, "convergence", lambda *_: pytest.fail("they are in the record"))
    run(short, *SHORT, "--rank", 3)
    assert (short / "model.safetensors").read_bytes() == weights
    again = json.loads((short / "training.json").read_text())
    assert again["layers"] == record["layers"] and again["finished"] is True and again["losses"] == record["losses"]


def options(example) -> dict:
    return {"options": example.options, "context": example.context, "answer": example.answer_as}


def test_a_killed_run_goes_on_to_the_same_bits(undisturbed, tmp_path):
    folder = tmp_path / "head"
    arguments = [sys.executable, "-m", "simignore", "train", *map(str, KILLED), "--out", str(folder)]
    source = str(Path(simignore.__file__).parent.parent)
    with subprocess.Popen(
        arguments,
        env=os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint-2" / "trainer_state.json").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()
    assert "finished" not in json.loads((folder / "training.json").read_text())
    run(folder, *KILLED)
    own, expected = (load_file(where / "model.safetensors") for where in (folder, undisturbed))
    assert all(torch.equal(own[name], value) for name, value in expected.items())
    assert (folder / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_seconds_go_on_where_the_log_of_a_checkpoint_ends(tmp_path):
    student = Student(tiny.load()[0], Head(192, 2), Objective(flow=0, answer=0, needed=1))
    resumed = trainer.HeadTrainer(student, trainer.arguments(tmp_path, Settings(steps=3)))
    assert resumed.seconds == 0
    resumed.state.log_history = [{"loss": 2.0, "seconds": 40.0}, {"loss": 1.0, "seconds": 80.5}]
    resumed.log({"loss": 0.5})
    resumed.log({"train_runtime": 3.0})
    assert 80.5 <= resumed.seconds < 81.5
    assert [line.get("seconds", 0) >= 40 for line in resumed.state.log_history] == [True] * 4


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            ("--seed", 1),
            "data data=scenes, count=50000, seed=0, now data=scenes, count=50000, seed=1; seed 0, now 1",
        ),
        (("--rate", 0.1, "--rank", 2), "rate 0.002, now 0.1 (--rate); rank 3, now 2 (--rank); go on with the same"),
        (("--goal", "slope=0.2", "--workers", 1), "workers 0, now 1 (--workers); slope 0.1, now 0.2 (--goal slope=);"),
        (("--count", 9), "data data=scenes, count=50000, seed=0, now data=scenes, count=9, seed=0; examples 50000"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(short, changed, named):
    before = {file: file.stat().st_mtime_ns for file in short.rglob("*")}
    done = command("train", *SHORT, *(() if "--rank" in changed else ("--rank", 3)), *changed, "--out", short)
    assert done.exit_code != 0
    told = " ".join(done.output.split())
    assert f"holds another run, with {named}" in told and "go on with the same, or name another --out" in told
    assert {file: file.stat().st_mtime_ns for file in short.rglob("*")} == before


def picture(folder: Path) -> tuple[Path, str]:
    example = Scenes(1)[0]
    example.image().save(folder / "scene.png")
    return folder / "scene.png", example.question


def asked(*arguments: object) -> dict:
    done = command("ask", *arguments, "--json", "--runs", 1, "--max-new-tokens", 2)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_ask_uses_the_head_of_a_folder(short, tmp_path):
    image, question = picture(tmp_path)
    told = asked(image, question, "--head", short, "--keep", 20)
    text = json.dumps(told)
    assert "LearnedSimignore" in text and str(short) in text
    model, processor = tiny.load()
    prompt = simignore.prompt.build(processor, image, question)
    with simignore.METHODS["learned"](keep=20, head=str(short))(model, query=prompt.query("question")) as trace:
        ids = model.generate(**prompt.inputs, max_new_tokens=2)
    assert trace.selections[0].index.shape == (1, 20)
    answer = processor.tokenizer.decode(ids[0, prompt.inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.strip() in text


def test_adapters_are_written_beside_the_head_and_the_model_stays(tmp_path):
    folder, before = tmp_path / "head", fingerprint()
    arguments = ("scenes", *FEW, "--adapters", 2, "--adapter-rate", 0.05, "--goal", "answer_from=0", "--save-every", 1)
    run(folder, *arguments)
    assert (folder / "adapter" / "adapter_config.json").is_file() and fingerprint() == before
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert any("self_attn" in name for name in weights) and any("projector" in name for name in weights)
    assert not any("vision_tower" in name for name in weights)
    assert all(bool(value.any()) for name, value in weights.items() if "lora_B" in name and "language_model" in name)
    record = json.loads((folder / "training.json").read_text())
    assert record["parameters"]["adapters"] == sum(value.numel() for value in weights.values())

    model, processor = tiny.load()
    batch = Collator(model, processor, ("question",))([Scenes(1)[0]])["inputs"]
    with torch.no_grad():
        logits = model(**batch).logits
        merged = adapted(tiny.load()[0], folder)
        changed = merged(**batch).logits
        again = adapted(tiny.load()[0], tmp_path)(**batch).logits
    assert (changed - logits).abs().max() > 1e-3 and bool(changed.isfinite().all())
    assert torch.equal(again, logits)
    assert not any("lora" in name for name, _ in merged.named_modules())
    plain, other = model.state_dict(), merged.state_dict()
    for name, lora in weights.items():  # W + (alpha / r) B A, by hand
        if "lora_A" in name:
            up = weights[name.replace("lora_A", "lora_B")]
            own = name.removeprefix("base_model.model.").replace(".lora_A", "")
            assert torch.allclose(other[own], plain[own] + 2 * up @ lora, atol=1e-5)
    image, question = picture(tmp_path)
    assert "LearnedSimignore" in json.dumps(asked(image, question, "--head", folder))

    shutil.rmtree(folder / "checkpoint-2")  # as if it had been stopped after the first
    shutil.rmtree(folder / "adapter")
    run(folder, *arguments)
    again = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scenes", "--goal", "loudness=1"), "--goal loudness: there is no such goal; there are alignment, answer"),
        (("scenes", "--precision", "float8"), "precision='float8' is none of"),
        (("scenes", "--rate", 0), "error: rate=0 must be above 0"),
        (("scenes", "--rate", -1), "error: rate=-1 must be above 0"),
        (("scenes", "--rate", "nan"), "rate=nan is not a finite number"),
        (("scenes", "--adapter-rate", "inf"), "adapter_rate=inf is not a finite number"),
        (("scenes", "--images", "."), "scenes are drawn, not read; leave out --images"),
        (("scenes", "--kinds", "songs"), "kinds: songs is none of"),
        (
            ("scenes", "--prepared", "there"),
            "--prepared names where prepared examples are kept; say with --prepare how many",
        ),
        (
            ("scenes", "--prepare", 9),
            "prepared=9: answers under the cut, the budget's penalty and adapters need the model",
        ),
        (
            ("scenes", "--adapters", 4, "--goal", "answer=0", "--goal", "needed=1"),
            "adapters=4: only the goals answer and budget train adapters, and both are 0",
        ),
        (("scenes", "--prepare", -1), "greater than or equal to 0"),
        (("scenes", "--hops", -1), "greater than or equal to 0"),
        (("scenes", "--goal", "lost=0"), "lost=0 must be above 0"),
        (("scenes", "--goal", "hops_alone=1"), "hops_alone=1 is a share of all steps"),
        (("lost.jsonl",), "no file lost.jsonl"),
        (("lost.jsonl", "--without", "star"), "--kinds and --without choose among rendered scenes"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(tmp_path, arguments, message):
    done = command("train", *arguments, "--out", tmp_path / "head")
    assert done.exit_code != 0 and message in " ".join(done.output.split())
    assert not (tmp_path / "head").exists()
