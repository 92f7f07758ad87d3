"""Faithfulness: does the answer really hang on what a view marks? Patches go, ways are cut, choices are turned round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from simignore.figures.flow.chart import Chart
from simignore.figures.flow.layers import layer_scale
from simignore.figures.flow.looks import RANDOM, Look, of_span, of_view
from simignore.figures.flow.scale import Scale, over
from simignore.figures.flow.verdict import KINDS, TIE, level, speaks
from simignore.figures.flow.words import figure, fixed, listed, number, panels, percent, safe, section, table
from simignore.flow.report import Array, FlowReport, Kept, Knockout, Removal

LEAST = 0.1  # nats; the axis of changes reaches so far at least, so that nothing looks like nothing
_ROUTES = {
    "image to question": of_span("image", ("image",)),
    "image to last": of_view("saliency"),
    "question to last": of_span("question", ()),
}


def faithful(report: FlowReport) -> str:
    """Nothing where nothing was tested."""
    parts = [
        _removal(report, report.removal) if report.removal is not None else "",
        _knockouts(report) if report.knockout else "",
        _swaps(report) if report.swaps else "",
    ]
    if not any(parts):
        return ""
    lead = (
        "A map can look right and be wrong. Here the model itself is asked: what happens to the answer when the marked "
        "patches go, when only they are left, or when a way through the layers is cut?"
    )
    return section("faithful", "Which picture to believe", lead, *parts)


def _removal(report: FlowReport, removal: Removal) -> str:
    drawn = [
        (
            "Deletion: the highest patches go first",
            _curves(removal, removal.deletion, "deletion", "image tokens dropped"),
        ),
        (
            "Insertion: the highest patches come first",
            _curves(removal, removal.insertion, "insertion", "image tokens there"),
        ),
    ]
    rows = [
        [safe(name), fixed(down), fixed(up), _gain(up - down)]
        for name, (down, up) in sorted(removal.area.items(), key=lambda item: item[1][0] - item[1][1])
    ]
    areas = table(
        _areas(report, removal),
        ["order of", "deletion (small is good)", "insertion (large is good)", "insertion − deletion"],
        rows,
    )
    caption = (
        "How likely an average explained token of the answer stays while image tokens go (deletion) or come back "
        "(insertion) in the order of each view; names stand in the order of the areas under the lines. Grey: the mean of "
        f"{len(removal.random['deletion'])} random orders and the range that they span. A view whose line does not leave "
        "the grey band marks patches no better than chance. Dropped tokens are truly gone, which the model was not trained "
        "for, so the curves mix missing evidence with an unusual prompt; the random band shows how much the latter does."
    )
    return figure(panels(*drawn) + areas, caption)


def _areas(report: FlowReport, removal: Removal) -> str:
    """What heads the table of areas: an order of merit only where the tests can tell one."""
    order = (
        "best view first"
        if speaks(report)
        else "in the order of the last column, which here does not say which is best"
    )
    blind = [kind for column, kind in enumerate(KINDS) if level(removal, column)]
    cannot = f" Here {listed(blind)} cannot tell: all views and chance are within {TIE}." if blind else ""
    return (
        f"Areas under the curves, {order}: a faithful view has a small first and a large second. Differences under {TIE} are "
        f"ties.{cannot}"
    )


def _gain(value: float) -> str:
    return fixed(value) if value <= 0 else f"+{fixed(value)}"


def _curves(removal: Removal, lines: Mapping[str, Array], kind: str, label: str) -> str:
    column = 0 if kind == "deletion" else 1
    chance = np.exp(np.asarray(removal.random[kind]))  # [R, F]
    order = sorted((*lines, "random"), key=lambda name: -removal.area[name][column])  # as their names will stand
    top = max(float(np.nanmax(chance)), *(float(np.nanmax(np.exp(line))) for line in lines.values()))
    chart = Chart(
        Scale(0, 1, told=percent),
        Scale(0, min(1.0, top * 1.06), told=percent),
        f"{label}, of all",
        "probability of an answer token",
        order,
        size=(500, 310),
    )
    chart.band(removal.fractions, chance.min(0), chance.max(0), RANDOM)
    for name in order:
        if name == "random":
            chart.line(removal.fractions, chance.mean(0), RANDOM, name, marks=False)
        else:
            chart.line(removal.fractions, np.exp(np.asarray(lines[name])), of_view(name), name)
    areas = listed([f"{name} {number(removal.area[name][column], 2)}" for name in order])
    return chart.svg(f"{kind} curves; areas under them: {areas}")


def _knockouts(report: FlowReport) -> str:
    every = np.concatenate([np.append(one.change, one.everywhere) for one in report.knockout])
    scale = over(every, np.array([-LEAST, LEAST / 4]), told=lambda value: number(value, 2))
    drawn = [(one.route, _steps(one, report.layers, scale)) for one in report.knockout]
    width = report.knockout[0].windows[0]
    caption = (
        f"Attention is cut on one way in a window of layers ({width[1] - width[0] + 1} here); each stroke lies over the "
        "layers of its window, and its height is how the mean log-probability of an answer token changes, in nats: −0.7 "
        "halves the probability. The level dashed line is the way cut in all layers. <q>Last</q> is what predicts each answer "
        "token. Low strokes say that the answer needs that way in those layers. Windows can back each other up: a stroke "
        "near 0 may also mean that other layers, or another way, carry the same."
    )
    return figure(panels(*drawn, thirds=True), caption)


def _steps(one: Knockout, count: int, scale: Scale) -> str:
    look = _ROUTES.get(one.route, Look("other-1"))
    chart = Chart(layer_scale(count), scale, "decoder layer", "change, nats", size=(310, 240))
    chart.level(0, Look("quiet"))
    chart.level(one.everywhere, look, "all layers")
    middles = []
    for (first, last), change in zip(one.windows, np.asarray(one.change).tolist(), strict=True):
        chart.span(first - 0.45, last + 0.45, change, look, 3.5, f"layers {first} to {last}: {number(change)} nats")
        middles.append((first + last) / 2)
    chart.line(middles, one.change, replace(look, dash=""))
    worst = int(np.nanargmin(one.change)) if np.isfinite(one.change).any() else 0
    first, last = one.windows[worst]
    return chart.svg(
        f"knockout {one.route}: most in layers {first} to {last}, {number(float(one.change[worst]))} nats; in all layers "
        f"{number(one.everywhere)}"
    )


def _swaps(report: FlowReport) -> str:
    rows = [
        [
            safe(swap.what) + (" (one draw)" if "random" in swap.what else ""),
            f"{swap.kept:,} of {len(report.image):,}",
            f"<bdi>{safe(swap.answer.strip()) or '(nothing)'}</bdi>",
            f'<span class="{"same" if swap.same else "changed"}">{"the same" if swap.same else "changed"}</span>',
            percent(float(np.exp(swap.log_probability))),
        ]
        for swap in report.swaps
    ]
    caption = (
        "What if other patches had been kept? Each row drops all image tokens but those named. The last column is the "
        "(geometric mean) probability of the explained tokens of the "
        "answer. An answer that stays when the kept patches are dropped "
        "did not hang on them. A random row is one draw; another may do better or worse."
    )
    caption += _where(report.kept)
    head = ["kept", "image tokens", "answer", "against all tokens", "probability of the explained tokens of the answer"]
    return figure(table("", head, rows), caption)


def _where(kept: Kept | None) -> str:
    """Where the rows drop tokens, for a method that cuts inside the decoder."""
    if kept is None or set(kept.layers) == {None}:
        return ""
    if kept.layer is not None:
        return (
            " The method chooses inside the decoder, and these rows drop tokens where it does; only the row without any image "
            "token drops them before the decoder."
        )
    return (
        " The method cuts in several places, some inside the decoder; these rows drop tokens before the decoder, so the row of "
        "what it kept is not the method's own answer."
    )
