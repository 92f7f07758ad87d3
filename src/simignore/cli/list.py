"""``simignore list``: the methods, presets and model families that there are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

from simignore.cli.errors import Debug, readable

EXAMPLES = "Example: simignore list methods"


@readable
def list_(
    what: Annotated[str | None, typer.Argument(help="methods, presets or families.", show_default="all three")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Show the methods, presets and model families that there are."""
    if what is not None and what not in LISTS:
        raise ValueError(f"cannot list {what!r}; there are {', '.join(LISTS)}")
    found = {name: rows() for name, rows in LISTS.items() if what in (None, name)}
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for name, rows in found.items():
        _print(name, rows)


def methods() -> list[dict[str, Any]]:
    """Each method with the first sentence of its docstring, where it cuts, what it reads, and its options."""
    from simignore.methods import METHODS

    return [
        {
            "name": name,
            "what": _first_sentence(kind),
            "cuts": _site(kind(keep=0.5)),
            "needs": list(kind.needs),
            "options": [
                field.name if field.default in (MISSING, None) else f"{field.name}={field.default}"
                for field in fields(kind)
                if field.init
            ],
        }
        for name, kind in METHODS.items()
    ]


def presets() -> list[dict[str, Any]]:
    """Published settings by name."""
    from simignore.methods import PRESETS

    return [{"name": name, "method": repr(method)} for name, method in PRESETS.items()]


def families() -> list[dict[str, Any]]:
    """Model families by the type that their config names."""
    from simignore.families import FAMILIES

    return [{"model_type": f.model_type, "title": f.title, "source": f.source} for f in FAMILIES.values()]


LISTS: dict[str, Callable[[], list[dict[str, Any]]]] = {"methods": methods, "presets": presets, "families": families}


def _first_sentence(kind: type) -> str:
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
    sentence, dot, _ = text.partition(". ")
    return f"{sentence}." if dot else text


def _site(method: Any) -> str:
    site = method.site
    if site == "projector":
        return "before the decoder"
    return f"before layer {site[1]}" + (" (--layer)" if hasattr(method, "layer") else "")


def _print(name: str, rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=name, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    columns = [column for column in rows[0] if column != "options"]
    for column in columns:
        table.add_column(column.replace("_", " "), no_wrap=column in ("name", "model_type"))
    for row in rows:
        cells = [", ".join(row[column]) if isinstance(row[column], list) else row[column] for column in columns]
        if "options" in row:
            cells[1] = Text.assemble(cells[1], (f"\n{', '.join(row['options'])}", "dim"))
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell or "-") for cell in cells))
    Console().print(table)
