"""Tables of rows: the same questions answered under one method after another, by the bundled model or another."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from simignore.evaluate import paired, share, sweep
from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.folder import PREDICTIONS, read_jsonl
from simignore.methods import Method, Random
from simignore.tiny.questions import KINDS

SEEDS = (0, 1, 2)
CHANCE = f"Random, {len(SEEDS)} seeds"
console = Console(width=200)


@dataclass(frozen=True)
class Row:
    """One line of the table: a method (None: all image tokens), its share of tokens, and its name without either."""

    label: str
    keep: float
    method: Method | None = None

    @property
    def key(self) -> str:
        """The name of its run folder."""
        seed = f"-{self.method.seed}" if isinstance(self.method, Random) and self.method.layer is None else ""
        words = "".join(c if c.isalnum() else "-" for c in f"{self.label} {self.keep:g}{seed}".lower())
        return "-".join(part for part in words.split("-") if part)


def ask(
    model: Any,
    processor: Any,
    benchmark: Benchmark,
    compared: Sequence[Row],
    items: Sequence[Item],
    batch: int,
    runs: Path,
) -> None:
    """Answer the questions under every row's method, each row in a folder of its own in ``runs``, with a bar of progress."""
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("answers", total=len(compared) * len(items))
        sweep(
            model,
            processor,
            benchmark,
            {row.key: row.method for row in compared},
            items,
            batch=batch,
            folders={row.key: runs / row.key for row in compared},
            tick=lambda count: progress.advance(bar, count),
        )


def collected(
    runs: Path, compared: Sequence[Row], known: Mapping[str, Known] = MappingProxyType({}), first: str | None = None
) -> list[dict[str, Any]]:
    """The rows that have begun, on the questions that all of them have answered.

    known: what was answered before, by the rows' keys; first: the id of the question after those. Raises ValueError if there
    are none, if a row has begun that is not known as far as the others, or if the answers are to questions that are known."""
    begun = {row: _lines(runs / row.key) for row in compared if (runs / row.key / PREDICTIONS).exists()}
    if not begun:
        raise ValueError(f"{runs} holds no run of these rows")
    if known and (strange := [row.key for row in begun if row.key not in known]):
        raise ValueError(
            f"{', '.join(strange)} cannot grow: the rows before hold no such row; measure it from the beginning"
        )
    before = known[next(iter(begun)).key].count if known else 0
    if first is not None and any(told and told[0]["id"] != first for told in begun.values()):
        raise ValueError(f"{runs} does not begin with question {first!r}; with --grow name a new folder")
    count = min(map(len, begun.values())) // len(KINDS) * len(KINDS)
    if not count:
        raise ValueError(f"in {runs} some row has answered no {len(KINDS)} questions yet")
    lines = {row: told[:count] for row, told in begun.items()}
    scores = {
        row: [*(known[row.key].scores if known else ()), *(line["score"] for line in told)]
        for row, told in lines.items()
    }
    held = {row: _held(known.get(row.key), told, before) for row, told in lines.items()}
    chance = {
        keep: np.mean([scores[row] for row in scores if row.keep == keep and row.label == CHANCE], axis=0).tolist()
        for keep in {row.keep for row in scores if row.label == CHANCE}
    }
    return [_measured(row, scores[row], held[row], chance.get(row.keep)) for row in lines]


@dataclass(frozen=True)
class Known:
    """What a row of an older file says: its scores in the order of the questions, and image tokens held, mean."""

    scores: list[float]
    held: float | None

    @property
    def count(self) -> int:
        return len(self.scores)


def known_rows(result: Mapping[str, Any], compared: Sequence[Row]) -> dict[str, Known]:
    """The rows of an older file, by their keys. Raises ValueError if they have answered different questions."""
    by_name = {(repr(row.method) if row.method else "None"): row for row in compared}
    rows = {by_name[told["method"]].key: told for told in result["rows"] if told["method"] in by_name}
    if len({told["questions"] for told in rows.values()}) != 1 or any("hits" not in told for told in rows.values()):
        raise ValueError(
            "the rows of this file have not answered the same questions, or do not say which; measure it anew"
        )
    return {key: Known(unpacked(told["hits"], told["questions"]), told["held"]) for key, told in rows.items()}


def unpacked(hits: str, count: int) -> list[float]:
    """Which questions a row has right, from its ``hits``."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(hits), np.uint8))[:count]
    return bits.astype(float).tolist()  # type: ignore[no-any-return]


def _held(known: Known | None, lines: Sequence[Mapping[str, Any]], before: int) -> float | None:
    own = [line["held"] for line in lines if "held" in line]
    if not own:
        return None
    old = 0.0 if known is None or known.held is None else known.held * before
    return round((old + sum(own)) / (before + len(own)), 2)


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [line for _, line in read_jsonl(folder / PREDICTIONS)]


def _measured(row: Row, scores: Sequence[float], held: float | None, chance: Sequence[float] | None) -> dict[str, Any]:
    """One row's right answers, per kind and in all, with intervals, and its difference to chance on the same questions."""
    kinds = {
        kind: {"right": int(sum(scores[n :: len(KINDS)])), "asked": len(scores[n :: len(KINDS)])}
        for n, kind in enumerate(KINDS)
    }
    whole = share(scores)
    return {
        "method": repr(row.method) if row.method else "None",
        "label": row.label,
        "keep": row.keep,
        "form": "text",
        "kinds": kinds,
        **{name: round(whole[name], 5) for name in ("accuracy", "low", "high")},
        "questions": len(scores),
        "held": held,
        "versus_random": None if chance is None or row.label == CHANCE else paired(scores, chance),
        "hits": base64.b64encode(np.packbits(np.asarray(scores) > 0).tobytes()).decode(),
    }


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Accuracy of every row, in all and per kind."""
    kinds = list(found[0]["kinds"])
    shown = Table(title=f"{found[0]['questions']} questions on held-out scenes; accuracy in %, Wilson's 95 % interval")
    for column in ("keep", "held", "method", "all", *(kind.replace("_", " ") for kind in kinds)):
        shown.add_column(column, justify="left" if column == "method" else "right")
    for row in found:
        overall = f"{row['accuracy'] * 100:.1f} ({row['low'] * 100:.1f}-{row['high'] * 100:.1f})"
        each = [f"{row['kinds'][kind]['right'] / row['kinds'][kind]['asked'] * 100:.0f}" for kind in kinds]
        shown.add_row(f"{row['keep']:g}", f"{row['held']:.1f}" if row["held"] else "", row["label"], overall, *each)
    return shown
