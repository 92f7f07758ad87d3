"""How measured accuracies read on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from simignore.cli.table import duration, size

if TYPE_CHECKING:
    from simignore.evaluate import Benchmark


def percent(share: Mapping[str, Any]) -> str:
    """``72.1 (70.1-74.0)``."""
    return f"{share['accuracy'] * 100:.2f} % (95 % interval {share['low'] * 100:.1f} to {share['high'] * 100:.1f})"


def plain() -> Console:
    """A console that prints names and paths as they are, whatever brackets they hold."""
    return Console(markup=False, highlight=False)


def show_score(benchmark: Benchmark, found: Mapping[str, Any]) -> None:
    """Accuracy, counts and groups of a file of answers."""
    console = plain()
    _head(console, benchmark, found)
    if "against" in found:
        other = found["against"]
        console.print(
            f"{other['answers']}: {other['accuracy'] * 100:.2f} %. Difference on the same {other['questions']} questions: "
            f"{_points(other)}; only the first right {other['only_these']}, only the second {other['only_those']}, "
            f"McNemar p = {other['p']:.3g}",
            soft_wrap=True,
        )


def show_run(benchmark: Benchmark, found: Mapping[str, Any], out: Path | None) -> None:
    """What ``simignore evaluate`` found."""
    console = plain()
    console.print(f"{found['model']}, {found['method'] or 'all image tokens'}", soft_wrap=True)
    _head(console, benchmark, found)
    if "kept" in found:
        held = f"held in a decoder layer, mean: {found['held']:g}"
        console.print(f"kept {found['kept']:g} of {found['image_tokens']:g} image tokens; {held}")
    if "cost" in found:
        console.print(_costs(found["cost"]))
    if out is not None:
        console.print(Text(f"Kept in {out}", style="dim"))


def _head(console: Console, benchmark: Benchmark, found: Mapping[str, Any]) -> None:
    official = found["metrics"]
    if (figure := official.get(benchmark.main)) is not None and benchmark.main != "accuracy":
        console.print(Text.assemble((benchmark.title, "bold"), f": {benchmark.main} {official_figure(figure)}"))
    console.print(
        Text.assemble(
            (benchmark.title, "bold"), f": {percent(found)}, {found['right']:g} of {found['questions']} right"
        )
    )
    if found["unreadable"]:
        console.print(
            f"answers that name nothing that was asked for, and count as wrong unless the official rule says otherwise: "
            f"{found['unreadable']}",
            soft_wrap=True,
        )
    if found.get("unanswered"):
        console.print(f"{found['unanswered']} questions have no answer and are left out")
    for name, value in official.items():
        if isinstance(value, int | float) and name != benchmark.main:
            console.print(f"  {name}: {official_figure(value)}")
    for kind, values in found["groups"].items():
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for heading in (kind, "accuracy", "95 % interval", "questions"):
            table.add_column(heading, justify="left" if heading == kind else "right")
        for value, own in values.items():
            ends = f"{own['low'] * 100:.1f} to {own['high'] * 100:.1f}"
            table.add_row(str(value), f"{own['accuracy'] * 100:.1f} %", ends, str(own["questions"]))
        console.print(table)


def official_figure(value: float) -> str:
    """Fractions as percent, sums of points as they are."""
    return f"{value * 100:.2f} %" if 0 <= value <= 1 else f"{value:.4g}"


def _costs(costs: Mapping[str, Any]) -> Table:
    """All image tokens beside the method, phase by phase."""
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
        header_style="dim",
        caption="one prompt; times are medians of runs taken in turn; prefill includes the vision tower and choosing",
    )
    for heading in ("", "prefill", "choosing", "a decoding step", "KV cache", "prefill FLOPs"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one in costs.items():
        table.add_row(
            "all image tokens" if name == "full" else "with the method",
            duration(one["prefill_seconds"]["median"]),
            duration(one["selection_seconds"]["median"]) if one["selection_seconds"]["median"] else "",
            duration(one["decode_seconds"]["median"]),
            size(one["kv_bytes"]),
            f"{one['prefill_flops'] / 1e9:.3g} G",
        )
    return table


def show_comparison(benchmark: Benchmark, found: Mapping[str, Any], out: Path | None) -> None:
    """The tables of ``simignore compare``: accuracy at equal tokens and at equal cost, then what each costs."""
    console = plain()
    rows: Sequence[Mapping[str, Any]] = found["rows"]
    for at, title in (("tokens", "At equal tokens"), ("cost", "At the prefill cost of dropping before the decoder")):
        if some := [row for row in rows if row["at"] == at]:
            console.print(
                _accuracies(some, f"{title}: {benchmark.title}, {rows[0]['questions']} questions", found["main"])
            )
    for row in rows:
        if "impossible" in row:
            console.print(f"{row['method']} at the cost of {_budget(row)}: {row['impossible']}", soft_wrap=True)
    console.print(
        Text(
            "Points, with 95 % intervals; of differences by paired bootstrap over the same questions, against random at the "
            "same budget. kept: image tokens. held: of them in a decoder layer, mean.",
            style="dim",
        )
    )
    if any("cost" in row for row in rows):
        console.print(_ratios([row for row in rows if "cost" in row]))
        console.print(
            Text(
                "Of one prompt, beside the same with all image tokens. Prefill includes tower and choosing.",
                style="dim",
            )
        )
    if out is not None:
        console.print(Text(f"Kept in {out}; draw it: simignore report {out}", style="dim"))


def _accuracies(rows: Sequence[Mapping[str, Any]], title: str, main: str) -> Table:
    """One line per row; the benchmark's main figure stands beside the accuracy where it is another."""
    table = _plain(title)
    own = main if main != "accuracy" and any(main in row.get("metrics", {}) for row in rows) else None
    headings = [
        "budget",
        "kept",
        "held",
        *([own] if own else []),
        "accuracy",
        "against random",
        "better?",
        "against full",
    ]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=not heading.startswith("against"))
    for row in rows:
        budget, kept, held, *rest = _cells(row)
        figure = [official_figure(row["metrics"][own]) if own in row.get("metrics", {}) else ""] if own else []
        table.add_row(row["method"], budget, kept, held, *figure, *rest)
    return table


