"""RefCOCO, RefCOCO+ and RefCOCOg: where in the image is what a few words describe."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from simignore.evaluate.benchmark import Benchmark, Item, check_images
from simignore.evaluate.benchmarks.reading import name_of, need, picture_folder, words
from simignore.evaluate.folder import read_json, read_jsonl
from simignore.evaluate.pictures import opened

PROMPT = "Please provide the bounding box coordinate of the region this sentence describes: "
ENOUGH = 0.5  # overlap (IoU) from which a box is right
BEYOND = 2  # pixels that a box may reach out of its image: annotations are rounded
_IMAGES = ("train2014", "images", "../images/mscoco/images/train2014", "../train2014")
_NUMBER = r"(-?(?:\d+\.?\d*|\.\d+))"
_BOX = re.compile(r"[\s,]+".join([_NUMBER] * 4))
_SPLIT = re.compile(r"(?<![A-Za-z])(train|val|testA|testB|test)(?![A-Za-z])")
_PLAIN = {(module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset")}
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class RefCOCO(Benchmark):
    """Referring expression comprehension (Yu et al., ECCV 2016, arXiv 1608.00272; Mao et al., CVPR 2016 for RefCOCOg).

    A box is right if it overlaps the annotated one by an IoU of at least 0.5. LLaVA-1.5 was trained on boxes as fractions
    of the image padded to a square, so the image is handed over padded (a processor that crops the middle then crops nothing),
    and boxes are told and scored as fractions of that square. Every sentence of a described object is a question of its own.
    data: refer's refs(unc).p with instances.json beside it, or a folder with one such pair; or a JSONL file with "image",
        "text" (or "sent"), "bbox" as left, top, right and bottom in pixels, "width", "height" and maybe "question_id" and
        "split". The pickle is read without running anything it names. images: COCO's train2014, by default where refer has it.
    split: the one that is asked, such as "testA"; by default all but train.
    Item.answer: the box, as four fractions of the padded image.
    """

    split: str | None = None

    name: ClassVar[str] = "refcoco"
    title: ClassVar[str] = "RefCOCO/+/g"
    source: ClassVar[str] = "Yu et al. 2016, arXiv 1608.00272"
    layout: ClassVar[str] = "refs(unc).p, refs(umd).p or refs(google).p beside instances.json, or a JSONL file of boxes"
    max_new_tokens: ClassVar[int] = 48

    def items(self) -> list[Item]:
        file = self._file()
        read = list(_from_refer(file) if file.suffix == ".p" else _from_jsonl(file))
        folder = picture_folder(self, *_IMAGES)
        kept = [self._item(row, folder) for row in read if self._asked(row.split)]
        if not kept:
            there = ", ".join(sorted({row.split or "none" for row in read})) or "no question at all"
            raise ValueError(f"{file} has no question of split {self.split or 'val or test'}; there is {there}")
        return kept

    def _asked(self, split: str) -> bool:
        return split != "train" if self.split is None else split == self.split

    def _file(self) -> Path:
        """The file with the expressions. Raises OSError where there is none, ValueError where there are several."""
        data = self.need_data()
        if not data.is_dir():
            return data
        found = sorted(data.glob("refs(*).p")) or sorted(data.glob("*.jsonl"))
        if not found:
            raise OSError(f"--data {data} holds no refs(unc).p; {self.name} reads {self.layout}")
        if len(found) > 1:
            raise ValueError(f"--data {data} holds {', '.join(file.name for file in found)}; name one of them")
        return found[0]

    def _item(self, row: Expression, folder: Path) -> Item:
        return Item(
            id=row.id,
            question=PROMPT + row.text.strip().removeprefix(PROMPT),
            images=(Squared(folder / row.image),),
            answer=list(in_square(row.box, row.size)),
            groups={"split": row.split} if row.split else {},
            cluster=row.image,
        )

    def chosen(self, limit: int | None) -> list[Item]:
        """Raises OSError for images that are missing, as they are drawn when they are needed."""
        found = super().chosen(limit)
        check_images(replace(item, images=tuple(image.file for image in item.images)) for item in found)  # type: ignore[union-attr]
        return found

    def score(self, item: Item, told: str) -> float:
        return float(_overlap(item, told) >= ENOUGH)

    def unreadable(self, item: Item, told: str) -> bool:
        """An answer without four numbers in a row."""
        return box_of(told) is None

    def metrics(self, items: Sequence[Item], told: Sequence[str], scores: Sequence[float]) -> dict[str, Any]:
        """Mean IoU, in all and of each split, and each split's accuracy."""
        overlaps = [_overlap(item, text) for item, text in zip(items, told, strict=True)]
        found: dict[str, Any] = {"mean_iou": sum(overlaps) / len(overlaps)}
        for split in dict.fromkeys(item.groups["split"] for item in items if "split" in item.groups):
            own = [number for number, item in enumerate(items) if item.groups.get("split") == split]
            found[f"{split}/accuracy"] = sum(scores[number] for number in own) / len(own)
            found[f"{split}/mean_iou"] = sum(overlaps[number] for number in own) / len(own)
        return found


