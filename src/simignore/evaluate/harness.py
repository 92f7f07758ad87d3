"""Ask a model all questions of a benchmark, with all image tokens or under a method; runs can be stopped and resumed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from simignore.evaluate.answering import Answerer, Batch, Told, looks
from simignore.evaluate.benchmark import Benchmark, Item, report
from simignore.evaluate.folder import Folder
from simignore.evaluate.identity import about, identified
from simignore.methods import Method
from simignore.surroundings import surroundings

Row = dict[str, Any]
Ready = TypeVar("Ready")  # a batch made ready


@dataclass(frozen=True)
class Result:
    """All answers of one run and what they amount to. rows: as in ``predictions.jsonl``; metrics: as in ``metrics.json``."""

    items: list[Item]
    rows: list[Row]
    metrics: dict[str, Any]

    @property
    def scores(self) -> list[float]:
        """How right each answer is, from 0 to 1, in the order of the questions."""
        return [row["score"] for row in self.rows]


def evaluate(
    model: Any,
    processor: Any,
    benchmark: Benchmark,
    method: Method | None = None,
    *,
    items: Sequence[Item] | None = None,
    limit: int | None = None,
    batch: int = 16,
    folder: Path | None = None,
    name: str = "",
    tick: Callable[[int], None] = lambda count: None,
) -> Result:
    """Answer a benchmark's questions and score them.

    items: the questions, where they were read before; limit: how many of them else. batch: questions at once. folder: where the
    run is kept and resumed from; None keeps it in memory. name: of the model, for the record. tick: told how many more
    questions are answered.
    Raises ValueError for an empty benchmark, ids that occur twice, a folder of another run, and what the method refuses.
    """
    asked = benchmark.chosen(limit) if items is None else list(items)
    folders = {} if folder is None else {"": folder}
    runs = sweep(model, processor, benchmark, {"": method}, asked, batch=batch, folders=folders, name=name, tick=tick)
    return runs[""]


def sweep(
    model: Any,
    processor: Any,
    benchmark: Benchmark,
    methods: Mapping[str, Method | None],
    items: Sequence[Item],
    *,
    batch: int = 16,
    folders: Mapping[str, Path] = MappingProxyType({}),
    name: str = "",
    tick: Callable[[int], None] = lambda count: None,
) -> dict[str, Result]:
    """Answer the same questions under several methods (None: all image tokens), batch by batch: the images of a batch are read
    and prepared once for all of them, and encoded once for those that do not look into the vision tower.

    methods: by the name of their row. folders: where rows are kept and resumed from, by the same names. Otherwise like
    :func:`evaluate`.
    """
    answerer = Answerer(model, processor, benchmark)
    facts = Facts(about(model, name, processor), surroundings(model))
    with started(facts, benchmark, methods, items, batch=batch, folders=folders, tick=tick) as runs:
        left = unanswered(runs, len(items), batch)
        parts = [items[start : start + batch] for start in left]
        for names, ready in zip(left.values(), batches(answerer.ready, parts), strict=True):
            for row_name, told, seconds in in_turn(answerer, ready, {name: methods[name] for name in names}):
                runs[row_name].add(told, seconds)
                tick(len(told))
        return {row_name: run.result() for row_name, run in runs.items()}


@dataclass(frozen=True)
class Facts:
    """What is known of a model without having it at hand: :func:`about` it, and its :func:`surroundings`."""

    about: Mapping[str, Any]
    surroundings: Mapping[str, Any]


@contextmanager
def started(
    facts: Facts,
    benchmark: Benchmark,
    methods: Mapping[str, Method | None],
    items: Sequence[Item],
    *,
    batch: int,
    folders: Mapping[str, Path],
    tick: Callable[[int], None],
) -> Iterator[dict[str, Run]]:
    """Begin or go on with one run per method, each in its folder; the folders are let go at the end, whatever happens."""
    if batch < 1:
        raise ValueError(f"batch {batch}: at least 1 question has to be asked at once")
    runs: dict[str, Run] = {}
    try:
        for name, method in methods.items():
            runs[name] = Run(facts, benchmark, method, items, batch, folders.get(name))
            tick(len(runs[name].rows))
        yield runs
    finally:
        for run in runs.values():
            run.close()


def unanswered(runs: Mapping[str, Run], count: int, batch: int) -> dict[int, list[str]]:
    """Where the batches begin that are left to answer, in order, and which runs wait for each."""
    starts = sorted({start for run in runs.values() for start in range(len(run.rows), count, batch)})
    return {start: [name for name, run in runs.items() if len(run.rows) <= start] for start in starts}


def in_turn(
    answerer: Answerer, ready: Batch, methods: Mapping[str, Method | None]
) -> Iterator[tuple[str, list[Told], float]]:
    """One batch answered under several methods: each one's name, its answers and how many seconds they took."""
    if sum(not looks(method) for method in methods.values()) > 1:
        ready = answerer.see(ready)
    for name, method in methods.items():
        began = time.perf_counter()
        told = answerer.answer(ready, method)
        yield name, told, time.perf_counter() - began


