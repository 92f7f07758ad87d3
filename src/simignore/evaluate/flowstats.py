"""How information flows from the image into the answer, over all questions of a benchmark; runs can be stopped and resumed.

One line per question, written as it comes: what flows from each part of the prompt into the answer by decoder layer, where flow
from the image converges, and whether image tokens that resemble the text gather it. :mod:`simignore.evaluate.flowsummary` makes
figures of the lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simignore.evaluate.benchmark import Benchmark, Item
from simignore.evaluate.flowsummary import PARTS, summary
from simignore.evaluate.folder import Folder
from simignore.evaluate.identity import about, identified
from simignore.evaluate.pictures import opened
from simignore.families import UnsupportedModelError
from simignore.flow.asked import MOST
from simignore.flow.hypothesis import rank_correlation
from simignore.flow.measure import Measured, measure
from simignore.flow.plain import plain
from simignore.flow.report import Array, Curves
from simignore.prompt import build
from simignore.surroundings import surroundings

Row = dict[str, Any]
VERSION = 1  # of a line; raised whenever the same run would write another, so that no folder holds both kinds


@dataclass(frozen=True)
class FlowStats:
    """The flow of many questions. items: those with an image. rows: as in ``predictions.jsonl``, for each of them. metrics: as
    in ``metrics.json``."""

    items: list[Item]
    rows: list[Row]
    metrics: dict[str, Any]


def flow_stats(
    model: Any,
    processor: Any,
    benchmark: Benchmark,
    *,
    items: Sequence[Item] | None = None,
    limit: int | None = None,
    most: int = MOST,
    max_new_tokens: int | None = None,
    folder: Path | None = None,
    name: str = "",
    tick: Callable[[int], None] = lambda count: None,
) -> FlowStats:
    """Answer a benchmark's questions one by one, with all image tokens, and measure what the answers draw on.

    Questions without an image are left out and counted; one that cannot be explained has an ``error`` in its line, and is named
    in the metrics.
    items: the questions, where they were read before; limit: how many of them else. most: tokens of an answer that are
    explained. max_new_tokens: longest answer; default: the benchmark's. folder: where the run is kept and resumed from; None
    keeps it in memory. name: of the model, for the record. tick: told how many more questions are done.
    Raises ValueError where no question has an image or none can be explained, for a folder of another run, and for most or
    max_new_tokens below 1; UnsupportedModelError for a model whose flow cannot be seen.
    """
    longest = benchmark.max_new_tokens if max_new_tokens is None else max_new_tokens
    if most < 1 or longest < 1:
        raise ValueError(f"most={most}, max_new_tokens={longest}: at least one token must be answered and explained")
    every = benchmark.chosen(limit) if items is None else list(items)
    asked = _with_image(benchmark, every)
    identity = identified(about(model, name, processor), benchmark, None, asked, 1) | {
        "generation": {"do_sample": False, "max_new_tokens": longest},
        "flow_stats": {"version": VERSION, "most": most},
    }
    kept = None if folder is None else Folder(folder, identity, surroundings(model))
    try:
        rows = [] if kept is None else kept.answered([item.id for item in asked], 1)
        tick(len(rows))
        resumed, began = len(rows), time.perf_counter()
        for item in asked[resumed:]:
            rows.append(explained(model, processor, benchmark, item, most, longest))
            if kept is not None:
                kept.add(rows[-1:])
            tick(1)
        metrics = told(benchmark, rows, len(every) - len(asked))
        if kept is not None and (resumed < len(rows) or not kept.finished):
            start = {"seconds": round(time.perf_counter() - began, 2), "questions": len(rows) - resumed}
            kept.finish({**metrics, "last_start": start})
    finally:
        if kept is not None:
            kept.close()
    return FlowStats(asked, rows, metrics)


def _with_image(benchmark: Benchmark, items: Sequence[Item]) -> list[Item]:
    """The questions that have an image. Raises ValueError where none has."""
    if found := [item for item in items if item.images]:
        return found
    raise ValueError(
        f"none of the {len(items)} questions of {benchmark.name} has an image, so nothing flows from one; take others"
    )


def explained(model: Any, processor: Any, benchmark: Benchmark, item: Item, most: int, max_new_tokens: int) -> Row:
    """The line of one question: what :func:`row` says, or why there is nothing to say."""
    try:
        pictures = [opened(image, benchmark.square) for image in item.images]
        prompt = build(processor, pictures, **benchmark.words(item))
        return row(benchmark, item, measure(model, prompt, processor, most=most, max_new_tokens=max_new_tokens))
    except UnsupportedModelError:
        raise  # no question can be explained
    except ValueError as error:
        return {"id": item.id, "error": " ".join(str(error).split()), "groups": dict(item.groups)}


def row(benchmark: Benchmark, item: Item, found: Measured) -> Row:
    """The line of an explained question: answer, score, and under ``flow`` for each measure what :func:`line` says."""
    asked = found.asked
    return {
        "id": item.id,
        "told": asked.text,
        "answer": item.answer,
        "score": benchmark.score(item, asked.text),
        "groups": dict(item.groups),
        **({} if item.cluster is None else {"cluster": item.cluster}),
        "image_tokens": len(asked.image),
        "answer_tokens": len(asked.answer),
        "cut": asked.cut,
        "flow": {name: plain(line(curves, found.seen.similarity)) for name, curves in found.curves.items()},
    }


def line(curves: Curves, similarity: Array) -> dict[str, Any]:
    """One prompt's flow by one measure, by layer [L]; not a number in layers without attention.

    share: for each part of the prompt (all images and videos as one, "image") the share of all flow into an answer token, mean
    over those, so that the parts' shares sum to 1. per_token: flow from one token of the part, mean over the answer tokens that
    have any before them. Parts that the prompt does not have are left out.
    image_to_answer, image_to_question: flow from all image tokens into one token there, mean over those; as it is, see
    :class:`simignore.flow.report.Curves` for units. spread: over how many image tokens the former is spread. layer, first,
    last: see :class:`simignore.flow.report.Convergence`. rho: Spearman's rank correlation over image tokens of ``similarity``
    [N] and flow into the answer, and into the question.
    """
    at = {part: [s for s, name in enumerate(curves.spans) if _part(name) == part] for part in PARTS}
    counts = {part: curves.counts[:, own].sum(1) for part, own in at.items()}  # [A]
    there = [part for part in PARTS if counts[part].any()]
    shares, found = curves.share, curves.convergence
    flows = {"answer": curves.tokens.mean(0), "question": curves.question}  # [L, N]
    return {
        "share": {part: shares[:, :, at[part]].sum(-1).mean(0) for part in there},
        "per_token": {part: _per_token(curves.into[:, :, at[part]].sum(-1), counts[part]) for part in there},
        "image_to_answer": found.flow,
        "image_to_question": curves.question.sum(-1),
        "spread": found.spread,
        **{name: getattr(found, name) for name in ("layer", "first", "last")},
        "rho": {to: [rank_correlation(similarity, layer) for layer in flow] for to, flow in flows.items()},
    }


def _part(span: str) -> str:
    return "image" if span.startswith(("image ", "video ")) else span


def _per_token(into: Array, counts: Array) -> Array:
    """[L] flow from one token, of flow [A, L] from ``counts`` [A] of them."""
    there = counts > 0
    mean: Array = (into[there] / counts[there, None]).mean(0)
    return mean


def told(benchmark: Benchmark, rows: Sequence[Mapping[str, Any]], without_image: int) -> dict[str, Any]:
    """What ``metrics.json`` says, from the lines alone, and how many questions had no image.

    Raises ValueError where no question was explained.
    """
    wrong = {row["id"]: row["error"] for row in rows if "error" in row}
    if len(wrong) == len(rows):
        name, why = next(iter(wrong.items()))
        raise ValueError(f"none of the {len(rows)} questions could be explained; {name}: {why}")
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        **summary([row for row in rows if "error" not in row]),
        "without_image": without_image,
        "unexplained": wrong,
    }


__all__ = ["FlowStats", "explained", "flow_stats", "line", "row", "told"]
