"""MMBench: the official TSV, turns of the options, and circular accuracy by hand."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simignore.evaluate.benchmarks import BENCHMARKS
from simignore.evaluate.benchmarks.mmbench import MMBench, chosen_letter
from simignore.wording import wording

COLUMNS = [
    "index",
    "question",
    "hint",
    *"ABCD",
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
]


def test_the_official_file_is_read(tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        _row(241, hint='Look at\nthe "sign".', C="", D="nan"),
        _row(252, image=_picture("blue"), **{"l2-category": "finegrained"}),
    )
    for data in (file, tmp_path):
        items = [item for item in BENCHMARKS["mmbench"](data=data).chosen(None) if int(item.id) < 1_000_000]
        assert [item.id for item in items] == ["241", "252"]
        assert items[0].options == ("red", "green") and items[0].answer == "B"
        assert items[0].context == 'Look at\nthe "sign".' and items[1].context is None
        assert items[0].groups == {"category": "color", "l2-category": "coarse"}
        picture = items[1].images[0]
        assert callable(picture) and picture().convert("RGB").getpixel((0, 0)) == (0, 0, 255)


def test_it_asks_as_llava_does(tmp_path: Path) -> None:
    benchmark = MMBench(data=_file(tmp_path, _row(1, hint="A hint.", D="")))
    assert wording(**benchmark.words(benchmark.items()[0]))[0] == (
        "A hint.\nWhich colour?\nA. red\nB. green\nC. blue\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_options_of_the_same_text_are_asked_all_the_same(tmp_path: Path) -> None:
    benchmark = MMBench(data=_file(tmp_path, _row(1, hint="A hint.", C="red", D="")))
    assert wording(**benchmark.words(benchmark.items()[0]))[0] == (
        "A hint.\nWhich colour?\nA. red\nB. green\nC. red\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_turns_are_made_where_the_file_has_none(tmp_path: Path) -> None:
    items = MMBench(data=_file(tmp_path, _row(7, D=""), _row(3, C="", D=""))).items()
    assert [(item.id, item.options, item.answer) for item in items] == [
        ("3", ("red", "green"), "B"),
        ("1000003", ("green", "red"), "A"),
        ("7", ("red", "green", "blue"), "B"),
        ("1000007", ("green", "blue", "red"), "A"),
        ("2000007", ("blue", "red", "green"), "C"),
    ]
    assert len({item.cluster for item in items}) == 1  # they show one image


def test_turns_in_the_file_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = [
        _row(7, C="", D=""),
        _row(
            1_000_007, A="green", B="red", C="", D="", answer="A", image="7"
        ),  # VLMEvalKit's file names the image's row
    ]
    items = MMBench(data=_file(tmp_path, *rows)).items()
    assert [(item.id, item.options, item.answer) for item in items] == [
        ("7", ("red", "green"), "B"),
        ("1000007", ("green", "red"), "A"),
    ]
    assert items[1].images[0]().size == (4, 4)


def test_a_limit_keeps_turns_together(tmp_path: Path) -> None:
    benchmark = MMBench(data=_file(tmp_path, *(_row(n, D="") for n in range(20))))
    chosen = benchmark.chosen(10)
    bases = [int(item.id) % 1_000_000 for item in chosen]
    assert len(chosen) == 9 and all(bases.count(base) == 3 for base in bases)
    assert len(benchmark.chosen(1)) == 3
    assert [item.id for item in benchmark.chosen(60)] == [item.id for item in benchmark.items()]


@pytest.mark.parametrize(
    ("told", "letter"),
    [
        ("B", "B"),
        (" B.", "B"),
        ("(B)", "B"),
        ("B. green", "B"),
        ("B: green", "B"),
        ("Answer: B", "B"),
        ("The answer is B.", "B"),
        ("The correct option is (C)", "C"),
        ("green", "B"),
        ("Green.", "B"),
        ("It is green", "B"),
        ("A red one", "A"),  # "A" is an article here, and red is option A
        ("A green one", "B"),
        ("red or green", None),
        ("greenish", None),
        ("D", None),  # there are three options
        ("b", None),
        ("", None),
    ],
)
def test_answers_are_read(tmp_path: Path, told: str, letter: str | None) -> None:
    assert chosen_letter(told, ["red", "green", "blue"]) == letter
    benchmark = MMBench(data=_file(tmp_path, _row(1, D="")))
    item = benchmark.items()[0]
    assert benchmark.score(item, told) == (letter == "B")
    assert benchmark.unreadable(item, told) == (letter is None)


def test_the_text_that_is_an_option_goes_before_one_that_has_it() -> None:
    assert chosen_letter("cat and dog", ["cat", "cat and dog"]) == "B"


def test_figures_by_hand(tmp_path: Path) -> None:
    rows = [
        _row(1, C="", D=""),  # right in both turns
        _row(2, C="", D="", category="shape"),  # right at first, wrong when turned
        _row(3, C="", D="", category="shape", **{"l2-category": "fine"}),  # wrong at first
        _row(4, D=""),  # right three times
    ]
    benchmark = MMBench(data=_file(tmp_path, *rows))
    items = benchmark.items()
    told = ["B", "A", "B", "B", "A", "A", "B", "A", "C"]
    scores = [benchmark.score(item, text) for item, text in zip(items, told, strict=True)]
    assert scores == [1, 1, 1, 0, 0, 1, 1, 1, 1]
    assert benchmark.metrics(items, told, scores) == {
        "circular": 2 / 4,  # questions 1 and 4
        "vanilla": 3 / 4,  # 1, 2 and 4
        "category/color": 1.0,
        "category/shape": 0.0,
        "l2-category/coarse": 2 / 3,
        "l2-category/fine": 0.0,
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"index": "x"}, "line 3: the index 'x' is no whole number"),
        ({"index": 1}, "line 3: the index 1 occurs before"),
        ({"answer": "D", "D": ""}, r"line 3 \(index 2\): the options"),
        ({"answer": "E"}, r"line 3 \(index 2\): the answer 'E' is none of its 4 options"),
        ({"answer": ""}, r"line 3 \(index 2\) has no answer; answers are public for the dev split alone"),
        ({"answer": "A", "B": "", "C": "", "D": ""}, "must be two or more"),
        ({"B": "", "answer": "A"}, "none of them empty"),
        ({"question": ""}, "'question' is empty"),
        ({"image": ""}, "'image' holds no base64"),
        ({"image": "99"}, "nor the index of a row above"),
        ({"index": 1_000_009}, "row 1000009 is a turn of question 9, which is missing"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        MMBench(data=_file(tmp_path, _row(1), {**_row(2), **row})).items()
    assert "MMBench_DEV_EN.tsv" in str(raised.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="holds no MMBench_DEV_EN.tsv"):
        MMBench(data=tmp_path).items()
    file = _file(tmp_path)
    with pytest.raises(ValueError, match="holds no question"):
        MMBench(data=file).items()
    file.write_text("")
    with pytest.raises(ValueError, match="line 1: the columns index, question, A, B, answer, image are missing"):
        MMBench(data=file).items()
    file.write_text("index\tquestion\tA\tB\timage\n")
    with pytest.raises(ValueError, match="the columns answer are missing.*public for the dev split alone"):
        MMBench(data=file).items()
    file.write_text("index\tquestion\tA\tB\tanswer\timage\n1\tWhich?\tred\n")
    with pytest.raises(ValueError, match="line 2: 3 cells for 6 columns"):
        MMBench(data=file).items()
    file.write_bytes(b"index\tquestion\n1\t\xff")
    with pytest.raises(ValueError, match="line 2, is not UTF-8"):
        MMBench(data=file).items()


def test_a_cell_that_is_no_image_is_named_when_it_is_opened(tmp_path: Path) -> None:
    not_an_image = base64.b64encode(b"no image" * 20).decode()
    for cell in (not_an_image, "!" * 100):
        item = MMBench(data=_file(tmp_path, _row(5, image=cell))).items()[0]
        with pytest.raises(ValueError, match=r"MMBench_DEV_EN.tsv, index 5: 'image' is no image in base64"):
            item.images[0]()


def test_cells_may_be_longer_than_the_csv_module_lets_them_by_default(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    noise = Image.effect_noise((500, 500), 200)
    file = io.BytesIO()
    noise.save(file, "PNG")
    cell = base64.b64encode(file.getvalue()).decode()
    assert len(cell) > before
    assert MMBench(data=_file(tmp_path, _row(1, image=cell))).items()[0].images[0]().size == (500, 500)
    assert csv.field_size_limit() == before


def _picture(colour: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _row(index: Any, **change: Any) -> dict[str, Any]:
    return {
        "index": index,
        "question": "Which colour?",
        "hint": "nan",
        "A": "red",
        "B": "green",
        "C": "blue",
        "D": "black",
        "answer": "B",
        "category": "color",
        "image": _picture("red"),
        "source": "made",
        "l2-category": "coarse",
        "comment": "",
        "split": "dev",
        **change,
    }


def _file(folder: Path, *rows: dict[str, Any]) -> Path:
    """As pandas' to_csv(sep="\\t", index=False) writes it."""
    file = folder / "MMBench_DEV_EN.tsv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file
