"""How often the bundled model is right with fewer image tokens, on scenes that training never drew.

    python -m benchmarks.scenes --json results/scenes.json

Every method answers the same questions, with the options shown and their text asked for. Questions go through
``model.generate`` in left-padded batches, each sample with its own text to compare image tokens with. Methods that cut inside
the decoder hold more image tokens in the layers before, so ``held``, the mean over all layers, stands beside what they keep.

    python -m benchmarks.scenes --ablation --seed 3 --json results/ablation.json

takes ``Simignore2`` apart instead: text, the tower's attention, diversity, merging and positions, each with and without.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.measure import save, surroundings
from simignore import tiny
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
from simignore.parts import parts
from simignore.prompt import Prompt, build
from simignore.tiny.evaluate import APART, share
from simignore.tiny.model import scale_of
from simignore.tiny.questions import KINDS, Question, ask_surely
from simignore.tiny.scenes import SPLITS, render, sample_scene

KEEPS, SEEDS, SPANS = (1 / 8, 1 / 16, 1 / 32, 1 / 64), (0, 1, 2), ("question", "question+options")
console = Console(width=200)


@dataclass(frozen=True)
class Item:
    """One question about a scene of its own."""

    kind: str
    scene: int
    asked: Question


@dataclass(frozen=True)
class Row:
    """One line of the table: a method (None: all image tokens), its share of tokens, and its name without either."""

    label: str
    keep: float
    method: Method | None = None


def rows() -> list[Row]:
    """All that is compared: everything kept; then, for each budget, chance and FastV in the decoder's middle, and every
    method with its published settings, text-guided ones by the question, Simignore also with its options."""
    found = [Row("all image tokens", 1.0)]
    for keep in KEEPS[:3]:
        found += [Row(f"Random, {len(SEEDS)} seeds", keep, Random(keep=keep, seed=seed)) for seed in SEEDS]
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
        found += [Row(f"Random, {len(SEEDS)} seeds", keep, Random(keep=keep, seed=seed)) for seed in SEEDS]
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


def items(per_kind: int, seed: int = 0) -> list[Item]:
    """``per_kind`` questions of each kind about scenes of the test split, the same ones for the same seed."""
    scenes = iter(SPLITS["test"][seed * APART : (seed + 1) * APART])
    rng = random.Random(f"benchmarks.scenes/{seed}")
    found = []
    for kind in KINDS:
        asked = ((scene, ask_surely(kind, sample_scene(scene), rng)) for scene in scenes)
        some = (Item(kind, scene, question) for scene, question in asked if question is not None)
        found += [item for item, _ in zip(some, range(per_kind), strict=False)]
    if len(found) != per_kind * len(KINDS):
        raise typer.BadParameter(f"--per-kind {per_kind} needs more scenes than the {APART:,} of one seed")
    return found


def answers(model: Any, processor: Any, some: Sequence[Item], method: Method | None) -> tuple[list[str], list[float]]:
    """The model's answers to one left-padded batch of questions, under ``method`` if one is given, and how many image tokens
    the decoder held for each, mean over its layers."""
    prompts = [question_prompt(processor, item, scale_of(model)) for item in some]
    images = [image for prompt in prompts for image in prompt.images]
    inputs = processor(text=[prompt.text for prompt in prompts], images=images, padding=True, return_tensors="pt")
    inputs = inputs.to(model.device)
    if not bool(inputs["attention_mask"][:, -1].all()):
        raise ValueError("the processor pads on the right, and generation reads on; set tokenizer.padding_side='left'")
    query = [prompt.query(getattr(method, "span", "user")) for prompt in prompts]
    with torch.inference_mode(), method(model, query=query) if method else nullcontext() as trace:
        output = model.generate(**inputs, do_sample=False)
    told = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in told], _held(trace, len(parts(model).layers)) if trace else []


def _held(trace: Any, layers: int) -> list[float]:
    """Image tokens of each sample, mean over the decoder's layers."""
    held = [[len([n for n in own if n >= 0]) for own in trace.patches[0].grid.tolist()]] * layers
    for step in trace.steps[0]:
        first = 0 if step.site == "projector" else int(step.site[1])
        held[first:] = [step.selection.count.tolist()] * (layers - first)
    return [sum(column) / layers for column in zip(*held, strict=True)]


def question_prompt(processor: Any, item: Item, scale: int) -> Prompt:
    """The prompt of one question about its scene, options shown and their text asked for."""
    image, _ = render(sample_scene(item.scene), scale)
    asked = item.asked
    return build(processor, image, asked.question, context=asked.context, options=asked.options, answer="text")


def measured(model: Any, processor: Any, some: Sequence[Item], row: Row, batch: int) -> dict[str, Any]:
    """One row's right answers, per kind and in all, with Wilson's 95 % interval."""
    kinds: dict[str, dict[str, int]] = {item.kind: {"right": 0, "asked": 0} for item in some}
    hits: list[bool] = []
    held: list[float] = []
    began = time.perf_counter()
    for part in _batches(some, batch):
        told_all, counts = answers(model, processor, part, row.method)
        held += counts
        for item, told in zip(part, told_all, strict=True):
            hits.append(told == item.asked.answer)
            kinds[item.kind]["asked"] += 1
            kinds[item.kind]["right"] += hits[-1]
    scored = share(hits)
    return {
        "method": repr(row.method) if row.method else "None",
        "label": row.label,
        "keep": row.keep,
        "form": "text",
        "kinds": kinds,
        "accuracy": scored["accuracy"],
        "low": scored["interval"][0],
        "high": scored["interval"][1],
        "questions": len(some),
        "held": round(sum(held) / len(held), 2) if held else None,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _batches(some: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (some[start : start + size] for start in range(0, len(some), size))


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
    batch: Annotated[int, typer.Option(min=1, help="Questions answered at once.")] = 50,
    seed: Annotated[int, typer.Option(min=0, max=9, help="Which part of the test split.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    path: Annotated[Path | None, typer.Option("--model", help="Another exported folder than the bundled one.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    take_apart: Annotated[bool, typer.Option("--ablation", help="Take Simignore2 apart instead.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Measure the bundled model's accuracy with all image tokens and with fewer, method by method."""
    model, processor = tiny.load(device=device, dtype=getattr(torch, dtype), path=path)
    compared = ablation() if take_apart else rows()
    result: dict[str, Any] = {
        **surroundings(torch.device(device)),
        "weights": tiny.fingerprint(path),
        "seed": seed,
        "rows": [],
    }
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("questions", total=len(compared) + 1)
        some = items(per_kind, seed)
        for row in compared:
            progress.update(bar, advance=1, description=f"{row.label}, keep {row.keep:g}")
            result["rows"].append(measured(model, processor, some, row, batch))
            if json is not None:
                save(json, result)
    console.print(table(result["rows"]))


if __name__ == "__main__":
    typer.run(main)
