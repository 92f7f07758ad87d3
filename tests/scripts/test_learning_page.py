"""The tables of docs/learning.md: who is compared with the bundled head, over what, and what is marked as significant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simignore import tiny
from simignore.head import BUNDLED

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def page(monkeypatch):
    """The module, imported from its folder."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return pytest.importorskip("learning_page")


def row(label, keep, accuracy, lead=None, questions=28, **more):
    """A row of ``results/learned.json``. lead: the head's advantage and its interval."""
    found = {"label": label, "keep": keep, "accuracy": accuracy, "low": 0.1, "high": 0.9, "questions": questions}
    found |= {"held": 25.0, "of_full": 1.0, "method": "None", **more}
    if lead is not None:
        middle, low, high = lead
        told = {"difference": middle, "low": low, "high": high, "better": low > 0}
        found |= {"learned_minus_this": told, "learned_minus_this_two_hop": told}
    return found


def written(folder: Path, rows) -> Path:
    (folder / "results").mkdir()
    heads = {"of seed 1": {"command": "simignore train scenes --seed 1"}}
    result = {
        "weights": tiny.fingerprint(),
        "head": {"weights": tiny.fingerprint(BUNDLED)},
        "heads": heads,
        "rows": rows,
    }
    (folder / "results/learned.json").write_text(json.dumps(result))
    return folder


SURE, UNSURE = (0.02, 0.01, 0.03), (0.02, -0.01, 0.03)
ROWS = [
    row("all image tokens", 1.0, 0.8, UNSURE, held=None),
    row("LearnedSimignore", 0.25, 0.85),
    row("LearnedSimignore", 0.125, 0.84, questions=42),
    row("LearnedSimignore, of seed 1", 0.125, 0.86, (-0.02, -0.03, -0.01)),
    row("LearnedSimignore, by its threshold", 0.0, 0.83),
    row("Simignore2", 0.125, 0.79, SURE),
    row("Simignore", 0.125, 0.81, UNSURE),
    row("Simignore", 0.25, 0.82, SURE, questions=14),
    row("Random, 3 seeds", 0.125, 0.5, (0.3, 0.2, 0.4)),
    row("Random, 3 seeds", 0.125, 0.6, (0.2, 0.1, 0.3)),
    row("Random, 3 seeds", 0.125, 0.7, (0.1, -0.1, 0.3)),
]


def cells(table: str) -> dict[str, list[str]]:
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return {first.strip(): [cell.strip() for cell in rest] for first, *rest in lines}


def test_rules_that_were_not_trained_are_told_best_first_with_the_heads_lead(page, tmp_path):
    found = cells(page.rivals(written(tmp_path, ROWS)))
    assert found == {
        "": ["0.25 of 196", "0.125 of 196", "questions"],
        "---": ["---", "---", "---"],
        "all image tokens": ["", "80.0% (+2.0)", "28"],
        "LearnedSimignore": ["85.0%", "84.0%", "28 to 42"],
        "Simignore": ["82.0% (**+2.0**)", "81.0% (+2.0)", "14 to 28"],
        "Simignore2": ["", "79.0% (**+2.0**)", "28"],
        "Random, 3 seeds": ["", "60.0% (+20.0)", "28"],  # one of its seeds is no sure one
    }
    assert list(found)[2:] == ["all image tokens", "LearnedSimignore", "Simignore", "Simignore2", "Random, 3 seeds"]


def test_heads_are_told_beside_the_bundled_one_and_a_better_one_is_significant_too(page, tmp_path):
    table = page.heads(written(tmp_path, ROWS))
    found = cells(table)
    assert list(found)[2:] == [
        "all image tokens",
        "Simignore2",
        "of seed 1",
        "**the bundled head**",
        "by its threshold",
    ]
    assert [found[name][-1] for name in list(found)[2:]] == ["no", "yes", "yes", "", ""]
    assert found["all image tokens"][0] == "196.0" and found["of seed 1"][0] == "25.0"
    assert "- of seed 1: `simignore train scenes --seed 1`" in table


def test_a_head_that_is_not_the_bundled_one_any_more_is_refused(page, tmp_path):
    folder = written(tmp_path, ROWS)
    result = json.loads((folder / "results/learned.json").read_text())
    (folder / "results/learned.json").write_text(json.dumps(result | {"head": {"weights": "other"}}))
    for section in (page.rivals, page.heads):
        with pytest.raises(ValueError, match=r"measured with another bundled head; make it anew: python -m benchmarks"):
            section(folder)


def test_the_cost_is_told_over_the_sizes_that_both_were_measured_at(page, tmp_path):
    def cell(**medians):
        return {name: {"seconds": {"median": seconds}} for name, seconds in medians.items()}

    (tmp_path / "results").mkdir()
    sizes = [(576, 1024, 1), (2880, 4096, 16), (11520, 4096, 16)]
    times = [cell(learned=3.0, simignore2=2.0), cell(learned=6.0, simignore2=2.0), cell(simignore2=1.0)]
    runs = [
        dict(zip(("tokens", "width", "batch", "cases"), (*size, told), strict=True))
        for size, told in zip(sizes, times, strict=True)
    ]
    (tmp_path / "results/selection.json").write_text(json.dumps({"runs": runs}))
    ratio = {"prefill_to_native": {"median": 1.25}}
    cases = {"full": ratio, "native again": ratio}
    cases |= {name: {**ratio, "selection": {}, "to_own_work_least": 1.04} for name in ("simignore", "learned", "mask")}
    speed = {"rounds": 9, "runs": [{"tokens": {"keep": 144, "image": 576}, "cases": cases}]}
    (tmp_path / "results/prefill-learned.json").write_text(json.dumps(speed))
    told = page.cost(tmp_path)
    assert "choosing takes 1.5 to 3.0 times as long as with `Simignore2`" in told
    assert "at 576 to 2,880 tokens of width 1,024 to 4,096, batch 1 and 16" in told
    assert "took 1.25 with `simignore`, 1.25 with `learned` and 1.25 with all of them" in told
    assert "it took 1.04, 1.04. Medians of 9 interleaved rounds" in told


def test_scores_that_find_what_is_needed_come_first_and_rules_without_scores_last(page, tmp_path):
    def figure(mean):
        return {"mean": mean, "low": mean and mean - 0.01, "high": mean and mean + 0.01, "questions": 7}

    def told(label, area, hops):
        by_kind = {"auc by kind": {"two_hop": figure(hops)}, "kept by kind": {"two_hop": figure(0.25)}}
        return {"label": label, "keep": 0.125, "auc": figure(area), "kept": figure(0.5), **by_kind}

    rows = [
        told("DivPrune", None, None),
        told("Simignore", 0.8, 0.7),
        told("LearnedSimignore", 0.9, 0.6),
        told("LearnedSimignore, at most", 0.9, 0.6),
    ]
    (tmp_path / "results").mkdir()
    result = {"weights": tiny.fingerprint(), "head": {"weights": tiny.fingerprint(BUNDLED)}, "rows": rows}
    file = tmp_path / "results/needed.json"
    file.write_text(json.dumps(result))
    found = cells(page.needed(tmp_path))
    assert list(found)[2:] == ["LearnedSimignore", "Simignore", "DivPrune"]
    assert found["Simignore"] == ["0.800 (0.790 to 0.810)", "0.700 (0.690 to 0.710)", "50%", "25%"]
    assert found["DivPrune"] == ["", "", "50%", "25%"]
    file.write_text(json.dumps(result | {"head": {"weights": "other"}}))
    with pytest.raises(ValueError, match=r"results/needed\.json was measured with another bundled head; make it anew"):
        page.needed(tmp_path)
