"""Flow by layer: from every part of the prompt into the answer, and from the images into the question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simignore.figures.flow.chart import Chart
from simignore.figures.flow.looks import is_image, of_span, of_view, unit
from simignore.figures.flow.scale import Scale, over
from simignore.figures.flow.words import figure, listed, number, panels, percent, ranges, safe, section
from simignore.flow.report import Array, Curves, FlowReport

CONVERGENCE = (
    "The <b>convergence layer</b> is the decoder layer in which most flow goes from all image tokens into the answer's tokens "
    "(mean over those); the tinted stripe is the run of layers around it with at least half as much each."
)


_PARTS = {
    "system": "all that stands before the first image, the system's message and opening marker included",
    "context": "a text that came with the question",
    "template": "the chat's markers and the instruction how to answer",
    "earlier answer": "what of the answer stands before the token that is predicted",
}


def layer_scale(layers: int) -> Scale:
    """The axis of layers, counted from 0."""
    return Scale(-0.4, layers - 0.6, told=lambda value: f"{value:.0f}", whole=True)


def blanks(chart: Chart, *lines: Array) -> None:
    """Hatch the layers in which none of the lines has a number."""
    known = np.isfinite(np.stack([np.asarray(line, dtype=float) for line in lines])).any(0)
    for layer in np.flatnonzero(~known).tolist():
        chart.shade(layer - 0.5, layer + 0.5, "none")


def layers(report: FlowReport) -> str:
    """Curves of every measure; shares, per token, and the raw sums where they are not shares already."""
    lead = (
        "How much of what reaches the answer comes from each part of the prompt, layer by layer, and where does the flow from "
        "the pictures converge?"
    )
    figures = [_measure(curves) for curves in report.curves.values()]
    return section("layers", "Layer by layer", lead, *figures, _both(report))


def _measure(curves: Curves) -> str:
    """Parts of the prompt into the answer, by one measure."""
    name = curves.measure
    share = _mean(curves.share)
    per_token = _mean(np.where(curves.counts[:, None] > 0, curves.per_token, np.nan))
    drawn = [
        (
            f"{name}: share of all that flows in",
            _spans(curves, share, Scale(0, _top(share), told=percent), "share of flow"),
        ),
        (
            f"{name}: per token of the part",
            _spans(curves, per_token, over(per_token, log=_wide(per_token)), f"{unit(name)} per token"),
        ),
    ]
    if name != "attention":  # into one token it sums to 1, so its sums are its shares
        total = _mean(curves.into)
        drawn.append((f"{name}: in all", _spans(curves, total, over(total, zero=True), unit(name))))
        drawn.append((f"{name}: over how many patches", _spread(curves)))
    caption = (
        f"Flow by {safe(name)} into the answer's tokens (mean over them) by decoder layer, counted from 0. The first chart: "
        "parts of the prompt against each other, every layer adding up to 100 %. The second: the same for an average "
        "token of each part, since "
        f"a part with many tokens gathers much by their number alone{_floor(per_token)}. "
        + _parts(curves.spans)
        + CONVERGENCE
        + _blind(curves)
    )
    if name != "attention":
        caption += (
            " The others: the sums themselves, which say in which layers the answer hangs on attention at all, and over how "
            "many image tokens the flow is spread (exponential of its entropy: 1 is all from one token)."
        )
    return figure(panels(*drawn), caption)


def _both(report: FlowReport) -> str:
    """Images to answer against images to question, for each measure."""
    drawn = []
    for name, curves in report.curves.items():
        question, answer = _mean_tokens(curves.question), curves.convergence.flow
        scale = over(question, answer, zero=True)
        chart = Chart(layer_scale(report.layers), scale, "decoder layer", unit(name), ["to question", "to answer"])
        _converged(chart, curves)
        blanks(chart, answer, question)
        depth = np.arange(report.layers)
        chart.line(depth, question, of_span("question", ()), "to question")
        chart.line(depth, answer, of_span("image", ("image",)), "to answer")
        alt = f"{name} from all image tokens to the question and to the answer, by layer"
        drawn.append((f"{name}: from the images to question and answer", chart.svg(alt)))
    tested = '<a href="#faithful">the knockout</a> tests that' if report.knockout else "knockout would test that"
    caption = (
        "What all image tokens send together into an average token of the question, and into the answer's tokens. Where the "
        "first is high in early layers and the second later, the question's tokens may have gathered what the answer needs; "
        f"{tested}, these curves alone do not."
    )
    return figure(panels(*drawn), caption)


def _spans(curves: Curves, values: Array, scale: Scale, label: str) -> str:
    """[L, S] as one line for each part of the prompt."""
    spans = [
        (n, span)
        for n, span in enumerate(curves.spans)
        if np.isfinite(values[:, n]).any() and curves.counts[:, n].any()
    ]
    chart = Chart(layer_scale(len(values)), scale, "decoder layer", label, [span for _, span in spans])
    _converged(chart, curves)
    blanks(chart, *values.T)
    for n, span in sorted(spans, key=lambda pair: is_image(pair[1])):  # images last, on top
        chart.line(np.arange(len(values)), values[:, n], of_span(span, curves.spans), span)
    tops = [f"{span} {scale.told(float(np.nanmax(values[:, n])))}" for n, span in spans]
    return chart.svg(f"{label} by decoder layer, {curves.measure}; highest values: {listed(tops)}")


def _spread(curves: Curves) -> str:
    """Over how many image tokens the flow is spread, by layer."""
    spread = curves.convergence.spread
    scale = over(spread, zero=True)
    chart = Chart(layer_scale(len(spread)), scale, "decoder layer", "image tokens", ["image"])
    _converged(chart, curves)
    blanks(chart, spread)
    chart.line(np.arange(len(spread)), spread, of_span("image", ("image",)), "image")
    known = spread[np.isfinite(spread)]
    least = f", at least {number(float(known.min()))}" if known.size else ""
    return chart.svg(f"over how many image tokens the flow to the answer is spread{least}")


def _converged(chart: Chart, curves: Curves) -> None:
    converged = curves.convergence
    if converged.layer < 0:
        return
    chart.shade(converged.first - 0.5, converged.last + 0.5)
    chart.upright(converged.layer, f"converges at {converged.layer}", of_view(curves.measure).colour)


def _blind(curves: Curves) -> str:
    missing: Sequence[int] = np.flatnonzero(~np.isfinite(curves.convergence.flow)).tolist()
    if not missing:
        return ""
    return f" Hatched: layers without attention ({ranges(missing)}), in which nothing can be measured."


def _parts(spans: Sequence[str]) -> str:
    """What the parts of the prompt are that their names alone do not say."""
    told = [f"<q>{name}</q> is {said}" for name, said in _PARTS.items() if name in spans]
    return f"Of the parts, {'; '.join(told)}. " if told else ""


def _floor(values: Array) -> str:
    """What a logarithmic axis does with values that are too small for it."""
    return "; what is less than a ten thousandth of the largest lies at the bottom" if _wide(values) else ""


def _wide(values: Array) -> bool:
    """Whether the largest is so many times the smallest that only the logarithm shows both."""
    known = values[np.isfinite(values)]
    return bool(known.size and known.max() > 30 * max(known.min(), 0))


def _mean(values: Array) -> Array:
    """[A, L, S] -> [L, S], over the answer tokens that have a number."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(0)
    return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)


def _mean_tokens(values: Array) -> Array:
    """[L, N] -> [L] summed over image tokens; a layer without numbers stays so."""
    return np.where(np.isfinite(values).any(1), np.nansum(values, 1), np.nan)


def _top(share: Array) -> float:
    known = share[np.isfinite(share)]
    return min(1.0, float(known.max()) * 1.08) if known.size and known.max() > 0 else 1.0
