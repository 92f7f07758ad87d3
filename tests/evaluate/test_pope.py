"""POPE: answers are read as the official script reads them, and figures are those worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simignore.evaluate.benchmark import report
from simignore.evaluate.benchmarks import BENCHMARKS
from simignore.evaluate.benchmarks.pope import CATEGORIES, Pope
from simignore.wording import wording

LABELS = {"random": "yes yes no no", "popular": "yes no", "adversarial": "yes no"}


def test_the_three_files_are_read_in_order(tmp_path: Path) -> None:
    items = Pope(data=_folder(tmp_path)).chosen(None)
    assert [item.id for item in items] == [
        *(f"random/{n}" for n in (1, 2, 3, 4)),
        *(f"{category}/{n}" for category in ("popular", "adversarial") for n in (1, 2)),
    ]
    assert items[0].answer == "yes" and items[2].answer == "no"
    assert items[0].images == (tmp_path / "COCO_val2014_000000000000.jpg",)
    assert items[0].cluster == items[1].cluster == "COCO_val2014_000000000000.jpg" != items[2].cluster


def test_it_asks_as_llava_does(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["pope"](data=_folder(tmp_path))
    assert wording(**benchmark.words(benchmark.items()[0]))[0] == (
        "Is there a thing 1 in the image?\nAnswer the question using a single word or phrase."
    )


def test_images_are_found_in_val2014_or_where_they_are_said_to_be(tmp_path: Path) -> None:
    data = _folder(tmp_path / "pope")
    (data / "val2014").mkdir()
    assert Pope(data=data).items()[0].images[0] == data / "val2014" / "COCO_val2014_000000000000.jpg"
    (tmp_path / "coco").mkdir()
    assert Pope(data=data, images=tmp_path / "coco").items()[0].images[0] == (
        tmp_path / "coco" / "COCO_val2014_000000000000.jpg"
    )


def test_one_file_is_enough(tmp_path: Path) -> None:
    items = Pope(data=_folder(tmp_path) / "coco_pope_popular.json").items()
    assert [item.groups["category"] for item in items] == ["popular", "popular"]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("No", "no"),
        ("no", "no"),
        ("No, there is a cat", "no"),
        ("There is not a dog in the image.", "no"),
        ("Yes. There is no cat.", "yes"),  # only the first sentence counts
        ("NO", "yes"),  # the official script knows No, no and not alone
        ("None", "yes"),
        ("nothing", "yes"),
        ("Yes", "yes"),
        ("", "yes"),
    ],
)
def test_answers_are_read_by_the_official_rule(tmp_path: Path, told: str, said: str) -> None:
    benchmark = Pope(data=_folder(tmp_path))
    yes, no = benchmark.items()[0], benchmark.items()[2]
    assert benchmark.score(yes, told) == (said == "yes")
    assert benchmark.score(no, told) == (said == "no")


def test_what_says_neither_is_unreadable(tmp_path: Path) -> None:
    benchmark = Pope(data=_folder(tmp_path))
    item = benchmark.items()[0]
    assert benchmark.unreadable(item, "") and benchmark.unreadable(item, "a brown dog")
    assert not any(benchmark.unreadable(item, told) for told in ("Yes", "no.", "It is NOT."))


def test_figures_by_hand(tmp_path: Path) -> None:
    benchmark = Pope(data=_folder(tmp_path))
    items = benchmark.items()
    told = ["Yes", "No, no dog.", "Yes it is", "There is not. Yes"]  # random: hit, miss, false alarm, right rejection
    told += ["Yes", "No"]  # popular: all right
    told += ["No", "No"]  # adversarial: a miss and a right rejection; precision and F1 have nothing to divide by
    scores = [benchmark.score(item, text) for item, text in zip(items, told, strict=True)]
    assert scores == [1, 0, 0, 1, 1, 1, 0, 1]
    figures = benchmark.metrics(items, told, scores)
    expected = {
        # accuracy, precision, recall, F1, yes ratio
        "random": (2 / 4, 1 / 2, 1 / 2, 1 / 2, 2 / 4),
        "popular": (1.0, 1.0, 1.0, 1.0, 1 / 2),
        "adversarial": (1 / 2, 0.0, 0.0, 0.0, 0.0),
    }
    for category, values in expected.items():
        for name, value in zip(("accuracy", "precision", "recall", "f1", "yes_ratio"), values, strict=True):
            assert figures[f"{category}/{name}"] == pytest.approx(value), (category, name)
    assert figures["f1"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert figures["accuracy"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert report(benchmark, items, told, scores)["groups"]["category"]["random"]["accuracy"] == 0.5


def test_f1_where_precision_and_recall_differ(tmp_path: Path) -> None:
    file = _folder(tmp_path) / "coco_pope_random.json"
    file.write_text("".join(_line(n, label) for n, label in enumerate(("yes", "yes", "yes", "no", "no"), 1)))
    benchmark = Pope(data=file)
    items = benchmark.items()
    told = ["yes", "no", "no", "yes", "no"]  # hits 1 of 2 said yes and of 3 that are: P 1/2, R 1/3, F1 = (1/3) / (5/6)
    figures = benchmark.metrics(items, told, [benchmark.score(i, t) for i, t in zip(items, told, strict=True)])
    assert figures["precision"] == pytest.approx(1 / 2) and figures["recall"] == pytest.approx(1 / 3)
    assert figures["f1"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question_id": 1, "image": "a.jpg", "text": "Is it?"}, "line 2: 'label' is missing"),
        (
            {"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "maybe"},
            "line 2: the label 'maybe' is neither",
        ),
        ({"question_id": 1, "image": "a.jpg", "text": " ", "label": "no"}, "line 2: 'text' is empty"),
        ({"question_id": 1, "image": 7, "text": "Is it?", "label": "no"}, "line 2: 'image' is 7"),
        ({"question_id": None, "image": "a.jpg", "text": "Is it?", "label": "no"}, "line 2: 'question_id' is None"),
        ([], "line 2, is a JSON list"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, message: str) -> None:
    file = _folder(tmp_path) / "coco_pope_random.json"
    file.write_text(_line(9, "yes") + json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=message) as raised:
        Pope(data=file).items()
    assert str(file) in str(raised.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    file = folder / "coco_pope_random.json"
    file.write_text(_line(3, "yes") * 2)
    with pytest.raises(ValueError, match="same id more than once: '3'"):
        Pope(data=file).chosen(None)
    file.write_text("\n")
    with pytest.raises(ValueError, match="coco_pope_random.json holds no question"):
        Pope(data=file).items()
    file.write_bytes(_line(1, "yes").encode() + b"\xff\n")
    with pytest.raises(ValueError, match="coco_pope_random.json, line 2, is not UTF-8"):
        Pope(data=file).items()
    file.unlink()
    with pytest.raises(OSError, match="has no file for random"):
        Pope(data=folder).items()
    (folder / "gqa_pope_popular.json").write_text(_line(1, "yes"))
    with pytest.raises(ValueError, match="keep one file for each category"):
        Pope(data=folder).items()
    (folder / "questions.json").write_text(_line(1, "yes"))
    with pytest.raises(ValueError, match="does not say the category"):
        Pope(data=folder / "questions.json").items()
    with pytest.raises(OSError, match="no such file or folder"):
        Pope(data=tmp_path / "nowhere").items()
    with pytest.raises(ValueError, match="name them with --data"):
        Pope().items()


def _folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    for category in CATEGORIES:
        lines = [_line(n, label) for n, label in enumerate(LABELS[category].split(), start=1)]
        (path / f"coco_pope_{category}.json").write_text("".join(lines))
    return path


def _line(number: int, label: str) -> str:
    """Two questions share an image."""
    image = f"COCO_val2014_{(number - 1) // 2:012}.jpg"
    row = {"question_id": number, "image": image, "text": f"Is there a thing {number} in the image?", "label": label}
    return json.dumps(row) + "\n"
