"""Tables of questions: what is read from them, and that answers are kept, complete and those of the library."""

import csv
import json
from pathlib import Path

import pytest

import simignore
from simignore import Simignore
from simignore.evaluate.answering import Answerer
from simignore.evaluate.answers import Answers, config_of
from simignore.evaluate.batch import answer_table
from simignore.evaluate.benchmarks.scenes import draw
from simignore.evaluate.table import Table
from simignore.tiny.scenes import SPLITS

METHOD = Simignore(keep=0.25)


@pytest.fixture(scope="module")
def tiny():
    return simignore.tiny.load()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        draw(SPLITS["test"].start + number, 1).save(folder / f"{number}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def asked(path: Path) -> Table:
    return Table(path, question="Describe the image.", max_new_tokens=8)


def written(path: Path, text: str) -> Table:
    path.write_text(text, encoding="utf-8")
    return asked(path)


def test_a_folder_gives_its_images_by_name(images):
    (images / "Z.JPG").write_bytes(b"")
    (images / ".hidden.png").write_bytes(b"")
    found = asked(images).items()
    assert [item.id for item in found] == ["0.png", "1.png", "2.png", "3.png", "4.png", "Z.JPG"]
    assert {item.question for item in found} == {"Describe the image."}
    assert found[0].images == ((images / "0.png").resolve(),)


def test_a_csv_gives_its_columns(images):
    lines = (
        "\ufeffimage,question,options,context,id,other\n"
        '0.png,"What, exactly?",red | blue,a hint,first,x\n\n'
        "1.png,,,,,\n"
    )
    one, two = written(images / "t.csv", lines).items()
    assert (one.id, one.question, one.options, one.context) == ("first", "What, exactly?", ("red", "blue"), "a hint")
    assert (two.id, two.question, two.options, two.context) == ("2", "Describe the image.", (), None)
    assert (two.images, two.cluster) == (((images / "1.png").resolve(),), "1.png")


def test_parquet_gives_the_same_as_csv(images):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = {"image": ["0.png", "1.png"], "question": ["What?", None], "options": ["a|b", None], "id": [7, 8]}
    parquet.write_table(pyarrow.table(rows), images / "t.parquet")
    text = "image,question,options,id\n0.png,What?,a|b,7\n1.png,,,8\n"
    assert asked(images / "t.parquet").items() == written(images / "t.csv", text).items()
    parquet.write_table(pyarrow.table({"image": [{"bytes": b""}]}), images / "t.parquet")
    with pytest.raises(ValueError, match=r"row 1: image is a dict; write it as a text"):
        asked(images / "t.parquet").items()
    (images / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        asked(images / "t.parquet").items()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image\n8.png\n0.png\n9.png\n", r"2 images of .* are missing.*8\.png, .*9\.png"),
        ("picture,question\n0.png,What?\n", "has no column image; its columns are picture, question"),
        (
            "image,options\n0.png,a|a\n,a|b\n1.png,a|b\n2.png,a\n",
            "3 of 4 rows .*row 1: options.*row 2: it names no.*row 4",
        ),
        ("image,question\n0.png,Is it red, or blue?\n", "line 2: 3 cells for 2 columns; .*double quotes"),
        ("image,id\n0.png,a\n1.png,a\n", "the same id more than once: 'a'"),
        ("image\n", "holds nothing to ask about"),
        ("", "holds nothing|no column"),
    ],
)
def test_all_that_is_wrong_with_a_table_is_told_at_once(images, text, says):
    with pytest.raises((ValueError, OSError), match=f"(?s){says}"):
        written(images / "t.csv", text).items()


def test_a_row_without_any_question_is_told(images):
    (images / "t.csv").write_text("image,question\n0.png,What?\n1.png,\n")
    with pytest.raises(ValueError, match="row 2: it has no question; add a column question"):
        Table(images / "t.csv").items()
    with pytest.raises(OSError, match="there is no table"):
        Table(images / "none").items()
    with pytest.raises(ValueError, match="is no table; it should be a folder"):
        Table(images / "notes.txt").items()


