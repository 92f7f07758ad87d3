"""Which pictures of a model's inner workings to believe: every view against the patches that a question is known to need.

    python -m benchmarks.flow --json results/flow.json

On rendered scenes each patch has an owner and each question knows which objects it needs, so a view of what the model looks
at can be checked: the area under its ROC curve for telling needed patches from others (0.5 is chance), mean over questions. The
same for attention and saliency layer by layer. And the paper's claim (arXiv 2412.09817) that image tokens which resemble the
text gather the flow: Spearman's rank correlation of similarity and flow, layer by layer, over all image tokens, and over those
alone that the question does not need, where similarity can only follow the flow for another reason.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.measure import save, surroundings
from simignore import tiny
from simignore.evaluate import BENCHMARKS, Item
from simignore.evaluate.flowsummary import band
from simignore.evaluate.folder import append, read_jsonl
from simignore.flow.hypothesis import rank_correlation
from simignore.flow.measure import measure
from simignore.prompt import build
from simignore.tiny.model import scale_of
from simignore.tiny.probe import auc
from simignore.tiny.questions import ask_surely
from simignore.tiny.scenes import patch_owner, render, sample_scene

Array = NDArray[Any]
console = Console(width=160)


def needed(model: Any, item: Item) -> Array:
    """[N] which patches belong to an object that the question needs."""
    kind, scene = item.id.split("/")
    drawn = sample_scene(int(scene))
    asked = ask_surely(kind, drawn, random.Random(f"scenes/{kind}/{scene}"))
    owner = patch_owner(render(drawn, scale_of(model))[1], model.config.vision_config.patch_size)
    return np.isin(owner, [1 + i for i in asked.needs])


def looked_at(model: Any, processor: Any, item: Item, words: Any) -> dict[str, Any]:
    """All figures of one question, in plain types; None where there is nothing to tell apart."""
    image = item.images[0]() if callable(item.images[0]) else item.images[0]
    found = measure(model, build(processor, image, **words), processor, max_new_tokens=4)
    truth = needed(model, item)
    other = ~truth
    likely = found.seen.similarity
    lines = {(name, to): _tokens(found.curves[name], to) for name in found.curves for to in ("answer", "question")}
    return {
        "id": item.id,
        "kind": item.groups["type"],
        "right": found.asked.text.strip() == item.answer["text"],
        "auc": {name: _number(auc(view[0], truth)) for name, view in found.views.items()},
        "auc by layer": {
            f"{name} to {to}": [_number(auc(row, truth)) for row in rows] for (name, to), rows in lines.items()
        },
        "rho": {
            f"{name} to {to}": [_number(rank_correlation(likely, row)) for row in rows]
            for (name, to), rows in lines.items()
        },
        "rho of others": {
            f"{name} to {to}": [_number(rank_correlation(likely[other], row[other])) for row in rows]
            for (name, to), rows in lines.items()
        },
        "convergence": {name: lines_.convergence.layer for name, lines_ in found.curves.items()},
    }


def _tokens(lines: Any, to: str) -> Array:
    """[L, N] flow from each image token into the first token of the answer, or into the question."""
    return np.asarray(lines.tokens[0] if to == "answer" else lines.question)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 5)


def mean(values: Sequence[float | None], least: float = 0.0) -> dict[str, Any]:
    """Mean of what is known, the ends of its 95 % interval between ``least`` and 1, and how many there are."""
    found = band([[value] for value in values], np.arange(len(values)), least, 1.0)
    return {name: found[name][0] for name in ("mean", "low", "high", "questions")}


def gathered(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the questions: of each view, by kind, by layer."""
    names, kinds = list(rows[0]["auc"]), list(dict.fromkeys(row["kind"] for row in rows))

    def by_layer(figure: str) -> dict[str, list[dict[str, Any]]]:
        least = 0.0 if figure == "auc by layer" else -1.0
        return {
            name: [
                mean([row[figure][name][layer] for row in rows], least) for layer in range(len(rows[0][figure][name]))
            ]
            for name in rows[0][figure]
        }

    layers = len(next(iter(rows[0]["rho"].values())))
    return {
        "questions": len(rows),
        "accuracy": round(float(np.mean([row["right"] for row in rows])), 4),
        "auc": {name: mean([row["auc"][name] for row in rows]) for name in names},
        "auc by kind": {
            kind: {name: mean([row["auc"][name] for row in rows if row["kind"] == kind]) for name in names}
            for kind in kinds
        },
        **{figure: by_layer(figure) for figure in ("auc by layer", "rho", "rho of others")},
        "convergence": {
            name: np.bincount([row["convergence"][name] for row in rows], minlength=layers).tolist()
            for name in rows[0]["convergence"]
        },
    }


def _show(found: dict[str, Any]) -> None:
    """Views as columns, kinds of questions as rows."""
    table = Table(title=f"Area under the ROC curve against the needed patches, {found['questions']:,} questions")
    for name in ("questions", *found["auc"]):
        table.add_column(name)
    for kind, own in {"all": found["auc"], **found["auc by kind"]}.items():
        table.add_row(kind, *("" if one["mean"] is None else f"{one['mean']:.3f}" for one in own.values()))
    console.print(table)


def main(
    per_kind: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=9, help="Which part of the test split.")] = 7,
    lines: Annotated[Path, typer.Option(help="One line per question; what was stopped goes on.")] = Path(
        "out/flow.jsonl"
    ),
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Measure which views find the patches that questions need, and whether similar tokens gather the flow."""
    model, processor = tiny.load()
    benchmark = BENCHMARKS["scenes"](seed=seed, per_kind=per_kind)  # type: ignore[call-arg]
    items = benchmark.items()
    lines.parent.mkdir(parents=True, exist_ok=True)
    known = {row["id"]: row for row in ([row for _, row in read_jsonl(lines)] if lines.exists() else [])}
    for item in track([item for item in items if item.id not in known], console=console):
        row = looked_at(model, processor, item, benchmark.words(item))
        known[item.id] = row
        append(lines, [row])
    found = gathered([known[item.id] for item in items])
    _show(found)
    if json is not None:
        save(json, {**surroundings(torch.device("cpu")), "weights": tiny.fingerprint(), "seed": seed, **found})


if __name__ == "__main__":
    typer.run(main)
