"""What the flow of many questions amounts to: curves with bands, where flow converges, whether similar tokens gather it.

Pure functions over the lines that :mod:`simignore.evaluate.flowstats` writes. L decoder layers, counted from 0; a layer without
attention has no figures: None.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simignore.evaluate.statistics import Z, numbered, share
from simignore.flow.plain import plain
from simignore.flow.report import MEASURES

Row = Mapping[str, Any]
Line = Sequence[float | None] | None  # one question's figure by layer; None where the question has none of it
# the parts of a prompt; "image" is all its images and videos together
PARTS = ("system", "image", "context", "question", "options", "template", "earlier answer")
TARGETS = ("answer", "question")
RIGHT = 0.5  # the score from which an answer counts as right; only TextVQA's and REFCOCO's lie between 0 and 1


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """What all questions amount to: see :func:`whole`, for all, for right and for wrong answers, and :func:`brief` by group.

    rows: of explained questions. Raises ValueError for none.
    """
    if not rows:
        raise ValueError("no question was explained, so there is no flow to sum up")
    right, wrong = ([row for row in rows if (row["score"] >= RIGHT) is side] for side in (True, False))
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        for kind, value in row["groups"].items():
            groups.setdefault(kind, {}).setdefault(value, []).append(row)
    return {
        **share([row["score"] for row in rows], [row.get("cluster") for row in rows]),
        "layers": len(rows[0]["flow"][MEASURES[0]]["spread"]),
        "image_tokens": statistics.fmean(row["image_tokens"] for row in rows),
        "answer_tokens": statistics.fmean(row["answer_tokens"] for row in rows),
        "cut": sum(row["cut"] > 0 for row in rows),
        "flow": {name: whole(own) for name, own in (("all", rows), ("right", right), ("wrong", wrong)) if own},
        "groups": {kind: {value: brief(own) for value, own in values.items()} for kind, values in groups.items()},
    }


def whole(rows: Sequence[Row]) -> dict[str, Any]:
    """All curves of some questions, for each measure.

    share, per_token: for each part of the prompt a :func:`band`; questions without that part do not count. image_to_answer,
    image_to_question: bands of the flow from all image tokens, as it is. spread: band. convergence: :func:`converged`. rho: for
    each target the band of the rank correlations.
    """
    alike = numbered([row.get("cluster") for row in rows])
    found: dict[str, Any] = {"questions": len(rows)}
    for measure in MEASURES:
        own = [row["flow"][measure] for row in rows]
        parts = [part for part in PARTS if any(one["share"].get(part) for one in own)]
        found[measure] = {
            "share": {part: band([one["share"].get(part) for one in own], alike, 0, 1) for part in parts},
            "per_token": {part: band([one["per_token"].get(part) for one in own], alike, 0) for part in parts},
            **{name: band([one[name] for one in own], alike, 0) for name in ("image_to_answer", "image_to_question")},
            "spread": band([one["spread"] for one in own], alike, 1),
            **_found(own, alike),
        }
    return found


def brief(rows: Sequence[Row]) -> dict[str, Any]:
    """What is told of a group of questions: accuracy, and for each measure the share from the image, convergence and rho."""
    clusters = [row.get("cluster") for row in rows]
    alike = numbered(clusters)
    found: dict[str, Any] = share([row["score"] for row in rows], clusters)
    for measure in MEASURES:
        own = [row["flow"][measure] for row in rows]
        found[measure] = {
            "image_share": band([one["share"]["image"] for one in own], alike, 0, 1),
            **_found(own, alike),
        }
    return found


def _found(own: Sequence[Row], alike: NDArray[np.int64]) -> dict[str, Any]:
    """Where flow converges, and the correlations with similarity, by one measure."""
    return {
        "convergence": converged([one["layer"] for one in own], len(own[0]["spread"])),
        "rho": {target: band([one["rho"][target] for one in own], alike, -1, 1) for target in TARGETS},
    }


def band(
    lines: Sequence[Line], alike: NDArray[np.int64], least: float = -math.inf, most: float = math.inf
) -> dict[str, Any]:
    """Mean, its 95 % interval, and quartiles by layer, over the questions that have a figure there.

    lines: for each question [L]. alike: [Q] number of each question's cluster. least, most: what the figure cannot go beyond;
    the interval is cut there. The interval is the normal one of the mean with whole clusters as the independent units: what
    :func:`simignore.evaluate.statistics.paired` reaches by resampling them.
    Returns ``questions``, ``mean``, ``low``, ``high``, ``quarter``, ``median``, ``three_quarters``: each [L], None where no
    question has a figure; the interval is None, too, where all have one cluster.
    """
    layers = max((len(line) for line in lines if line is not None), default=0)
    values = np.array([[np.nan] * layers if line is None else line for line in lines], dtype=np.float64)  # [Q, L]
    known = ~np.isnan(values)
    count = known.sum(0)
    told = np.flatnonzero(count)
    found = np.full((6, layers), np.nan)
    values, known, count = values[:, told], known[:, told], count[told]
    mean = np.where(known, values, 0).sum(0) / count
    half = Z * _error(np.where(known, values - mean, 0), known, count, alike)
    found[:, told] = [mean, np.maximum(mean - half, least), np.minimum(mean + half, most), *_quartiles(values, count)]
    counts = np.zeros(layers, dtype=np.int64)
    counts[told] = count
    names = ("mean", "low", "high", "quarter", "median", "three_quarters")
    return {"questions": counts.tolist(), **{name: plain(line) for name, line in zip(names, found, strict=True)}}


def _error(
    residuals: NDArray[np.float64], known: NDArray[np.bool_], count: NDArray[np.int64], alike: NDArray[np.int64]
) -> NDArray[np.float64]:
    """[L] standard error of a mean whose questions come in clusters (linearised ratio of sums to sizes)."""
    clusters = int(alike.max(initial=-1)) + 1
    sums, there = np.zeros((clusters, residuals.shape[1])), np.zeros((clusters, residuals.shape[1]))
    np.add.at(sums, alike, residuals)
    np.add.at(there, alike, known)
    independent = (there > 0).sum(0).astype(np.float64)
    factor = np.divide(independent, independent - 1, out=np.full_like(independent, np.nan), where=independent > 1)
    error: NDArray[np.float64] = np.sqrt(factor * (sums**2).sum(0)) / count
    return error


def _quartiles(values: NDArray[np.float64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """[3, L] quartiles of each column's ``count`` known values, as numpy's nanquantile, which takes columns one at a time."""
    ordered = np.sort(values, axis=0)  # what is not a number comes last
    place = np.array([[0.25], [0.5], [0.75]]) * (count - 1)  # [3, L]
    below, column = np.floor(place).astype(np.int64), np.arange(len(count))
    above = np.minimum(below + 1, count - 1)
    low, high = ordered[below, column], ordered[above, column]
    found: NDArray[np.float64] = low + (high - low) * (place - below)
    return found


def converged(layers: Sequence[int], count: int) -> dict[str, Any]:
    """In how many questions flow converges in each of ``count`` layers.

    layers: the convergence layer of each question, -1 where nothing flows. Returns ``counts`` [L], ``nothing`` (how many have
    none), and ``quarter``, ``median``, ``three_quarters`` of the others (None where there are none).
    """
    known = np.array([layer for layer in layers if layer >= 0], dtype=np.int64)
    quartiles = np.quantile(known, (0.25, 0.5, 0.75)).tolist() if len(known) else [None] * 3
    return {
        "counts": np.bincount(known, minlength=count).tolist(),
        "nothing": len(layers) - len(known),
        **dict(zip(("quarter", "median", "three_quarters"), quartiles, strict=True)),
    }


__all__ = ["PARTS", "TARGETS", "band", "brief", "converged", "summary", "whole"]
