"""GQA: exact match over balanced questions, and accuracy by kind of question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simignore.evaluate.benchmark import report
from simignore.evaluate.benchmarks import BENCHMARKS
from simignore.evaluate.benchmarks.gqa import GQA
from simignore.wording import wording

BARE = {"imageId": "n1", "question": "Which?", "answer": "bus", "isBalanced": True}


def test_the_official_file_is_read(tmp_path: Path) -> None:
    file = _file(tmp_path, {"201307251": _row(), "201640614": _row(isBalanced=False), "202225914": _row(imageId="n7")})
    for data in (file, tmp_path):
        items = BENCHMARKS["gqa"](data=data).chosen(None)
        assert [(item.id, item.cluster) for item in items] == [("201307251", "n161313"), ("202225914", "n7")]
        assert items[0].images == (tmp_path / "n161313.jpg",)
        assert items[0].answer == "bus" and items[0].groups == {"structural": "query", "semantic": "rel"}


def test_images_are_beside_the_questions_or_beside_their_folder(tmp_path: Path) -> None:
    (tmp_path / "questions1.2").mkdir()
    file = _file(tmp_path / "questions1.2", {"1": _row()})
    (tmp_path / "images").mkdir()
    assert GQA(data=file).items()[0].images == (tmp_path / "images" / "n161313.jpg",)
    assert GQA(data=tmp_path).items()[0].images == (tmp_path / "images" / "n161313.jpg",)
    (tmp_path / "questions1.2" / "images").mkdir()
    assert GQA(data=file).items()[0].images == (tmp_path / "questions1.2" / "images" / "n161313.jpg",)


def test_it_asks_as_llava_does(tmp_path: Path) -> None:
    benchmark = GQA(data=_file(tmp_path, {"1": _row()}))
    assert wording(**benchmark.words(benchmark.items()[0]))[0] == (
        "Which vehicle is red?\nAnswer the question using a single word or phrase."
    )


@pytest.mark.parametrize(
    ("told", "right"), [("bus", 1), ("Bus.", 1), (" BUS ", 1), ("buses", 0), ("the bus", 0), ("bus. Yes", 0), ("", 0)]
)
def test_only_the_word_itself_is_right(tmp_path: Path, told: str, right: int) -> None:
    benchmark = GQA(data=_file(tmp_path, {"1": _row()}))
    assert benchmark.score(benchmark.items()[0], told) == right
    assert benchmark.unreadable(benchmark.items()[0], told) == (told == "")


def test_figures_by_hand(tmp_path: Path) -> None:
    rows = {
        "1": _row(),
        "2": _row(),
        "3": _row(answer="yes", types={"structural": "verify", "semantic": "obj", "detailed": "existC"}),
        "4": _row(answer="left", types={"structural": "choose", "semantic": "rel", "detailed": "positionChoose"}),
        "5": _row(answer="no", types={"structural": "logical", "semantic": "obj", "detailed": "existOr"}),
    }
    benchmark = GQA(data=_file(tmp_path, rows))
    items = benchmark.items()
    told = ["bus", "car", "Yes", "left", "yes"]
    found = report(benchmark, items, told, [benchmark.score(i, t) for i, t in zip(items, told, strict=True)])
    assert found["accuracy"] == 3 / 5
    assert found["metrics"] == {"open": 1 / 2, "binary": 2 / 3}
    assert {kind: of["accuracy"] for kind, of in found["groups"]["structural"].items()} == {
        "query": 1 / 2,
        "verify": 1,
        "choose": 1,
        "logical": 0,
    }
    assert {kind: of["accuracy"] for kind, of in found["groups"]["semantic"].items()} == {"rel": 2 / 3, "obj": 1 / 2}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**BARE, "types": {"structural": "guess", "semantic": "rel"}}, "structural type 'guess' is none of verify"),
        (BARE, "'types' is missing"),
        ({**BARE, "types": {"structural": "query"}}, "types: 'semantic' is missing"),
        ({"isBalanced": True}, "'imageId' is missing"),
        ({"isBalanced": "yes"}, "'isBalanced' is 'yes', not of type bool"),
        ({}, "'isBalanced' is missing"),
        ({**BARE, "answer": ""}, "'answer' is empty"),
        (["a"], "is a JSON list"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        GQA(data=_file(tmp_path, {"1": _row(), "77": row})).items()
    assert "testdev_balanced_questions.json, question '77'" in str(raised.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="holds no testdev_balanced_questions.json"):
        GQA(data=tmp_path).items()
    file = _file(tmp_path, {})
    with pytest.raises(ValueError, match="holds no balanced question"):
        GQA(data=file).items()
    file.write_text(f'{{"5": {json.dumps(_row())}, "5": {json.dumps(_row())}}}')
    with pytest.raises(ValueError, match="has '5' more than once"):
        GQA(data=file).items()
    file.write_text("[]")
    with pytest.raises(ValueError, match="holds a JSON list"):
        GQA(data=file).items()
    file.write_text("")
    with pytest.raises(ValueError, match="is no JSON"):
        GQA(data=file).items()
    file.write_bytes(b'{"1":\n"\xff"}')
    with pytest.raises(ValueError, match="line 2, is not UTF-8"):
        GQA(data=file).items()


def _file(folder: Path, rows: dict[str, Any]) -> Path:
    file = folder / "testdev_balanced_questions.json"
    file.write_text(json.dumps(rows))
    return file


def _row(**change: Any) -> dict[str, Any]:
    return {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "vehicle"}],
        "entailed": [],
        "equivalent": ["201307251"],
        "question": "Which vehicle is red?",
        "imageId": "n161313",
        "isBalanced": True,
        "groups": {"global": None, "local": "14-vehicle_red"},
        "answer": "bus",
        "semanticStr": "select: vehicle",
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {"detailed": "relO", "semantic": "rel", "structural": "query"},
        "fullAnswer": "The bus is red.",
        **change,
    }
