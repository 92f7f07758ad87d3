"""Records as files hold them, and rendered scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simignore.tiny.questions import KINDS
from simignore.tiny.scenes import SHAPES, SPLITS
from simignore.train import Example, Records, Region, Scenes
from simignore.train.data import APART, FIRST

TRAINING = SPLITS["train"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for name in ("a.png", "b.png", "pictures/c.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


def written(folder: Path, *records: object, lines: bool = True) -> Path:
    file = folder / ("told.jsonl" if lines else "told.json")
    file.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=1))
    return file


PLAIN = {"image": "a.png", "question": "What colour is the bus?", "answer": "Red"}


@pytest.mark.parametrize("lines", [True, False])
def test_records_are_read_from_lines_and_from_a_list(folder, lines):
    other = PLAIN | {"image": "b.png", "options": ["Red", "Blue"], "context": "A street.", "answer_as": "letter"}
    read = Records(written(folder, PLAIN, other, lines=lines))
    assert list(read) == [
        Example(folder / "a.png", "What colour is the bus?", "Red"),
        Example(folder / "b.png", "What colour is the bus?", "Red", ("Red", "Blue"), "A street.", "letter"),
    ]
    assert len(read) == 2 and read.skipped == 0


def test_empty_lines_between_records_are_no_records(folder):
    file = folder / "told.jsonl"
    file.write_text(f"\n{json.dumps(PLAIN)}\n\n{json.dumps(PLAIN)}\n")
    assert len(Records(file)) == 2


def test_each_turn_of_a_conversation_is_an_example(folder):
    said = ["<image>\nWhat is it?", "A bus.", "What colour?", " Red ", "left without an answer"]
    turns = [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(said)]
    read = Records(written(folder, {"id": "7", "image": "a.png", "conversations": turns}))
    assert [(one.question, one.answer, one.image) for one in read] == [
        ("What is it?", "A bus.", folder / "a.png"),
        ("What colour?", "Red", folder / "a.png"),
    ]


def test_user_and_assistant_are_read_as_human_and_gpt(folder):
    turns = [{"from": "user", "value": "What is it?\n<image>"}, {"from": "assistant", "value": "A bus."}]
    (one,) = Records(written(folder, {"image": "a.png", "conversations": turns}))
    assert (one.question, one.answer) == ("What is it?", "A bus.")


def test_records_without_an_image_are_counted(folder):
    text = {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello!"}]}
    read = Records(written(folder, text, PLAIN, PLAIN | {"image": ""}, PLAIN | {"image": None}))
    assert (len(read), read.skipped) == (1, 3)


def test_images_lie_in_the_folder_that_is_named(folder):
    file = written(folder, PLAIN | {"image": "c.png"})
    assert Records(file, folder / "pictures")[0].image == folder / "pictures" / "c.png"
    with pytest.raises(
        OSError, match=r"1 images of .*told.jsonl are missing: .*c.png; name their folder with --images"
    ):
        Records(file)


def test_many_lost_images_are_not_all_listed(folder):
    with pytest.raises(OSError, match="7 images .* and 2 more; name"):
        Records(written(folder, *(PLAIN | {"image": f"lost-{n}.png"} for n in range(7))))


def test_regions_stand_in_records_of_both_kinds(folder):
    regions = [{"words": " a red bus ", "box": [0.1, 0.2, 0.5, 1]}]
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A bus."}]
    read = Records(
        written(folder, PLAIN | {"regions": regions}, {"image": "b.png", "conversations": turns, "regions": regions})
    )
    assert [one.regions for one in read] == [(Region("a red bus", (0.1, 0.2, 0.5, 1.0)),)] * 2


def talk(*turns: object) -> dict:
    return {"image": "a.png", "conversations": list(turns)}


HUMAN, GPT = {"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A bus."}
WRONG = {
    "a text": ("bus", "record 2 is str; a record is an object with image, question and answer"),
    "two images": (PLAIN | {"image": ["a.png", "b.png"]}, "record 2: image=.* must be one file name"),
    "no answer": (
        {"image": "a.png", "question": "What?"},
        "record 2 has question='What.' and answer=None; both must be",
    ),
    "blank question": (
        PLAIN | {"question": "  "},
        "record 2 has question='  ' and answer='Red'; neither must be empty",
    ),
    "blank answer": (PLAIN | {"answer": ""}, "record 2 has .* and answer=''; neither must be empty"),
    "a number": (PLAIN | {"answer": 3}, "record 2 has .* and answer=3; both must be texts"),
    "options as text": (PLAIN | {"options": "Red, Blue"}, "record 2: options='Red, Blue' must be a list of texts"),
    "options of numbers": (PLAIN | {"options": [1, 2]}, r"record 2: options=\[1, 2\] must be a list of texts"),
    "one option": (PLAIN | {"options": ["a"]}, "record 2 cannot be asked: .*option"),
    "an empty option": (PLAIN | {"options": ["a", " "]}, "record 2 cannot be asked: .*option"),
    "too many options": (PLAIN | {"options": [str(n) for n in range(27)]}, "record 2 cannot be asked: .*option"),
    "an option twice": (PLAIN | {"options": ["a", "a"]}, "record 2 cannot be asked: .*option"),
    "gpt first": (talk(GPT, HUMAN), "record 2: conversations must go from human to gpt and back"),
    "human twice": (talk(HUMAN, HUMAN), "record 2: conversations must go from human to gpt and back"),
    "nothing said": (talk(), "record 2: conversations must go from human to gpt and back"),
    "an empty turn": (talk({"from": "human", "value": "<image>"}, GPT), "record 2: .* none of them empty"),
    "a stranger": (talk(HUMAN, {"from": "tool", "value": "x"}), "record 2: conversations must be a list of"),
    "no value": (talk(HUMAN, {"from": "gpt"}), "record 2: conversations must be a list of"),
    "no turns": (PLAIN | {"conversations": 5}, "record 2: conversations must be a list of"),
    "a box of three": (PLAIN | {"regions": [{"words": "x", "box": [0, 0, 1]}]}, "record 2: a region is"),
    "a box in pixels": (PLAIN | {"regions": [{"words": "x", "box": [0, 0, 50, 60]}]}, "record 2: region .* divide by"),
    "a box turned": (PLAIN | {"regions": [{"words": "x", "box": [0.5, 0, 0.2, 1]}]}, "left < right and top < bottom"),
    "a box outside": (PLAIN | {"regions": [{"words": "x", "box": [-0.1, 0, 0.2, 1]}]}, "cut it at the image's border"),
    "a region as text": (PLAIN | {"regions": ["x"]}, "record 2: a region is"),
    "needed as text": (
        PLAIN | {"regions": [{"words": "x", "box": [0, 0, 1, 1], "needed": "false"}]},
        "record 2: region .* has needed='false'; write true or false, without quotes",
    ),
    "a region's strange key": (
        PLAIN | {"regions": [{"words": "x", "box": [0, 0, 1, 1], "need": True}]},
        "record 2: region .* has 'need'; its keys are words, box, needed",
    ),
    "a misspelt key": (
        PLAIN | {"region": [{"words": "x", "box": [0, 0, 1, 1]}]},
        "record 2: 'region' looks like 'regions'; the keys that are read are image, question, .*, regions, conv",
    ),
    "images": ({"images": "a.png", "question": "What?", "answer": "x"}, "record 2: 'images' looks like 'image'"),
    "no words": (PLAIN | {"regions": [{"words": " ", "box": [0, 0, 1, 1]}]}, "record 2: region .* needs words"),
    "no box": (PLAIN | {"regions": [{"words": "x"}]}, "record 2: a region is"),
    "regions as a number": (PLAIN | {"regions": 5}, "record 2: regions"),
    "context as a number": (PLAIN | {"context": 5}, "record 2: context"),
    "answered as nobody does": (PLAIN | {"answer_as": "song"}, "record 2: answer_as"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_record_is_named_with_its_remedy(folder, kind):
    record, message = WRONG[kind]
    with pytest.raises(ValueError, match=message) as error:
        Records(written(folder, PLAIN, record))
    assert str(folder / "told.jsonl") in str(error.value)


def test_a_line_that_is_no_json_is_named(folder):
    file = folder / "told.jsonl"
    file.write_text(f"{json.dumps(PLAIN)}\n\n{{image: a.png}}\n")
    with pytest.raises(ValueError, match="told.jsonl, line 3 is no JSON .*; write one object per line"):
        Records(file)


def test_a_list_that_is_no_json_a_lost_file_and_an_empty_one_are_named(folder):
    file = folder / "told.json"
    file.write_text('[{"image": "a.png",]')
    with pytest.raises(ValueError, match="told.json is no JSON list"):
        Records(file)
    with pytest.raises(OSError, match="no file .*lost.json; name JSON lines"):
        Records(folder / "lost.json")
    left = (
        "holds no record with an image and a question .1 records without an image were left out.; a record is .*answer"
    )
    with pytest.raises(ValueError, match=left):
        Records(written(folder, {"question": "Hello?", "answer": "Hello!"}))
    with pytest.raises(ValueError, match="holds no record with an image and a question .it is empty.; a record is"):
        Records(written(folder))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="told.json is no text in UTF-8"):
        Records(file)


def test_keys_that_only_resemble_known_ones_are_not_read(folder):
    """VQA's answers beside the answer, numbers of questions, and empty lists of data sets with many columns."""
    more = {"id": "7", "source": "vqa", "question_id": 3, "answers": ["red", "Red"], "answer_type": "x", "option": []}
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A bus."}]
    assert Records(written(folder, PLAIN | more))[0] == Records(written(folder, PLAIN))[0]
    assert len(Records(written(folder, {"image": "a.png", "conversations": turns} | more))) == 1


