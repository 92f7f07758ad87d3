"""ScienceQA in its three layouts, by miniatures in the official formats; and the published answers, where they are at hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from simignore.evaluate import BENCHMARKS
from simignore.evaluate.benchmark import check_images
from simignore.evaluate.scoring import against, read_answers, score
from simignore.wording import wording

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "scienceqa"
ScienceQA = BENCHMARKS["scienceqa"]

PROBLEMS = {
    "5": dict(
        question="Which is larger?",
        choices=["a mouse", "an elephant"],
        answer=1,
        hint="Animals differ.",
        image="image.png",
        grade="grade3",
        subject="natural science",
        split="test",
    ),
    "7": dict(
        question="Which colony is shown?",
        choices=["Maryland", "Vermont", "Ohio"],
        answer=0,
        hint="",
        image="image.png",
        grade="grade8",
        subject="social science",
        split="test",
    ),
    "9": dict(
        question="Which word rhymes?",
        choices=["hat", "dog"],
        answer=0,
        hint="",
        image=None,
        grade="grade1",
        subject="language science",
        split="test",
    ),
    "11": dict(question="In training?", choices=["yes", "no"], answer=0, hint="", image=None, split="train"),
}


@pytest.fixture
def original(tmp_path):
    (tmp_path / "problems.json").write_text(json.dumps(PROBLEMS))
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["5", "7", "9"], "train": ["11"]}))
    for pid in ("5", "7"):
        (tmp_path / "test" / pid).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "test" / pid / "image.png")
    return tmp_path


def conversation(pid, problem):
    options = " ".join(f"({'ABC'[n]}) {choice}" for n, choice in enumerate(problem["choices"]))
    said = f"Context: {problem['hint'] or 'N/A'}\nQuestion: {problem['question']}\nOptions: {options}"
    row = {"id": pid, "conversations": [{"from": "human", "value": said}]}
    row["conversations"].append({"from": "gpt", "value": f"The answer is {'ABC'[problem['answer']]}."})
    if problem["image"]:
        row["image"] = f"{pid}/{problem['image']}"
        row["conversations"][0]["value"] += "\n<image>"
    return row


def test_the_data_sets_own_layout(original):
    items = ScienceQA(data=original, subset="all").items()
    assert [(item.id, item.answer, len(item.images)) for item in items] == [("5", "B", 1), ("7", "A", 1), ("9", "A", 0)]
    assert items[0].groups == {"text": "TXT", "image": "IMG", "subject": "NAT", "grade": "G1-6"}
    assert items[1].groups == {"image": "IMG", "subject": "SOC", "grade": "G7-12"}
    assert items[2].groups == {"no context": "NO", "subject": "LAN", "grade": "G1-6"}
    check_images(items)
    assert [item.id for item in ScienceQA(data=original / "problems.json").items()] == ["5", "7"]  # those with an image


def test_llavas_layout_gives_the_same_questions(original):
    rows = [conversation(pid, PROBLEMS[pid]) for pid in ("5", "7", "9")]
    file = original / "llava_test_CQM-A.json"
    file.write_text(json.dumps(rows))
    assert ScienceQA(data=file, subset="all").items() == ScienceQA(data=original, subset="all").items()
    (original / "problems.json").unlink()  # then subject and grade are unknown
    assert ScienceQA(data=file).items()[0].groups == {"text": "TXT", "image": "IMG"}


def rows_for_hub():
    data = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(data, format="png")
    found = []
    for pid in ("5", "7", "9"):
        problem = {k: v for k, v in PROBLEMS[pid].items() if k != "split"}
        found.append({**problem, "image": {"bytes": data.getvalue(), "path": None} if problem["image"] else None})
    return found


def test_a_parquet_copy(original, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "copy"
    folder.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows_for_hub()), folder / "test-00000-of-00001.parquet")
    items = ScienceQA(data=folder, subset="all").items()
    assert [item.answer for item in items] == ["B", "A", "A"]
    assert items[0].images[0]().size == (9, 7)
    assert [item.groups for item in items] == [item.groups for item in ScienceQA(data=original, subset="all").items()]
    with pytest.raises(ValueError, match="no Parquet file of the split 'val'"):
        ScienceQA(data=folder, split="val").items()


def test_a_copy_that_save_to_disk_wrote(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        image=datasets.Image(),
        question=datasets.Value("string"),
        choices=datasets.Sequence(datasets.Value("string")),
        answer=datasets.Value("int64"),
        hint=datasets.Value("string"),
        grade=datasets.Value("string"),
        subject=datasets.Value("string"),
    )
    own = datasets.Dataset.from_list(rows_for_hub(), features=features)
    datasets.DatasetDict({"test": own}).save_to_disk(str(tmp_path / "copy"))
    items = ScienceQA(data=tmp_path / "copy").items()
    assert [item.answer for item in items] == ["B", "A"] and items[0].images[0]().size == (9, 7)


def test_the_papers_columns_by_hand(original):
    found = score(ScienceQA(data=original, subset="all"), {"5": "B", "7": "The answer is B.", "9": "no idea"})
    # right: 5 (NAT, TXT, IMG, G1-6); wrong: 7 (SOC, IMG, G7-12) and 9 (LAN, NO, G1-6)
    assert found.report["accuracy"] == pytest.approx(1 / 3) and found.report["unreadable"] == 1
    columns = {"NAT": 1, "SOC": 0, "LAN": 0, "TXT": 1, "IMG": 0.5, "NO": 0, "G1-6": 0.5, "G7-12": 0}
    assert found.report["metrics"] == columns


def test_bad_files_say_what_is_wrong(original, tmp_path):
    with pytest.raises(ValueError, match="--data"):
        ScienceQA().items()
    with pytest.raises(OSError, match="no such file or folder"):
        ScienceQA(data=tmp_path / "nothing").items()
    with pytest.raises(ValueError, match="no split 'val'; it has test, train"):
        ScienceQA(data=original, split="val").items()
    (original / "pid_splits.json").write_text('{"test": ["5", "99"]}')
    with pytest.raises(ValueError, match="names problems that problems.json lacks: 99"):
        ScienceQA(data=original).items()
    file = tmp_path / "q.json"
    file.write_text(json.dumps([{"id": "1", "conversations": [{"value": "What?"}, {"value": "A"}]}]))
    with pytest.raises(ValueError, match=r"q\.json, question 1: .*no lines Context:"):
        ScienceQA(data=file).items()
    file.write_bytes(b'[{"id": "1\xff"}]')
    with pytest.raises(ValueError, match="line 1, is not UTF-8"):
        ScienceQA(data=file).items()
    file.write_text("[]")
    with pytest.raises(ValueError, match="found no question"):
        ScienceQA(data=file).chosen(None)
    file.write_text(json.dumps([conversation("5", PROBLEMS["5"])] * 2))
    with pytest.raises(ValueError, match="the same id more than once: '5'"):
        ScienceQA(data=file).chosen(None)
    (original / "problems.json").write_text(json.dumps({"5": {**PROBLEMS["5"], "choices": ["1/2", "1/2 "]}}))
    (original / "pid_splits.json").write_text('{"test": ["5"]}')
    with pytest.raises(ValueError, match="problem '5' cannot be asked: .*the same text twice"):
        ScienceQA(data=original).items()
    bad = {"5": {**PROBLEMS["5"], "answer": 2}}
    (original / "problems.json").write_text(json.dumps(bad))
    (original / "pid_splits.json").write_text('{"test": ["5"]}')
    with pytest.raises(ValueError, match="problem '5' has answer 2 for 2 choices"):
        ScienceQA(data=original).items()


def test_missing_images_are_named_all_at_once(original):
    for pid in ("5", "7"):
        (original / "test" / pid / "image.png").unlink()
    with pytest.raises(OSError, match=r"2 of 2 images are missing.*5/image\.png.*7/image\.png"):
        check_images(ScienceQA(data=original).items())


# ---------------------------------------------------------------- the published answers

published = pytest.mark.skipif(not SHARED.exists(), reason="the real questions are not at hand")


@published
def test_the_published_answers_give_the_published_accuracy():
    benchmark = ScienceQA(data=SHARED / "llava_test_CQM-A_image.json")
    found = score(benchmark, read_answers(SHARED / "answers_llava15_13b_full.jsonl"))
    assert found.report["questions"] == 2017 and found.report["right"] == 1454
    assert round(found.report["accuracy"] * 100, 2) == 72.09
    same = against(found, found)
    assert (same["difference"], same["p"], same["only_these"]) == (0, 1, 0)


@published
def test_every_real_question_is_worded_as_llava_words_it():
    benchmark = ScienceQA(data=SHARED / "llava_test_CQM-A_image.json")
    rows = json.loads((SHARED / "llava_test_CQM-A_image.json").read_text())
    for row, item in zip(rows, benchmark.items(), strict=True):
        text, _ = wording(item.question, context=item.context, options=item.options, instruction="")
        said = row["conversations"][0]["value"].replace("\n<image>", "")
        assert " ".join(text.split()) == " ".join(said.split()), item.id
