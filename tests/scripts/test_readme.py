"""The pages' generated sections: a stale one is noticed, and what stops the script is said readably."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from simignore import tiny
from simignore.families import FAMILIES
from simignore.methods import METHODS, PRESETS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def readme(monkeypatch):
    """The script, imported from its folder."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return pytest.importorskip("readme")


@pytest.fixture
def folder(tmp_path):
    """A folder with a README that holds markers and nothing between them."""
    names = ("methods", "presets", "families")
    marks = "\n\n".join(f"<!-- simignore:{name} -->\n<!-- /simignore:{name} -->" for name in names)
    (tmp_path / "README.md").write_text(f"# title\n\n{marks}\n\nend\n")
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "results/families.json", tmp_path / "results")
    return tmp_path


def test_written_then_up_to_date(readme, folder):
    assert readme.main(["--root", str(folder)]) == 0
    text = (folder / "README.md").read_text()
    assert text.startswith("# title\n\n<!-- simignore:methods -->\n|") and text.endswith("\n\nend\n")
    for name in (*METHODS, *PRESETS, *FAMILIES):
        assert f"`{name}`" in text
    assert readme.main(["--root", str(folder), "--check"]) == 0
    assert readme.main(["--root", str(folder)]) == 0
    assert (folder / "README.md").read_text() == text, "writing twice changes nothing"


def test_a_family_without_a_case_is_said(readme, folder, capsys):
    file = folder / "results/families.json"
    result = json.loads(file.read_text())
    result["cases"] = [case for case in result["cases"] if case["model_type"] != "aria"]
    file.write_text(json.dumps(result))
    assert readme.main(["--root", str(folder)]) == 2
    assert "no case of 'aria'; add one to tests/zoo" in " ".join(capsys.readouterr().err.split())


def test_a_stale_table_is_noticed_and_left_alone(readme, folder, capsys):
    readme.main(["--root", str(folder)])
    path = folder / "README.md"
    stale = path.read_text().replace("`random`", "`chance`")
    path.write_text(stale)
    assert readme.main(["--root", str(folder), "--check"]) == 1
    shown = capsys.readouterr()
    assert "-| `chance`" in shown.out and "+| `random`" in shown.out and "out of date" in shown.err
    assert path.read_text() == stale


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nothing to see", "no markers"),
        ("<!-- simignore:methods -->", "never closed"),
        ("<!-- /simignore:methods -->", "<!-- simignore:methods --> is missing"),
        ("<!-- simignore:methods --><!-- simignore:presets -->", "<!-- /simignore:methods --> is missing"),
        ("<!-- simignore:mehtods --><!-- /simignore:mehtods -->", "unknown section 'mehtods'"),
        ("<!-- simignore:speed --><!-- /simignore:speed -->", "benchmarks.prefill --json"),
    ],
)
def test_what_is_missing_is_said(readme, tmp_path, capsys, text, said):
    (tmp_path / "README.md").write_text(text)
    assert readme.main(["--root", str(tmp_path), "--check"]) == 2
    assert said in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == text


def test_accuracy_is_read_from_what_the_measurements_write(readme, tmp_path):
    share = {"right": 3, "questions": 4, "accuracy": 0.75, "interval": [0.3, 0.95]}
    weights = {"weights": tiny.fingerprint()}
    text = {**weights, "torch": "2", "command": "python -m x", "what": "w", "all": share, "kinds": {"count": share}}
    forms = {"forms": {"text": text}}
    kinds = {"count": {"right": 1, "asked": 2}, "two_hop": {"right": 2, "asked": 2}}

    def row(method: str, keep: float, accuracy: float, label: str | None = None) -> dict[str, object]:
        told = {"method": method, "keep": keep, "form": "text", "kinds": kinds, "accuracy": accuracy}
        return told | {"low": 0.1, "high": 0.9, "questions": 4} | ({"label": label} if label else {})

    rows = [
        row("None", 1.0, 0.75),
        row("Random(keep=0.5)", 0.5, 0.25, "chance"),
        row("Random(seed=1)", 0.5, 0.75, "chance"),
    ]
    (tmp_path / "results").mkdir()
    (tmp_path / "results/tiny.json").write_text(json.dumps(forms))
    (tmp_path / "results/scenes.json").write_text(json.dumps({"rows": rows, "versions": {"torch": "2"}, **weights}))
    told = {name: readme.SECTIONS[name](tmp_path) for name in ("accuracy", "scenes", "kinds")}
    assert "| count | 75.0 % |" in told["accuracy"] and "**75.0 %**" in told["accuracy"]
    assert (
        "All image tokens: 75.0 % (10.0-90.0)" in told["scenes"] and "| chance | 50.0 % (25.0-75.0) |" in told["scenes"]
    )
    assert "| two hop | 100.0 % | 100.0 % |" in told["kinds"]


@pytest.mark.skipif("<!-- simignore:" not in (ROOT / "README.md").read_text(), reason="the README has no sections yet")
def test_the_readme_of_this_checkout_is_up_to_date(readme, tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    assert readme.main(["--root", str(ROOT), "--check"]) == 0
