"""``--head``: chooses the learned method, and is refused where it cannot count."""

import json

import pytest
from cli.test_ask import directly, facts
from cli.test_bad_input import complaint

import models
import simignore as library
from benchmarks.heads import random_head
from simignore.cli.options import make_method

OWN = random_head(models.WIDTH)


def test_a_head_chooses_the_learned_method(ask, photo):
    found = facts(ask("--json", "--head", OWN, "--keep", "5"))
    method = library.LearnedSimignore(keep=5, head=OWN)
    assert found["method"] == repr(method)
    reduced = directly(photo, method)
    assert found["answer"]["reduced"] == reduced.text
    chosen = reduced.trace.selections[0]
    assert found["kept"] == chosen.index[0].tolist() and found["score"] == pytest.approx(chosen.score[0].tolist())
    assert facts(ask("--json", "--head", OWN, "--method", "learned", "--keep", "5"))["kept"] == found["kept"]


def test_its_own_threshold_and_a_cap_from_the_command_line(ask):
    capped = facts(ask("--json", "--head", OWN, "--threshold", "0", "--keep", "3"))
    assert capped["method"] == repr(library.LearnedSimignore(keep=library.AtLeast(0.0, cap=3), head=OWN))
    assert 1 <= capped["image_tokens"]["reduced"] <= 3


@pytest.mark.parametrize("name", [name for name in library.METHODS if name != "learned"])
def test_a_head_beside_a_method_without_one_is_refused(name):
    with pytest.raises(ValueError, match=f"method '{name}' has no option head; its options are keep"):
        make_method(name, None, {"head": OWN})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--head", OWN, "--method", "random"], "method 'random' has no option head; its options are keep, layer"),
        (["--head", OWN, "--preset", "fastv"], "--preset fastv fixes the whole method; leave out --head"),
        (["--head", "absent"], "head 'absent' is no folder here; name one that `simignore train --out FOLDER` wrote"),
        (["--head", random_head(7)], "embeddings of width 7, and those here have 32; train one with"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(ask, arguments, says):
    assert says in complaint(ask(*arguments))


def test_a_torn_head_is_told_in_one_line_before_a_model_is_loaded(ask, tmp_path, monkeypatch):
    from simignore.cli import models as loading
    from simignore.head import CONFIG, Head

    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("the model was loaded"))
    Head(models.WIDTH, 4).save_pretrained(tmp_path)
    told = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(told | {"rank": 9}))
    found = complaint(ask("--head", tmp_path))
    assert f"{tmp_path} cannot be read as a head" in found and "train it anew, or name another" in found


def test_the_list_shows_it_with_its_options(simignore):
    (row,) = [
        row for row in json.loads(simignore("list", "methods", "--json").stdout)["methods"] if row["name"] == "learned"
    ]
    assert row["text_guided"] and not row["merges"] and row["cuts"] == "before the decoder"
    assert row["reads"] == "image tokens, text"
    assert {"keep", "head", "span=question"} <= set(row["options"])
    assert "learned" in simignore("list").stdout


def explain(simignore, *arguments):
    return simignore("explain", *arguments, "--no-faithful", "--rounds", 0, "--max-new-tokens", 2)


def test_explain_takes_a_head(simignore, tmp_path):
    out, head = tmp_path / "page.html", random_head(192)
    found = json.loads(explain(simignore, "--json", "--head", head, "--keep", 9, "--out", out).stdout)
    assert found["kept"] == 9 and found["method"] == repr(library.LearnedSimignore(keep=9, head=head))
    assert out.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--head", OWN, "--no-method"], "--no-method explains the model alone"),
        (["--head", OWN, "--method", "fastv"], "method 'fastv' has no option head"),
        (["--head", OWN, "--preset", "fastv"], "leave out --head"),
        (["--head", OWN], "embeddings of width 32, and those here have 192"),
    ],
)
def test_explain_refuses_what_ask_refuses(simignore, tmp_path, arguments, says):
    told = explain(simignore, *arguments, "--out", tmp_path / "page.html")
    assert told.exit_code == 2 and says in told.stderr and "Traceback" not in told.stderr
    assert not list(tmp_path.iterdir())
