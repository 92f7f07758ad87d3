"""The command line: one file per command; heavy imports inside the commands."""

from __future__ import annotations

from typing import Annotated

import typer

from simignore import __version__
from simignore.cli import (
    ask,
    batch,
    compare,
    convert,
    doctor,
    evaluate,
    explain,
    flow_stats,
    list,
    report,
    score,
    train,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("ask", epilog=ask.EXAMPLES)(ask.ask)
app.command("explain", epilog=explain.EXAMPLES)(explain.explain)
app.command("flow-stats", epilog=flow_stats.EXAMPLES)(flow_stats.flow_stats)
app.command("list", epilog=list.EXAMPLES)(list.list_)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("evaluate", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command("compare", epilog=compare.EXAMPLES)(compare.compare)
app.command("score", epilog=score.EXAMPLES)(score.score)
app.command("report", epilog=report.EXAMPLES)(report.report)
app.command("batch", epilog=batch.EXAMPLES)(batch.batch)
app.command("train", epilog=train.EXAMPLES)(train.train)
app.command("convert", epilog=convert.EXAMPLES)(convert.convert)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"simignore {__version__}")
        raise typer.Exit


@app.callback(epilog='Example: simignore ask photo.jpg "What colour is the bus?" --keep 0.25 --out kept.png')
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Ask a vision-language model with fewer image tokens: keep those the question is about, see what was dropped."""


__all__ = ["app"]
