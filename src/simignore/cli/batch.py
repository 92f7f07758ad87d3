"""``simignore batch``: answers or captions for a folder of images, a CSV or a Parquet file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simignore.cli.benchmarks import progress
from simignore.cli.errors import Debug, complain, readable
from simignore.cli.evaluate import read_method
from simignore.cli.options import read_given, read_keep

if TYPE_CHECKING:
    from simignore.evaluate.benchmark import Item
    from simignore.evaluate.table import Table
    from simignore.methods import Method

EXAMPLES = 'Example: simignore batch photos/ --question "What colour is the bus?" --keep 0.25 --out answers.csv'

_ask = partial(typer.Option, rich_help_panel="Questions")
_method = partial(typer.Option, rich_help_panel="Method")
_run = partial(typer.Option, rich_help_panel="Model and run")


@readable
def batch(
    table: Annotated[
        Path, typer.Argument(help="Folder of images, or a .csv or .parquet with columns image, question, id, options.")
    ],
    question: Annotated[str | None, _ask(help="Asked about each image that has no question of its own.")] = None,
    caption: Annotated[bool, _ask("--caption", help='Ask for captions: --question "Describe the image."')] = False,
    answer_as: Annotated[str | None, _ask(help="Answer rows with options by letter (default) or text.")] = None,
    method: Annotated[
        str | None, _method(help="One of `simignore list`, or `full` for all tokens; default: simignore.")
    ] = None,
    keep: Annotated[
        str | None, _method(help="How many image tokens: 64, a fraction (0.25, 25%), or a rule; 1.0 keeps all.")
    ] = None,
    set_: Annotated[
        list[str] | None, _method("--set", metavar="NAME=VALUE", help="Any other option of the method; repeatable.")
    ] = None,
    out: Annotated[
        Path, _run(help="Where answers go: .jsonl, .csv or .parquet. The same command goes on there.")
    ] = Path("answers.jsonl"),
    model: Annotated[str | None, _run(help="Folder or Hugging Face name; default: the bundled model.")] = None,
    max_new_tokens: Annotated[int, _run(min=1, help="Longest answer, in tokens.")] = 64,
    batch_size: Annotated[int, _run(min=1, help="Rows that are asked at once.")] = 16,
    device: Annotated[str, _run(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, _run(help="auto, float32, bfloat16 or float16.")] = "auto",
    ray: Annotated[
        str | None, _run(metavar="ADDRESS", help='Over Ray: "local", or "auto" or host:port of a cluster.')
    ] = None,
    workers: Annotated[int | None, _run(min=1, help="Of Ray; default: as many as there is room for.")] = None,
    debug: Debug = False,
) -> None:
    """Ask about every image of a folder, or every row of a table, and write the answers to a file as they come.

    A row whose image cannot be read gets an "error" instead of an "answer", and the exit code is 1 then. The same command
    after a stop goes on where it was.
    """
    if caption and question is not None:
        raise ValueError("--caption asks a question of its own; leave out --question or --caption")
    if workers is not None and ray is None:
        raise ValueError(f"--workers {workers} is for Ray; add --ray local, or leave it out")
    given = read_given({"keep": None if keep is None else read_keep(keep)}, set_)
    chosen = read_method(method, None, given)
    # what is wrong with the table or the file for answers is told before a large model is loaded
    from simignore.evaluate.answers import check_out
    from simignore.evaluate.table import CAPTION, Table

    check_out(out)
    asked = CAPTION if caption else question
    rows = Table(table.resolve(), question=asked, answer_as=answer_as, max_new_tokens=max_new_tokens)  # type: ignore[arg-type]
    items = rows.items()
    from simignore.cli.models import BUNDLED, Loader, head_of

    with progress("answering", len(items), quiet=False) as tick:
        settings = {"batch": batch_size, "name": model or BUNDLED, "tick": tick}
        if ray is not None:
            settings |= {"address": ray, "workers": workers}
        _conclude(_answered(Loader(model, device, dtype, head_of(chosen)), rows, chosen, items, out, settings), out)


def _answered(
    load: Callable[[], Any], table: Table, method: Method | None, items: list[Item], out: Path, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """All rows of the answers, from this process or over Ray."""
    from simignore.evaluate.batch import answer_table, answer_table_on_ray

    if "address" in settings:
        return answer_table_on_ray(load, table, method, items, out, **settings)  # type: ignore[arg-type]
    loaded, processor = load()
    return answer_table(loaded, processor, table, method, items, out, **settings)


def _conclude(rows: list[dict[str, Any]], out: Path) -> None:
    """Say how it went; exit code 1 if a row has no answer."""
    errors = [row for row in rows if "error" in row]
    typer.echo(f"{len(rows) - len(errors)} answers in {out}")
    if errors:
        complain(f"{len(errors)} of {len(rows)} rows have none, such as {errors[0]['id']}: {errors[0]['error']}")
        raise typer.Exit(1)
