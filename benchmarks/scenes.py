"""How often the bundled model is right with fewer image tokens, on scenes that training never drew.

    python -m benchmarks.scenes --json results/scenes.json

Every method answers the same questions, with the options shown and their text asked for. Questions go through
``model.generate`` in left-padded batches, each sample with its own text to compare image tokens with.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.measure import save, surroundings
from simignore import tiny
from simignore.methods import FastV, Method, Random, Simignore
from simignore.parts import parts
from simignore.prompt import Prompt, build
from simignore.tiny.evaluate import APART, share
from simignore.tiny.model import scale_of
from simignore.tiny.questions import KINDS, Question, ask_surely
from simignore.tiny.scenes import SPLITS, render, sample_scene

KEEPS, SEEDS, SPANS = (0.5, 0.25, 0.125), (0, 1, 2), ("question", "question+options")
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


def rows(layers: int) -> list[Row]:
    """All that is compared: everything kept; then, for each budget, chance and Simignore by span before the decoder,
    chance and FastV in its middle."""
    found = [Row("all image tokens", 1.0)]
    middle = layers // 2
    for keep in KEEPS:
        found += [Row(f"Random, {len(SEEDS)} seeds", keep, Random(keep=keep, seed=seed)) for seed in SEEDS]
        found += [Row(f"Simignore, {span}", keep, Simignore(keep=keep, span=span)) for span in SPANS]
        found += [Row(f"Random, layer {middle}", keep, Random(keep=keep, layer=middle))]
        found += [Row(f"FastV, layer {middle}", keep, FastV(keep=keep, layer=middle))]
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


def answers(model: Any, processor: Any, some: Sequence[Item], method: Method | None) -> list[str]:
    """The model's answers to one left-padded batch of questions, under ``method`` if one is given."""
    prompts = [_prompt(processor, item, scale_of(model)) for item in some]
    images = [image for prompt in prompts for image in prompt.images]
    inputs = processor(text=[prompt.text for prompt in prompts], images=images, padding=True, return_tensors="pt")
    inputs = inputs.to(model.device)
    if not bool(inputs["attention_mask"][:, -1].all()):
        raise ValueError("the processor pads on the right, and generation reads on; set tokenizer.padding_side='left'")
    query = [prompt.query(getattr(method, "span", "user")) for prompt in prompts]
    with torch.inference_mode(), method(model, query=query) if method else nullcontext():
        output = model.generate(**inputs, do_sample=False)
    told = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in told]


def _prompt(processor: Any, item: Item, scale: int) -> Prompt:
    image, _ = render(sample_scene(item.scene), scale)
    asked = item.asked
    return build(processor, image, asked.question, context=asked.context, options=asked.options, answer="text")


def measured(model: Any, processor: Any, some: Sequence[Item], row: Row, batch: int) -> dict[str, Any]:
    """One row's right answers, per kind and in all, with Wilson's 95 % interval."""
    kinds: dict[str, dict[str, int]] = {item.kind: {"right": 0, "asked": 0} for item in some}
    hits: list[bool] = []
    began = time.perf_counter()
    for part in _batches(some, batch):
        for item, told in zip(part, answers(model, processor, part, row.method), strict=True):
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
        "seconds": round(time.perf_counter() - began, 1),
    }


def _batches(some: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (some[start : start + size] for start in range(0, len(some), size))


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Accuracy of every row, in all and per kind."""
    kinds = list(found[0]["kinds"])
    shown = Table(title=f"{found[0]['questions']} questions on held-out scenes; accuracy in %, Wilson's 95 % interval")
    for column in ("keep", "method", "all", *(kind.replace("_", " ") for kind in kinds)):
        shown.add_column(column, justify="left" if column == "method" else "right")
    for row in found:
        overall = f"{row['accuracy'] * 100:.1f} ({row['low'] * 100:.1f}-{row['high'] * 100:.1f})"
        each = [f"{row['kinds'][kind]['right'] / row['kinds'][kind]['asked'] * 100:.0f}" for kind in kinds]
        shown.add_row(f"{row['keep']:g}", row["label"], overall, *each)
    return shown


def main(
    per_kind: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 200,
    batch: Annotated[int, typer.Option(min=1, help="Questions answered at once.")] = 50,
    seed: Annotated[int, typer.Option(min=0, max=9, help="Which part of the test split.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    path: Annotated[Path | None, typer.Option("--model", help="Another exported folder than the bundled one.")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Measure the bundled model's accuracy with all image tokens and with fewer, method by method."""
    model, processor = tiny.load(device=device, dtype=getattr(torch, dtype), path=path)
    compared = rows(len(parts(model).layers))
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
