"""``evaluate``, ``compare``, ``score``, ``report`` as typed: what they print, what they write, and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from simignore import PRESETS, Chain, FastV, Simignore
from simignore.cli import app

WORDS = ["--cost-rounds", "1", "--batch", "7"]


@pytest.fixture(scope="module")
def run():
    """Run the command line with some arguments."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def compared(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "all"
    words = ["--methods", "simignore,fastv", "--keep", "40,12.5%", "--set", "fastv.layer=5", "--limit", "14"]
    result = run("compare", "scenes", *words, *WORDS, "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def test_compare_prints_rows_with_full_and_random_among_them(compared):
    _, found = compared
    rows = found["rows"]
    at_tokens = [(row["method"], row["keep"]) for row in rows if row["at"] == "tokens"]
    names = ("random", "pooled", "simignore", "fastv")
    assert at_tokens == [("full", None), *((name, 40) for name in names), *((name, 0.125) for name in names)]
    for row in rows:
        if "impossible" not in row:
            assert {"method", "keep", "accuracy", "low", "high", "questions"} <= set(row)
            assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 and row["questions"] == 14
            assert row["cost"]["of_full"]["kv_bytes"] <= 1
    assert {row["at"] for row in rows if row["method"] == "fastv"} == {"tokens", "cost"}
    assert found["versions"]["torch"] and found["hardware"]["cores"]


def test_compare_again_asks_nothing_and_reads_well(run, compared):
    out, found = compared
    before = (out / "simignore-40" / "predictions.jsonl").stat().st_mtime_ns
    words = ["--methods", "simignore,fastv", "--keep", "40,12.5%", "--set", "fastv.layer=5", "--limit", "14"]
    result = run("compare", "scenes", *words, "--batch", "7", "--cost-rounds", "0", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert (out / "simignore-40" / "predictions.jsonl").stat().st_mtime_ns == before
    assert "At equal tokens: Rendered scenes, 14 questions" in result.stdout and "random" in result.stdout
    assert json.loads((out / "comparison.json").read_text())["rows"][0]["accuracy"] == found["rows"][0]["accuracy"]


def test_report_makes_a_page_and_pictures(run, compared, tmp_path):
    out, found = compared
    result = run("report", str(out), "--out", str(tmp_path / "report"))
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "://" not in page.replace("http-equiv", "")  # needs nothing beside it
    for row in found["rows"]:
        if "impossible" not in row:
            assert f"{row['accuracy'] * 100:.1f} ({row['low'] * 100:.1f} to {row['high'] * 100:.1f})" in page
    pictures = sorted(file.name for file in (tmp_path / "report").glob("*.png"))
    assert {"accuracy-tokens.png", "accuracy-type-40.png"} <= set(pictures)
    for name in pictures:
        with Image.open(tmp_path / "report" / name) as image:
            assert (
                min(image.size) > 300
                and len(set(np.asarray(image.convert("RGB")).reshape(-1, 3).view("u1,u1,u1").ravel().tolist())) > 20
            )


def test_evaluate_writes_a_run_that_score_and_report_read(run, tmp_path):
    words = ["--limit", "14", "--method", "simignore", "--keep", "0.25", "--span", "question", *WORDS]
    result = run("evaluate", "scenes", *words, "--out", str(tmp_path / "run"), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["questions"] == 14 and found["kept"] == 49 and set(found["cost"]) == {"full", "method"}
    told = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert told["accuracy"] == found["accuracy"]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"] == "tiny"
    result = run("report", str(tmp_path / "run"), "--out", str(tmp_path / "report"))
    assert result.exit_code == 0 and (tmp_path / "report" / "accuracy-type.png").exists(), result.output
    (tmp_path / "run" / "metrics.json").unlink()
    result = run("report", str(tmp_path / "run"))
    assert result.exit_code == 2 and "is not finished (no metrics.json)" in result.stderr


def test_evaluate_reads_well(run):
    result = run("evaluate", "scenes", "--limit", "14", "--method", "full", *WORDS)
    assert result.exit_code == 0, result.output
    assert "Rendered scenes:" in result.stdout and "of 14 right" in result.stdout and "two_hop" in result.stdout


def test_score_says_what_it_could_not_read(run, tmp_path):
    rows = [("1", "B"), ("2", "no idea"), ("3", "(A)")]
    questions = [
        {
            "id": name,
            "conversations": [
                {"value": "Context: N/A\nQuestion: Which?\nOptions: (A) red (B) blue"},
                {"value": "The answer is B."},
            ],
        }
        for name, _ in rows
    ]
    (tmp_path / "q.json").write_text(json.dumps(questions))
    answers = "".join(json.dumps({"question_id": name, "text": text}) + "\n" for name, text in rows)
    (tmp_path / "a.jsonl").write_text(answers)
    words = ["score", "scienceqa", "--questions", str(tmp_path / "q.json"), "--answers", str(tmp_path / "a.jsonl")]
    result = run(*words, "--with", "subset=all")
    assert result.exit_code == 0, result.output
    assert "33.33 %" in result.stdout and "1 of 3 right" in result.stdout
    assert "answers that name nothing that was asked for" in result.stdout and ": 1\n" in result.stdout
    (tmp_path / "a.jsonl").write_text(answers + "{broken\n")
    result = run(*words, "--with", "subset=all")
    assert result.exit_code == 2 and result.stdout == "" and "a.jsonl, line 4, is no JSON" in result.stderr


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["evaluate", "nonsense"], "no benchmark 'nonsense'; there are scenes, scienceqa"),
        (["evaluate", "pope"], "read from local files: name them with --data"),
        (["evaluate", "pope", "--data", "/nowhere"], "there is no such file or folder"),
        (["evaluate", "scenes", "--with", "colour=red"], "benchmark 'scenes' has no setting colour"),
        (["evaluate", "scenes", "--with", "form=sung"], "form='sung' is none of text, letter"),
        (["evaluate", "scenes", "--seed", "10"], "the test split has the seeds 0 to 9"),
        (["evaluate", "scenes", "--with", "form"], "write NAME=VALUE"),
        (["evaluate", "scenes", "--data", "."], "scenes are drawn, not read"),
        (["evaluate", "scenes", "--method", "full", "--keep", "9"], "keeps all image tokens; leave out --keep"),
        (["evaluate", "scenes", "--dtype", "4bit"], "the bundled model has a few megabytes"),
        (["compare", "scenes", "--keep", "Mass(0.9)"], "compared at counts or fractions, not at rules"),
        (["compare", "scenes", "--methods", "simignore", "--set", "fastv.layer=2"], "write METHOD.NAME=VALUE"),
        (["compare", "scenes", "--methods", "simignored"], "no method 'simignored'"),
        (["report", "/nowhere"], "there is no folder /nowhere"),
    ],
)
def test_bad_input_is_told_before_anything_runs(run, words, error):
    result = run(*words)
    assert result.exit_code == 2 and error in " ".join(result.stderr.split()), result.output