def told(one: Example) -> tuple:
    return one.question, one.answer, one.options, one.answer_as, one.regions


def test_scenes_are_the_same_each_time():
    one, other = Scenes(30, seed=2), Scenes(30, seed=2)
    assert [told(one[n]) for n in range(30)] == [told(other[n]) for n in reversed(range(30))][::-1]
    assert np.array_equal(np.asarray(one[4].image()), np.asarray(other[4].image()))
    assert told(Scenes(5, seed=2)[4]) == told(one[4])


def test_seeds_have_scenes_of_their_own():
    def shown(seed: int) -> set:
        return {example.regions for example in Scenes(60, seed=seed)}

    assert len(shown(0)) == 60
    assert not shown(0) & shown(1)
    for seed in (0, 3, 17):
        numbers = {example.image.args[0].seed for example in Scenes(60, seed=seed)}
        assert min(numbers) >= FIRST + seed * APART and max(numbers) < min(FIRST + (seed + 1) * APART, TRAINING.stop)


def test_all_kinds_come_in_turn_and_named_ones_alone():
    assert len({Scenes(len(KINDS))[n].question for n in range(len(KINDS))}) == len(KINDS)
    asked = [example.question for example in Scenes(12, kinds=("count", "number"))]
    assert all("many" in question.lower() for question in asked[::2]), asked
    assert all("number" in question.lower() for question in asked[1::2]), asked


