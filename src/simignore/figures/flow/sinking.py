"""Sinks: patches that gather attention whatever the question."""

from __future__ import annotations

import numpy as np

from simignore.figures.flow.chart import Chart
from simignore.figures.flow.heat import bar, heat
from simignore.figures.flow.looks import FLAGGED, Look, of_view
from simignore.figures.flow.scale import over
from simignore.figures.flow.stage import Stage
from simignore.figures.flow.words import figure, number, panels, safe, section, signed
from simignore.flow.report import FlowReport, Sinks


def sinking(report: FlowReport, stage: Stage) -> str:
    """Nothing where sinks were not looked for."""
    sinks = report.sinks
    if sinks is None:
        return ""
    flagged = np.zeros(stage.count, dtype=bool)
    flagged[list(sinks.tokens)] = True
    shown = heat(np.asarray(sinks.asked))
    alt = f"attention over the picture, with {len(sinks.tokens)} sinks outlined"
    picture = stage.draw(shown.painted(), stage.outline(flagged, FLAGGED.colour), alt, "heat") + bar(
        shown, "times the average"
    )
    lead = (
        "Some patches gather attention whatever is asked: attention has to go somewhere, and much of it may go to patches that "
        "say nothing. Which would gather it without a sensible question?"
    )
    caption = (
        "Attention from the last token of the prompt to each patch, mean over layers, as a multiple of the average patch: "
        f'with the question as it was asked, and with its words shuffled, <q dir="auto">{safe(sinks.shuffled)}</q>. '
        f"{_flags(sinks)} Rank correlation of the two: {signed(sinks.correlation)}; the nearer to +1, the less the attention "
        "map has to do with how the question was put. The shuffled question still holds the same words, so a patch that they "
        "alone point at is flagged as well: see where the flagged ones lie before calling them sinks."
    )
    drawn = [("Attention, with the question as asked", picture), ("Asked against shuffled", _scatter(sinks))]
    return section("sinks", "Attention that goes there anyway", lead, figure(panels(*drawn), caption))


def _flags(sinks: Sinks) -> str:
    if not sinks.tokens:
        return f"No patch has {number(sinks.threshold)} times the average in both."
    return (
        f"Outlined and drawn as diamonds: {len(sinks.tokens)} patch{'es' if len(sinks.tokens) > 1 else ''} with at least "
        f"{number(sinks.threshold)} times the average in both."
    )


def _scatter(sinks: Sinks) -> str:
    asked, other = np.asarray(sinks.asked, dtype=float), np.asarray(sinks.other, dtype=float)
    scale = over(asked, other, np.array([sinks.threshold]), log=bool((asked > 0).all() and (other > 0).all()))
    chart = Chart(scale, scale, "as asked, times the average", "shuffled, times the average", size=(460, 440))
    chart.diagonal()
    chart.upright(sinks.threshold, f"{number(sinks.threshold)} times", FLAGGED.colour)
    chart.level(sinks.threshold, Look(FLAGGED.colour))
    rest = np.ones(len(asked), dtype=bool)
    rest[list(sinks.tokens)] = False
    chart.dots(asked[rest], other[rest], of_view("attention"), 4.5)
    for token in sinks.tokens:
        chart.mark(
            asked[token],
            other[token],
            FLAGGED,
            f"image token {token}: {number(asked[token])} and {number(other[token])}",
        )
    return chart.svg(
        f"attention with the question against the shuffled question; rank correlation {signed(sinks.correlation)}"
    )
