"""Answers on disk: lines as they come, a table at the end, and beside them what they depend on.

``answers.jsonl`` grows a batch at a time. For ``answers.csv`` the lines are kept in ``answers.csv.jsonl`` (Parquet likewise),
and the table is written from them when all are there. ``answers.jsonl.config.json`` says what was asked of which model, so that
a second start goes on with the same run and never mixes two.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simignore.evaluate.folder import append, differing, locked, read_json, whole_batches, write_json
from simignore.evaluate.table import need_pyarrow

COLUMNS = ("id", "image", "question", "answer", "error", "image_tokens", "kept", "held")
KINDS = (".jsonl", ".csv", ".parquet")


class Answers:
    """The file of one run. lines: where its rows are kept."""

    def __init__(self, out: Path, identity: Mapping[str, Any], surroundings: Mapping[str, Any]) -> None:
        """Begin or go on. Raises ValueError for a file of another run, and while another process writes it."""
        check_out(out)
        self.out, self.lines = out, lines_of(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        self._lock = locked(out, out.with_name(f".{out.name}.lock"))
        try:
            self._begin(json.loads(json.dumps(identity)), dict(surroundings))
        except BaseException:
            self.close()
            raise

    def _begin(self, identity: dict[str, Any], surroundings: dict[str, Any]) -> None:
        config = read_json(config_of(self.out)) if config_of(self.out).exists() else {**identity, "starts": []}
        if other := differing({k: v for k, v in config.items() if k != "starts"}, identity):
            raise ValueError(
                f"--out {self.out} holds answers of another run ({'; '.join(other)}); name another file, or repeat the run as "
                "it was"
            )
        config["starts"].append(surroundings)
        write_json(config_of(self.out), config)

    def answered(self, ids: Sequence[str], batch: int) -> list[dict[str, Any]]:
        """The rows that are there; a half-written batch is taken away."""
        return whole_batches(self.lines, ids, batch)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write one batch's rows, and see them on the disk."""
        append(self.lines, rows)

    def finish(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the table, where lines are not what was asked for."""
        if self.out == self.lines:
            return
        part = self.out.with_name(f".{self.out.name}.{os.getpid()}")
        try:
            {".csv": _write_csv, ".parquet": _write_parquet}[self.out.suffix.lower()](part, rows)
            part.replace(self.out)
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have the file."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


@contextmanager
def opened(out: Path, identity: Mapping[str, Any], surroundings: Mapping[str, Any]) -> Iterator[Answers]:
    """The file of one run, let go at the end."""
    answers = Answers(out, identity, surroundings)
    try:
        yield answers
    finally:
        answers.close()


def lines_of(out: Path) -> Path:
    """Where the lines of a run are kept while it runs."""
    return out if out.suffix.lower() == ".jsonl" else out.with_name(f"{out.name}.jsonl")


def config_of(out: Path) -> Path:
    """Where a run says what it depends on."""
    return out.with_name(f"{out.name}.config.json")


def check_out(out: Path) -> None:
    """Refuse what could not be written, before anything is computed. Raises ValueError."""
    if out.suffix.lower() not in KINDS:
        raise ValueError(f"--out {out}: {out.suffix or 'a name without ending'} is none of {', '.join(KINDS)}")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; name a file such as {out / 'answers.jsonl'}")
    for file in (out, lines_of(out)):
        if file.exists() and not config_of(out).exists():
            raise ValueError(f"{file} is there already, and not from a run with --out {out}; name another file")
    if out.suffix.lower() == ".parquet":
        need_pyarrow(out)


def _write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    pyarrow = need_pyarrow(file)
    from pyarrow import parquet

    kinds = {"image_tokens": pyarrow.int64(), "kept": pyarrow.int64(), "held": pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema=schema), file)


__all__ = ["COLUMNS", "KINDS", "Answers", "check_out", "config_of", "lines_of", "opened"]