def test_answers_are_among_the_options_as_text_or_letter():
    letters = 0
    for example in Scenes(90):
        if example.answer_as == "letter":
            letters += 1
            assert 0 <= "ABCDE".index(example.answer) < len(example.options)
        else:
            assert example.answer in example.options
    assert 15 <= letters <= 45


def test_shapes_that_are_left_out_are_neither_shown_nor_asked_about():
    left = ("star", "ring", "moon")
    assert any(shape in region.words for e in Scenes(40) for region in e.regions for shape in left)
    for example in Scenes(40, without=left):
        assert not any(shape in region.words for region in example.regions for shape in left)
        assert not any(shape in example.question for shape in left)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count=0"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 18}, "seeds of training are 0 to 17"),
        ({"kinds": ("count", "songs")}, "kinds: songs is none of"),
        ({"without": ("sphere",)}, "without: sphere is none of circle"),
        ({"kinds": ()}, "are needed"),
        ({"without": SHAPES[1:]}, "are needed"),
    ],
)
def test_scenes_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Scenes(**({"count": 5} | arguments))


@pytest.mark.parametrize("number", [-1, 5])
def test_an_example_that_is_not_there_is_refused(number):
    with pytest.raises(IndexError, match=f"example {number} of 5"):
        Scenes(5)[number]
