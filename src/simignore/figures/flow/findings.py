"""The page in a few sentences, each computed from the report's numbers and no stronger than they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simignore.figures.flow.faithful import LEAST
from simignore.figures.flow.words import listed, number, percent, safe, signed
from simignore.flow.report import Array, FlowReport, Removal

MOST = 4
Finding = tuple[str, str]  # the section that shows it, and what was found as HTML


def findings(report: FlowReport) -> str:
    """The first few findings that the report has numbers for, as a list with links to where they are shown."""
    sources: tuple[Callable[[FlowReport], Finding | None], ...] = (
        kept_flow,
        believable,
        resembling,
        converged,
        sunk,
        cut,
        sure,
    )
    found = [one for source in sources if (one := source(report)) is not None][:MOST]
    items = "".join(f'<li><p>{said}</p><a href="#{where}">see why</a></li>' for where, said in found)
    return f'<section id="findings" aria-label="Findings"><h2>In short</h2><ol>{items}</ol></section>'


def converged(report: FlowReport) -> Finding | None:
    """Where the flow from the images converges, by every measure."""
    told = []
    for name, curves in report.curves.items():
        one = curves.convergence
        if one.layer >= 0:
            wide = f" (layers {one.first} to {one.last} have at least half as much)" if one.last > one.first else ""
            told.append(f"<b>layer {one.layer}</b> by {safe(name)}{wide}")
    if not told:
        return "layers", "Nothing flows from the image into the answer in any layer, by the measures of this page."
    return "layers", f"Of {report.layers} layers, flow from the image into the answer peaks in {listed(told)}."


def kept_flow(report: FlowReport) -> Finding | None:
    """Whether what was kept holds more flow than as many random tokens, and whether the answer stayed."""
    kept = report.kept
    if kept is None:
        return None
    same = kept.answer.strip() == report.answer.strip()
    held = f"With <b>{percent(kept.token_share)}</b> of the image tokens the answer {'stays the same' if same else 'changes'}"
    compared = {  # similarity is no flow, and often what the method chose by
        name: share for name, share in kept.flow_share.items() if name in kept.random_share and name != "similarity"
    }
    if not compared:
        return "kept", f"{held}."
    more = [name for name, share in compared.items() if share > kept.random_share[name][2]]
    less = [name for name, share in compared.items() if share < kept.random_share[name][1]]
    name = next((view for view in ("saliency", "attention") if view in compared), next(iter(compared)))
    chance = kept.random_share[name]
    verdict = f"more than chance by {len(more)} of {len(compared)} views"
    if less:
        verdict += f", less than chance by {len(less)}"
    return (
        "kept",
        f"{held}; the tokens kept hold <b>{percent(compared[name])}</b> of the {safe(name)}, as many random ones "
        f"{percent(chance[1])} to {percent(chance[2])} ({verdict}).",
    )


def resembling(report: FlowReport) -> Finding | None:
    """Whether similar tokens gather the flow into the answer, by every measure in its own convergence layer."""
    told, ways = [], set()
    for one in report.correlations:
        curves = report.curves.get(one.measure)
        if one.target != "answer" or curves is None or curves.convergence.layer < 0:
            continue
        layer = curves.convergence.layer
        rho, low, high = (float(values[layer]) for values in (one.rho, one.low, one.high))
        if np.isfinite([rho, low, high]).all():
            ways.add("more" if low > 0 else "less" if high < 0 else "unclear")
            interval = f"<b>{signed(rho)}</b>, {signed(low)} to {signed(high)}"
            told.append(f"with {safe(one.measure)} in layer {layer} {interval}")
    if not told:
        return None
    if ways == {"unclear"}:
        said = "Whether tokens that resemble the text send more into the answer than others cannot be told here"
    elif len(ways) > 1:
        said = (
            "Whether tokens that resemble the text send more into the answer than others <b>depends on the measure</b>"
        )
    else:
        said = f"Tokens that resemble the text send <b>{ways.pop()}</b> into the answer than others"
    return "hypothesis", f"{said} (rank correlation {'; '.join(told)})."


def believable(report: FlowReport) -> Finding | None:
    """Which views the deletion and insertion tests speak for, if the answer hangs on the picture at all."""
    removal = report.removal
    if removal is None or not (views := [name for name in removal.area if name != "random"]):
        return None
    if (needless := _needless(report, removal)) is not None:
        return needless
    lost, won = chance_areas(removal)
    views.sort(key=lambda name: removal.area[name][0] - removal.area[name][1])
    good = [name for name in views if removal.area[name][0] < lost.min() and removal.area[name][1] > won.max()]
    down, up = (number(area, 2) for area in removal.area[views[0]])
    areas = (
        f"(areas {down} and {up}; random orders {number(float(lost.min()), 2)} to {number(float(lost.max()), 2)} and "
        f"{number(float(won.min()), 2)} to {number(float(won.max()), 2)})"
    )
    if not good:
        said = f"No view beats all {len(lost)} random orders both by deletion and by insertion"
        return "faithful", f"{said}; <b>{safe(views[0])}</b> comes nearest {areas}."
    lead = [removal.area[name][1] - removal.area[name][0] for name in views[:2]]
    close = f", hardly ahead of {safe(views[1])}" if len(lead) > 1 and lead[0] - lead[1] < 0.03 else ""
    said = f"{len(good)} of {len(views)} views beat all {len(lost)} random orders, by deletion and by insertion"
    return "faithful", f"{said}; furthest goes <b>{safe(views[0])}</b>{close} {areas}."


def _needless(report: FlowReport, removal: Removal) -> Finding | None:
    """Whether the answer comes without the picture as well; then nothing that is removed can tell."""
    bare = next((swap for swap in report.swaps if swap.kept == 0), None)
    left = float(np.exp(next(iter(removal.deletion.values()))[-1])) if removal.deletion else 0.0
    if bare.same if bare is not None else left >= 0.5:
        what = "gives <b>the same answer" if bare else "<b>holds on to its answer"
        return (
            "faithful",
            f"The model {what} without any image token</b> (probability {percent(left)}), so this answer does not show what it "
            "takes from the picture, and no test below can say which view to believe.",
        )
    return None


def sunk(report: FlowReport) -> Finding | None:
    """How far the attention map depends on the order of the question's words."""
    sinks = report.sinks
    if sinks is None:
        return None
    return (
        "sinks",
        f"<b>{len(sinks.tokens)}</b> patches have at least {number(sinks.threshold)} times the average attention whether or "
        f"not the question's words are shuffled; rank correlation of the two maps: <b>{signed(sinks.correlation)}</b>.",
    )


