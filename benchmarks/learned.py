"""Learned heads against every training-free method that cuts before the decoder, on scenes that no head was trained on.

    python -m benchmarks.learned --seed 5 --per-kind 150 --keep 0.125 --runs out/learned --json out/learned.json

The question alone is the text that image tokens are compared with, its options are not. Every method answers the same questions
with the same numbers of tokens; each row is compared with the bundled head's, question by question. More heads, of other seeds
or other losses, are named with ``--head NAME=FOLDER``. Runs can be stopped, and go on; ``--collect`` writes what there is: rows
may have answered more questions than others, and are compared on those that both have answered. ``--unseen star,moon`` counts
the questions that name such shapes apart, for heads that were trained ``--without`` them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.measure import save, surroundings
from benchmarks.rows import CHANCE, SEEDS, Row, ask, collected, console, table, unpacked
from simignore import tiny
from simignore.budget import AtLeast
from simignore.evaluate import BENCHMARKS, paired
from simignore.evaluate.folder import PREDICTIONS, read_json
from simignore.head import BUNDLED as BUNDLED_HEAD
from simignore.methods import METHODS, LearnedSimignore, Random, Simignore
from simignore.tiny.scenes import SHAPES

KEEPS = (0.5, 0.25, 0.125, 0.0625)
INSIDE = ("FastV", "PyramidDrop", "SparseVLM")  # they see all image tokens in the decoder's first layers
BUNDLED = "LearnedSimignore"
RIVALS = {"learned": BUNDLED, "simignore2": "Simignore2"}
HOPS = ("two_hop", "three_hop")


def rows(keeps: Sequence[float], heads: Mapping[str, str], few: bool = False) -> list[Row]:
    """Everything kept; for each budget chance, each method before the decoder with the question as text, the bundled head and
    the others; and the bundled head by its own threshold. few: without methods but Simignore and Simignore2."""
    found = [Row("all image tokens", 1.0), Row(f"{BUNDLED}, by its threshold", 0.0, LearnedSimignore(keep=AtLeast(0)))]
    for keep in keeps:
        found += [Row(CHANCE, keep, Random(keep=keep, seed=seed)) for seed in SEEDS]
        for kind in METHODS.values():
            if kind.video or kind in (Random, LearnedSimignore) or kind.__name__ in INSIDE:
                continue
            if few and not kind.__name__.startswith("Simignore"):
                continue
            with_span = "span" in {field.name for field in fields(kind)}
            given = {"keep": keep, "span": "question"} if with_span else {"keep": keep}
            found.append(Row(kind.__name__, keep, kind(**given)))  # type: ignore[arg-type]
        found.append(Row("Simignore, options too", keep, Simignore(keep=keep, span="question+options")))
        found.append(Row(BUNDLED, keep, LearnedSimignore(keep=keep)))
        found.append(Row(f"{BUNDLED}, at most", keep, LearnedSimignore(keep=AtLeast(0, cap=keep))))
        found.append(Row(f"{BUNDLED}, filled with the highest", keep, LearnedSimignore(keep=keep, fill="highest")))
        found.append(Row(f"{BUNDLED}, not diverse", keep, LearnedSimignore(keep=keep, sharpness=None)))
        found += [
            Row(f"{BUNDLED}, {name}", keep, LearnedSimignore(keep=keep, head=where)) for name, where in heads.items()
        ]
    return found


def made(folder: Path) -> dict[str, Any]:
    """Which head lies in a folder, and how it was made."""
    record = read_json(folder / "training.json") if (folder / "training.json").exists() else {}
    return {
        "weights": tiny.fingerprint(folder),
        **{name: record.get(name) for name in ("command", "parameters", "seconds")},
    }


def begun(runs: Path, compared: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows that have begun, each on all questions that it has answered of every kind."""
    return [one for row in compared if (runs / row.key / PREDICTIONS).exists() for one in collected(runs, [row])]


