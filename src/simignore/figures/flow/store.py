"""Every heat map of the page as data: views by answer token, and by layer where there is flow of each layer."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from simignore.figures.flow.heat import STEPS, Heat, heat
from simignore.figures.flow.looks import about, unit
from simignore.figures.flow.scale import skewed
from simignore.figures.flow.stage import Stage
from simignore.figures.paint import viridis
from simignore.flow.report import Array, FlowReport

BUDGET = 1_200_000  # bytes of maps by layer, before base64 makes them a third more


@dataclass(frozen=True)
class Choice:
    """One view to choose. maps: [A, N]. layers: [A, L, N] or None. unit, said: what its numbers are.

    by_logarithm: whether colours follow the logarithm at first, the same for all its maps over all layers.
    """

    name: str
    maps: Array
    layers: Array | None
    unit: str
    said: str

    @property
    def by_logarithm(self) -> bool:
        return skewed(self.maps.ravel())

    def map(self, token: int) -> Heat:
        """The map of one answer token over all layers."""
        return heat(self.maps[token], self.by_logarithm)


def choices(report: FlowReport) -> list[Choice]:
    """The report's views in its order, then similarity and flow into the question where they are not among them."""
    tokens = len(report.tokens)
    layers = {name: np.asarray(curves.tokens) for name, curves in report.curves.items()}
    views = {name: np.asarray(maps) for name, maps in report.views.items()}
    views.setdefault("similarity", np.tile(np.asarray(report.similarity), (tokens, 1)))
    for name, curves in report.curves.items():
        question = np.asarray(curves.question)  # [L, N]
        known = np.isfinite(question)
        mean = np.where(known, question, 0).sum(0) / np.maximum(known.sum(0), 1)  # [N]
        views.setdefault(f"question's {name}", np.tile(mean, (tokens, 1)))
        layers[f"question's {name}"] = np.tile(question, (tokens, 1, 1))
    return [Choice(name, maps, layers.get(name), unit(name), about(name)) for name, maps in views.items()]


def layers_shown(report: FlowReport, found: list[Choice]) -> list[int]:
    """The layers whose maps are in the page: all, or every second, third ... and those of convergence where they are many."""
    each = sum(choice.maps.size for choice in found if choice.layers is not None)
    most = max(1, BUDGET // max(each, 1))
    if report.layers <= most:
        return list(range(report.layers))
    wanted = {curves.convergence.layer for curves in report.curves.values() if curves.convergence.layer >= 0}
    wanted |= set(range(0, report.layers, -(-report.layers // most)))
    return sorted(wanted)


def data(report: FlowReport, stage: Stage, found: list[Choice]) -> str:
    """All maps as JSON that may stand in a script element."""
    shown = layers_shown(report, found)
    colours = viridis(np.arange(STEPS + 1) / STEPS)
    views = []
    for choice in found:
        maps = [_packed(choice.maps, _repeats(choice.maps))]
        if choice.layers is not None:
            maps += [_packed(choice.layers[:, layer], _repeats(choice.layers[:, layer])) for layer in shown]
        views.append(
            {
                "name": choice.name,
                "unit": choice.unit,
                "said": choice.said,
                "byLogarithm": choice.by_logarithm,
                "maps": maps,
            }
        )
    told = {
        "colours": base64.b64encode(colours.tobytes()).decode(),
        "count": stage.count,
        "layers": shown,
        "views": views,
        "panels": [
            [{"box": [round(end, 2) for end in part.box], "tokens": part.tokens.tolist()} for part in panel.parts]
            for panel in stage.panels
        ],
    }
    return json.dumps(told, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _repeats(maps: Array) -> bool:
    """Whether every answer token has the same map, so that one is enough."""
    return len(maps) > 1 and bool(np.array_equal(maps, np.repeat(maps[:1], len(maps), 0), equal_nan=True))


def _packed(maps: Array, once: bool) -> dict[str, Any]:
    """Maps [A, N] of one view as codes, with the scale of each."""
    drawn = [heat(row) for row in (maps[:1] if once else maps)]
    return {
        "codes": base64.b64encode(b"".join(one.codes.tobytes() for one in drawn)).decode(),
        "scales": [_scale(one) for one in drawn],
    }


def _scale(one: Heat) -> list[Any]:
    return [] if one.empty else [float(f"{one.low:.6g}"), float(f"{one.high:.6g}"), int(one.log), int(one.cut)]
