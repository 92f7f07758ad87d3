"""How sure a measured accuracy is: intervals, and paired comparisons over the same questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z = 1.959964  # 95 %
RESAMPLES = 10_000
LEAST = 6  # clusters that must differ before a difference is called one: five of five is no rare event for a coin (p = 0.06)


def share(scores: Sequence[float], clusters: Sequence[str | None] | None = None) -> dict[str, Any]:
    """Mean score and the ends of its 95 % interval.

    For scores that are all 0 or 1 the interval is Wilson's (1927), for partial ones (TextVQA's) the normal one of the mean, and
    where questions share a cluster (an image) the bootstrap's over whole clusters. Raises ValueError for no score at all.
    """
    n = len(scores)
    if not n:
        raise ValueError("there is no score to average: nothing was asked")
    mean = math.fsum(scores) / n
    spread = math.fsum((score - mean) ** 2 for score in scores)
    if _shared(clusters) and spread:
        low, high = _ends(scores, clusters, 0, RESAMPLES)
    elif not spread or all(score in (0, 1) for score in scores):
        low, high = wilson(math.fsum(scores), n)
    else:
        spread = Z * math.sqrt(spread / max(1, n - 1) / n)
        low, high = max(0.0, mean - spread), min(1.0, mean + spread)
    return {"accuracy": mean, "low": low, "high": high, "right": math.fsum(scores), "questions": n}


def wilson(right: float, asked: int) -> tuple[float, float]:
    """The ends of Wilson's 95 % interval of a share."""
    middle = (right + Z * Z / 2) / (asked + Z * Z)
    spread = Z * math.sqrt(right * (asked - right) / asked + Z * Z / 4) / (asked + Z * Z)
    return (middle - spread if right else 0.0), (middle + spread if right < asked else 1.0)


def paired(
    these: Sequence[float],
    those: Sequence[float],
    clusters: Sequence[str | None] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """How much better ``these`` scores are than ``those`` on the same questions, with the paired bootstrap's 95 % interval.

    Questions are resampled in whole clusters (all of one image), with replacement (Efron 1979; percentile interval). A mean
    depends only on how often each difference occurs, so counts are drawn instead of questions: exact, and fast for millions.
    Returns ``difference``, ``low``, ``high``, and ``better`` and ``worse``: whether the interval lies on one side of 0 and at
    least six clusters differ (fewer say nothing, however they fall).
    Raises ValueError for lists of different lengths or empty ones.
    """
    if len(these) != len(those) or not len(these):
        raise ValueError(f"{len(these)} scores cannot be paired with {len(those)}; both must answer the same questions")
    difference = np.asarray(these, dtype=np.float64) - np.asarray(those, dtype=np.float64)
    low, high = _ends(difference, clusters, seed, resamples)
    telling = int((np.abs(_by_cluster(difference, clusters)[0]) > 1e-9).sum()) >= LEAST
    return {
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "better": low > 0 and telling,
        "worse": high < 0 and telling,
    }


def _ends(
    scores: Sequence[float] | NDArray[np.float64], clusters: Sequence[str | None] | None, seed: int, resamples: int
) -> tuple[float, float]:
    """The ends of the bootstrap's 95 % interval of a mean, whole clusters resampled."""
    sums, sizes = _by_cluster(np.asarray(scores, dtype=np.float64), clusters)
    values, counts = np.unique(np.stack([sums.round(9), sizes], 1), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    low, high = np.quantile(drawn @ values[:, 0] / (drawn @ values[:, 1]), [0.025, 0.975])
    return float(low), float(high)


def _shared(clusters: Sequence[str | None] | None) -> bool:
    """Whether any two questions share a cluster."""
    named = [cluster for cluster in clusters or () if cluster is not None]
    return len(set(named)) < len(named)


def _by_cluster(
    values: NDArray[np.float64], clusters: Sequence[str | None] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sum of the values of each cluster, and its size; a question without one is its own."""
    if clusters is None or all(cluster is None for cluster in clusters):
        return values, np.ones_like(values)
    number = numbered(clusters)
    sums = np.bincount(number, weights=values).astype(np.float64)
    return sums, np.bincount(number).astype(np.float64)


def numbered(clusters: Sequence[str | None]) -> NDArray[np.int64]:
    """Each question's cluster as a number from 0; a question without one is its own."""
    names = [f"alone/{n}" if cluster is None else f"in/{cluster}" for n, cluster in enumerate(clusters)]
    _, number = np.unique(np.asarray(names), return_inverse=True)
    return number.astype(np.int64)


def mcnemar(these: Sequence[bool], those: Sequence[bool]) -> dict[str, Any]:
    """McNemar's exact test (1947) of two lists of right and wrong answers to the same questions.

    Returns ``only_these`` and ``only_those``, the questions that only one side has right, and ``p``, two-sided.
    """
    if len(these) != len(those):
        raise ValueError(
            f"{len(these)} answers cannot be paired with {len(those)}; both must answer the same questions"
        )
    ours = sum(a and not b for a, b in zip(these, those, strict=True))
    theirs = sum(b and not a for a, b in zip(these, those, strict=True))
    n, k = ours + theirs, min(ours, theirs)
    tail = math.fsum(math.exp(_log_choose(n, i) - n * math.log(2)) for i in range(k + 1))
    return {"only_these": ours, "only_those": theirs, "p": min(1.0, 2 * tail)}


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
