"""Flow over a benchmark on the bundled model: lines against the explanation itself, runs that were killed, what is left out."""

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

import numpy as np
import pytest
from PIL import Image

from simignore.evaluate import BENCHMARKS, Benchmark, Item, evaluate
from simignore.evaluate.flowstats import flow_stats, line, told
from simignore.evaluate.flowsummary import summary
from simignore.flow.curves import curves
from simignore.flow.measure import measure
from simignore.flow.spans import ANSWER, Spans
from simignore.prompt import build


@dataclass(frozen=True)
class Own(Benchmark):
    """Questions that a test brings along."""

    own: tuple[Item, ...] = ()
    name: ClassVar[str] = "own"
    title: ClassVar[str] = "Own"
    max_new_tokens: ClassVar[int] = 4

    def items(self):
        return list(self.own)

    def score(self, item, told):
        return float(told == item.answer)


@pytest.fixture(scope="module")
def fourteen(bundled, scenes, tmp_path_factory):
    """A run over one question of each kind, and its folder."""
    folder = tmp_path_factory.mktemp("fourteen") / "run"
    return flow_stats(*bundled, scenes, folder=folder, name="tiny"), folder


def test_every_scene_has_a_line_with_the_benchmarks_own_score(bundled, scenes, items, fourteen):
    found, folder = fourteen
    answers = evaluate(*bundled, scenes, items=items, batch=1)
    assert [row["id"] for row in found.rows] == [item.id for item in items]
    assert [(row["told"], row["score"]) for row in found.rows] == [(row["told"], row["score"]) for row in answers.rows]
    assert [json.loads(text) for text in (folder / "predictions.jsonl").read_text().splitlines()] == found.rows
    for row in found.rows:
        for flow in row["flow"].values():
            shares = np.array(list(flow["share"].values()))  # [parts, L]
            assert shares.sum(0) == pytest.approx(np.ones(10), abs=1e-5)
            assert flow["layer"] == int(np.argmax(flow["image_to_answer"]))
            assert ("earlier answer" in flow["share"]) == (row["answer_tokens"] > 1)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert {name: metrics[name] for name in found.metrics} == json.loads(json.dumps(found.metrics))
    assert metrics["questions"] == 14 and metrics["without_image"] == 0 and metrics["unexplained"] == {}
    assert metrics["accuracy"] == answers.metrics["accuracy"] and len(metrics["groups"]["type"]) == 14
    assert sum(metrics["flow"]["all"]["attention"]["convergence"]["counts"]) == 14


def test_a_line_says_what_an_explanation_of_that_question_does(bundled, scenes, items, fourteen):
    model, processor = bundled
    number = next(n for n, row in enumerate(fourteen[0].rows) if row["answer_tokens"] > 1)
    row, prompt = fourteen[0].rows[number], build(processor, items[number].images[0](), **scenes.words(items[number]))
    found = measure(model, prompt, processor, max_new_tokens=scenes.max_new_tokens)
    for name, flow in row["flow"].items():
        own = found.curves[name]
        at = own.spans.index("image 1")
        assert flow["share"]["image"] == pytest.approx(own.share[:, :, at].mean(0), rel=1e-4, abs=1e-9)
        assert flow["per_token"]["image"] == pytest.approx(own.into[:, :, at].mean(0) / 196, rel=1e-4, abs=1e-9)
        assert flow["image_to_question"] == pytest.approx(own.question.sum(-1), rel=1e-4, abs=1e-9)
        assert flow["spread"] == pytest.approx(own.convergence.spread, rel=1e-4)


def test_images_and_videos_are_one_part_and_a_token_counts_where_it_is_there():
    """A made-up flow of 2 answer tokens, 2 layers (one without attention), 2 images, a video: against a plain loop."""
    names = ("image 1", "image 2", "video 1", "question", "template", ANSWER)
    number = np.array([4, 0, 0, 1, 2, 3, 3, 5])
    spans = Spans(names, number, prompt=7, answer=2)
    rows = np.random.default_rng(0).random((2, 2, 8))
    rows[0, :, 7] = 0  # the first answer token sees no earlier one
    rows[:, 1] = np.nan
    asking = rows.mean(0)
    image, similarity = np.array([1, 2, 3, 4]), np.array([0.4, 0.1, 0.3, 0.2])
    found = line(curves("attention", rows, asking, spans, image), similarity)
    assert set(found["share"]) == {"image", "question", "template", "earlier answer"}
    for part, places in (("image", [1, 2, 3, 4]), ("question", [5, 6]), ("template", [0]), ("earlier answer", [7])):
        shares = [sum(rows[a, 0, p] for p in places) / rows[a, 0].sum() for a in (0, 1)]
        assert found["share"][part][0] == pytest.approx(sum(shares) / 2) and np.isnan(found["share"][part][1])
        seen = [a for a in (0, 1) if part != "earlier answer" or a == 1]
        each = [sum(rows[a, 0, p] for p in places) / len(places) for a in seen]
        assert found["per_token"][part][0] == pytest.approx(sum(each) / len(each))
    flow = rows[:, 0, 1:5].mean(0)
    ranks = [np.argsort(np.argsort(x)) for x in (similarity, flow)]
    assert found["rho"]["answer"][0] == pytest.approx(np.corrcoef(*ranks)[0, 1]) and np.isnan(found["rho"]["answer"][1])
    assert found["layer"] == 0 and found["image_to_answer"][0] == pytest.approx(flow.sum())