def against(found: list[dict[str, Any]], unseen: Sequence[bool] = ()) -> list[dict[str, Any]]:
    """Each row with its share of what all tokens reach, and with the advantage that the bundled head and Simignore2 have over
    it on the questions that both have answered: over all, over two hops and three. They have as many tokens; against all tokens
    they have an eighth (or the most that was measured).

    unseen: which questions name shapes that some head never saw; right answers to them are counted, and compared, too.
    """
    full = next(row for row in found if row["keep"] == 1.0)
    kinds = list(full["kinds"])
    hits = {id(row): unpacked(row["hits"], row["questions"]) for row in found}
    most = max(map(len, hits.values()))
    parts = {f"_{kind}": [n % len(kinds) == kinds.index(kind) for n in range(most)] for kind in HOPS}
    if any(unseen):
        parts["_unseen"] = list(unseen)
    for row in found:
        own, whole = hits[id(row)], hits[id(full)]
        shared = min(len(own), len(whole))
        row["of_full"] = round(sum(own[:shared]) / max(1.0, sum(whole[:shared])), 5)
        if any(unseen):
            told = [one for one, new in zip(own, unseen, strict=False) if new]
            row["unseen"] = {"right": int(sum(told)), "asked": len(told)}
        for name, label in RIVALS.items():
            budgets = {other["keep"]: other for other in found if other["label"] == label}
            least = 0.125 if 0.125 in budgets else max(budgets, default=0)
            rival = budgets.get(least if row is full else row["keep"])
            if rival is None or rival is row:
                continue
            pairs = list(zip(hits[id(rival)], own, strict=False))  # rows may have answered more than others
            row[f"{name}_minus_this"] = _paired(pairs)
            for part, inside in parts.items():
                if some := [pair for pair, there in zip(pairs, inside, strict=False) if there]:
                    row[f"{name}_minus_this{part}"] = _paired(some)
    return found


def _paired(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return paired([these for these, _ in pairs], [those for _, those in pairs])


def main(
    per_kind: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Questions answered at once.")] = 56,
    seed: Annotated[int, typer.Option(min=0, max=9, help="Which part of the test split.")] = 4,
    keep: Annotated[list[float] | None, typer.Option(help="Only these budgets; repeat for several.")] = None,
    head: Annotated[list[str] | None, typer.Option(metavar="NAME=FOLDER", help="One more head.")] = None,
    few: Annotated[bool, typer.Option("--few", help="Of other methods only Simignore and Simignore2.")] = False,
    runs: Annotated[Path, typer.Option(help="Where runs are kept; what was stopped goes on.")] = Path("out/learned"),
    unseen: Annotated[str | None, typer.Option(help="Shapes that some head never saw, by commas.")] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Ask nothing; write what was answered so far.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Measure what learning is worth: the bundled head against methods that were not trained."""
    heads = dict(one.split("=", 1) for one in head or [])
    compared = rows(keep or KEEPS, heads, few)
    benchmark = BENCHMARKS["scenes"](seed=seed, per_kind=per_kind)  # type: ignore[call-arg]
    items = benchmark.items()
    if not collect:
        model, processor = tiny.load()
        ask(model, processor, benchmark, compared, items, batch, runs)
    shapes = {word.strip() for word in (unseen or "").split(",") if word.strip()}
    if strange := shapes - set(SHAPES):
        raise typer.BadParameter(f"--unseen {', '.join(sorted(strange))}: shapes are {', '.join(SHAPES)}")
    named = [not shapes.isdisjoint(item.question.replace("?", " ").split()) for item in items]
    found = against(begun(runs, compared), named)
    if json is not None:
        facts = {
            "weights": tiny.fingerprint(),
            "head": made(BUNDLED_HEAD),
            "heads": {name: made(Path(where)) for name, where in heads.items()},
            "seed": seed,
            "unseen": sorted(shapes),
            "rows": found,
        }
        save(json, {**surroundings(torch.device("cpu")), **facts})
    console.print(table(found))


if __name__ == "__main__":
    typer.run(main)
