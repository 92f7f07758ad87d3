"""`simignore explain` as a person types it."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from simignore.cli import app

QUICK = ["--no-faithful", "--rounds", "0"]


def run(*arguments: str):
    return CliRunner().invoke(app, ["explain", *arguments])


def test_the_bundled_question_makes_a_page_and_its_numbers(tmp_path):
    out = tmp_path / "deep" / "page.html"
    told = run("example", "--answer-as", "text", "--out", str(out), *QUICK)
    assert told.exit_code == 0, told.output
    assert (
        told.output.startswith("7")
        and "converges in layer" in told.output
        and "as many random ones have" in told.output
    )
    page, numbers = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    assert page.startswith("<!doctype html>") and "What number is on the blue star?" in page
    assert numbers["answer"] == "7" and len(numbers["views"]["rollout"][0]) == 196 and numbers["settings"]["seed"] == 0
    assert numbers["kept"]["selection"]["index"] and numbers["removal"] is None


def test_json_is_one_object_with_the_findings(tmp_path):
    out = tmp_path / "page.html"
    told = run("--json", "--answer-as", "text", "--method", "divprune", "--keep", "20", "--out", str(out), *QUICK)
    found = json.loads(told.stdout)
    assert found["kept"] == 20 and found["method"].startswith("DivPrune(keep=20") and found["page"] == str(out)
    assert set(found["convergence_layers"]) == {"attention", "saliency"}
    assert 0 < found["flow_kept"]["saliency"] < 1 and found["flow_kept_at_random"]["saliency"]["low"] < 0.2


def test_the_model_alone(tmp_path):
    out = tmp_path / "page.html"
    assert run("--no-method", "--out", str(out), *QUICK).exit_code == 0
    assert json.loads(out.with_suffix(".json").read_text())["kept"] is None


def test_two_pictures_and_no_options(tmp_path):
    picture = tmp_path / "grey.png"
    Image.new("RGB", (90, 60), (120, 120, 120)).save(picture)
    told = run("example", "what is here?", "--also", str(picture), "--out", str(tmp_path / "two.html"), *QUICK)
    assert told.exit_code == 0, told.output
    assert len(json.loads((tmp_path / "two.json").read_text())["patches"]["grids"]) == 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--out", "page.pdf"], "--out page.pdf must end in .html; the numbers go into page.json"),
        (["--no-method", "--keep", "0.5"], "leave out --method, --preset and their options"),
        (["nowhere.png", "what?"], "no image file at nowhere.png"),
        (["--most", "0"], "--most 0"),
        (["--method", "nothing"], "no method 'nothing'"),
        (["--answer-as", "words"], "words"),
        (["--rounds", "-1"], "--rounds -1: 0 or more"),
    ],
)
def test_what_is_wrong_is_told_on_one_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = run(*arguments)
    assert told.exit_code == 2 and words in told.output and "Traceback" not in told.output
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_page(tmp_path):
    (tmp_path / "page.html").mkdir()
    told = run("--out", str(tmp_path / "page.html"))
    assert told.exit_code == 2 and "is a folder" in told.output


def test_an_answer_that_needs_no_picture_is_called_that(tmp_path):
    from simignore import tiny

    letters = ["example", tiny.EXAMPLE_QUESTION, "--options", "7,2,4", "--answer-as", "letter"]
    told = run(*letters, "--out", str(tmp_path / "page.html"), "--rounds", "0")
    assert told.exit_code == 0 and "without any image token, too" in " ".join(told.output.split())
    told = run("--no-method", "--out", str(tmp_path / "page.html"), "--rounds", "0")
    assert "without any image token, too" not in " ".join(told.output.split())


def test_a_missing_question_names_this_command(tmp_path):
    picture = tmp_path / "grey.png"
    Image.new("RGB", (9, 9)).save(picture)
    told = run(str(picture), "--out", str(tmp_path / "page.html"))
    assert told.exit_code == 2 and f"simignore explain {picture}" in told.output
