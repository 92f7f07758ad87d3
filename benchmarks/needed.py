"""Which scores find what a question needs: methods before the decoder and learned heads, against patches that are known.

    python -m benchmarks.needed --per-kind 50 --json results/needed.json

On rendered scenes each patch has an owner, and each question knows which objects it needs. Told are the area under the ROC
curve of each method's score for telling needed patches from others (0.5 is chance), and the share of the needed patches that
stay, mean over questions, and by kind. The question alone is the text. Heads are named with ``--head NAME=FOLDER``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.progress import Progress
from rich.table import Table

from benchmarks.flow import mean, needed
from benchmarks.learned import made, rows
from benchmarks.measure import save, surroundings
from benchmarks.rows import Row, console
from simignore import tiny
from simignore.answer import span_of
from simignore.evaluate import BENCHMARKS
from simignore.evaluate.answering import Answerer, Batch
from simignore.head import BUNDLED as BUNDLED_HEAD
from simignore.methods import Method, Random
from simignore.tiny.probe import auc

Array = NDArray[Any]


def chosen(answerer: Answerer, batch: Batch, method: Method) -> tuple[Array, Array]:
    """[B, N] the scores of a batch's image tokens by which a method chose (not numbers where it has none), and what stayed."""
    with torch.inference_mode(), answerer.laid(method, batch, span_of(method)) as trace:
        answerer.model(**answerer.handed(batch, method), logits_to_keep=1, use_cache=False)
    kept, score = np.asarray(trace.selections[0].kept), trace.selections[0].score
    return np.full(kept.shape, np.nan) if score is None else np.asarray(score.float()), kept


def figures(score: Array, kept: Array, truth: Array) -> tuple[float, float]:
    """Of one question: the area under the curve, and the share of what is needed that stayed; not numbers where nothing is."""
    area = float("nan") if np.isnan(score).any() else auc(score, truth)
    return area, float(kept[truth].mean()) if truth.any() else float("nan")


def measured(compared: Sequence[Row], per_kind: int, seed: int, batch: int) -> list[dict[str, Any]]:
    """Each row's figures: all questions, and by kind."""
    model, processor = tiny.load()
    benchmark = BENCHMARKS["scenes"](seed=seed, per_kind=per_kind)  # type: ignore[call-arg]
    items = benchmark.items()
    answerer, kinds = Answerer(model, processor, benchmark), [item.groups["type"] for item in items]
    found: dict[str, list[tuple[float, float]]] = {row.key: [] for row in compared}
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("questions", total=len(items))
        for start in range(0, len(items), batch):
            some = items[start : start + batch]
            truths, ready = [needed(model, item) for item in some], answerer.see(answerer.ready(some))
            for row in compared:
                assert row.method is not None  # only methods are compared
                told = zip(*chosen(answerer, ready, row.method), truths, strict=True)
                found[row.key] += [figures(*one) for one in told]
            progress.advance(bar, len(some))
    return [
        {"label": row.label, "keep": row.keep, "method": repr(row.method), **_told(found[row.key], kinds)}
        for row in compared
    ]


def _told(figured: Sequence[tuple[float, float]], kinds: Sequence[str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, values in zip(("auc", "kept"), zip(*figured, strict=True), strict=True):
        known = [None if np.isnan(value) else value for value in values]
        told[name] = mean(known)
        told[f"{name} by kind"] = {
            kind: mean([value for value, own in zip(known, kinds, strict=True) if own == kind])
            for kind in dict.fromkeys(kinds)
        }
    return told


def table(found: Sequence[dict[str, Any]]) -> Table:
    """Area and share of every row, in all and over two hops."""
    shown = Table(title=f"Needed patches: {found[0]['kept']['questions']:,} questions")
    for column in ("", "keep", "AUROC", "two hops", "needed ones kept, %", "two hops, %"):
        shown.add_column(column, justify="right" if column else "left")
    for row in found:
        cells = [
            "" if one["mean"] is None else f"{one['mean'] * scale:.{digits}f}"
            for name, scale, digits in (("auc", 1, 3), ("kept", 100, 1))
            for one in (row[name], row[f"{name} by kind"]["two_hop"])
        ]
        shown.add_row(row["label"], f"{row['keep']:g}", *cells)
    return shown


def main(
    per_kind: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Questions seen at once.")] = 56,
    seed: Annotated[int, typer.Option(min=0, max=9, help="Which part of the test split.")] = 5,
    keep: Annotated[float, typer.Option(help="The budget.")] = 0.125,
    head: Annotated[list[str] | None, typer.Option(metavar="NAME=FOLDER", help="One more head.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Measure which methods' scores find the patches that questions need, and how many of these stay."""
    torch.set_num_threads(threads)
    heads = dict(one.split("=", 1) for one in head or [])
    every = [row for row in rows([keep], heads) if row.keep == keep]
    compared = [row for row in every if not isinstance(row.method, Random) or row.method.seed == 0]
    found = measured(compared, per_kind, seed, batch)
    if json is not None:
        facts = {"weights": tiny.fingerprint(), "head": made(BUNDLED_HEAD)}
        facts |= {"heads": {name: made(Path(where)) for name, where in heads.items()}, "seed": seed, "rows": found}
        save(json, {**surroundings(torch.device("cpu")), **facts})
    console.print(table(found))


if __name__ == "__main__":
    typer.run(main)