def cut(report: FlowReport) -> Finding | None:
    """The way whose cutting hurts the answer most, if any does."""
    known = [one for one in report.knockout if np.isfinite(one.everywhere)]
    if not known:
        return None
    worst = min(known, key=lambda one: one.everywhere)
    change = f"{number(worst.everywhere)} nats for an answer token"
    if worst.everywhere > -LEAST:
        return "faithful", f"Cutting any one way through all layers costs next to nothing (at worst {change})."
    return "faithful", f"Of the ways that were cut, <b>{safe(worst.route)}</b> matters most: {change}."


def sure(report: FlowReport) -> Finding | None:
    """How sure the model was of its answer."""
    mean = float(np.exp(np.mean([np.log(max(one.probability, 1e-30)) for one in report.tokens])))
    return (
        "answer",
        f"The model gave an average token of its answer a probability of <b>{percent(mean)}</b> (geometric mean).",
    )


def chance_areas(removal: Removal) -> tuple[Array, Array]:
    """[R] areas under each random order's curve of probability, by trapezoids: deletion, insertion."""
    found = []
    for kind in ("deletion", "insertion"):
        likely = np.exp(np.atleast_2d(removal.random[kind]))  # [R, F]
        found.append(((likely[:, 1:] + likely[:, :-1]) / 2 * np.diff(removal.fractions)).sum(-1))
    return found[0], found[1]
