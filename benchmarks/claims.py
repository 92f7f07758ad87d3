"""What the paper of Simignore claims (arXiv 2412.09817), measured on the bundled model.

    python -m benchmarks.claims --json results/claims.json

Two things. Accuracy: all image tokens, chance, Simignore alone, FastV alone and both, at the paper's shares of tokens (452 and
144 of 576), every row on the same held-out scenes, with paired intervals. Attention: in every decoder layer, whether image
tokens that resemble the question get more of the attention of the prompt's last token, by rank correlation, and which share of
it the most similar quarter gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.measure import save, surroundings
from simignore import tiny
from simignore.evaluate import BENCHMARKS, Item
from simignore.evaluate.compare import FULL, RANDOM, SEEDS, Entry, compare
from simignore.evaluate.pictures import opened
from simignore.flow.hypothesis import rank_correlation
from simignore.methods import Chain, FastV, Method, Random, Simignore
from simignore.prompt import build

FIRST, LAST = 452 / 576, 144 / 576  # image tokens that Simignore keeps, and FastV after it, in LLaVA-1.5-7B
LAYER = 5 / 32  # of the decoder's depth, where FastV cuts
console = Console(width=160)


def entries() -> list[Entry]:
    """The rows of the paper and those that it lacks."""
    alone = {
        name: Simignore(keep=1.0, span=span) for name, span in (("options", "options-plain"), ("question", "question"))
    }
    found = [Entry(FULL, None, None)]
    for keep in (FIRST, 0.5, LAST):
        found += [Entry(RANDOM, keep, Random(keep=keep, seed=seed)) for seed in SEEDS]
        found += [
            Entry(f"Simignore alone, by the {name}", keep, Simignore(keep=keep, span=method.span))
            for name, method in alone.items()
        ]
    found += [Entry("FastV alone", LAST, FastV(keep=LAST, layer=LAYER))]
    for name, method in alone.items():
        both = Chain(Simignore(keep=FIRST, span=method.span), FastV(keep=LAST, layer=LAYER))
        found += [Entry(f"Simignore by the {name}, then FastV", LAST, both)]
    found += [Entry("chance, then FastV", LAST, Chain(Random(keep=FIRST), FastV(keep=LAST, layer=LAYER)))]
    return found


def attention(model: Any, processor: Any, items: Sequence[Item], words: Any, span: str) -> dict[str, Any]:
    """For each decoder layer, means over the questions: Spearman's correlation of an image token's similarity with the
    attention that the prompt's last token pays it, and which share of that the most similar quarter of image tokens gets."""
    layers = model.config.text_config.num_hidden_layers
    correlations: list[list[float]] = [[] for _ in range(layers)]
    shares: list[list[float]] = [[] for _ in range(layers)]
    before = model.config._attn_implementation
    for item in items:
        prompt = build(processor, opened(item.images[0]), **words(item))
        score = _similarity(model, prompt, Simignore(keep=1.0, span=span))
        at = (prompt.inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
        model.set_attn_implementation("eager")
        try:
            with torch.inference_mode():
                seen = model(**prompt.inputs, output_attentions=True).attentions
        finally:
            model.set_attn_implementation(before)
        best = np.argsort(-score)[: len(score) // 4]
        for layer, paid in enumerate(seen):
            row = paid[0, :, -1, at].float().mean(0).numpy()
            correlations[layer].append(rank_correlation(score, row))
            shares[layer].append(float(row[best].sum() / row.sum()))
    return {
        "questions": len(items),
        "span": span,
        "correlation": [_mean(values) for values in correlations],
        "share_of_most_similar_quarter": [_mean(values) for values in shares],
    }


def _similarity(model: Any, prompt: Any, method: Method) -> NDArray[np.float64]:
    with torch.inference_mode(), method(model, query=prompt.query(method.span)) as trace:  # type: ignore[attr-defined]
        model(**prompt.inputs)
    return trace.selections[0].score[0].double().numpy()  # type: ignore[no-any-return, union-attr]


def _mean(values: Sequence[float]) -> dict[str, float]:
    """Mean and half the width of its 95 % interval."""
    spread = 1.96 * float(np.std(values, ddof=1)) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return {"mean": round(float(np.mean(values)), 4), "spread": round(float(spread), 4)}


def main(
    per_kind: Annotated[int, typer.Option(min=1, help="Questions of each kind for the accuracy rows.")] = 200,
    looked_at: Annotated[int, typer.Option(min=1, help="Questions of each kind whose attention is read.")] = 20,
    seed: Annotated[int, typer.Option(min=0, max=9, help="Which part of the test split.")] = 5,
    runs: Annotated[Path, typer.Option(help="Where runs are kept; what was stopped goes on.")] = Path("out/claims"),
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Measure the paper's claims on the bundled model."""
    model, processor = tiny.load()
    benchmark = BENCHMARKS["scenes"](seed=seed, per_kind=per_kind)  # type: ignore[call-arg]
    items = benchmark.items()
    rows = compare(model, processor, benchmark, entries(), items, batch=56, folder=runs)
    for row in rows:
        row.pop("groups")
    some = items[: 14 * looked_at]
    seen = [attention(model, processor, some, benchmark.words, span) for span in ("question", "options-plain")]
    result = {
        **surroundings(torch.device("cpu")),
        "weights": tiny.fingerprint(),
        "seed": seed,
        "rows": rows,
        "attention": seen,
    }
    for row in rows:
        console.print(f"{row['method']} {row['keep']} {row['accuracy'] * 100:.1f} {row.get('versus_full')}")
    for one in seen:
        console.print(one)
    if json is not None:
        save(json, result)


if __name__ == "__main__":
    typer.run(main)
