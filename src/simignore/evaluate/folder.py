"""One run on disk: what was asked of which model, every answer as it comes, and the figures at the end.

``config.json`` says everything that the answers depend on, ``predictions.jsonl`` holds one line per question, ``metrics.json``
is written when all are answered. A run that was killed at any moment goes on where it stopped: lines are written a batch at a
time, and what is left of a half-written batch is taken away and answered anew, so that batches, and with them the rounding of
every answer, are the same as without the stop.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CONFIG, PREDICTIONS, METRICS = "config.json", "predictions.jsonl", "metrics.json"


class Folder:
    """The folder of one run. identity: what may not change between two starts, in plain types."""

    def __init__(self, path: Path, identity: Mapping[str, Any], surroundings: Mapping[str, Any]) -> None:
        """Open or begin a folder.

        Raises ValueError for one that holds another run, or files that are no run's; OSError for a file in its place.
        """
        self.path, self.identity = path, json.loads(json.dumps(identity))
        if path.exists() and not path.is_dir():
            raise OSError(f"--out {path} is a file; name a folder")
        path.mkdir(parents=True, exist_ok=True)
        self._lock = locked(path, path / _LOCK)
        try:
            write_json(path / CONFIG, self._begun(dict(surroundings)))
        except BaseException:
            self.close()
            raise

    def _begun(self, surroundings: dict[str, Any]) -> dict[str, Any]:
        """The configuration with one more start. Raises ValueError for another run's."""
        config = self._config()
        if config is None:
            if strange := [entry.name for entry in self.path.iterdir() if not entry.name.startswith(".")]:
                raise ValueError(
                    f"--out {self.path} holds {', '.join(sorted(strange)[:5])} but no {CONFIG}; name an empty folder"
                )
            config = {**self.identity, "starts": []}
        elif other := differing({k: v for k, v in config.items() if k != "starts"}, self.identity):
            raise ValueError(
                f"--out {self.path} holds a run of another configuration ({'; '.join(other)}); name another folder, or "
                "repeat the run as it was"
            )
        config["starts"].append(surroundings)
        return config

    def close(self) -> None:
        """Let another process have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _config(self) -> dict[str, Any] | None:
        file = self.path / CONFIG
        return read_json(file) if file.exists() else None

    def answered(self, ids: Sequence[str], batch: int) -> list[dict[str, Any]]:
        """The lines of whole batches that are there, in the order of ``ids``; the rest of the file is taken away.

        Raises ValueError for a line that cannot be read, an unknown id, or one in another place: naming its number.
        """
        return whole_batches(self.path / PREDICTIONS, ids, batch)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one batch's lines, and see them on the disk."""
        append(self.path / PREDICTIONS, rows)

    @property
    def finished(self) -> bool:
        """Whether the figures are written."""
        return (self.path / METRICS).exists()

    def finish(self, metrics: Mapping[str, Any]) -> None:
        """Write the figures."""
        write_json(self.path / METRICS, metrics)


_LOCK = ".lock"


def whole_batches(file: Path, ids: Sequence[str], batch: int) -> list[dict[str, Any]]:
    """The lines of a file's whole batches, in the order of ``ids``; the rest of it is taken away. Raises as
    :meth:`Folder.answered`."""
    if not file.exists():
        return []
    data = file.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    lines = whole.splitlines(keepends=True)
    if len(lines) > len(ids):
        raise ValueError(f"{file} has {len(lines)} lines for {len(ids)} questions; it is not this run's")
    found = []
    for number, (line, name) in enumerate(zip(lines, ids, strict=False), start=1):
        row = read_line(file, number, line)
        if row.get("id") != name:
            raise ValueError(f"{file}, line {number}: id {row.get('id')!r} stands where {name!r} belongs")
        if not isinstance(row.get("told", row.get("answer", row.get("error"))), str):
            raise ValueError(f"{file}, line {number}, lacks what was told; take the file away and ask anew")
        found.append(row)
    complete = len(found) if len(found) == len(ids) else len(found) // batch * batch
    size = sum(len(line) for line in lines[:complete])
    if size != len(data):
        with file.open("r+b") as opened:
            opened.truncate(size)
    return found[:complete]


def append(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write lines at the end of a file, and see them on the disk."""
    with file.open("ab") as opened:
        opened.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        opened.flush()
        os.fsync(opened.fileno())


def locked(path: Path, lock: Path) -> int | None:
    """Keep other processes out of a folder or file as long as this one lives; None where the system has no such lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"--out {path} is being written by another process; wait for it, or name another") from None
    except OSError:  # a file system without locks, as some networks have
        os.close(handle)
        return None
    return handle


def differing(there: Mapping[str, Any], here: Mapping[str, Any], under: str = "") -> list[str]:
    """What differs between two configurations, as ``keep: 64 there, 128 here``."""
    found = []
    for name in dict.fromkeys([*there, *here]):
        a, b = there.get(name), here.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differing(a, b, f"{under}{name}.")
        elif a != b:
            found += _parts(a, b) or [f"{under}{name}: {a!r} there, {b!r} here"]
    readable = [one for one in found if "sha256:" not in one]
    return readable or found  # a digest says nothing where something else does


def _parts(there: Any, here: Any) -> list[str]:
    """Of two configurations of one class, written as ``Name(a=1, b=2)``, the fields that differ; nothing for anything else."""
    try:
        one, other = (ast.parse(text, mode="eval").body for text in (there, here))
    except (SyntaxError, TypeError, ValueError):
        return []
    if not (isinstance(one, ast.Call) and isinstance(other, ast.Call)) or ast.dump(one.func) != ast.dump(other.func):
        return []
    a, b = ({str(word.arg): ast.unparse(word.value) for word in call.keywords} for call in (one, other))
    return [
        f"{name}: {a.get(name)} there, {b.get(name)} here"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ValueError naming the file for anything else."""
    try:
        found = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds a JSON {type(found).__name__}, not an object")
    return found


def read_text(file: Path) -> str:
    """A UTF-8 text. Raises OSError or ValueError naming the file."""
    if file.is_dir():
        raise OSError(f"{file} is a folder; name a file in it")
    if not file.is_file():
        raise OSError(f"there is no file {file}; check the path")
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{file}, line {line}, is not UTF-8 ({error.reason}); save the file as UTF-8") from error


def read_line(file: Path, number: int, line: str | bytes) -> dict[str, Any]:
    """One line of a JSONL file as an object. Raises ValueError naming the file and the line."""
    try:
        row = json.loads(line)
    except ValueError as error:  # broken JSON, or bytes that are not UTF-8
        raise ValueError(f"{file}, line {number}, is no JSON ({error}); nothing was scored") from error
    if not isinstance(row, dict):
        raise ValueError(f"{file}, line {number}, is a JSON {type(row).__name__}, not an object; nothing was scored")
    return row


def read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line of a JSONL file that is not blank."""
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            yield number, read_line(file, number, line)


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(file)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


__all__ = [
    "CONFIG",
    "METRICS",
    "PREDICTIONS",
    "Folder",
    "append",
    "differing",
    "locked",
    "read_json",
    "read_jsonl",
    "read_line",
    "read_text",
    "whole_batches",
    "write_json",
]
