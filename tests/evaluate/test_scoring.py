"""Files of answers: what is accepted, and what is refused by line."""

from __future__ import annotations

import json

import pytest

from simignore.evaluate import BENCHMARKS
from simignore.evaluate.scoring import against, read_answers, score

SCENES = BENCHMARKS["scenes"](per_kind=1)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_both_spellings_of_the_fields_and_blank_lines(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"question_id": 3, "text": "B"}, {"id": "x/4", "told": " C "}])
    file.write_text(file.read_text() + "\n\n")
    assert read_answers(file) == {"3": "B", "x/4": " C "}


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "holds no answer"),
        (
            b'{"question_id": 1, "text": "A"}\n{"question_id": 2, "te',
            r"a\.jsonl, line 2, is no JSON.*nothing was scored",
        ),
        (b'{"question_id": 1, "text": "A"}\n[1]\n', "line 2, is a JSON list"),
        (
            b'{"question_id": 1, "text": "A"}\n{"question_id": 2}\n',
            "line 2, lacks question_id or text; it has question_id",
        ),
        (b'{"question_id": 1, "text": null}\n', "line 1, lacks"),
        (
            b'{"question_id": 1, "text": "A"}\n\n{"question_id": "1", "text": "B"}\n',
            "line 3, answers question '1' a second time",
        ),
        (b'{"question_id": 1, "text": "A"}\n{"question_id": 2, "text": "\xe9"}\n', "line 2, is not UTF-8"),
    ],
)
def test_broken_files_are_named_by_their_line(tmp_path, content, error):
    file = tmp_path / "a.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=error):
        read_answers(file)


def test_answers_without_questions_and_questions_without_answers():
    items = SCENES.items()
    right = {item.id: item.answer["text"] for item in items}
    assert score(SCENES, right).report["accuracy"] == 1
    with pytest.raises(ValueError, match="1 answers are to unknown questions: 'strange'"):
        score(SCENES, {**right, "strange": "red"})
    del right[items[0].id]
    with pytest.raises(ValueError, match=f"1 of 14 questions have no answer: '{items[0].id}'; --partial"):
        score(SCENES, right)
    found = score(SCENES, right, partial=True)
    assert found.report["questions"] == 13 and found.unanswered == [items[0].id]


def test_two_files_are_compared_on_the_questions_that_both_answer():
    items = SCENES.items()
    right = {item.id: item.answer["text"] for item in items}
    worse = {**right, items[0].id: "nonsense", items[1].id: "nonsense"}
    del worse[items[2].id]
    found = against(score(SCENES, right), score(SCENES, worse, partial=True))
    assert (found["questions"], found["only_these"], found["only_those"]) == (13, 2, 0)
    assert found["difference"] == pytest.approx(2 / 13) and found["p"] == pytest.approx(0.5)
