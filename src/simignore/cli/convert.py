"""``simignore convert``: an original LLaVA or Mipha checkpoint -> a folder that transformers and simignore load."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simignore.cli.errors import Debug, complain, readable

if TYPE_CHECKING:
    from simignore.convert import MappingError, Report

EXAMPLES = "Example: simignore convert llava-v1.5-7b llava-converted --vision-tower clip-vit-large-patch14-336"


@readable
def convert(
    source: Annotated[Path, typer.Argument(help="Folder of the original checkpoint, as it was downloaded.")],
    target: Annotated[Path, typer.Argument(help="New folder to write.")],
    vision_tower: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The CLIP or SigLIP checkpoint that the original names, where it does not hold it."
        ),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float16, bfloat16 or float32; default: as the original's config says.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Convert an original LLaVA-1.5, Mipha or LLaVA-Phi checkpoint to the layout that transformers loads.

    Every tensor is accounted for; if one is missing, left over or misshapen, all are listed and nothing is written.
    Nothing is fetched from the network.
    """
    from simignore.cli.ask import waiting

    with waiting("loading", quiet=as_json):
        from simignore.convert import MappingError
        from simignore.convert import convert as write
    try:
        with waiting("converting", quiet=as_json):
            report = write(source, target, vision_tower=vision_tower, dtype=dtype)
    except MappingError as error:
        if debug:
            raise
        _explain(error)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False))
    else:
        _show(report)


def _explain(error: MappingError) -> None:
    """The whole list on stderr, then the one line that sums it up."""
    for problem in error.problems:
        typer.echo(str(problem), err=True)
    complain(error.summary)


def _show(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from simignore.cli.table import size

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("", "tensors", ""):
        table.add_column(heading, justify="right" if heading else "left", overflow="fold")
    for part, count in report.mapped.items():
        cut = f"{report.fused} of the original's were cut into query, key and value"
        table.add_row(f"mapped: {part}", str(count), cut if report.fused and part == "language model" else "")
    if report.folded:
        table.add_row("folded", str(report.folded), "the bias of the head, into head and final norm")
    for why, count in report.dropped.items():
        table.add_row("dropped", str(count), Text(why))
    if not report.dropped:
        table.add_row("dropped", "0", "")
    console = Console()
    console.print(Text.assemble(("Layout  ", "dim"), report.layout))
    console.print(table)
    before, after = report.rows
    tokens = ", ".join(f"{token} (id {number})" for token, number in report.tokens.items()) or "nothing"
    rows = f"now {after}, each new one the mean of the others" if after > before else "enough for them"
    console.print(Text(f"Added to the tokenizer: {tokens}. Vocabulary: {before} rows, {rows}.", style="dim"))
    for note in report.notes:
        console.print(Text(f"Note: {note}.", style="dim"))
    console.print(
        Text(f"Written: {report.target}, {size(report.size)} in {report.dtype}", style="bold"), soft_wrap=True
    )
    console.print(Text(f'Next: simignore ask photo.jpg "What is this?" --model {report.target}'), soft_wrap=True)
