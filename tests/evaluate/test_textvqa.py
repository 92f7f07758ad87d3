"""TextVQA: VQA accuracy by hand, and what the official normalisation lets pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from simignore.evaluate.benchmarks import BENCHMARKS
from simignore.evaluate.benchmarks.textvqa import TextVQA, agreement, normalised
from simignore.wording import wording

OTHERS = [f"word{n}" for n in range(10)]


def test_the_official_file_is_read(tmp_path: Path) -> None:
    file = _file(tmp_path, _row(34602), _row(34603, image_id="aa"), _row(34604, image_id="aa"))
    for data in (file, tmp_path):
        items = BENCHMARKS["textvqa"](data=data).chosen(None)
        assert [item.id for item in items] == ["34602", "34603", "34604"]
        assert [item.cluster for item in items] == ["0054c91397f2fe05", "aa", "aa"]
        assert items[0].images == (tmp_path / "0054c91397f2fe05.jpg",)
        assert items[0].answer == ["nous les gosses"] * 3 + OTHERS[:7]
    (tmp_path / "train_images").mkdir()
    assert TextVQA(data=file).items()[1].images == (tmp_path / "train_images" / "aa.jpg",)


def test_it_asks_as_llava_does(tmp_path: Path) -> None:
    file = _file(tmp_path, _row(1), _row(2, image_id="blank"))
    benchmark = TextVQA(data=file)
    assert wording(**benchmark.words(benchmark.items()[0]))[0] == (
        "what is the brand of this camera?\nAnswer the question using a single word or phrase."
    )
    ocr = tmp_path / "TextVQA_Rosetta_OCR_v0.2_val.json"
    read = [
        {"image_id": "0054c91397f2fe05", "ocr_tokens": ["DAKOTA", "DIGITAL"]},
        {"image_id": "blank", "ocr_tokens": []},
    ]
    ocr.write_text(json.dumps({"data": read}))
    benchmark = TextVQA(data=file, ocr=ocr)
    first, second = (wording(**benchmark.words(item))[0] for item in benchmark.items())
    assert first == (
        "what is the brand of this camera?\nReference OCR token: DAKOTA, DIGITAL\n"
        "Answer the question using a single word or phrase."
    )
    assert "\nReference OCR token: \nAnswer" in second
    ocr.write_text(json.dumps({"data": read[1:]}))
    with pytest.raises(ValueError, match="says nothing of image 0054c91397f2fe05"):
        benchmark.items()


@pytest.mark.parametrize(
    ("matches", "accuracy"),
    [
        (0, 0.0),
        (1, 0.3),  # left out itself: 0 of 3; any of 9 others: 1/3 -> 9 * (1/3) / 10
        (2, 0.6),  # 2 * 1/3 + 8 * 2/3 = 6
        (3, 0.9),  # 3 * 2/3 + 7 * 1 = 9
        (4, 1.0),  # 4 * 1 + 6 * 1 = 10
        (10, 1.0),
    ],
)
def test_accuracy_by_hand(tmp_path: Path, matches: int, accuracy: float) -> None:
    benchmark = TextVQA(data=_file(tmp_path, _row(1, answers=["Dakota"] * matches + OTHERS[matches:])))
    assert benchmark.score(benchmark.items()[0], "dakota") == pytest.approx(accuracy)


def test_answers_that_normalise_alike_count_together() -> None:
    assert agreement("2", ["two", "2", "TWO.", *OTHERS[:7]]) == pytest.approx(0.9)
    assert agreement("", ["two", "2", "TWO.", *OTHERS[:7]]) == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Red Car", "red car"),
        ("a an the", ""),
        ("ten", "10"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("1,000", "1000"),
        ("stop!", "stop"),  # nothing beside it is blank: it becomes a blank, which the split takes away
        ("half-price", "half price"),
        ("half - price", "half price"),  # beside blanks it goes
        ("e-mail - now", "email now"),  # the quirk: one dash beside a blank takes all dashes without a blank
        ("9.99", "9.99"),
        ("dr. pepper", "dr pepper"),
        ("end.", "end"),
        (".5", ".5"),
        ("5.", "5"),
        ("dont", "don't"),
        ("don't", "don't"),
        ("joe's", "joe 's"),
        ("hes", "he's"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("oclock", "o'clock"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),
        ("well", "well"),
        ("its", "its"),
        ("what?\nnow\tthen", "what now then"),
        ("  coca  cola ", "coca cola"),
        ("5'4\"", "5'4"),
        ("m&m", "m&m"),
        ("50%", "50%"),
        ("12:30", "12:30"),
    ],
)
def test_normalisation(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": ["a"] * 9}, r"entry 1 \(question_id 2\): 'answers' must be 10 texts"),
        ({"answers": [1] * 10}, "'answers' must be 10 texts"),
        ({"answers": None}, "'answers' is None"),
        ({"question": ""}, "'question' is empty"),
        ({"image_id": 5}, "'image_id' is 5"),
        ({"question_id": True}, "entry 1: 'question_id' is True"),
    ],
)
def test_a_bad_entry_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        TextVQA(data=_file(tmp_path, _row(1), {**_row(2), **change})).items()
    assert "TextVQA_0.5.1_val.json" in str(raised.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"holds no TextVQA_0.5.1_val.json"):
        TextVQA(data=tmp_path).items()
    for row, message in (({"question_id": 1}, "'answers' is missing"), ("x", "entry 0: a JSON str")):
        with pytest.raises(ValueError, match=message):
            TextVQA(data=_file(tmp_path, row)).items()
    with pytest.raises(ValueError, match="same id more than once: '1'"):
        TextVQA(data=_file(tmp_path, _row(1), _row(1))).chosen(None)
    file = _file(tmp_path)
    with pytest.raises(ValueError, match="holds no question"):
        TextVQA(data=file).items()
    file.write_text('{"questions": []}')
    with pytest.raises(ValueError, match="'data' is missing"):
        TextVQA(data=file).items()
    file.write_bytes(b'{"data": "\xe9"}')
    with pytest.raises(ValueError, match="not UTF-8"):
        TextVQA(data=file).items()


def _file(folder: Path, *rows: Any) -> Path:
    file = folder / "TextVQA_0.5.1_val.json"
    file.write_text(json.dumps({"dataset_type": "val", "dataset_name": "textvqa", "data": rows}))
    return file


def _row(number: int, **change: Any) -> dict[str, Any]:
    return {
        "question": "what is the brand of this camera?",
        "image_id": "0054c91397f2fe05",
        "image_classes": ["Camera"],
        "image_width": 1024,
        "image_height": 664,
        "answers": ["nous les gosses"] * 3 + OTHERS[:7],
        "question_tokens": ["what"],
        "question_id": number,
        "set_name": "val",
        **change,
    }
