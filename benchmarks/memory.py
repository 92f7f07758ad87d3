"""How much memory an explanation takes beside the plain forward: at most 2 GB for 2,880 image tokens, 12 layers, width 512.

    python -m benchmarks.memory --json results/memory.json

Each stage runs in a process of its own, and its peak of resident memory is read from the system. The model is a LLaVA with
random weights; its prompt holds five images of 576 tokens each. Taken on the CPU, where memory of all kinds is counted.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.measure import save, surroundings
from benchmarks.shapes import BOS, FIRST_WORD, IMAGE, SHAPES, model

SMALL = SHAPES["small"]
BOUND = 2.0  # GB more than the plain forward
STAGES = ("forward", "measure", "explain")
console = Console(width=120)


def prompt(images: int, words: int = 40) -> dict[str, torch.Tensor]:
    """What a processor would make of so many images and words."""
    torch.manual_seed(0)
    pictures = [torch.tensor([IMAGE] * SMALL.image_tokens + [FIRST_WORD]) for _ in range(images)]
    ids = torch.cat([torch.tensor([BOS]), *pictures, torch.randint(FIRST_WORD, 1000, (words,))])[None]
    pixels = torch.randn(images, 3, SMALL.image_size, SMALL.image_size)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def run(stage: str, images: int) -> None:
    """One stage; prints its peak memory in bytes and its seconds."""
    made, inputs = model(SMALL, torch.device("cpu")), prompt(images)
    begun = time.perf_counter()
    if stage == "forward":
        with torch.no_grad():
            made(**inputs, logits_to_keep=1)
    elif stage == "measure":
        from simignore.flow.measure import measure

        measure(made, inputs, max_new_tokens=4)
    else:
        from simignore.flow import explain

        explain(made, inputs, max_new_tokens=4, rounds=0)
    seconds = time.perf_counter() - begun
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, seconds)


def main(
    images: Annotated[int, typer.Option(min=1, help="Of 576 tokens each.")] = 5,
    stage: Annotated[str | None, typer.Option(hidden=True)] = None,
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Measure the peak memory of a plain forward, of curves and heat maps, and of a whole explanation."""
    if stage is not None:
        return run(stage, images)
    found: dict[str, dict[str, float]] = {}
    for name in STAGES:
        flags = ["--images", str(images), "--stage", name]
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", *flags], capture_output=True, text=True, check=True
        )
        peak, seconds = (float(x) for x in told.stdout.split())
        found[name] = {"peak_gb": round(peak / 1e9, 3), "seconds": round(seconds, 1)}
        found[name]["more_gb"] = round(found[name]["peak_gb"] - found["forward"]["peak_gb"], 3)
        console.print(f"{name}: {found[name]}")
    sizes = {"image_tokens": SMALL.image_tokens * images, "layers": SMALL.layers, "width": SMALL.width}
    result = {**surroundings(torch.device("cpu")), **sizes, "bound_gb": BOUND, "stages": found}
    console.print(f"within {BOUND} GB: {'yes' if found['explain']['more_gb'] <= BOUND else 'NO'}")
    if json is not None:
        save(json, result)
    return None


if __name__ == "__main__":
    typer.run(main)
