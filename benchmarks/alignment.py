"""Does similarity find what a question needs when nothing aligns image and text by construction?

    python -m benchmarks.alignment --run runs/tiny --out runs/alignment --json results/control.json

Trains small decoders behind the tower of a finished run, over several seeds: *aligned* as the bundled model (symbols made
of word embeddings, a projector fitted to them), and *unaligned* (symbols with vectors of their own, a projector that learns
from the answers alone). Each is exported and measured like the bundled model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

WHAT = {True: "aligned", False: "unaligned"}
STEPS = {"copying": 0.1, "symbols": 0.12, "projector": 0.5, "joint": 0.12}  # shares of the bundled model's steps


def trained(run: Path, out: Path, aligned: bool, seed: int) -> Path:
    """Train one decoder behind the run's tower, unless that is done; return the exported folder."""
    folder = out / f"{WHAT[aligned]}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("pictures", "vision.pt"):
        if not (folder / name).exists():
            (folder / name).symlink_to((run / name).resolve())
    flags = ["--size", "small", "--seed", str(seed), "--processes", "1", *([] if aligned else ["--unaligned"])]
    for stage, steps in STEPS.items():
        _python("simignore.tiny.train", "--out", str(folder), *flags, "--stage", stage, "--steps", str(steps))
    _python("simignore.tiny.export", "--run", str(folder), "--to", str(folder / "exported"))
    return folder / "exported"


def measured(exported: Path, per_kind: int, scenes: int) -> dict[str, Any]:
    """Accuracy by text and areas of the embeddings of an exported folder."""
    file = exported.parent / "measured.json"
    flags = ["--per-kind", str(per_kind), "--form", "text", "--embeddings", str(scenes), "--dtype", "bfloat16"]
    flags += ["--bed", str(per_kind), "--cut", "one token"]
    _python("simignore.tiny.evaluate", "--model", str(exported), "--out", str(file), *flags)
    result = json.loads(file.read_text(encoding="utf-8"))
    text = result["forms"]["text"]
    versions = {name: text[name] for name in ("python", "torch", "transformers", "machine")}
    seen = {name: result[name] for name in ("embeddings", "bed")}
    blind = {"blind": seen["bed"]["one token"]["all"]}
    return {"text": text["all"], "kinds": text["kinds"], "embeddings": seen["embeddings"]["areas"], **blind, **versions}


def _python(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def main(
    run: Annotated[Path, typer.Option(help="Folder of a training run whose vision stage is finished.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints.")],
    json_file: Annotated[Path, typer.Option("--json", help="Write everything here.")],
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    per_kind: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 50,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes whose embeddings are looked at.")] = 500,
    jobs: Annotated[int, typer.Option(min=1, help="Decoders trained at once, one thread each.")] = 2,
) -> None:
    """Train the decoders that are missing, measure all."""

    def one(aligned: bool, seed: int) -> dict[str, Any]:
        exported = trained(run, out, aligned, seed)
        return {"what": WHAT[aligned], "seed": seed, "steps": STEPS, **measured(exported, per_kind, scenes)}

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(one, aligned, seed) for seed in range(seeds) for aligned in (True, False)]
        runs = sorted((task.result() for task in waiting), key=lambda row: (row["what"], row["seed"]))
    command = "python -m benchmarks.alignment " + " ".join(sys.argv[1:])
    json_file.write_text(json.dumps({"command": command, "runs": runs}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