@pytest.mark.skipif(os.name == "nt", reason="kill -9")
def test_kill_9_loses_nothing_and_repeats_nothing(bundled, scenes, fourteen, tmp_path):
    """A real process, killed as soon as it has written something: what goes on ends with what an undisturbed run has."""
    undisturbed = fourteen[0].rows[:6]
    words = ["flow-stats", "scenes", "--limit", "6", "--out", str(tmp_path / "run"), "--json"]
    command = [sys.executable, "-c", "from simignore.cli import app; app()", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    file = tmp_path / "run" / "predictions.jsonl"
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and (not file.exists() or not file.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "metrics.json").exists()
    with file.open("ab") as opened:
        opened.write(b'{"id": "half a li')  # killed in the middle of a line
    flow_stats(*bundled, type(scenes)(), limit=6, folder=tmp_path / "run", name="tiny")
    rows = [json.loads(text) for text in file.read_text().splitlines()]
    assert rows == undisturbed
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 0 < metrics.pop("last_start")["questions"] < 6
    assert metrics == json.loads(json.dumps(told(scenes, undisturbed, 0)))


def test_a_finished_run_is_read_not_repeated_and_another_is_refused(bundled, scenes, fourteen, monkeypatch):
    found, folder = fourteen
    before = (folder / "metrics.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("simignore.evaluate.flowstats.measure", None)  # nothing is explained again
        again = flow_stats(*bundled, scenes, folder=folder, name="tiny")
    assert again.rows == found.rows and again.metrics == found.metrics
    assert (folder / "metrics.json").read_bytes() == before
    for other, words in (
        ({"most": 3}, r"flow_stats\.most: 16 there, 3 here"),
        ({"max_new_tokens": 3}, r"generation\.max_new_tokens: 16 there, 3 here"),
        ({"limit": 7}, "questions: 14 there, 7 here"),
    ):
        with pytest.raises(ValueError, match=words):
            flow_stats(*bundled, scenes, folder=folder, name="tiny", **other)
    with pytest.raises(ValueError, match="another configuration"):
        evaluate(*bundled, scenes, folder=folder, name="tiny", batch=1)  # a folder holds one kind of run


def test_questions_without_an_image_are_counted_and_what_cannot_be_explained_is_named(bundled, tmp_path):
    Image.new("RGB", (112, 112), "red").save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    own = (
        Item("none", "what?", (), "x", groups={"type": "a"}),
        Item("broken", "what colour?", (tmp_path / "broken.png",), "red", groups={"type": "a"}),
        Item("two", "what colour is it?", (tmp_path / "a.png",) * 2, "red", groups={"type": "b"}),
    )
    found = flow_stats(*bundled, Own(own=own), folder=tmp_path / "run", most=1)
    assert found.metrics["without_image"] == 1 and found.metrics["questions"] == 1
    assert list(found.metrics["unexplained"]) == ["broken"]
    assert "broken.png cannot be read as an image" in found.metrics["unexplained"]["broken"]
    assert found.rows[1]["image_tokens"] == 392 and found.rows[1]["answer_tokens"] == 1
    assert set(found.metrics["groups"]["type"]) == {"b"}
    assert flow_stats(*bundled, Own(own=own), folder=tmp_path / "run", most=1).rows == found.rows
    with pytest.raises(ValueError, match=r"none of the 1 questions could be explained; broken: .*broken\.png"):
        flow_stats(*bundled, Own(own=own[:2]))
    with pytest.raises(ValueError, match="none of the 1 questions of own has an image"):
        flow_stats(*bundled, Own(own=own[:1]))
    with pytest.raises(ValueError, match="found no question"):
        flow_stats(*bundled, Own())
    with pytest.raises(ValueError, match="most=0, max_new_tokens=4: at least one token"):
        flow_stats(*bundled, Own(own=own), most=0)


def test_scienceqa_with_a_question_without_an_image(bundled, tmp_path):
    problems = {}
    for name, colour in (("1", "red"), ("2", "blue"), ("3", None)):
        problems[name] = {
            "question": "What colour is it?",
            "choices": ["red", "blue"],
            "answer": int(colour == "blue"),
            "hint": "look" if name == "2" else "",
            "image": "image.png" if colour else None,
            "subject": "natural science" if name == "1" else "social science",
            "grade": "grade3",
        }
        if colour:
            (tmp_path / name).mkdir()
            Image.new("RGB", (112, 112), colour).save(tmp_path / name / "image.png")
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["1", "2", "3"]}))
    benchmark = BENCHMARKS["scienceqa"](data=Path(tmp_path), subset="all")
    found = flow_stats(*bundled, benchmark)
    assert [row["id"] for row in found.rows] == ["1", "2"] and found.metrics["without_image"] == 1
    assert {name: one["questions"] for name, one in found.metrics["groups"]["subject"].items()} == {"NAT": 1, "SOC": 1}
    assert all(row["score"] == float(row["told"] == row["answer"]) for row in found.rows)
    assert found.metrics["flow"] == summary(found.rows)["flow"]
