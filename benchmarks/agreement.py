"""Do methods choose the same image tokens in bfloat16 as in float32, and under eager attention as under SDPA?

    python -m benchmarks.agreement --json results/agreement.json

The bundled model's prompts of held-out scenes run through three copies of it: float32 with SDPA, bfloat16 with SDPA, float32
with eager attention. For every method: the share of the tokens chosen in float32 that the other copy chose too. Nothing is
compared but choices; rounding moves scores, and tokens of nearly equal score change places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import save, surroundings
from simignore import tiny
from simignore.answer import span_of
from simignore.evaluate import BENCHMARKS, Item
from simignore.evaluate.answering import Answerer
from simignore.methods import METHODS, Method

KEPT = 0.125
console = Console(width=100)


def chosen(model: Any, processor: Any, some: list[Item], method: Method) -> list[set[int]]:
    """The image tokens that stay of each question's image, all questions in one left-padded batch."""
    batch = Answerer(model, processor, BENCHMARKS["scenes"]()).ready(some)
    query = [one.query("user" if span_of(method) == "auto" else span_of(method)) for one in batch.asked]
    with torch.inference_mode(), method(model, query=query) as trace:
        model(**batch.inputs, logits_to_keep=1)
    return [{n for n in row if n >= 0} for row in trace.selections[0].index.tolist()]


def shared(ours: list[set[int]], theirs: list[set[int]]) -> float:
    """The share of all tokens chosen in ``ours`` that ``theirs`` holds too."""
    return sum(len(a & b) for a, b in zip(ours, theirs, strict=True)) / sum(map(len, ours))


def main(
    per_kind: Annotated[int, typer.Option(min=1, help="Questions of each kind.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=9, help="Which part of the test split.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Compare what every method chooses in bfloat16 and under eager attention with what it chooses in float32 under SDPA."""
    reference, processor = tiny.load()
    copies = {"bfloat16": tiny.load(dtype=torch.bfloat16)[0], "eager": tiny.load()[0]}
    copies["eager"].set_attn_implementation("eager")
    some = BENCHMARKS["scenes"](per_kind=per_kind, seed=seed).items()  # type: ignore[call-arg]
    result: dict[str, Any] = {**surroundings(torch.device("cpu")), "weights": tiny.fingerprint(), "seed": seed}
    result |= {"questions": len(some), "keep": KEPT, "rows": {}}
    shown = Table("method", *copies)
    for name, kind in METHODS.items():
        if kind.video:
            continue
        method = kind(keep=KEPT)
        ours = chosen(reference, processor, some, method)
        row = {what: shared(ours, chosen(model, processor, some, method)) for what, model in copies.items()}
        result["rows"][name] = row
        shown.add_row(name, *(f"{share:.2%}" for share in row.values()))
    console.print(shown)
    if json is not None:
        save(json, result)


if __name__ == "__main__":
    typer.run(main)
