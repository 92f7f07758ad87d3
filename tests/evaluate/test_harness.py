"""Runs: one at a time against batches, alone against together, and killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from listening import Listening
from PIL import Image

from simignore import Chain, FastV, Random, Simignore, VisionZip
from simignore.answer import ask
from simignore.evaluate import Benchmark, Item, evaluate, sweep
from simignore.evaluate.answering import Answerer, held_tokens
from simignore.evaluate.folder import Folder
from simignore.prompt import build

METHODS = {
    "full": None,
    "simignore": Simignore(keep=0.25, span="question"),
    "fastv": FastV(keep=25, layer=0.5),
    "visionzip": VisionZip(keep=25),
}


@dataclass(frozen=True)
class Few(Benchmark):
    """Questions that a test brings along."""

    own: tuple[Item, ...] = ()
    name: ClassVar[str] = "few"
    title: ClassVar[str] = "Few"

    def items(self):
        return list(self.own)

    def score(self, item, told):
        return float(told == item.answer)


def test_methods_together_answer_as_each_does_alone_and_as_ask_does(bundled, scenes, items):
    model, processor = bundled
    together = sweep(model, processor, scenes, METHODS, items[:6], batch=4)
    for name, method in METHODS.items():
        alone = evaluate(model, processor, scenes, method, items=items[:6], batch=1)
        assert [row["told"] for row in together[name].rows] == [row["told"] for row in alone.rows]
        for item, row in zip(items[:6], alone.rows, strict=True):
            prompt = build(processor, item.images[0](), **scenes.words(item))
            answer = ask(model, processor, prompt, method, max_new_tokens=16)
            assert answer.text == row["told"]
            assert method is None or row["kept"] == answer.kept
            assert row["score"] == float(answer.text == item.answer["text"])


def test_the_image_is_encoded_once_for_all_that_do_not_look_into_the_tower(bundled, scenes, items, monkeypatch):
    model, processor = bundled
    calls = []
    hook = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        sweep(model, processor, scenes, METHODS, items[:4], batch=2)
    finally:
        hook.remove()
    assert len(calls) == 2 * 2  # two batches; once for all, and once for VisionZip, which looks


def test_what_methods_are_compared_with_is_the_questions_own_text(bundled, scenes, items):
    answerer = Answerer(*bundled, scenes)
    batch = answerer.ready(items[:3])
    for item, asked in zip(items, batch.asked, strict=False):
        told = bundled[1].tokenizer.decode(asked.query("question"))
        assert told.strip() == item.question.lower()  # its tokenizer knows small letters only
    assert batch.inputs["attention_mask"][:, -1].all()


def test_a_method_that_reads_the_question_gets_it_from_the_processor(bundled, scenes, items, monkeypatch):
    model, processor = bundled
    monkeypatch.setattr(model.config, "_name_or_path", "")  # where a tokenizer could be found
    Listening.heard.clear()
    answerer = Answerer(model, processor, scenes)
    answerer.answer(answerer.ready(items[:2]), Listening(keep=20))
    assert [told.split("?")[0] for told in Listening.heard] == [i.question.lower().split("?")[0] for i in items[:2]]


def test_held_is_the_mean_over_layers(bundled, scenes, items):
    model, processor = bundled
    method = Chain(Random(keep=50), FastV(keep=10, layer=5))
    found = evaluate(model, processor, scenes, method, items=items[:2], batch=2)
    assert [row["held"] for row in found.rows] == [(5 * 50 + 5 * 10) / 10] * 2  # of ten layers
    assert found.metrics["kept"] == 10 and found.metrics["image_tokens"] == 196
    prompt = build(processor, items[0].images[0](), **scenes.words(items[0]))
    with method(model) as trace, torch.inference_mode():
        model(**prompt.inputs)
    assert held_tokens(trace, 10) == [30]


def test_a_run_that_was_stopped_goes_on_and_ends_as_if_it_had_not(bundled, scenes, items, tmp_path):
    model, processor = bundled
    whole = evaluate(model, processor, scenes, METHODS["simignore"], items=items, batch=4, folder=tmp_path / "whole")
    file = tmp_path / "whole" / "predictions.jsonl"
    complete = file.read_bytes()
    lines = complete.splitlines(keepends=True)
    (tmp_path / "whole" / "metrics.json").unlink()
    for left, anew in (
        (b"", 14),
        (b"".join(lines[:4]), 10),
        (b"".join(lines[:6]), 10),  # in the middle of a batch: all of it is asked again
        (b"".join(lines[:9]) + lines[9][:17], 6),  # in the middle of a line
        (complete, 6),  # nothing is: the figures of the start before stand
    ):
        file.write_bytes(left)
        again = evaluate(
            model, processor, scenes, METHODS["simignore"], items=items, batch=4, folder=tmp_path / "whole"
        )
        assert file.read_bytes() == complete and again.rows == whole.rows
        told = json.loads((tmp_path / "whole" / "metrics.json").read_text())
        assert {k: told[k] for k in whole.metrics} == whole.metrics and told["last_start"]["questions"] == anew
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert len(config["starts"]) == 6 and config["method"] == repr(METHODS["simignore"])
    assert config["starts"][0]["versions"]["torch"] == torch.__version__


def test_another_configuration_is_refused_and_says_what_differs(bundled, scenes, items, tmp_path):
    model, processor = bundled
    evaluate(model, processor, scenes, Random(keep=9), items=items[:2], batch=2, folder=tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"another configuration \(keep: 9 there, 8 here\)"):
        evaluate(model, processor, scenes, Random(keep=8), items=items[:2], batch=2, folder=tmp_path)
    with pytest.raises(ValueError, match="questions: 2 there, 3 here"):
        evaluate(model, processor, scenes, Random(keep=9), items=items[:3], batch=2, folder=tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before  # nothing is lost
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.tex but no config\.json"):
        evaluate(model, processor, scenes, items=items[:2], folder=strange)
    with pytest.raises(OSError, match="is a file"):
        evaluate(model, processor, scenes, items=items[:2], folder=strange / "thesis.tex")


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    pytest.importorskip("fcntl")
    first = Folder(tmp_path, {"a": 1}, {})
    with pytest.raises(ValueError, match="another process"):
        Folder(tmp_path, {"a": 1}, {})
    first.close()
    Folder(tmp_path, {"a": 1}, {}).close()


def test_predictions_that_were_tampered_with_are_named_by_line(bundled, scenes, items, tmp_path):
    model, processor = bundled
    evaluate(model, processor, scenes, items=items[:4], batch=2, folder=tmp_path)
    file = tmp_path / "predictions.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([lines[0], "oops\n", *lines[2:]]))
    with pytest.raises(ValueError, match=r"predictions\.jsonl, line 2, is no JSON"):
        evaluate(model, processor, scenes, items=items[:4], batch=2, folder=tmp_path)
    file.write_text("".join([lines[0], lines[2], lines[1], lines[3]]))
    with pytest.raises(ValueError, match="line 2: id .* stands where .* belongs"):
        evaluate(model, processor, scenes, items=items[:4], batch=2, folder=tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_kill_9_loses_nothing_and_repeats_nothing(bundled, scenes, tmp_path):
    """A real process, killed as soon as it has written something, several times, ends with what an undisturbed one has."""
    words = [
        "evaluate",
        "scenes",
        "--limit",
        "42",
        "--method",
        "random",
        "--keep",
        "20",
        "--batch",
        "3",
        "--cost-rounds",
        "0",
    ]
    command = [sys.executable, "-c", "from simignore.cli import app; app()", *words, "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    file = tmp_path / "run" / "predictions.jsonl"
    for _ in range(2):
        before = file.stat().st_size if file.exists() else 0
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and (not file.exists() or file.stat().st_size <= before):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "run" / "metrics.json").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    undisturbed = evaluate(*bundled, type(scenes)(), Random(keep=20), limit=42, batch=3)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["id"] for row in rows] == [item.id for item in undisturbed.items]  # none lost, none twice
    assert [row["told"] for row in rows] == [row["told"] for row in undisturbed.rows]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["accuracy"] == undisturbed.metrics["accuracy"]


def test_questions_with_two_images_and_with_none(bundled, tmp_path):
    Image.new("RGB", (112, 112), "red").save(tmp_path / "a.png")
    own = tuple(Item(str(n), "What colour is it?", (tmp_path / "a.png",) * n, "red") for n in (1, 2, 0))
    found = evaluate(*bundled, Few(own=own), Random(keep=2), batch=3)
    assert [row["image_tokens"] for row in found.rows] == [196, 392, 0]
    assert [row["kept"] for row in found.rows] == [2, 2, 0]


def test_an_empty_benchmark_and_ids_that_occur_twice(bundled):
    with pytest.raises(ValueError, match="found no question"):
        evaluate(*bundled, Few())
    twice = Item("1", "what?", (), "x")
    with pytest.raises(ValueError, match="the same id more than once: '1'"):
        evaluate(*bundled, Few(own=(twice, twice)))
    with pytest.raises(ValueError, match="batch 0"):
        evaluate(*bundled, Few(own=(twice,)), batch=0)


def test_a_picture_that_cannot_be_read_is_named(bundled, tmp_path):
    broken = Path(tmp_path / "broken.png")
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image"):
        evaluate(*bundled, Few(own=(Item("1", "what?", (broken,), "x"),)))
