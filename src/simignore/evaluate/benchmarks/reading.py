"""What readers of benchmarks share: fields of a row, where files and images lie, and draws that keep together what is scored
together."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from simignore.evaluate.benchmark import Benchmark, Item

T = TypeVar("T")


def need(row: Any, name: str, kind: type[T], where: str) -> T:
    """A field of a row, of one kind. where: file and line, for the message. Raises ValueError if it is missing or another."""
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: a {type(row).__name__}, not an object with {name!r}; check the file's layout")
    if name not in row:
        raise ValueError(
            f"{where}: {name!r} is missing (there are {', '.join(map(str, row))}); check the file's layout"
        )
    value = row[name]
    if not isinstance(value, kind):
        raise ValueError(f"{where}: {name!r} is {value!r}, not of type {kind.__name__}; check the file's layout")
    return value


def words(row: Any, name: str, where: str) -> str:
    """A field that holds text other than blanks."""
    value = need(row, name, str, where)
    if not value.strip():
        raise ValueError(f"{where}: {name!r} is empty; fill it in or take the question out")
    return value


def name_of(row: Any, name: str, where: str) -> str:
    """A field that tells rows apart: text or a whole number."""
    value = need(row, name, object, where)
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"{where}: {name!r} is {value!r}; it must be a text or a whole number")
    return str(value)


def one_file(benchmark: Benchmark, *names: str) -> Path:
    """The file with the questions: ``data`` itself, or the first of these names in the folder. OSError if none is there."""
    data = benchmark.need_data()
    if not data.is_dir():
        return data
    for name in names:
        if (data / name).is_file():
            return data / name
    raise OSError(f"--data {data} holds no {' or '.join(names)}; {benchmark.name} reads {benchmark.layout}")


def picture_folder(benchmark: Benchmark, *below: str) -> Path:
    """The folder with the images: the first of these below the benchmark's folder that is there, or that folder itself."""
    base = benchmark.folder()
    for name in below:
        if (found := Path(os.path.normpath(base / name))).is_dir():
            return found
    return base


def drawn_together(every: Sequence[Item], limit: int | None, seed: str, together: Callable[[Item], str]) -> list[Item]:
    """Up to ``limit`` questions in their order, drawn so that those which ``together`` names alike come all or not at all; one
    such group at least, be it larger than the limit."""
    if limit is None or limit >= len(every):
        return list(every)
    groups: dict[str, list[int]] = {}
    for number, item in enumerate(every):
        groups.setdefault(together(item), []).append(number)
    kept: list[int] = []
    for name in random.Random(seed).sample(list(groups), len(groups)):
        if kept and len(kept) + len(groups[name]) > limit:
            break
        kept += groups[name]
    return [every[number] for number in sorted(kept)]


__all__ = ["drawn_together", "name_of", "need", "one_file", "picture_folder", "words"]
