"""``simignore report``: runs and comparisons as one page to look at, and plots."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simignore.cli.errors import Debug, readable

if TYPE_CHECKING:
    from simignore.evaluate.gather import Section

EXAMPLES = "Example: simignore report runs/all --out report"


@readable
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="What `evaluate` or `compare` wrote (--out).")
    ],
    out: Annotated[Path, typer.Option(help="Folder for report.html and the plots.")] = Path("report"),
    debug: Debug = False,
) -> None:
    """Make an HTML page of runs and comparisons, with plots: accuracy against tokens, against prefill time, and by question."""
    from simignore.evaluate.gather import gather

    sections = gather(folders)
    try:
        import matplotlib as _  # noqa: F401
    except ImportError:
        raise ValueError("the plots need matplotlib: pip install 'simignore[viz]'") from None
    from simignore.figures.page import page, section

    if out.is_file():
        raise ValueError(f"--out {out} is a file; name a folder")
    out.mkdir(parents=True, exist_ok=True)
    told, files = [], []
    for number, one in enumerate(sections, start=1):
        pictures = []
        for name, words, figure in _figures(one):
            data = io.BytesIO()
            figure.savefig(data, format="png", metadata={"Software": None})
            files.append(out / (f"{name}.png" if len(sections) == 1 else f"{number}-{name}.png"))
            files[-1].write_bytes(data.getvalue())
            pictures.append((words, data.getvalue()))
        told.append(section(one.title, one.rows, one.facts, pictures))
    (out / "report.html").write_text(page("What dropping image tokens costs and saves", told), encoding="utf-8")
    for file in (out / "report.html", *files):
        typer.echo(str(file))


def _figures(section: Section) -> Iterator[tuple[str, str, Any]]:
    """(file name, caption, figure) of what can be drawn of these rows."""
    from simignore.figures import by_group, by_prefill, by_tokens

    rows = section.rows
    budgets = sorted({row["keep"] for row in rows if row["keep"] is not None})
    if any("kept" in row for row in rows):
        yield (
            "accuracy-tokens",
            "Accuracy against the image tokens that are kept; bars: 95 % intervals.",
            by_tokens(rows, section.title),
        )
    if any("cost" in row and row["method"] != "full" for row in rows):
        words = "Accuracy against prefill time, as a share of that with all image tokens measured in the same run."
        yield "accuracy-prefill", words, by_prefill(rows, section.title)
    for kind in dict.fromkeys(kind for row in rows for kind in row.get("groups", {})):
        for keep in budgets or [None]:
            words = f"Accuracy by {kind}" + ("." if keep is None else f", keep {keep:g}.")
            name = f"accuracy-{kind.replace(' ', '-')}" + ("" if keep is None else f"-{keep:g}")
            yield name, words, by_group(rows, kind, keep, section.title)
