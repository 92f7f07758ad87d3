"""A budget that falls from cut to cut on the way through the decoder, shared by the methods that drop in several steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from torch import Tensor

from simignore.budget import Budget, Keep, Schedule, budget, check_count, check_keep, check_layer


@dataclass(frozen=True)
class Falling(Budget):
    """The ``step``-th of ``steps`` cuts that shrink the image tokens by the same factor each, to ``keep`` at the last: of N
    tokens before any cut N * (keep / N) ** (step / steps) stay, so 0.125 in three steps is 0.5, 0.25, 0.125.

    keep: a count, or a fraction of all the sample's image tokens. Where fewer tokens are there than a step before
        the last asks for, all stay; fewer than ``keep`` raise ValueError.
    """

    keep: int | float
    step: int
    steps: int
    cap: int | float | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", check_keep(self.keep))
        object.__setattr__(self, "steps", check_count("steps", self.steps, 1))
        object.__setattr__(self, "step", check_count("step", self.step, 1))
        if self.step > self.steps:
            raise ValueError(f"step={self.step} comes after the last of {self.steps} steps; count them from 1")

    def wanted(self, score: Tensor, total: int) -> tuple[int, str]:
        total = max(total, len(score))
        last = budget(self.keep, len(score) if isinstance(self.keep, int) else total)
        if self.step == self.steps:
            return last, ""
        ratio = self.keep if isinstance(self.keep, float) else last / total
        # half a token and a hair, so that the rounding of a root does not turn 1.5 tokens into 1
        return max(last, math.floor(total * ratio ** (self.step / self.steps) + 0.5 + 1e-9)), ""


def falling(keep: int | float | Budget, layers: Sequence[int | float]) -> list[tuple[int | float, Budget]]:
    """(layer, budget) of cuts that fall to ``keep`` at the last of ``layers``; a rule that reads scores decides at each."""
    if isinstance(keep, Budget):
        return [(layer, keep) for layer in layers]
    return [(layer, Falling(keep, number, len(layers))) for number, layer in enumerate(layers, 1)]


def check_layers(name: str, keep: Keep, layers: Any) -> tuple[int | float, ...]:
    """The layers of a method that drops in several steps by the attention of the layer before; ``name`` is the method's.

    Raises ValueError if there are none or they do not rise, and for a schedule that cuts before the decoder.
    """
    if isinstance(keep, Schedule) and any(layer == 0 for layer, _ in keep.steps):
        raise ValueError(
            f"keep={keep!r} cuts before the decoder, and {name} reads the layer before; it cuts before layer 1 at the earliest"
        )
    if not isinstance(layers, list | tuple) or not layers:
        raise ValueError(
            f"layers={layers!r} names no layer to cut at; say layers=(0.25, 0.5, 0.75) or layers=(8, 16, 24)"
        )
    found = tuple(check_layer(layer) for layer in layers)
    if len({*map(type, found)}) == 1 and any(after <= before for before, after in pairwise(found)):
        raise ValueError(f"layers={layers!r} do not rise; name each layer once, earlier ones first")
    return found
