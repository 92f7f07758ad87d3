"""How often the bundled model is right with fewer image tokens, on scenes that training never drew.

    python -m benchmarks.scenes --per-kind 2000 --runs /work/run/scenes --json results/scenes.json

Every method answers the same questions, with the options shown and their text asked for, through `simignore.evaluate`. Methods
that cut inside the decoder hold more image tokens in the layers before, so ``held``, the mean over all layers, stands beside
what they keep. ``hits`` packs which questions a row has right (numpy.packbits, base64), in the order of
`Scenes(per_kind=N).items()`, so that any two rows can be compared question by question.

Any beginning of the questions has all kinds alike, so a run that is stopped is a smaller run: ``--collect`` writes the figures
of those questions that all rows have answered. Budgets can be run side by side (``--keep 0.125``) into the same ``--runs``.
With ``--grow`` questions that the file of ``--json`` has are not asked again: a table grows from session to session.

    python -m benchmarks.scenes --ablation --seed 3 --runs /work/run/ablation --json results/ablation.json

takes ``Simignore2`` apart instead: text, the tower's attention, diversity, merging and positions, each with and without.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.measure import save, surroundings
from simignore import tiny
from simignore.evaluate import BENCHMARKS, paired, share, sweep
from simignore.evaluate.folder import PREDICTIONS, read_json, read_jsonl
from simignore.methods import (
    METHODS,
    CDPruner,
    Diverse,
    FasterVLM,
    FastV,
    Merged,
    Method,
    Product,
    Random,
    Simignore,
    Simignore2,
)
from simignore.tiny.model import scale_of
from simignore.tiny.questions import KINDS

KEEPS, SEEDS, SPANS = (1 / 8, 1 / 16, 1 / 32, 1 / 64), (0, 1, 2), ("question", "question+options")
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


def rows() -> list[Row]:
    """All that is compared: everything kept; then, for each budget, chance and FastV in the decoder's middle, and every
    method with its published settings, text-guided ones by the question, Simignore also with its options."""
    found = [Row("all image tokens", 1.0)]
    for keep in KEEPS[:3]:
        found += [Row(CHANCE, keep, Random(keep=keep, seed=seed)) for seed in SEEDS]
        found += [Row("Random, half-way", keep, Random(keep=keep, layer=0.5))]
        found += [Row("FastV, half-way", keep, FastV(keep=keep, layer=0.5))]  # where this decoder reads the image
        for kind in METHODS.values():
            if kind.video or kind is Random:
                continue
            if "span" not in {field.name for field in fields(kind)}:
                found += [Row(kind.__name__, keep, kind(keep=keep))]
                continue
            spans = SPANS if kind is Simignore else SPANS[:1]
            found += [Row(f"{kind.__name__}, {span}", keep, kind(keep=keep, span=span)) for span in spans]  # type: ignore[call-arg]
    return found


def ablation() -> list[Row]:
    """Simignore2 without one part, or with another, at two budgets."""
    found = [Row("all image tokens", 1.0)]
    for keep in KEEPS[2:]:
        text, seen = Simignore(keep=keep, span="question"), FasterVLM(keep=keep)
        both, whole = Product(text, seen), Simignore2(keep=keep, span="question")
        found += [Row(CHANCE, keep, Random(keep=keep, seed=seed)) for seed in SEEDS]
        found += [
            Row("text x attention x diversity (Simignore2)", keep, whole),
            Row("text x attention", keep, both),
            Row("text x diversity", keep, Diverse(text)),
            Row("attention x diversity", keep, Diverse(seen)),
            Row("text", keep, text),
            Row("attention", keep, seen),
            Row("diversity", keep, Diverse(text, sharpness=0)),
            Row(
                "mean instead of largest similarity x diversity (CDPruner)", keep, CDPruner(keep=keep, span="question")
            ),
            Row("Simignore2 with max-min distance", keep, Diverse(both, how="max-min")),
            Row("Simignore2, attention weighs 0.3", keep, replace(whole, attention=0.3)),
            Row("Simignore2, attention weighs 0.7", keep, replace(whole, attention=0.7)),
            Row("Simignore2, all of the rest merged in", keep, Merged(whole)),
            Row("Simignore2, merged where cosine is 0.9", keep, Merged(whole, least=0.9)),
            Row("Simignore2, positions closed up", keep, replace(whole, positions="reindex")),
            Row("Simignore2, merged and closed up", keep, Merged(replace(whole, positions="reindex"), least=0.9)),
        ]
    return found


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


def main(
    per_kind: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Questions answered at once.")] = 56,
    seed: Annotated[int, typer.Option(min=0, max=9, help="Which part of the test split.")] = 0,
    keep: Annotated[list[float] | None, typer.Option(help="Only these budgets; repeat for several.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    path: Annotated[Path | None, typer.Option("--model", help="Another exported folder than the bundled one.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    take_apart: Annotated[bool, typer.Option("--ablation", help="Take Simignore2 apart instead.")] = False,
    runs: Annotated[Path, typer.Option(help="Where runs are kept; what was stopped goes on.")] = Path("out/scenes"),
    grow: Annotated[bool, typer.Option("--grow", help="Ask only what the file of --json lacks.")] = False,
    collect: Annotated[bool, typer.Option("--collect", help="Ask nothing; write what was answered so far.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Measure the bundled model's accuracy with all image tokens and with fewer, method by method."""
    compared = [row for row in (ablation() if take_apart else rows()) if not keep or row.keep in (*keep, 1.0)]
    known, starts = {}, []
    if grow:
        if json is None or not json.is_file():
            raise typer.BadParameter("--grow goes on with the file of --json; name one that is there")
        older = read_json(json)
        if [older.get(name) for name in ("weights", "seed", "dtype")] != [tiny.fingerprint(path), seed, dtype]:
            raise typer.BadParameter(f"{json} was measured with other weights, another seed or dtype; measure it anew")
        if lost := [
            told["method"] for told in older["rows"] if told["method"] not in [repr(row.method) for row in compared]
        ]:
            raise typer.BadParameter(
                f"{len(lost)} rows of {json} would be lost, such as {lost[0]}; grow it with the same --keep"
            )
        known = known_rows(older, compared)
        if new := [row.label for row in compared if row.key not in known]:
            console.print(f"left out, for {json} does not hold them: {', '.join(new)}")
            compared = [row for row in compared if row.key in known]
        starts = [
            *older.get("starts", []),
            {name: older[name] for name in ("date", "command", "commit", "versions", "hardware")},
        ]
        starts[-1]["questions"] = next(iter(known.values())).count
    start = next(iter(known.values())).count if known else 0
    drawn = BENCHMARKS["scenes"](seed=seed, per_kind=start // len(KINDS) + 1)  # type: ignore[call-arg]
    if not collect:
        model, processor = tiny.load(device=device, dtype=getattr(torch, dtype), path=path)
        benchmark = BENCHMARKS["scenes"](seed=seed, per_kind=per_kind, scale=scale_of(model))  # type: ignore[call-arg]
        some = benchmark.items()[start:]
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("answers", total=len(compared) * len(some))
            sweep(
                model,
                processor,
                benchmark,
                {row.key: row.method for row in compared},
                some,
                batch=batch,
                folders={row.key: runs / row.key for row in compared},
                tick=lambda count: progress.advance(bar, count),
            )
    result: dict[str, Any] = {
        **surroundings(torch.device(device)),
        "weights": tiny.fingerprint(path),
        "seed": seed,
        "dtype": dtype,
        "starts": starts,
        "rows": collected(runs, compared, known, drawn.items()[start].id),
    }
    if json is not None:
        save(json, result)
    console.print(table(result["rows"]))


if __name__ == "__main__":
    typer.run(main)
