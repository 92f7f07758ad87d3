"""Flow over a data set: curves by decoder layer with bands, where flow converges, whether similar tokens gather it.

A line is the mean over questions, the dark band its 95 % interval, and the light band the middle half of the questions, unless
the figure says otherwise below. Pure functions over ``metrics.json`` of ``simignore flow-stats``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simignore.figures.accuracy import COLOURS, said

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Told = Mapping[str, Any]  # a part of metrics.json
MEASURES = {"attention": "attention", "saliency": "saliency |attention × gradient|"}
OF_MEASURE = {"attention": COLOURS[0], "saliency": COLOURS[1]}
# one colour for each part of the prompt in all figures, and a dash, so that they are told apart without colour
PARTS = {
    "image": (COLOURS[0], "-"),
    "question": (COLOURS[1], "-"),
    "options": (COLOURS[2], "-"),
    "context": (COLOURS[3], "--"),
    "system": (COLOURS[6], ":"),
    "template": (COLOURS[7], "-."),
    "earlier answer": (COLOURS[4], "--"),
}
SIDES = {"right": (COLOURS[2], "-"), "wrong": (COLOURS[3], "--")}
HALF, INTERVAL = 0.13, 0.3  # how opaque the bands are
MEAN = "line: mean over questions; dark band: its 95 % interval"
MEAN_AND_HALF = f"{MEAN}; light band: middle half of the questions"
DECADES = 1e-5  # below the largest median nothing is shown
MEDIAN = "line: median over questions; band: their middle half"


def shares(flow: Told, title: str = "") -> Figure:
    """Share of all flow into an answer token by part of the prompt: one panel for each measure. flow: of ``whole``."""
    figure, axes = _panels(1, 2, _layers(flow), title)
    for axis, measure in zip(axes[0], MEASURES, strict=True):
        for part, (colour, dash) in _parts(flow[measure]["share"]):
            _curve(axis, flow[measure]["share"][part], 100, color=colour, linestyle=dash, label=part, half=False)
        _name(axis, MEASURES[measure])
        axis.set_ylim(0, 100)
    axes[0][0].set_ylabel("share of the flow\ninto an answer token, %", fontsize=9)
    _legend(figure, axes[0][0], MEAN)
    return figure


def per_token(flow: Told, title: str = "") -> Figure:
    """What one token of each part sends into an answer token, on a logarithmic axis: medians, for they vary by decades."""
    figure, axes = _panels(1, 2, _layers(flow), title)
    flows = np.concatenate([_numbers(band["median"]) for m in MEASURES for band in flow[m]["per_token"].values()])
    largest = float(flows[flows > 0].max(initial=0)) or 1.0
    axes[0][0].set_ylabel("flow from one token\n(attention: 0 to 1; saliency: nats)", fontsize=9)
    for axis, measure in zip(axes[0], MEASURES, strict=True):
        bands = flow[measure]["per_token"]
        axis.set(yscale="log", ylim=(largest * DECADES, largest * 2))
        for part, (colour, dash) in _parts(bands):
            _curve(axis, bands[part], middle="median", color=colour, linestyle=dash, label=part)
        _name(axis, MEASURES[measure])
    _legend(figure, axes[0][0], MEDIAN)
    return figure


def by_part(flow: Told, title: str = "") -> Figure:
    """The share of each part of the prompt in a panel and on a scale of its own, for both measures."""
    parts = [part for part, _ in _parts(flow["attention"]["share"])]
    columns = min(4, len(parts))
    figure, axes = _panels(-(-len(parts) // columns), columns, _layers(flow), title, height=2.2, across=False)
    places = [axis for row in axes for axis in row]
    for axis, part in zip(places, parts, strict=False):
        for measure, colour in OF_MEASURE.items():
            _curve(axis, flow[measure]["share"][part], 100, color=colour, label=measure)
        questions = max(flow["attention"]["share"][part]["questions"], default=0)
        _name(axis, part if questions == flow["questions"] else f"{part} ({questions:,})")
        axis.set_ylim(0, None)
        axis.tick_params(labelbottom=True)
    for axis in places[len(parts) :]:
        axis.remove()
    for row in axes:
        row[0].set_ylabel("share of the flow, %", fontsize=9)
    _legend(figure, axes[0][0])
    return figure


def image_flow(flows: Mapping[str, Told], title: str = "") -> Figure:
    """Flow from the image into the answer and into the question, where the answer is right and where it is wrong.

    flows: ``whole`` for "right" and "wrong", as far as there are any.
    """
    layers = _layers(next(iter(flows.values())))
    figure, axes = _panels(2, 2, layers, title, height=2.5, across=False)
    for row, (measure, unit) in zip(axes, (("attention", "attention"), ("saliency", "saliency, nats")), strict=True):
        for axis, target in zip(row, ("answer", "question"), strict=True):
            for side, (colour, dash) in SIDES.items():
                if side in flows:
                    label = f"answer {side} ({flows[side]['questions']:,})"
                    band = flows[side][measure][f"image_to_{target}"]
                    _curve(axis, band, color=colour, linestyle=dash, label=label)
            _name(axis, f"image to {target}")
            axis.set_ylim(0, None)
        row[0].set_ylabel(unit, fontsize=9)
    _legend(figure, axes[0][0])
    return figure


def convergence(flows: Mapping[str, Told], title: str = "") -> Figure:
    """In how many questions flow converges in each layer, right and wrong answers stacked: one panel for each measure.

    flows: ``whole`` for "right" and "wrong", as far as there are any.
    """
    layers = _layers(next(iter(flows.values())))
    figure, axes = _panels(1, 2, layers, title)
    for axis, measure in zip(axes[0], MEASURES, strict=True):
        below = np.zeros(layers)
        for side, (colour, _) in SIDES.items():
            if side not in flows:
                continue
            counts = np.array(flows[side][measure]["convergence"]["counts"])
            look = {"color": colour, "hatch": "" if side == "right" else "///", "edgecolor": "white", "linewidth": 0.6}
            label = f"answer {side} ({flows[side]['questions']:,})"
            axis.bar(np.arange(layers), counts, bottom=below, width=0.85, label=label, **look)
            below = below + counts
        _name(axis, MEASURES[measure])
    axes[0][0].set_ylabel("questions", fontsize=9)
    _legend(figure, axes[0][0], "")
    return figure


def similarity(flow: Told, title: str = "") -> Figure:
    """Rank correlation of similarity and flow by layer, for each measure: one panel for each target. flow: of ``whole``."""
    figure, axes = _panels(1, 2, _layers(flow), title)
    for axis, target in zip(axes[0], ("answer", "question"), strict=True):
        axis.axhline(0, color="#444444", linewidth=0.8)
        for measure, colour in OF_MEASURE.items():
            _curve(axis, flow[measure]["rho"][target], color=colour, label=measure)
        _name(axis, f"flow into the {target}")
    axes[0][0].set_ylabel("rank correlation with similarity", fontsize=9)
    _legend(figure, axes[0][0])
    return figure


def similarity_by_group(groups: Mapping[str, Told], title: str = "") -> Figure:
    """The same by kind of question, as colours: a row for each kind, a column for each layer.

    A dot marks means whose 95 % interval holds 0, or that have none; grey are layers without flow. groups: ``brief`` by the
    kind's name.
    """
    from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("flow", (COLOURS[1], "#FFFFFF", COLOURS[0]))
    names = list(groups)
    keys = [(measure, target) for measure in MEASURES for target in ("answer", "question")]
    rho = {key: _grid([one[key[0]]["rho"][key[1]] for one in groups.values()]) for key in keys}
    largest = np.nanmax([np.nanmax(np.abs(one["mean"]), initial=0) for one in rho.values()])
    reach, layers = max(0.1, float(largest)), rho[keys[0]]["mean"].shape[1]
    figure, axes = _panels(2, 2, layers, title, height=0.19 * len(names) + 0.9)
    places = axes.ravel().tolist()
    for axis, key in zip(places, keys, strict=True):
        mean, low, high = (rho[key][name] for name in ("mean", "low", "high"))
        axis.imshow(mean, cmap=scale, vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
        kinds, unsure = np.nonzero(~((low > 0) | (high < 0)) & ~np.isnan(mean))
        axis.plot(unsure, kinds, ".", color="#444444", markersize=3)
        axis.set_facecolor("#D6DAE2")
        _name(axis, f"{key[0]} into the {key[1]}")
        axis.grid(visible=False)
        labels = [f"{said(name).replace('_', ' ')} ({groups[name]['questions']:,})" for name in names]
        axis.set_yticks(range(len(names)), labels)
    bar = figure.colorbar(places[0].images[0], ax=places, fraction=0.03, pad=0.015)
    bar.set_label("rank correlation, mean   (dot: 95 % interval holds 0; grey: no flow)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    return figure


def _grid(bands: Sequence[Told]) -> dict[str, NDArray[np.float64]]:
    """Mean and ends of the interval of several bands [G, L]."""
    return {name: np.array([_numbers(band[name]) for band in bands]) for name in ("mean", "low", "high")}


def _layers(flow: Told) -> int:
    """L of ``whole``."""
    return len(flow["attention"]["spread"]["mean"])


def _parts(bands: Told) -> list[tuple[str, tuple[str, str]]]:
    """The parts of the prompt that there are, with their looks."""
    return [(part, look) for part, look in PARTS.items() if part in bands]


def _numbers(line: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array(line, dtype=np.float64)  # None becomes not a number


def _curve(axis: Any, band: Told, times: float = 1, *, half: bool = True, middle: str = "mean", **look: Any) -> None:
    """The middle as a line, of a mean its interval as a dark band, and the middle half of the questions as a light one."""
    lines = {name: _numbers(band[name]) * times for name in band if name != "questions"}
    x = np.arange(len(lines["mean"]))
    if half:
        axis.fill_between(x, lines["quarter"], lines["three_quarters"], color=look["color"], alpha=HALF, linewidth=0)
    if middle == "mean":
        axis.fill_between(x, lines["low"], lines["high"], color=look["color"], alpha=INTERVAL, linewidth=0)
    known = ~np.isnan(lines[middle])  # the line goes on over layers without attention
    axis.plot(x[known], lines[middle][known], marker="o", markersize=2.2, linewidth=1.4, **look)


def _panels(
    rows: int, columns: int, layers: int, title: str, height: float = 3.1, across: bool = True
) -> tuple[Figure, Any]:
    """A figure of panels by layer. height: of one, in inches. across: whether they share the vertical axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, height * rows + 0.6), layout="constrained", dpi=130)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=across)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.tick_params(labelsize=8)
        axis.set_xlim(-0.5, layers - 0.5)
        axis.set_xticks(range(0, layers, -(-layers // (24 // columns))))
    for axis in axes[-1]:
        axis.set_xlabel("decoder layer", fontsize=9)
    if title:
        figure.suptitle(said(title), x=0.01, ha="left", size=10)
    return figure, axes


def _name(axis: Any, name: str) -> None:
    axis.set_title(name, fontsize=9)


def _legend(figure: Any, axis: Any, bands: str = MEAN_AND_HALF) -> None:
    """Below the panels. bands: what line and bands are."""
    look = {"frameon": False, "fontsize": 8, "title": bands or None, "title_fontsize": 7.5}
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(7, len(labels))), **look)


__all__ = ["by_part", "convergence", "image_flow", "per_token", "shares", "similarity", "similarity_by_group"]