class Run:
    """One method's way through the questions."""

    def __init__(
        self,
        facts: Facts,
        benchmark: Benchmark,
        method: Method | None,
        items: Sequence[Item],
        batch: int,
        folder: Path | None,
    ) -> None:
        self.benchmark, self.items = benchmark, items
        self.folder: Folder | None = None
        self.rows: list[Row] = []
        self.seconds = 0.0
        if folder is not None:
            self.folder = Folder(folder, identified(facts.about, benchmark, method, items, batch), facts.surroundings)
            try:
                self.rows = self.folder.answered([item.id for item in items], batch)
            except BaseException:
                self.folder.close()
                raise
        self.resumed = len(self.rows)

    def add(self, told: Sequence[Told], seconds: float) -> None:
        """Take the answers to the next batch, and keep them."""
        part = self.items[len(self.rows) : len(self.rows) + len(told)]
        new = [row(self.benchmark, item, one) for item, one in zip(part, told, strict=True)]
        if self.folder:
            self.folder.add(new)
        self.rows += new
        self.seconds += seconds

    def result(self) -> Result:
        """All answers; their figures are written if they are not there."""
        figures = summary(self.benchmark, self.items, self.rows)
        if self.folder and (self.resumed < len(self.rows) or not self.folder.finished):
            answered = len(self.rows) - self.resumed
            self.folder.finish({**figures, "last_start": {"seconds": round(self.seconds, 2), "questions": answered}})
        return Result(list(self.items), self.rows, figures)

    def close(self) -> None:
        if self.folder:
            self.folder.close()


def batches(make: Callable[[Sequence[Item]], Ready], parts: Sequence[Sequence[Item]]) -> Iterator[Ready]:
    """Batch after batch; the next one's images are read while the model answers."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(make, parts[0]) if parts else None
        for following in [*parts[1:], None]:
            if coming is None:
                return
            ready = coming.result()
            coming = None if following is None else reader.submit(make, following)
            yield ready


def row(benchmark: Benchmark, item: Item, told: Told) -> Row:
    """One line of ``predictions.jsonl``."""
    found: Row = {
        "id": item.id,
        "told": told.text,
        "answer": item.answer,
        "score": benchmark.score(item, told.text),
        "groups": dict(item.groups),
        **({} if item.cluster is None else {"cluster": item.cluster}),
    }
    tokens = {"image_tokens": told.image_tokens, "kept": told.kept, "held": told.held}
    return found | {name: value for name, value in tokens.items() if value is not None}


def summary(benchmark: Benchmark, items: Sequence[Item], rows: Sequence[Row]) -> dict[str, Any]:
    """What ``metrics.json`` says, from the lines alone."""
    found = report(benchmark, items, [one["told"] for one in rows], [one["score"] for one in rows])
    for name in ("image_tokens", "kept", "held"):
        if counts := [one[name] for one in rows if name in one]:
            found[name] = round(statistics.fmean(counts), 3)
    return {"benchmark": benchmark.name, "version": benchmark.version, **found}


__all__ = [
    "Facts",
    "Result",
    "Run",
    "batches",
    "evaluate",
    "in_turn",
    "row",
    "started",
    "summary",
    "sweep",
    "unanswered",
]
