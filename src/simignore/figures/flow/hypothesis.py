"""The paper's hypothesis on this prompt: do image tokens that resemble the text gather the flow?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simignore.figures.flow.chart import Chart
from simignore.figures.flow.layers import blanks, layer_scale
from simignore.figures.flow.looks import KEPT, Look, of_view, unit
from simignore.figures.flow.scale import Scale, over
from simignore.figures.flow.stage import Stage
from simignore.figures.flow.words import figure, listed, panels, percent, safe, section, signed
from simignore.flow.report import Array, Correlation, Curves, FlowReport, Projection

_SPANS = {"user": "what was asked", "question": "the question", "question+options": "the question and its options"}
WORDS = 24  # of the text, written beside their points where there is room
CLUSTERS = (  # no orange, which marks what was kept; the last stands for all further ones
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (240, 228, 66),
    (140, 109, 49),
    (136, 34, 85),
    (150, 150, 160),
)


def hypothesis(report: FlowReport, stage: Stage) -> str:
    """Scatter at the convergence layer, rank correlation by layer, and both kinds of embeddings in one plane."""
    lead = (
        "Methods that keep what resembles the text rest on one claim: image tokens that are similar to it "
        f"({safe(_SPANS.get(report.span, report.span))}) are those that the answer draws on. Does that hold for this prompt?"
    )
    parts = [_scatters(report), _ranks(report), _plane(report, stage)]
    return section("hypothesis", "Do similar tokens gather the flow?", lead, *parts)


def _scatters(report: FlowReport) -> str:
    drawn = [
        (f"{name}, layer {curves.convergence.layer}", _scatter(report, curves))
        for name, curves in report.curves.items()
        if curves.convergence.layer >= 0
    ]
    if not drawn:
        return ""
    ringed = " Tokens that the method kept are ringed in orange." if report.kept else ""
    caption = (
        "Each dot is an image token: across, its largest cosine with a token of the text; up, the flow from it into the answer "
        f"(mean over its tokens) in the convergence layer.{ringed} If the claim held, the dots would rise to the right. On "
        "a logarithmic axis all that is less than a ten thousandth of the largest lies at the bottom."
    )
    return figure(panels(*drawn), caption)


def _scatter(report: FlowReport, curves: Curves) -> str:
    flow = np.asarray(curves.tokens)[:, curves.convergence.layer].mean(0)  # [N]
    similarity = np.asarray(report.similarity, dtype=float)
    chart = Chart(
        over(similarity),
        over(flow, log=None),
        "similarity to the text, cosine",
        f"flow to the answer, {unit(curves.measure)}",
    )
    kept = _kept(report)
    chart.dots(similarity[~kept], flow[~kept], of_view(curves.measure), 4.5)
    chart.dots(similarity[kept], flow[kept], KEPT, 7.5, "rings")
    chart.dots(similarity[kept], flow[kept], of_view(curves.measure), 3.5)
    return chart.svg(
        f"{len(flow)} image tokens: similarity against {curves.measure} in layer {curves.convergence.layer}"
    )


def _ranks(report: FlowReport) -> str:
    if not report.correlations:
        return ""
    targets = list(dict.fromkeys(one.target for one in report.correlations))
    drawn = []
    for target in targets:
        own = [one for one in report.correlations if one.target == target]
        drawn.append((f"with flow into the {target}", _rank(report, own, target)))
    caption = (
        "Spearman's rank correlation, over image tokens, of similarity and flow, by decoder layer: 1 would mean that they "
        "order the patches alike, 0 that they have nothing to do with each other, below 0 that similar patches get less. "
        "Bands: 95 % by bootstrap over image tokens; neighbouring patches are alike, so the true intervals are wider. One "
        "prompt shows nothing about others; <code>simignore flow-stats</code> measures it over a data set."
    )
    return figure(panels(*drawn), caption)


def _rank(report: FlowReport, own: Sequence[Correlation], target: str) -> str:
    ends = [np.concatenate([one.low, one.high, one.rho]) for one in own]
    known = np.concatenate(ends)
    known = known[np.isfinite(known)]
    low = min(-0.25, float(known.min()) - 0.05) if known.size else -1.0
    high = max(0.25, float(known.max()) + 0.05) if known.size else 1.0
    scale = Scale(max(low, -1), min(high, 1), told=signed)
    chart = Chart(layer_scale(report.layers), scale, "decoder layer", "rank correlation", [one.measure for one in own])
    blanks(chart, *[one.rho for one in own])
    chart.level(0, Look("quiet"))
    depth = np.arange(report.layers)
    for one in own:
        chart.band(depth, one.low, one.high, of_view(one.measure))
        chart.line(depth, one.rho, of_view(one.measure), one.measure)
    tops = [f"{one.measure} at most {signed(float(np.nanmax(one.rho)))}" for one in own if np.isfinite(one.rho).any()]
    return chart.svg(f"rank correlation of similarity with flow into the {target}, by layer: {listed(tops)}")


def _plane(report: FlowReport, stage: Stage) -> str:
    plane = report.projection
    if plane is None:
        return ""
    count = int(plane.cluster.max()) + 1 if len(plane.cluster) else 0
    shown = np.minimum(plane.cluster, len(CLUSTERS) - 1)
    tints = np.array([(*tint, 255) for tint in CLUSTERS], np.uint8)
    alt = f"{count} clusters of image tokens over the picture"
    pins = stage.pins({stage.heart(shown == n): str(n) for n in np.unique(shown).tolist()})
    drawn = [
        ("Embeddings of image and text", _embeddings(plane, shown, _kept(report))),
        (f"The {count} clusters on the picture", stage.draw(tints[shown], pins, alt, kind="heat clusters")),
    ]
    ringed = ", ringed in orange where the method kept them" if report.kept else ""
    written = "" if len(plane.words) <= WORDS else f" (of {len(plane.words)} the first {WORDS} are named)"
    more = " The last colour, grey, stands for all smaller ones." if count > len(CLUSTERS) else ""
    caption = (
        "The first panel: embeddings as they "
        "enter the decoder, scaled to length 1, in the plane of their two main components. Dots are "
        f"image tokens{ringed}, squares are tokens of the text{written}. The plane shows {percent(sum(plane.explained))} of "
        "the variance, so what lies together here may be far apart in truth. Colours are clusters by density peaks, numbered "
        f"by size, and the same on the picture.{more}"
    )
    return figure(panels(*drawn), caption)


def _embeddings(plane: Projection, cluster: Array, kept: Array) -> str:
    """The plane. cluster: [N] which colour. kept: [N]."""
    both = np.concatenate([plane.image, plane.text])
    names = [f"component {n + 1} ({percent(share)} of variance)" for n, share in enumerate(plane.explained)]
    chart = Chart(over(both[:, 0]), over(both[:, 1]), names[0], names[1], size=(460, 440))
    x, y = plane.image.T
    chart.dots(x[kept], y[kept], KEPT, 8, "rings")
    for n in np.unique(cluster).tolist():
        chart.dots(x[cluster == n], y[cluster == n], Look(f"cluster-{n}"), 4.5)
    for n in np.unique(cluster).tolist():
        chart.tag(np.median(x[cluster == n]), np.median(y[cluster == n]), str(n))
    for word, (across, down) in zip(plane.words, plane.text, strict=True):
        chart.mark(across, down, Look("ink", marker="s"), word)
    for word, (across, down) in list(zip(plane.words, plane.text, strict=True))[:WORDS]:
        chart.word(across, down, word.replace("Ġ", " ").replace("▁", " ").strip() or word)
    return chart.svg(f"{len(x)} image tokens and {len(plane.words)} text tokens in a plane, coloured by cluster")


def _kept(report: FlowReport) -> Array:
    if report.kept is None:
        return np.zeros(len(report.similarity), dtype=bool)
    return np.asarray(report.kept.selection.kept[0].cpu().numpy())
