"""How many image tokens stay: a count, a fraction, or a rule that looks at the scores.

Everything a method's ``keep`` may be. A rule sees the scores of one batch and answers with one count per sample; it always
keeps at least one token of a sample that has any, and never more than its ``cap``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


class Budget(ABC):
    """A rule for how many tokens stay. Subclasses are frozen dataclasses with a field ``cap``."""

    cap: int | float | None

    @abstractmethod
    def wanted(self, score: Tensor, total: int) -> tuple[int, str]:
        """For one sample's scores [n] (n >= 1, any order) how many should stay, and a note for its user or "".

        total: the image tokens that the sample had before any cut.
        """

    def count(self, score: Tensor, total: int) -> tuple[int, str]:
        """The same within bounds: at least one, at most the cap and what is there; (0, "") for a sample without tokens."""
        tokens = len(score)
        if tokens == 0:
            return 0, ""
        count, note = self.wanted(score, total)
        return min(max(count, 1), most(self.cap, tokens)), note


def most(cap: int | float | None, tokens: int) -> int:
    """A cap in tokens. A count larger than the sample is no error here: it only says "no more than"."""
    return tokens if cap is None else min(tokens, cap) if isinstance(cap, int) else budget(cap, tokens)


def _check_cap(rule: Any) -> None:
    if rule.cap is not None:
        try:
            object.__setattr__(rule, "cap", check_keep(rule.cap))
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("keep=", "cap=")) from None


@dataclass(frozen=True)
class AtLeast(Budget):
    """Keep what scores at least ``score``; where nothing does, the best token stays and the trace's notes say so.

    cap: the most that may stay, a count or a fraction.
    """

    score: float
    cap: int | float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "score", check_number("score", self.score))
        _check_cap(self)

    def wanted(self, score: Tensor, total: int) -> tuple[int, str]:
        reached = int((score >= self.score).sum())
        return reached, "" if reached else f"no image token reached the threshold {self.score:g}; the best one stayed"


@dataclass(frozen=True)
class Mass(Budget):
    """Keep the fewest tokens whose scores make up ``share`` of the sum of all (cumulative mass, "top-p").

    share: in (0, 1]. cap: the most that may stay. temperature: put the scores through softmax(score / temperature) first, for
    scores that may be negative, such as similarities; None takes them as they are, which suits attention.
    """

    share: float
    cap: int | float | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        share = check_number("share", self.share)
        if not 0 < share <= 1:
            raise ValueError(f"share={share:g} of the scores' sum must be in (0, 1]")
        object.__setattr__(self, "share", share)
        if self.temperature is not None and not check_number("temperature", self.temperature) > 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        _check_cap(self)

    def wanted(self, score: Tensor, total: int) -> tuple[int, str]:
        score = score.double()
        if self.temperature is not None:
            score = (score / self.temperature).softmax(0)
        if bool((score < 0).any()) or not bool(score.isfinite().all()):
            raise ValueError(
                f"{self} adds scores up, and some are negative or infinite ({float(score.min()):.3g} is the smallest); give a "
                "temperature, such as Mass(0.9, temperature=0.1)"
            )
        running = score.sort(descending=True).values.cumsum(0)
        # a hair less than the share, so that the rounding of a sum does not ask for one token more
        return int((running < self.share * float(running[-1]) * (1 - 1e-12)).sum()) + 1, ""


@dataclass(frozen=True)
class Outliers(Budget):
    """Keep the scores that stand out: those above Q3 + ``factor`` times the interquartile range (Q3 - Q1).

    Source: Tukey's fences; adaptive counts in PruMerge (arXiv 2403.15388). cap: the most that may stay.
    Quartiles are those of the finite scores: an infinite one stands out, or never does, whatever the others are.
    """

    factor: float = 1.5
    cap: int | float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", check_number("factor", self.factor))
        _check_cap(self)

    def wanted(self, score: Tensor, total: int) -> tuple[int, str]:
        score = score.double()
        finite = score[score.isfinite()]
        first, third = (float(torch.quantile(finite, q)) if len(finite) else 0.0 for q in (0.25, 0.75))
        found = int((score > third + self.factor * (third - first)).sum())
        return found, "" if found else "no image token stands out; the best one stayed"


@dataclass(frozen=True)
class OfAll(Budget):
    """Keep a fraction of the image tokens that the sample had before any cut, as far as they are still there."""

    fraction: float
    cap: int | float | None = None

    def __post_init__(self) -> None:
        if not isinstance(check_keep(self.fraction), float):
            raise ValueError(f"fraction={self.fraction!r} must be in (0, 1]; a count is a budget by itself")
        _check_cap(self)

    def wanted(self, score: Tensor, total: int) -> tuple[int, str]:
        return budget(self.fraction, max(total, len(score))), ""


@dataclass(frozen=True)
class Schedule:
    """What stays at several decoder layers: ``Schedule({2: 303, 6: 110, 15: 36})`` makes one cut before each of them.

    steps: from the layer (an int, or a share of the decoder's depth as a float in (0, 1); 0 = before the decoder) to what
        stays there: a count, a fraction *of all the sample's image tokens*, or a rule.
    """

    steps: tuple[tuple[int | float, int | float | Budget], ...]

    def __init__(self, steps: Mapping[int | float, Any] | Sequence[tuple[int | float, Any]]) -> None:
        pairs = list(steps.items()) if isinstance(steps, Mapping) else list(steps)
        if not pairs:
            raise ValueError("a schedule needs at least one step: Schedule({2: 64})")
        found = []
        for layer, keep in pairs:
            layer = 0 if layer == 0 and not isinstance(layer, bool) else check_layer(layer)
            found.append((layer, keep if isinstance(keep, Budget) else check_keep(keep)))
        object.__setattr__(self, "steps", tuple(found))

    def __repr__(self) -> str:
        return f"Schedule({{{', '.join(f'{layer!r}: {keep!r}' for layer, keep in self.steps)}}})"

    def cuts(self) -> list[tuple[int | float | None, int | float | Budget]]:
        """(layer or None, budget) of each cut; fractions are turned into fractions of all tokens."""
        return [
            (layer or None, OfAll(keep) if isinstance(keep, float) and keep < 1 else keep) for layer, keep in self.steps
        ]


Keep = int | float | Budget | Schedule


def check_keep(keep: Any) -> int | float:
    """``keep`` as a count (int >= 1) or a fraction (float in (0, 1]), numpy's numbers included; raises for anything else."""
    if isinstance(keep, bool) or not isinstance(keep, Real):
        raise TypeError(f"keep={keep!r} is neither a count nor a fraction; say keep=64 or keep=0.25")
    if isinstance(keep, Integral):
        if keep < 1:
            raise ValueError(f"keep={keep} would keep no image token; keep at least 1")
        return int(keep)
    fraction = float(keep)
    if not 0 < fraction <= 1:
        hint = f"; for a count write keep={round(fraction)}" if fraction > 1 and math.isfinite(fraction) else ""
        raise ValueError(f"keep={keep} is not a fraction in (0, 1]{hint}")
    return fraction


def check_count(name: str, value: Any, least: int) -> int:
    """A hyper-parameter that must be a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    return int(value)


def check_number(name: str, value: Any) -> float:
    """A hyper-parameter that must be a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is not a finite number")
    return float(value)


def check_layer(value: Any) -> int | float:
    """A decoder layer to cut before: its number from 1 on, or a share of the decoder's depth as a float in (0, 1)."""
    if isinstance(value, Real) and not isinstance(value, Integral):
        if 0 < float(value) < 1:
            return float(value)
        raise ValueError(
            f"layer={value} is no share of the decoder's depth in (0, 1); for a layer's number write an int"
        )
    return check_count("layer", value, 1)


def budget(keep: int | float, tokens: int) -> int:
    """How many of ``tokens`` image tokens stay: the count itself, or the fraction rounded half up, but at least one.

    Raises ValueError if a count is larger than the tokens there are; a sample without image tokens keeps none.
    """
    keep = check_keep(keep)
    if tokens == 0:
        return 0
    if isinstance(keep, int):
        if keep > tokens:
            raise ValueError(
                f"keep={keep} image tokens, but there are only {tokens} to choose among; use a smaller count or a fraction"
            )
        return keep
    return min(tokens, max(1, math.floor(keep * tokens + 0.5)))