def test_a_broken_image_costs_its_own_row_only(tiny, images, tmp_path):
    (images / "1.png").write_bytes((images / "1.png").read_bytes()[:200])
    table = asked(images)
    items = table.items()
    rows = answer_table(*tiny, table, METHOD, items, tmp_path / "a.jsonl", batch=3)
    answerer = Answerer(*tiny, table)
    whole = [item for item in items if item.id != "1.png"]
    told = [t for part in (whole[:2], whole[2:]) for t in answerer.answer(answerer.ready(part), METHOD)]
    answers = [(row["answer"], row["image_tokens"], row["kept"], row["held"]) for row in rows if "answer" in row]
    assert answers == [(one.text, one.image_tokens, one.kept, one.held) for one in told]
    assert [row["id"] for row in rows] == [item.id for item in items] and "1.png cannot be read" in rows[1]["error"]
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == rows


class Refusing:
    """A processor that takes no image of this width."""

    def __init__(self, processor, width):
        self._processor, self._width = processor, width

    def __getattr__(self, name):
        return getattr(self._processor, name)

    def __call__(self, *args, images=None, **kwargs):
        if any(image.width == self._width for image in images):
            raise ValueError("too narrow for me")
        return self._processor(*args, images=images, **kwargs)


def test_an_image_that_the_processor_refuses_costs_its_own_row_only(tiny, images, tmp_path):
    model, processor = tiny
    draw(SPLITS["test"].start, 2).save(images / "1.png")
    table = asked(images)
    rows = answer_table(model, Refusing(processor, 224), table, METHOD, table.items(), tmp_path / "a.jsonl", batch=3)
    assert [row.get("error") for row in rows] == [None, "too narrow for me", None, None, None]
    with pytest.raises(ValueError, match="too narrow for me"):  # for every row alike: it is not about one
        answer_table(model, Refusing(processor, 112), table, METHOD, table.items()[2:], tmp_path / "b.jsonl")


def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been(tiny, images, tmp_path):
    table = asked(images)
    whole, cut, ticks = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl", []
    rows = answer_table(*tiny, table, METHOD, table.items(), whole, batch=2)

    def stop(count: int) -> None:
        if count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_table(*tiny, table, METHOD, table.items(), cut, batch=2, tick=stop)
    with cut.open("ab") as lines:
        lines.write(whole.read_bytes().splitlines(keepends=True)[2] + b'{"id": "3.p')  # half a batch, half a line
    assert answer_table(*tiny, table, METHOD, table.items(), cut, batch=2, tick=ticks.append) == rows
    assert ticks == [2, 2, 1] and cut.read_bytes() == whole.read_bytes()
    ticks.clear()
    assert answer_table(*tiny, table, METHOD, table.items(), cut, batch=2, tick=ticks.append) == rows
    assert ticks == [5]
    with pytest.raises(
        ValueError, match=r"holds answers of another run \(.*keep: 0.25 there, 3 here.; name another file"
    ):
        answer_table(*tiny, table, Simignore(keep=3), table.items(), cut, batch=2)


def test_tables_of_answers(tiny, images, tmp_path):
    (images / "1.png").write_bytes(b"")
    table, columns = asked(images), ["id", "image", "question", "answer", "error", "image_tokens", "kept", "held"]
    rows = answer_table(*tiny, table, METHOD, table.items(), tmp_path / "a.csv", batch=5)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as opened:
        found = list(csv.DictReader(opened))
    assert found == [{name: str(row.get(name, "")) for name in columns} for row in rows]
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    assert answer_table(*tiny, table, METHOD, table.items(), tmp_path / "a.parquet", batch=5) == rows
    assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == [{n: row.get(n) for n in columns} for row in rows]


def test_files_that_are_not_this_runs_are_left_alone(tmp_path):
    out = tmp_path / "a.jsonl"
    out.write_text("mine\n")
    with pytest.raises(ValueError, match="is there already, and not from a run"):
        Answers(out, {}, {})
    assert out.read_text() == "mine\n" and not config_of(out).exists()
    for wrong in (tmp_path, tmp_path / "a.txt", tmp_path / "a"):
        with pytest.raises(ValueError, match="--out"):
            Answers(wrong, {}, {})
    first = Answers(tmp_path / "b.jsonl", {}, {})
    with pytest.raises(ValueError, match="is being written by another process"):
        Answers(tmp_path / "b.jsonl", {}, {})
    first.close()
    Answers(tmp_path / "b.jsonl", {}, {}).close()