def test_the_commands_of_the_claims_page_run_on_a_model_of_the_same_class(run, checkpoint, tmp_path, monkeypatch):
    """ScienceQA in LLaVA's layout, a random LLaVA of 16 image tokens: the published rows and those beside them."""
    published = "simignore/llava-1.5-7b"
    few = Chain(Simignore(keep=12, skip=1, span=published), FastV(keep=4, layer=1))  # of 16, as 452 and 144 of 576
    monkeypatch.setitem(PRESETS, published, few)
    questions = []
    for name in ("11", "23"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 20), "red").save(tmp_path / name / "image.png")
        said = "Context: N/A\nQuestion: What is it?\nOptions: (A) a red star (B) a blue ring\n<image>"
        turns = [{"value": said}, {"value": "The answer is B."}]
        questions.append({"id": name, "image": f"{name}/image.png", "conversations": turns})
    (tmp_path / "q.json").write_text(json.dumps(questions))
    words = ["--methods", "simignore,fastv", "--keep", "12,4", "--presets", published, "--with", "square=True"]
    words += ["--set", f"simignore.span={published}", "--set", "simignore.skip=1", "--set", "fastv.layer=1"]
    words += ["--no-equal-cost", "--cost-rounds", "0", "--json", "--model", checkpoint]
    result = run("compare", "scienceqa", "--data", tmp_path / "q.json", *words)
    assert result.exit_code == 0, result.output
    rows = {(row["method"], row["keep"]): row for row in json.loads(result.stdout)["rows"]}
    assert {("full", None), ("random", 12), ("simignore", 4), ("fastv", 4), (published, 4)} <= set(rows)
    assert rows["fastv", 4]["kept"] == rows[published, 4]["kept"] == 4


def test_list_benchmarks(run):
    result = run("list", "benchmarks", "--json")
    names = [row["name"] for row in json.loads(result.stdout)["benchmarks"]]
    assert names[:2] == ["scenes", "scienceqa"] and {"pope", "textvqa", "gqa", "mmbench", "mme", "refcoco"} <= set(
        names
    )