def _budget(row: Mapping[str, Any]) -> str:
    return "all" if row["keep"] is None else f"{row['keep']:g}"


def _ratios(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Every phase apart: time of the prefill, its FLOPs, choosing, a decoding step, and the cache."""
    table = _plain("What they cost, of what all image tokens cost")
    for heading in ("kept", "prefill time", "prefill FLOPs", "choosing", "decoding step", "KV cache"):
        table.add_column(heading, justify="right", no_wrap=True)
    full = rows[0]["cost"]
    for row in rows:
        own, ratios = row["cost"], row["cost"]["of_full"]
        whole = full["decode_seconds"]["median"]  # 0 where one token was all that was decoded
        step = f"{own['decode_seconds']['median'] / whole:.2f}" if whole else ""
        choosing = own["selection_seconds"]["median"]
        cells = [
            f"{ratios['prefill_seconds']:.2f}",
            f"{ratios['prefill_flops']:.2f}",
            duration(choosing) if choosing else "",
        ]
        table.add_row(row["method"], _number(row, "kept"), *cells, step, f"{ratios['kv_bytes']:.2f}")
    return table


def _plain(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("method", no_wrap=True)
    return table


def _cells(row: Mapping[str, Any]) -> list[str]:
    if "impossible" in row:
        return [_budget(row), "", "", "cannot"]
    better = "" if "versus_random" not in row else "yes" if row["significantly_better_than_random"] else "no"
    return [
        _budget(row),
        _number(row, "kept"),
        _number(row, "held"),
        f"{row['accuracy'] * 100:.1f} ({row['low'] * 100:.1f}-{row['high'] * 100:.1f})",
        _points(row["versus_random"]) if "versus_random" in row else "",
        better,
        _points(row["versus_full"]) if "versus_full" in row else "",
    ]


def _number(row: Mapping[str, Any], name: str) -> str:
    return f"{row[name]:.4g}" if name in row else "all"


def _points(difference: Mapping[str, Any]) -> str:
    low, high = difference["low"] * 100, difference["high"] * 100
    return f"{difference['difference'] * 100:+.1f} ({low:+.1f}\N{NO-BREAK SPACE}{high:+.1f})"
