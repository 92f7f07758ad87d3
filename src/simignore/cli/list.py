"""``simignore list``: the methods, presets, model families and benchmarks that there are."""

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
    what: Annotated[
        str | None, typer.Argument(help="methods, presets, families or benchmarks.", show_default="all")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    debug: Debug = False,
) -> None:
    """Show the methods, presets, model families and benchmarks that there are."""
    if what is not None and what not in LISTS:
        raise ValueError(f"cannot list {what!r}; there are {', '.join(LISTS)}")
    found = {name: rows() for name, rows in LISTS.items() if what in (None, name)}
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for name, rows in found.items():
        _print(name, rows)


def methods() -> list[dict[str, Any]]:
    """Each method with the first sentence of its docstring, its source, where it cuts, whether it reads the text and the vision
    tower, whether it merges, and its options."""
    from simignore.methods import METHODS

    return [
        {
            "name": name,
            "what": _first_sentence(kind),
            "source": kind.source,
            "cuts": _site(kind(keep=0.5)),
            "reads": _reads(kind(keep=0.5)),
            "text_guided": not {"text", "question", "attention"}.isdisjoint(kind.needs),
            "merges": kind.merges,
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

    return [{"name": name, "method": str(method)} for name, method in PRESETS.items()]


def families() -> list[dict[str, Any]]:
    """Model families by the type that their config names."""
    from simignore.families import FAMILIES

    return [{"model_type": f.model_type, "title": f.title, "source": f.source} for f in FAMILIES.values()]


def benchmarks() -> list[dict[str, Any]]:
    """Each benchmark with its source, the files that it reads, the figure that papers quote, and its settings (``--with``)."""
    from simignore.evaluate import BENCHMARKS

    common = ("data", "images", "seed")
    return [
        {
            "name": name,
            "title": kind.title,
            "source": kind.source,
            "reads": kind.layout,
            "main": kind.main,
            "settings": ", ".join(f"{f.name}={f.default}" for f in fields(kind) if f.name not in common),
        }
        for name, kind in BENCHMARKS.items()
    ]


LISTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "methods": methods,
    "presets": presets,
    "families": families,
    "benchmarks": benchmarks,
}


def _first_sentence(kind: type) -> str:
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
    sentence, dot, _ = text.partition(". ")
    return f"{sentence}." if dot else text


def _site(method: Any) -> str:
    sites = [cut.site for cut in method.cuts()]
    if sites == ["projector"]:
        return "before the decoder"
    layers = [f"{site[1]:.0%} of its depth" if isinstance(site[1], float) else str(site[1]) for site in sites]
    return f"in the decoder, {'at' if '%' in layers[0] else 'before layer'} {', '.join(layers)}"


def _reads(method: Any) -> str:
    """What it is told by."""
    names = {
        "visual": "image tokens",
        "hidden": "image tokens",
        "text": "text",
        "question": "text",
        "words": "text",
        "attention": "decoder attention",
    }
    told = [names[need] for cut in method.cuts() for need in cut.needs]
    told += ["vision tower" for cut in method.cuts() if cut.looks]
    return ", ".join(dict.fromkeys(told))


def _facts(row: dict[str, Any]) -> str:
    told = [row["cuts"], f"told by {row['reads']}"] if row["reads"] else [row["cuts"]]
    told += ["text-guided" if row["text_guided"] else "not text-guided", *(["merges"] if row["merges"] else [])]
    return f"{row['source']}: {'; '.join(told)}\n{', '.join(row['options'])}"


def _print(name: str, rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=name, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    if name == "benchmarks":
        table.add_column("name", no_wrap=True)
        table.add_column("what it reads, and its settings", overflow="fold")
        for row in rows:
            told = f"\nreads {row['reads']}\nmain figure: {row['main']}; settings: {row['settings']}"
            table.add_row(row["name"], Text.assemble(f"{row['title']} ({row['source']})", (told, "dim")))
    elif name == "methods":
        table.add_column("name", no_wrap=True)
        table.add_column("rule, source and options")
        for row in rows:
            table.add_row(row["name"], Text.assemble(row["what"], ("\n" + _facts(row), "dim")))
    else:
        for column in rows[0]:
            table.add_column(column.replace("_", " "), no_wrap=column in ("name", "model_type"))
        for row in rows:
            table.add_row(*(Text(cell or "-") for cell in row.values()))
    Console().print(table)
