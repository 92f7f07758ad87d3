"""Answers for a table of images and questions, batch by batch, in this process or over Ray; a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from simignore.evaluate.answering import Answerer, Batch
from simignore.evaluate.answers import opened
from simignore.evaluate.benchmark import Item
from simignore.evaluate.harness import Facts, batches
from simignore.evaluate.identity import about, identified
from simignore.evaluate.ray import Load, connected, look, spread
from simignore.evaluate.table import Table
from simignore.methods import Method
from simignore.prompt import open_image
from simignore.surroundings import surroundings

Row = dict[str, Any]
Part = Sequence[Item]


@dataclass(frozen=True)
class Prepared:
    """Rows of the table that go through the model at once. part: all of them. items: those whose image could be read, which
    ``batch`` holds. errors: why the others could not, by id."""

    part: Part
    items: list[Item]
    batch: Batch | None
    errors: dict[str, str]


class Asker:
    """Answers batches of a table's rows: the same in one process and in each worker of a cluster."""

    def __init__(self, table: Table, method: Method | None, model: Any, processor: Any) -> None:
        self.answerer, self.method = Answerer(model, processor, table), method

    def __call__(self, part: Part) -> list[Row]:
        return self.answer(self.ready(part))

    def ready(self, part: Part) -> Prepared:
        """Open the images. One that cannot be read is left out, and the others go on without it."""
        items, errors = [], {}
        for item in part:
            try:
                pictures = [open_image(image) for image in item.images]
            except ValueError as error:
                errors[item.id] = str(error)
            else:
                items.append(replace(item, images=tuple(partial(_itself, picture) for picture in pictures)))
        if not items:
            return Prepared(part, [], None, errors)
        try:
            return Prepared(part, items, self.answerer.ready(items), errors)
        except ValueError:
            refused = self._refused(items)
            if not refused or (len(items) > 1 and len(refused) == len(items) and len(set(refused.values())) == 1):
                raise  # it is not about one row
        rest = [item for item in items if item.id not in refused]
        return Prepared(part, rest, self.answerer.ready(rest) if rest else None, errors | refused)

    def _refused(self, items: Part) -> dict[str, str]:
        """Why the processor refuses some rows, by id: an image too narrow for it, say."""
        found = {}
        for item in items:
            try:
                self.answerer.ready([item])
            except ValueError as error:
                found[item.id] = str(error)
        return found

    def answer(self, prepared: Prepared) -> list[Row]:
        """A row for each row of the table, in its order: an answer, or the reason why there is none."""
        told = self.answerer.answer(prepared.batch, self.method) if prepared.batch else []
        rows: dict[str, Row] = {name: {"error": error} for name, error in prepared.errors.items()}
        for item, one in zip(prepared.items, told, strict=True):
            facts = {"answer": one.text, "image_tokens": one.image_tokens, "kept": one.kept, "held": one.held}
            rows[item.id] = {name: value for name, value in facts.items() if value is not None}
        return [
            {"id": item.id, "image": item.cluster, "question": item.question, **rows[item.id]} for item in prepared.part
        ]


def answer_table(
    model: Any,
    processor: Any,
    table: Table,
    method: Method | None,
    items: Sequence[Item],
    out: Path,
    *,
    batch: int = 16,
    name: str = "",
    tick: Callable[[int], None] = lambda count: None,
) -> list[Row]:
    """Answer the rows of a table and write them to ``out`` (.jsonl, .csv or .parquet). Rows that are there are not asked again.

    items: what ``table.items()`` gave. batch: rows at once. name: of the model, for the record. tick: told how many more rows
    are answered.
    Raises ValueError for a file of another run, and what the method refuses.
    """
    asker = Asker(table, method, model, processor)

    def answered(parts: list[Part]) -> Iterator[list[Row]]:
        return map(asker.answer, batches(asker.ready, parts))

    return _written(
        Facts(about(model, name, processor), surroundings(model)), table, method, items, out, batch, tick, answered
    )


def answer_table_on_ray(
    load: Load,
    table: Table,
    method: Method | None,
    items: Sequence[Item],
    out: Path,
    *,
    batch: int = 16,
    name: str = "",
    address: str = "local",
    workers: int | None = None,
    tick: Callable[[int], None] = lambda count: None,
) -> list[Row]:
    """The same over Ray, see :func:`simignore.evaluate.ray.sweep_on_ray`; images have to be at the same path everywhere."""
    with connected(address):
        facts = look(load, name)

        def answered(parts: list[Part]) -> Iterator[list[Row]]:
            return spread(load, partial(Asker, table, method), parts, facts, name=name, workers=workers)

        return _written(facts, table, method, items, out, batch, tick, answered)


def _written(
    facts: Facts,
    table: Table,
    method: Method | None,
    items: Sequence[Item],
    out: Path,
    batch: int,
    tick: Callable[[int], None],
    answered: Callable[[list[Part]], Iterator[list[Row]]],
) -> list[Row]:
    """All rows, those that were there before among them, each written as soon as it is answered."""
    if batch < 1:
        raise ValueError(f"batch {batch}: at least 1 question has to be asked at once")
    with opened(out, identified(facts.about, table, method, items, batch), facts.surroundings) as answers:
        rows = answers.answered([item.id for item in items], batch)
        tick(len(rows))
        for new in answered([items[start : start + batch] for start in range(len(rows), len(items), batch)]):
            answers.add(new)
            rows += new
            tick(len(new))
        answers.finish(rows)
        return rows


def _itself(picture: Any) -> Any:
    return picture


__all__ = ["Asker", "answer_table", "answer_table_on_ray"]
