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

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.measure import save, surroundings
from benchmarks.rows import CHANCE, SEEDS, Row, ask, collected, console, known_rows, table
from simignore import tiny
from simignore.evaluate import BENCHMARKS
from simignore.evaluate.folder import read_json
from simignore.methods import (
    METHODS,
    CDPruner,
    Diverse,
    FasterVLM,
    FastV,
    Merged,
    Product,
    Random,
    Simignore,
    Simignore2,
)
from simignore.tiny.model import scale_of
from simignore.tiny.questions import KINDS

KEEPS, SPANS = (1 / 8, 1 / 16, 1 / 32, 1 / 64), ("question", "question+options")


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
        ask(model, processor, benchmark, compared, benchmark.items()[start:], batch, runs)
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
