"""``flow-stats`` as typed: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


def test_a_run_prints_one_object_and_writes_page_and_figures_and_again_reads_well(simignore, tmp_path):
    pytest.importorskip("matplotlib")
    words = ["flow-stats", "scenes", "--limit", 4, "--most", 1, "--max-new-tokens", 3, "--out", tmp_path / "run"]
    result = simignore(*words, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["questions"] == 4 and found["model"] == "tiny" and found["answer_tokens"] == 1
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert all(told[name] == found[name] for name in found if name not in ("model", "page"))
    names = ("shares", "shares-by-part", "per-token", "convergence", "image-flow", "similarity", "similarity-type")
    for name in names:
        with Image.open(tmp_path / "run" / f"{name}.png") as image:
            assert min(image.size) > 300 and np.asarray(image.convert("L")).std() > 5
    page = (tmp_path / "run" / "flow-stats.html").read_text()
    assert found["page"] == str(tmp_path / "run" / "flow-stats.html")
    assert page.startswith("<!doctype html>") and page.count("data:image/png") == len(names) and "://" not in page
    before = (tmp_path / "run" / "predictions.jsonl").stat().st_mtime_ns
    result = simignore(*words)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "predictions.jsonl").stat().st_mtime_ns == before
    assert "4 explained" in result.stdout and "converges" in result.stdout and "flow-stats.html" in result.stdout
    result = simignore(*words[:5], 2, *words[6:])
    assert result.exit_code == 2 and "flow_stats.most: 1 there, 2 here" in " ".join(result.stderr.split())


def test_what_is_left_out_is_told(simignore, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "image.png").write_bytes(b"no picture")
    (tmp_path / "fine").mkdir()
    Image.new("RGB", (112, 112), "red").save(tmp_path / "fine" / "image.png")
    problem = {"question": "What colour is it?", "choices": ["red", "blue"], "answer": 0}
    problems = {
        name: {**problem, "image": None if name == "none" else "image.png"} for name in ("fine", "broken", "none")
    }
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": list(problems)}))
    words = ["flow-stats", "scienceqa", "--data", tmp_path, "--with", "subset=all"]
    result = simignore(*words)
    assert result.exit_code == 0, result.output
    said = " ".join(result.stdout.split())
    assert "1 questions have no image" in said and "broken could not be explained" in said and "1 explained" in said
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob("*.html"))  # nothing is kept without --out


def test_without_matplotlib_the_numbers_are_kept_and_told_how_to_draw(simignore, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    result = simignore("flow-stats", "scenes", "--limit", 1, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "pip install 'simignore[viz]'" in " ".join(result.stdout.split())
    assert (tmp_path / "run" / "metrics.json").exists() and not (tmp_path / "run" / "flow-stats.html").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nonsense"], "no benchmark 'nonsense'"),
        (["pope"], "read from local files: name them with --data"),
        (["scenes", "--with", "colour=red"], "has no setting colour"),
        (["scenes", "--limit", "0"], "--limit"),
        (["scenes", "--most", "0"], "--most"),
        (["scenes", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["scenes", "--limit", "1", "--device", "abacus"], "none of auto, cpu, cuda"),
        (["scenes", "--limit", "1", "--model", "/nowhere"], "no model folder at /nowhere"),
    ],
)
def test_bad_input_is_told_before_anything_runs(simignore, words, error):
    result = simignore("flow-stats", *words)
    assert result.exit_code == 2 and error in " ".join(result.stderr.split()), result.output


def test_a_file_in_place_of_the_folder(simignore, tmp_path):
    (tmp_path / "run").write_text("mine")
    result = simignore("flow-stats", "scenes", "--limit", 1, "--out", tmp_path / "run")
    assert result.exit_code == 2 and "is a file; name a folder" in " ".join(result.stderr.split())
