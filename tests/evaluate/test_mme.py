"""MME: both official layouts, two questions per image, and scores by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from simignore.evaluate.benchmarks import BENCHMARKS
from simignore.evaluate.benchmarks.mme import COGNITION, MME, PERCEPTION
from simignore.wording import wording

APART = ("celebrity", "posters", "scene", "landmark", "artwork")  # have images/ and questions_answers_YN/


def test_all_subtasks_of_the_official_folder_are_read(tmp_path: Path) -> None:
    _release(tmp_path / "MME_Benchmark_release_version" / "MME_Benchmark")
    for data in (tmp_path, tmp_path / "MME_Benchmark_release_version", *tmp_path.glob("*/*")):
        items = BENCHMARKS["mme"](data=data).chosen(None)
        assert len(items) == 14 * 2 * 2
        assert [item.id for item in items[:4]] == [f"existence/{stem}/{n}" for stem in ("0001", "0002") for n in (1, 2)]
        assert all(image.is_file() for item in items for image in item.images if isinstance(image, Path))
    assert [item.answer for item in items[:2]] == ["yes", "no"]
    assert items[0].cluster == items[1].cluster == "existence/0001"
    assert items[0].groups == {"part": "perception", "subtask": "existence"}
    assert items[-1].groups == {"part": "cognition", "subtask": "code_reasoning"}


def test_it_asks_as_llava_does(tmp_path: Path) -> None:
    benchmark = MME(data=_release(tmp_path))
    assert wording(**benchmark.words(benchmark.items()[0]))[0] == (
        "Is there a thing in existence 0001?\nAnswer the question using a single word or phrase."
    )


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    data, images = _release(tmp_path / "texts"), _release(tmp_path / "images")
    (data / "count" / "0001.png").unlink()
    (images / "scene" / "images" / "0001.png").rename(images / "scene" / "0001.JPG")
    (images / "scene" / "images" / "0002.png").rename(images / "scene" / "0002.jpeg")
    (images / "scene" / "images").rmdir()
    items = MME(data=data, images=images, tasks=("count", "scene", "artwork")).items()
    assert [item.images[0] for item in items[::2]] == [
        images / "count" / "0001.png",
        images / "count" / "0002.png",
        images / "scene" / "0001.JPG",
        images / "scene" / "0002.jpeg",
        images / "artwork" / "images" / "0001.png",
        images / "artwork" / "images" / "0002.png",
    ]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("No, there is not", "no"),
        ("YES!", "yes"),
        ("yes/no", "yes"),
        ("not at all", "no"),
        ("A no", "no"),
        ("There is no dog", None),  # only the first four letters count
        ("maybe", None),
        ("", None),
    ],
)
def test_answers_are_read_by_the_official_rule(tmp_path: Path, told: str, said: str | None) -> None:
    benchmark = MME(data=_release(tmp_path))
    yes, no = benchmark.items()[:2]
    assert benchmark.score(yes, told) == (said == "yes")
    assert benchmark.score(no, told) == (said == "no")
    assert benchmark.unreadable(yes, told) == (said is None)


def test_scores_by_hand(tmp_path: Path) -> None:
    benchmark = MME(data=_release(tmp_path), tasks=("color", "count", "code_reasoning"))
    items = benchmark.items()
    told = ["yes", "no", "yes", "no"]  # color: all right: 100 + 100
    told += ["yes", "yes", "yes", "no"]  # count: 3 of 4 questions, 1 of 2 images: 75 + 50
    told += ["yes", "perhaps", "no", "no"]  # code: 2 of 4 questions, no image: 50 + 0
    figures = benchmark.metrics(items, told, [benchmark.score(i, t) for i, t in zip(items, told, strict=True)])
    assert figures == {
        "score": 375,
        "perception": 325,
        "cognition": 50,
        "color/acc": 1,
        "color/acc+": 1,
        "color/score": 200,
        "count/acc": 0.75,
        "count/acc+": 0.5,
        "count/score": 125,
        "code_reasoning/acc": 0.5,
        "code_reasoning/acc+": 0,
        "code_reasoning/score": 50,
    }


def test_all_right_is_2800(tmp_path: Path) -> None:
    benchmark = MME(data=_release(tmp_path))
    items = benchmark.items()
    figures = benchmark.metrics(items, [item.answer for item in items], [1.0] * len(items))
    assert (figures["perception"], figures["cognition"], figures["score"]) == (2000, 800, 2800)


def test_a_limit_keeps_both_questions_of_an_image(tmp_path: Path) -> None:
    benchmark = MME(data=_release(tmp_path))
    chosen = benchmark.chosen(11)
    assert len(chosen) == 10 and len({item.cluster for item in chosen}) == 5
    assert [item.cluster for item in chosen[::2]] == [item.cluster for item in chosen[1::2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Is it? Please answer yes or no.\tYes\n", "has 1 questions; acc\\+ needs two"),
        ("Is it? Please answer yes or no. Yes\nIs it?\tNo\n", "line 1: no question, tab and answer"),
        ("Is it?\tYes\n\nIs it not?\tMaybe\n", "line 3: the answer 'maybe' is neither yes nor no"),
        ("Please answer yes or no.\tYes\n", "line 1: no question"),
        ("", "has 0 questions"),
    ],
)
def test_a_bad_text_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = _release(tmp_path) / "posters" / "questions_answers_YN" / "0002.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        MME(data=tmp_path).items()
    assert str(file) in str(raised.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    data = _release(tmp_path)
    (data / "OCR" / "0001.txt").write_bytes(b"Is it?\tYes\nIs \xff\tNo")
    with pytest.raises(ValueError, match="0001.txt, line 2, is not UTF-8"):
        MME(data=data).items()
    (data / "OCR" / "0001.txt").unlink()
    (data / "OCR" / "0002.txt").unlink()
    with pytest.raises(ValueError, match="OCR holds no .txt file with questions"):
        MME(data=data).items()
    (data / "artwork" / "images" / "0002.png").unlink()
    with pytest.raises(OSError, match="images has no image 0002 .*txt files; add them"):
        MME(data=data).items()
    (data / "artwork" / "images" / "0001.png").unlink()
    (data / "artwork" / "images").rmdir()
    with pytest.raises(OSError, match="there is no folder .*artwork.images with the images of artwork"):
        MME(data=data).items()
    (data / "color").rename(data / "colour")
    (data / "count").rename(data / "counting")
    with pytest.raises(OSError, match="has no folder for count, color; add them"):
        MME(data=data).items()
    with pytest.raises(OSError, match="is a file"):
        MME(data=data / "colour" / "0001.txt").items()
    with pytest.raises(ValueError, match="tasks: colour is none of existence, count"):
        MME(data=data, tasks=("colour",))
    for tasks in ((), ("OCR", "OCR")):
        with pytest.raises(ValueError, match="at least one subtask, and each once"):
            MME(tasks=tasks)


def _release(folder: Path) -> Path:
    """The official folders, with two images each; readers look at the names of the images alone."""
    for task in PERCEPTION + COGNITION:
        texts = folder / task / "questions_answers_YN" if task in APART else folder / task
        images = folder / task / "images" if task in APART else folder / task
        for path in (texts, images):
            path.mkdir(parents=True, exist_ok=True)
        for stem in ("0001", "0002"):
            (images / f"{stem}.png").touch()
            (texts / f"{stem}.txt").write_text(
                f"Is there a thing in {task} {stem}? Please answer yes or no.\tYes\n"
                f"Is there nothing in {task} {stem}?  Please answer yes or no.\tNo\n"
            )
    return folder