@dataclass(frozen=True)
class Expression:
    """What a file says of one question. box: in pixels. size: width and height of the image."""

    id: str
    image: str
    text: str
    box: Box
    size: tuple[float, float]
    split: str


@dataclass(frozen=True)
class Squared:
    """Draws an image file in the middle of a square of the padding colour, as LLaVA-1.5 sees it."""

    file: Path

    def __call__(self) -> Any:
        return opened(self.file, square=True)


def in_square(box: Box, size: tuple[float, float]) -> Box:
    """A box in pixels as fractions of its image padded to a square."""
    side = max(size)
    across, down = (side - size[0]) // 2, (side - size[1]) // 2
    left, top, right, bottom = box
    return (left + across) / side, (top + down) / side, (right + across) / side, (bottom + down) / side


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes; 0 for one whose corners are the wrong way round."""
    (a, b, c, d), (e, f, g, h) = one, other
    if c <= a or d <= b or g <= e or h <= f:
        return 0.0
    shared = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
    return shared / ((c - a) * (d - b) + (g - e) * (h - f) - shared)


def box_of(told: str) -> Box | None:
    """The first four numbers in a row of an answer."""
    match = _BOX.search(told)
    return None if match is None else (float(match[1]), float(match[2]), float(match[3]), float(match[4]))


def _overlap(item: Item, told: str) -> float:
    box = box_of(told)
    return 0.0 if box is None else overlap(box, item.answer)


def _numbers(row: Mapping[str, Any], name: str, where: str) -> Box:
    values = need(row, name, list, where)
    if len(values) != 4 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{where}: {name!r} must be four numbers, and is {values!r}")
    return (float(values[0]), float(values[1]), float(values[2]), float(values[3]))


def _checked(box: Box, size: tuple[float, float], where: str) -> Box:
    """The box itself. Raises ValueError if it cannot be one in an image of this size."""
    left, top, right, bottom = box
    inside = min(left, top) >= -BEYOND and right <= size[0] + BEYOND and bottom <= size[1] + BEYOND
    if not inside or right <= left or bottom <= top or max(box) <= 1:
        raise ValueError(
            f"{where}: the box {list(box)} is not left, top, right, bottom in pixels of {size[0]} x {size[1]}"
        )
    return box


def _from_jsonl(file: Path) -> Iterator[Expression]:
    named = _SPLIT.search(file.stem)
    for number, row in read_jsonl(file):
        where = f"{file}, line {number}"
        size = (float(need(row, "width", int, where)), float(need(row, "height", int, where)))
        yield Expression(
            id=name_of(row, "question_id", where) if "question_id" in row else str(number),
            image=words(row, "image", where),
            text=words(row, "sent" if "sent" in row else "text", where),
            box=_checked(_numbers(row, "bbox", where), size, where),
            size=size,
            split=words(row, "split", where) if "split" in row else named[0] if named else "",
        )


def _from_refer(file: Path) -> Iterator[Expression]:
    """The sentences of refer's pickle, with boxes and sizes from instances.json beside it."""
    refs = unpickled(file)
    beside = file.parent / "instances.json"
    instances = read_json(beside)
    images, boxes = (
        {need(row, "id", int, f"{beside}, {name}"): row for row in need(instances, name, list, str(beside))}
        for name in ("images", "annotations")
    )
    for ref in refs:
        where = f"{file}, ref_id {name_of(ref, 'ref_id', str(file))}"
        image = images.get(need(ref, "image_id", int, where))
        box = boxes.get(need(ref, "ann_id", int, where))
        if image is None or box is None:
            raise ValueError(f"{where}: its image or box is not in {beside}; take both from one download")
        size = (float(need(image, "width", int, str(beside))), float(need(image, "height", int, str(beside))))
        left, top, width, height = _numbers(box, "bbox", f"{beside}, annotation {ref['ann_id']}")
        for sentence in need(ref, "sentences", list, where):
            yield Expression(
                id=name_of(sentence, "sent_id", where),
                image=words(image, "file_name", f"{beside}, image {ref['image_id']}"),
                text=words(sentence, "sent", where),
                box=_checked((left, top, left + width, top + height), size, where),
                size=size,
                split=words(ref, "split", where),
            )


class _Unpickler(pickle.Unpickler):
    """Reads plain data. Any function or class that a pickle names is refused, as calling it could do anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return set if name == "set" else frozenset
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, and only plain lists, dicts, texts and numbers are read"
        )


def unpickled(file: Path) -> list[dict[str, Any]]:
    """The list of dicts in a pickle, which Python 2 may have written. Raises ValueError for anything else in it."""
    if not file.is_file():
        raise OSError(f"there is no file {file}; check the path")
    with file.open("rb") as pickled:
        try:
            found = _Unpickler(pickled, encoding="latin-1").load()
        except Exception as error:  # broken pickles raise nearly anything
            raise ValueError(f"{file} cannot be read as refer's pickle: {error}; fetch it anew") from error
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ValueError(f"{file} holds a {type(found).__name__}, not a list of dicts; fetch it anew")
    return found
