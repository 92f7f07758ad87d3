"""A table of images and questions to be answered: a folder of images, a CSV file or a Parquet file."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simignore.evaluate.benchmark import Benchmark, Item, check_ids
from simignore.evaluate.folder import read_text
from simignore.wording import AnswerAs, wording

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LAYOUT = "a folder of images, or a .csv or .parquet file with the columns image, question, id, options and context"
CAPTION = "Describe the image."


@dataclass(frozen=True)
class Table(Benchmark):
    """Questions whose answers nobody knows yet, in a benchmark's place.

    data: the folder or file. question: asked where a row has none of its own. answer_as: "letter" (default) or "text", for rows
    with options. max_new_tokens: of an answer.
    Columns of a file: ``image``, a path relative to the file's folder; ``question``; and where they are there ``id`` (else the
    row's number), ``options`` with ``|`` between them, and ``context``. Others are not read. Images of a folder go by name.
    Item.cluster: the image as the table names it. Item.answer: None.
    """

    question: str | None = None
    answer_as: AnswerAs | None = None  # type: ignore[misc]  # fixed for a benchmark, chosen here
    max_new_tokens: int = 64  # type: ignore[misc]

    name: ClassVar[str] = "table"
    title: ClassVar[str] = "A table of questions"
    source: ClassVar[str] = "the user's own"
    layout: ClassVar[str] = LAYOUT

    def items(self) -> list[Item]:
        """All rows. Raises OSError for a table or for images that are missing, naming each; ValueError for rows that cannot be
        asked, naming each with the reason."""
        path = self.need_data()
        rows, folder = (_folder(path), path) if path.is_dir() else (_file(path), path.parent)
        if not rows:
            raise ValueError(f"{path} holds nothing to ask about; it should be {LAYOUT}")
        problems, found = [], []
        for number, row in enumerate(rows, start=1):
            try:
                found.append(self._item(row, str(number), folder))
            except ValueError as error:
                problems.append(f"row {number}: {error}")
        if problems:
            raise ValueError(f"{len(problems)} of {len(rows)} rows of {path} cannot be asked: {'; '.join(problems)}")
        check_ids(str(path), found)
        if missing := list(dict.fromkeys(str(item.images[0]) for item in found if not _is_file(item))):
            raise OSError(
                f"{len(missing)} images of {path} are missing; paths in it are relative to {folder.resolve()}. "
                f"Missing: {', '.join(missing)}"
            )
        return found

    def need_data(self) -> Path:
        """The table. Raises OSError if it is not there."""
        if self.data is None or not self.data.exists():
            raise OSError(f"there is no table {self.data}; name {LAYOUT}")
        return self.data

    def score(self, item: Item, told: str) -> float:
        """Nothing is known to be right."""
        return 0.0

    def _item(self, row: dict[str, str], number: str, folder: Path) -> Item:
        if not (image := row.get("image", "")):
            raise ValueError("it names no image")
        if not (question := row.get("question") or (self.question or "").strip()):
            raise ValueError("it has no question; add a column question, or ask with --question or --caption")
        options = tuple(option.strip() for option in row["options"].split("|")) if row.get("options") else ()
        context = row.get("context") or None
        wording(question, context=context, options=options, answer=self.answer_as)
        file = (folder / image).resolve()  # workers on other machines have other working folders
        return Item(row.get("id") or number, question, (file,), None, options, context, cluster=image)


def _is_file(item: Item) -> bool:
    return all(isinstance(image, Path) and image.is_file() for image in item.images)


def _folder(path: Path) -> list[dict[str, str]]:
    """A row for each image, by name."""
    names = sorted(file.name for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != ".")
    return [{"image": name, "id": name} for name in names]


def _file(path: Path) -> list[dict[str, str]]:
    readers = {".csv": _csv, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} is no table; it should be {LAYOUT}")
    columns, rows = readers[path.suffix.lower()](path)
    if "image" not in columns:
        raise ValueError(f"{path} has no column image; its columns are {', '.join(columns) or 'none'}")
    return rows


def _csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        rows = []
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue  # an empty line
            if len(cells) != len(columns):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells for {len(columns)} columns; put texts with commas in "
                    "double quotes"
                )
            rows.append(_texts(dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}, is no CSV ({error})") from error
    return columns, rows


def _parquet(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    pyarrow = need_pyarrow(path)
    from pyarrow import parquet

    try:
        columns = list(parquet.read_schema(path).names)
        wanted = [name for name in ("id", "image", "question", "options", "context") if name in columns]
        rows = parquet.read_table(path, columns=wanted).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
    for number, row in enumerate(rows, start=1):
        for name, value in row.items():
            if not isinstance(value, str | int | None):
                raise ValueError(f"{path}, row {number}: {name} is a {type(value).__name__}; write it as a text")
    return columns, [_texts(row) for row in rows]


def need_pyarrow(path: Path) -> Any:
    """The package that reads and writes Parquet. Raises ValueError where it is not installed."""
    try:
        import pyarrow
    except ImportError as error:
        raise ValueError(f"{path}: Parquet needs pyarrow: pip install pyarrow, or use a .csv file") from error
    return pyarrow


def _texts(row: dict[str, Any]) -> dict[str, str]:
    return {name: "" if value is None else str(value).strip() for name, value in row.items()}


__all__ = ["CAPTION", "LAYOUT", "SUFFIXES", "Table", "need_pyarrow"]
