"""The model card's sections: a bar that is met exactly counts as met, and figures of other weights are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simignore import tiny
from simignore.tiny.questions import KINDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def card(monkeypatch):
    """The module, imported from its folder."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return pytest.importorskip("card")


def _share(accuracy: float) -> dict[str, object]:
    return {"right": 0, "questions": 2000, "accuracy": accuracy, "interval": [accuracy - 0.01, accuracy + 0.01]}


def _result(folder: Path, **changes: object) -> Path:
    """A folder with results in which every bar is met to the point."""
    part = {"weights": tiny.fingerprint(), "all": _share(0.98), "kinds": dict.fromkeys(KINDS, _share(0.97))}
    kinds = {"kinds": part["kinds"]}
    cuts = {"all": 0.98, "before the decoder": 0.78, **{f"before layer {k}": 0.93 for k in range(1, 10)}}
    bed = {name: {"all": _share(accuracy), **kinds} for name, accuracy in cuts.items()}
    result = {
        "forms": {"text": part, "letter": {**part, "all": _share(0.96)}, "caption": {**part, "all": _share(0.85)}},
        "bed": {**bed, "weights": tiny.fingerprint()},
        "embeddings": {"areas": {}, "weights": tiny.fingerprint()},
    }
    (folder / "results").mkdir()
    (folder / "results/tiny.json").write_text(json.dumps(result | changes))
    return folder


def test_bars_that_are_met_to_the_point_are_met(card, tmp_path):
    told = card.bars(_result(tmp_path))
    assert "**no**" not in told and told.count("| yes |") == len(KINDS) + 4
    assert "before layer 5 cost | at least 5 points | 5.0 points" in told


def test_bars_that_are_missed_are_said(card, tmp_path):
    folder = _result(tmp_path)
    file = folder / "results/tiny.json"
    result = json.loads(file.read_text())
    result["forms"]["text"]["kinds"]["count"] = _share(0.8999)
    result["forms"]["letter"]["all"] = _share(0.9599)
    result["bed"]["before the decoder"]["all"] = _share(0.7801)
    file.write_text(json.dumps(result))
    assert card.bars(folder).count("**no**") == 3


@pytest.mark.parametrize("part", ["bed", "embeddings", "text"])
def test_figures_of_other_weights_are_refused(card, tmp_path, part):
    folder = _result(tmp_path)
    file = folder / "results/tiny.json"
    result = json.loads(file.read_text())
    (result["forms"] if part == "text" else result)[part]["weights"] = "0" * 16
    file.write_text(json.dumps(result))
    with pytest.raises(card.StaleError, match="other weights"):
        card.bars(folder)


def test_a_missing_part_is_named(card, tmp_path):
    with pytest.raises(card.StaleError, match="no part 'bed'"):
        card.bars(_result(tmp_path, bed=None))
