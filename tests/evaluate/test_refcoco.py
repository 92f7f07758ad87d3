"""RefCOCO: refer's files without running what a pickle names, boxes in the padded square, and overlaps by hand."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from simignore.evaluate.benchmark import report
from simignore.evaluate.benchmarks import BENCHMARKS
from simignore.evaluate.benchmarks.refcoco import RefCOCO, Squared, box_of, in_square, overlap, unpickled
from simignore.evaluate.pictures import PADDING
from simignore.wording import wording

WIDE, TALL = "COCO_train2014_000000000001.jpg", "COCO_train2014_000000000002.jpg"  # 640 x 480 and 300 x 600


def test_refers_files_are_read(tmp_path: Path) -> None:
    _refer(tmp_path)
    for data in (tmp_path, tmp_path / "refs(unc).p"):
        items = BENCHMARKS["refcoco"](data=data).chosen(None)
        assert [(item.id, item.groups["split"]) for item in items] == [
            ("11", "val"),
            ("12", "val"),
            ("13", "testA"),
        ]  # the one of train is not asked
        assert [item.cluster for item in items] == [WIDE, WIDE, TALL]
        # 640 x 480: 80 pixels above; x 64 to 320, y 0 to 240 -> 64/640, 80/640, 320/640, 320/640
        assert items[0].answer == [0.1, 0.125, 0.5, 0.5]
        # 300 x 600: 150 pixels on the left; x 150 to 300, y 60 to 360 -> 300/600, 60/600, 450/600, 360/600
        assert items[2].answer == [0.5, 0.1, 0.75, 0.6]
        assert json.loads(json.dumps(items[0].answer)) == items[0].answer
    assert [item.id for item in RefCOCO(data=tmp_path, split="train").items()] == ["14"]
    assert [item.id for item in RefCOCO(data=tmp_path, split="testA").items()] == ["13"]


def test_images_lie_where_refer_has_them(tmp_path: Path) -> None:
    _refer(tmp_path / "data" / "refcoco")
    there = tmp_path / "data" / "images" / "mscoco" / "images" / "train2014"
    there.mkdir(parents=True)
    picture = RefCOCO(data=tmp_path / "data" / "refcoco").items()[0].images[0]
    assert isinstance(picture, Squared) and picture.file == there / WIDE
    with pytest.raises(OSError, match=f"2 of 2 images are missing.*{WIDE}"):
        RefCOCO(data=tmp_path / "data" / "refcoco").chosen(None)


def test_it_asks_as_llava_does(tmp_path: Path) -> None:
    benchmark = RefCOCO(data=_refer(tmp_path))
    assert wording(**benchmark.words(benchmark.items()[0]))[0] == (
        "Please provide the bounding box coordinate of the region this sentence describes: left café"
    )


def test_images_are_handed_over_padded(tmp_path: Path) -> None:
    wide, _, tall = (item.images[0] for item in RefCOCO(data=_refer(tmp_path)).items())
    assert callable(wide) and callable(tall)
    picture = wide()
    assert picture.size == (640, 640)
    assert [picture.getpixel((320, y)) for y in (79, 559, 560)] == [PADDING, (0, 0, 255), PADDING]
    picture = tall()
    assert picture.size == (600, 600)
    assert [picture.getpixel((x, 300)) for x in (149, 150, 449, 450)] == [PADDING, (0, 0, 255), (0, 0, 255), PADDING]


def test_an_odd_margin_is_split_as_the_picture_is() -> None:
    """5 x 2: 1 pixel above, 2 below."""
    assert in_square((0, 0, 5, 2), (5, 2)) == (0, 0.2, 1, 0.6)


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 0, 3, 2), 2 / 6),  # 2 shared of 4 + 4 - 2
        ((0, 0, 2, 2), (0, 0, 2, 1), 0.5),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),  # they touch
        ((0, 0, 1, 1), (2, 2, 3, 3), 0.0),
        ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16),
        ((2, 2, 0, 0), (0, 0, 2, 2), 0.0),  # corners the wrong way round
        ((1, 1, 1, 1), (1, 1, 1, 1), 0.0),
    ],
)
def test_overlaps_by_hand(one: Any, other: Any, share: float) -> None:
    assert overlap(one, other) == pytest.approx(share) == overlap(other, one)


@pytest.mark.parametrize(
    ("told", "box"),
    [
        ("[0.1, 0.25, 0.5, 1.0]", (0.1, 0.25, 0.5, 1.0)),
        ("It is at [.1,.25,.5,1.].", (0.1, 0.25, 0.5, 1.0)),
        ("0 0.2 1 1", (0, 0.2, 1, 1)),
        ("[-0.1, 0, 1, 1]", (-0.1, 0, 1, 1)),
        ("the 2 dogs: [0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.6, 0.6]", (0.1, 0.2, 0.3, 0.4)),
        ("[0.1, 0.2, 0.3]", None),
        ("[0.1, 0.2], [0.3, 0.4]", None),
        ("left", None),
    ],
)
def test_boxes_are_read(tmp_path: Path, told: str, box: Any) -> None:
    assert box_of(told) == box
    benchmark = RefCOCO(data=_refer(tmp_path))
    assert benchmark.unreadable(benchmark.items()[0], told) == (box is None)


def test_figures_by_hand(tmp_path: Path) -> None:
    benchmark = RefCOCO(data=_refer(tmp_path))
    items = benchmark.items()
    told = [
        "[0.1, 0.125, 0.5, 0.5]",  # 1
        "[0.3, 0.125, 0.7, 0.5]",  # half of it on either side: 1/3
        "[0.5, 0.1, 0.75, 0.4]",  # 0.3 of 0.5 in height: 0.6
    ]
    scores = [benchmark.score(item, text) for item, text in zip(items, told, strict=True)]
    assert scores == [1, 0, 1]
    found = report(benchmark, items, told, scores)
    assert found["accuracy"] == 2 / 3
    assert found["metrics"] == pytest.approx(
        {
            "mean_iou": (1 + 1 / 3 + 0.6) / 3,
            "val/accuracy": 1 / 2,
            "val/mean_iou": 2 / 3,
            "testA/accuracy": 1,
            "testA/mean_iou": 0.6,
        }
    )
    assert benchmark.score(items[0], "[0.1, 0.125, 0.5, 0.31]") == 0  # 0.185 of 0.375 in height
    assert benchmark.score(items[0], "[0.1, 0.125, 0.5, 0.32]") == 1  # 0.195 of 0.375
    assert benchmark.score(items[0], "") == 0


def test_a_pickle_is_read_without_running_what_it_names(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harmed"),)

    file = tmp_path / "refs(unc).p"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file.write_bytes(pickle.dumps([{"ref_id": Harm()}], protocol))
        with pytest.raises(ValueError, match="it names .*mkdir, and only plain lists"):
            unpickled(file)
    assert not (tmp_path / "harmed").exists()
    file.write_bytes(pickle.dumps([{"ref_id": 1, "seen": {1, 2}}], 2))
    assert unpickled(file) == [{"ref_id": 1, "seen": {1, 2}}]
    for broken in (b"", b"\x80\x02]q", b"nonsense", pickle.dumps({"a": 1}), pickle.dumps(["a"])):
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=r"refs\(unc\).p .*; fetch it anew"):
            unpickled(file)


def test_boxes_may_come_as_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "refcoco+_testB.jsonl"
    row = {"image": "train2014/a.jpg", "sent": "left cat", "bbox": [64, 0, 320, 240], "width": 640, "height": 480}
    own = {**row, "question_id": "q7", "split": "val", "text": "x"} | {"sent": "the dog"}
    file.write_text(f"{json.dumps(row)}\n\n{json.dumps(own)}\n")
    for data in (file, tmp_path):
        items = RefCOCO(data=data, images=tmp_path / "coco").items()
        assert [(item.id, item.groups) for item in items] == [("1", {"split": "testB"}), ("q7", {"split": "val"})]
        assert items[0].answer == [0.1, 0.125, 0.5, 0.5] and items[0].cluster == "train2014/a.jpg"
        assert isinstance(items[0].images[0], Squared)
        assert items[0].images[0].file == tmp_path / "coco" / "train2014" / "a.jpg"
        assert items[1].question.endswith("describes: the dog")
    whole = "Please provide the bounding box coordinate of the region this sentence describes: left cat"
    del row["sent"]
    file.write_text(json.dumps({**row, "text": whole}))
    assert RefCOCO(data=file).items()[0].question == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [320, 0, 64, 240]}, "line 2: the box .* is not left, top, right, bottom in pixels of 640.0 x 480.0"),
        ({"bbox": [0.1, 0.1, 0.5, 0.5]}, "line 2: the box"),
        ({"bbox": [600, 0, 700, 240]}, "line 2: the box"),
        ({"bbox": [1, 2, 3]}, "line 2: 'bbox' must be four numbers"),
        ({"bbox": "1,2,3,4"}, "line 2: 'bbox' is '1,2,3,4', not of type list"),
        ({"width": None}, "line 2: 'width' is None, not of type int"),
        ({"text": ""}, "line 2: 'text' is empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    file = tmp_path / "val.jsonl"
    row = {"image": "a.jpg", "text": "left cat", "bbox": [64, 0, 320, 240], "width": 640, "height": 480}
    file.write_text(f"{json.dumps(row)}\n{json.dumps({**row, **change})}\n")
    with pytest.raises(ValueError, match=message) as raised:
        RefCOCO(data=file).items()
    assert str(file) in str(raised.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"holds no refs\(unc\).p"):
        RefCOCO(data=tmp_path).items()
    data = _refer(tmp_path / "refcocog")
    with pytest.raises(ValueError, match="has no question of split test; there is testA, train, val"):
        RefCOCO(data=data, split="test").items()
    instances = json.loads((data / "instances.json").read_text())
    (data / "instances.json").write_text(json.dumps({**instances, "annotations": instances["annotations"][1:]}))
    with pytest.raises(ValueError, match="ref_id 0: its image or box is not in .*instances.json"):
        RefCOCO(data=data).items()
    (data / "instances.json").write_text(json.dumps({"images": [3], "annotations": []}))
    with pytest.raises(ValueError, match="instances.json, images: a int, not an object with 'id'"):
        RefCOCO(data=data).items()
    (data / "instances.json").write_text("{}")
    with pytest.raises(ValueError, match="instances.json: 'images' is missing"):
        RefCOCO(data=data).items()
    (data / "instances.json").unlink()
    with pytest.raises(OSError, match="there is no file .*instances.json"):
        RefCOCO(data=data).items()
    (data / "refs(google).p").touch()
    with pytest.raises(ValueError, match=r"holds refs\(google\).p, refs\(unc\).p; name one of them"):
        RefCOCO(data=data).items()
    (data / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="there is no question at all"):
        RefCOCO(data=data / "empty.jsonl").items()
    twice = {"image": "a.jpg", "text": "cat", "bbox": [0, 0, 20, 20], "width": 64, "height": 48, "question_id": 1}
    (data / "twice.jsonl").write_text(f"{json.dumps(twice)}\n" * 2)
    with pytest.raises(ValueError, match="same id more than once: '1'"):
        RefCOCO(data=data / "twice.jsonl").chosen(None)


def _refer(folder: Path) -> Path:
    """refs(unc).p as Python 2 pickled it, instances.json, and the two images."""
    folder.mkdir(parents=True, exist_ok=True)
    refs = [
        _ref(0, "val", 1, 71, {11: "left caf\xe9", 12: "the one on the left"}),
        _ref(1, "testA", 2, 72, {13: "lady"}),
        _ref(2, "train", 2, 72, {14: "woman"}),
    ]
    (folder / "refs(unc).p").write_bytes(_python2(refs) + b".")
    instances = {
        "images": [
            {"id": 1, "file_name": WIDE, "width": 640, "height": 480},
            {"id": 2, "file_name": TALL, "width": 300, "height": 600},
        ],
        "annotations": [
            {"id": 71, "image_id": 1, "bbox": [64.0, 0, 256, 240], "category_id": 1},
            {"id": 72, "image_id": 2, "bbox": [150, 60, 150, 300], "category_id": 1},
        ],
        "categories": [{"id": 1, "name": "person"}],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    Image.new("RGB", (640, 480), "blue").save(folder / WIDE.replace(".jpg", ".png"), "PNG")
    (folder / WIDE.replace(".jpg", ".png")).rename(folder / WIDE)  # without JPEG's loss
    Image.new("RGB", (300, 600), "blue").save(folder / "tall.png")
    (folder / "tall.png").rename(folder / TALL)
    return folder


def _ref(number: int, split: str, image: int, box: int, sentences: dict[int, str]) -> dict[str, Any]:
    told = [{"sent_id": n, "sent": text, "raw": text, "tokens": text.split()} for n, text in sentences.items()]
    return {
        "ref_id": number,
        "split": split,
        "image_id": image,
        "ann_id": box,
        "category_id": 1,
        "file_name": WIDE,
        "sent_ids": list(sentences),
        "sentences": told,
    }


def _python2(value: Any) -> bytes:
    """Protocol 0 with Python 2's byte strings, which Python 3 does not write."""
    if isinstance(value, dict):
        return b"(d" + b"".join(_python2(name) + _python2(own) + b"s" for name, own in value.items())
    if isinstance(value, list):
        return b"(l" + b"".join(_python2(own) + b"a" for own in value)
    if isinstance(value, int):
        return f"I{value}\n".encode()
    return b"S'" + value.encode("unicode_escape") + b"'\n"
