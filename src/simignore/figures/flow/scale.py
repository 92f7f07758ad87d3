"""Axes: where values lie between two ends, straight or by their logarithm, and round numbers to write beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simignore.figures.flow.words import number
from simignore.flow.report import Array


@dataclass(frozen=True)
class Scale:
    """low, high: the ends, low < high. log: by the logarithm (both ends above 0). told: how a tick is written. whole: ticks are
    whole numbers."""

    low: float
    high: float
    log: bool = False
    told: Callable[[float], str] = number
    whole: bool = False

    def part(self, value: Any) -> Array:
        """Where values lie, 0 at the low end and 1 at the high end; NaN stays NaN."""
        value = np.asarray(value, dtype=float)
        if self.log:
            value = np.log(np.maximum(value, self.low))
            return np.asarray((value - math.log(self.low)) / (math.log(self.high) - math.log(self.low)))
        return np.asarray((value - self.low) / (self.high - self.low))

    def ticks(self, most: int = 6) -> list[float]:
        """At most about so many round numbers between the ends."""
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            step = -(-len(powers) // most)
            found = [10.0**power for power in powers if power % max(step, 1) == 0]
            return found if len(found) > 1 else [self.low, self.high]
        rough = (self.high - self.low) / most
        size = 10 ** math.floor(math.log10(rough))
        step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough * 0.999)
        step = max(1, round(step)) if self.whole else step
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


def over(*values: Any, zero: bool = False, log: bool | None = False, told: Callable[[float], str] = number) -> Scale:
    """A scale that holds all finite values with a little room. zero: it begins at 0. log: by the logarithm, four powers of ten
    at most; None: where no value is below 0 and the largest is more than 50 times the median."""
    known = np.concatenate([np.asarray(value, dtype=float).ravel() for value in values] or [np.empty(0)])
    known = known[np.isfinite(known)]
    if not known.size:
        return Scale(0, 1, told=told)
    if log is None:
        log = skewed(known)
    if log and (positive := known[known > 0]).size:
        high = float(positive.max())
        low = max(float(positive.min()), high * 1e-4)
        return Scale(low / 1.3, high * 1.3, log=True, told=told)
    low, high = float(known.min()), float(known.max())
    room = 0.06 * (high - low) or 0.06 * abs(high) or 0.5
    return Scale(0 if zero and low >= 0 else low - room, high + room, told=told)


def skewed(values: Array, times: float = 50) -> bool:
    """Whether values are better told apart by their logarithm: none below 0, the largest many times the median."""
    known = values[np.isfinite(values)]
    return bool(known.size and known.min() >= 0 and known.max() > times * max(float(np.median(known)), 0) > 0)
