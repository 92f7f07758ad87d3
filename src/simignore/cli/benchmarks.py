"""What ``evaluate``, ``compare`` and ``score`` share: from what was typed to a benchmark, and a bar while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simignore.cli.options import read_settings

if TYPE_CHECKING:
    from simignore.evaluate import Benchmark, Item
    from simignore.prompt import Prompt

_questions = partial(typer.Option, rich_help_panel="Questions")

Name = Annotated[str, typer.Argument(metavar="BENCHMARK", help="One of `simignore list benchmarks`.")]
Data = Annotated[Path | None, _questions(help="File or folder with the questions, in the benchmark's own layout.")]
Images = Annotated[Path | None, _questions(help="Folder with the images; default: beside the questions.")]
Settings = Annotated[
    list[str] | None,
    _questions("--with", metavar="NAME=VALUE", help="A setting of the benchmark (subset=all); repeatable."),
]
Limit = Annotated[int | None, _questions(min=1, help="Ask only so many of the questions, drawn with --seed.")]
Seed = Annotated[int, _questions(min=0, help="Of what is drawn at random; scenes are fresh for each.")]


def make_benchmark(
    name: str, data: Path | None, images: Path | None, seed: int, settings: Sequence[str] | None
) -> Benchmark:
    """A benchmark by name. Raises KeyError for an unknown one, ValueError for settings that it does not have."""
    from simignore.evaluate import BENCHMARKS

    if name not in BENCHMARKS:
        raise KeyError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    kind, given = BENCHMARKS[name], read_settings(settings or [], "--with")
    known = [field.name for field in fields(kind) if field.init and field.name not in ("data", "images", "seed")]
    if strange := [setting for setting in given if setting not in known]:
        raise ValueError(f"benchmark {name!r} has no setting {', '.join(strange)}; it has {', '.join(known) or 'none'}")
    try:
        return kind(data=data, images=images, seed=seed, **given)
    except TypeError as error:
        raise ValueError(f"benchmark {name!r}: {error}") from error


def first_prompt(processor: Any, benchmark: Benchmark, items: Sequence[Item]) -> Prompt | None:
    """The prompt of the first question with an image: the one whose cost is measured."""
    from simignore.evaluate.pictures import opened
    from simignore.prompt import build

    item = next((item for item in items if item.images), None)
    if item is None:
        return None
    return build(processor, [opened(image, benchmark.square) for image in item.images], **benchmark.words(item))


@contextmanager
def progress(what: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; called with how many more are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)
