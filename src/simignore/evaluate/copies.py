"""Copies of Hugging Face data sets on disk: Parquet files, or a folder that ``save_to_disk`` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from simignore.images import open_image

MARKS = ("dataset_dict.json", "dataset_info.json", "state.json")


def is_copy(path: Path) -> bool:
    """Whether a path is such a copy."""
    if path.is_dir():
        return any((path / name).is_file() for name in MARKS) or bool(_parquet(path))
    return path.suffix == ".parquet"


def read_copy(path: Path, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a copy, images as what opens them when called.

    split: of a copy that has several. Raises ValueError for one that it does not have, or without the package that reads it.
    """
    rows = _rows_of_parquet(path, split) if path.suffix == ".parquet" or _parquet(path) else _rows_saved(path, split)
    for row in rows:
        yield {name: _lazily(value) for name, value in row.items()}


def _parquet(path: Path) -> list[Path]:
    return sorted(path.rglob("*.parquet")) if path.is_dir() else []


def _rows_of_parquet(path: Path, split: str) -> Iterator[dict[str, Any]]:
    files = [path] if path.is_file() else [file for file in _parquet(path) if file.name.startswith(split)]
    if not files:
        raise ValueError(f"{path} has no Parquet file of the split {split!r}; there are {', '.join(_names(path))}")
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError(f"{files[0]} needs the package pyarrow: pip install 'simignore[eval]'") from error
    for file in files:
        try:
            opened = parquet.ParquetFile(file)
        except Exception as error:  # pyarrow's own kinds
            raise ValueError(f"{file} cannot be read as Parquet ({error})") from error
        for batch in opened.iter_batches(batch_size=64):
            yield from batch.to_pylist()


def _names(path: Path) -> list[str]:
    return [file.name for file in _parquet(path)]


def _rows_saved(path: Path, split: str) -> Iterator[dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{path} needs the package datasets: pip install 'simignore[eval]'") from error
    found = datasets.load_from_disk(str(path))
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise ValueError(f"{path} has no split {split!r}; it has {', '.join(found)}")
        found = found[split]
    for name, feature in found.features.items():
        if isinstance(feature, datasets.Image):
            found = found.cast_column(name, datasets.Image(decode=False))
    yield from found


def _lazily(value: Any) -> Any:
    """An image as it lies in such a file, ``{"bytes", "path"}``, as what opens it; anything else as it is."""
    if not isinstance(value, Mapping) or set(value) != {"bytes", "path"}:
        return value
    if value["bytes"] is None:
        return None if value["path"] is None else Path(value["path"])
    return partial(_decoded, value["bytes"])


def _decoded(data: bytes) -> Any:
    """Runs that are kept know their images by this function's name too, see :mod:`simignore.evaluate.identity`."""
    return open_image(data)
