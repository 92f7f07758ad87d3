"""Numbers of image tokens as colours: one scale for each map, with its ends in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simignore.figures.flow.scale import skewed
from simignore.figures.flow.words import number, safe
from simignore.figures.paint import viridis
from simignore.flow.report import Array

STEPS = 254  # colours of a map; the code above stands for "no number"
MISSING = 255


@dataclass(frozen=True)
class Heat:
    """A map as codes.

    codes: [N] uint8 from 0 (low) to STEPS (high), MISSING where there is no number. log: equal steps of codes are equal
    factors; so are all maps without numbers below 0. skewed: colours had better follow the logarithm, as most numbers are
    tiny beside the largest. cut: some are less than ``low``, a ten thousandth of ``high``, and look like it.
    """

    codes: Array
    low: float
    high: float
    log: bool
    skewed: bool
    cut: bool = False

    @property
    def empty(self) -> bool:
        """There is no number at all, as in a layer without attention."""
        return bool((self.codes == MISSING).all())

    def painted(self) -> Array:
        """[N, 4] red, green, blue, alpha; the colours of a skewed map follow the logarithm."""
        part = self.codes / STEPS
        if self.log and not self.skewed and self.high > self.low:
            part = (self.low * (self.high / self.low) ** part - self.low) / (self.high - self.low)
        colours = viridis(part)
        alpha = np.where(self.codes == MISSING, 0, 255).astype(np.uint8)
        return np.concatenate([colours, alpha[:, None]], 1)


def heat(values: Array, by_logarithm: bool | None = None) -> Heat:
    """The map of values [N]. by_logarithm: what its colours follow; None: what suits these values."""
    values = np.asarray(values, dtype=float)
    known = values[np.isfinite(values)]
    if not known.size:
        return Heat(np.full(len(values), MISSING, np.uint8), math.nan, math.nan, False, False)
    low, high = float(known.min()), float(known.max())
    log = low >= 0 and high > 0
    if log:
        low = max(low, high * 1e-4)
    cut = float(known.min()) < low
    if high <= low:
        part = np.where(np.isfinite(values), 0.5, np.nan)
    elif log:
        part = np.log(np.maximum(values, low) / low) / math.log(high / low)
    else:
        part = (values - low) / (high - low)
    codes = np.where(np.isfinite(part), np.round(np.nan_to_num(part) * STEPS), MISSING).astype(np.uint8)
    return Heat(codes, low, high, log, log and (skewed(known) if by_logarithm is None else by_logarithm), cut)


def bar(shown: Heat, unit: str, name: str = "") -> str:
    """The colour bar with both ends, the middle and the unit; ``name`` lets a script rewrite it."""
    middle = math.sqrt(shown.low * shown.high) if shown.skewed else (shown.low + shown.high) / 2
    ends = [number(value, 2) for value in (shown.low, middle, shown.high)]
    if shown.cut:
        ends[0] = f"≤ {ends[0]}"
    told = "".join(f"<span>{safe(end)}</span>" for end in ends)
    scale = f"{unit}{', logarithmic' if shown.skewed else ''}"
    called = f' id="{name}"' if name else ""
    return (
        f'<div class="colours"{called}><div class="ramp"></div><div class="ends">{told}</div>'
        f'<div class="unit">{safe(scale)}</div></div>'
    )


def ramp() -> str:
    """The colours of every map from low to high, as CSS."""
    stops = viridis(np.linspace(0, 1, 10))
    return ",".join("#{:02x}{:02x}{:02x}".format(*stop) for stop in stops.tolist())
