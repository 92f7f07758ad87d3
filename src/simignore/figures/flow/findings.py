"""The page in a few sentences, each computed from the report's numbers and no stronger than they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simignore.figures.flow.words import listed, number, percent, safe, signed
from simignore.flow.report import Array, FlowReport, Removal

MOST = 4
Finding = tuple[str, str]  # the section that shows it, and what was found as HTML


def findings(report: FlowReport) -> str:
    """The first few findings that the report has numbers for, as a list with links to where they are shown."""
    sources: tuple[Callable[[FlowReport], Finding | None], ...] = (
        converged,
        kept_flow,
        resembling,
        believable,
        sunk,
        cut,
        sure,
    )
    found = [one for source in sources if (one := source(report)) is not None][:MOST]
    items = "".join(f'<li><p>{said}</p><a href="#{where}">see why</a></li>' for where, said in found)
    return f'<section id="findings" aria-label="Findings"><h2>In short</h2><ol>{items}</ol></section>'


def converged(report: FlowReport) -> Finding | None:
    """Where the flow from the images converges, by every measure, and how much of all flow that is."""
    told = []
    for name, curves in report.curves.items():
        one = curves.convergence
        run = f"layers {one.first} to {one.last}" if one.last > one.first else "that layer alone"
        told.append(f"<b>layer {one.layer}</b> by {safe(name)} (at least half as much in {run})")
    return "layers", f"Flow from the image into the answer is largest in {listed(told)}, of {report.layers} layers."


def kept_flow(report: FlowReport) -> Finding | None:
    """Whether what was kept holds more flow than as many random tokens, and whether the answer stayed."""
    kept = report.kept
    if kept is None:
        return None
    same = kept.answer.strip() == report.answer.strip()
    held = f"With <b>{percent(kept.token_share)}</b> of the image tokens the answer {'stays the same' if same else 'changes'}"
    compared = {name: share for name, share in kept.flow_share.items() if name in kept.random_share}
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
    """Whether similar tokens gather the flow, in the convergence layer."""
    for one in report.correlations:
        curves = report.curves.get(one.measure)
        if one.target != "answer" or curves is None:
            continue
        layer = curves.convergence.layer
        rho, low, high = (float(values[layer]) for values in (one.rho, one.low, one.high))
        if not np.isfinite([rho, low, high]).all():
            continue
        interval = f"<b>{signed(rho)}</b>, {signed(low)} to {signed(high)}"
        where = f"rank correlation with {safe(one.measure)} in layer {layer}: {interval}"
        if low <= 0 <= high:
            return "hypothesis", f"Whether tokens that resemble the text gather the flow cannot be told here ({where})."
        size = "strongly" if abs(rho) >= 0.6 else "moderately" if abs(rho) >= 0.3 else "weakly"
        way = "more" if rho > 0 else "less"
        return (
            "hypothesis",
            f"Tokens that resemble the text send {size} <b>{way}</b> into the answer than others ({where}).",
        )
    return None


def believable(report: FlowReport) -> Finding | None:
    """Which view the deletion and insertion tests speak for, if any."""
    removal = report.removal
    if removal is None or not (views := [name for name in removal.area if name != "random"]):
        return None
    best = max(views, key=lambda name: removal.area[name][1] - removal.area[name][0])
    down, up = removal.area[best]
    lost, won = chance_areas(removal)
    orders = f"random orders {number(float(lost.min()), 2)} to {number(float(lost.max()), 2)}"
    backs = f"{number(float(won.min()), 2)} to {number(float(won.max()), 2)}"
    if down < lost.min() and up > won.max():
        return (
            "faithful",
            f"The view to believe here is <b>{safe(best)}</b>: the answer goes soonest without the patches it marks (area "
            f"{number(down, 2)}; {orders}) and comes back soonest with them ({number(up, 2)}; {backs}).",
        )
    return (
        "faithful",
        f"No view is better than all random orders on both tests; <b>{safe(best)}</b> comes nearest (deletion "
        f"{number(down, 2)}; {orders}; insertion {number(up, 2)}; {backs}).",
    )


def sunk(report: FlowReport) -> Finding | None:
    """How far the attention map depends on the question."""
    sinks = report.sinks
    if sinks is None:
        return None
    return (
        "sinks",
        f"<b>{len(sinks.tokens)}</b> patches have at least {number(sinks.threshold)} times the average attention whatever is "
        f"asked; attention with the question and with its words shuffled: rank correlation <b>{signed(sinks.correlation)}</b>.",
    )


def cut(report: FlowReport) -> Finding | None:
    """The way whose cutting hurts the answer most."""
    known = [one for one in report.knockout if np.isfinite(one.everywhere)]
    if not known:
        return None
    worst = min(known, key=lambda one: one.everywhere)
    change = f"{number(worst.everywhere)} nats for an answer token"
    if worst.everywhere >= 0:
        return "faithful", f"Cutting no way through the layers makes the answer less likely (at worst {change})."
    return "faithful", f"Of the ways that were cut, <b>{safe(worst.route)}</b> matters most: {change}."


def sure(report: FlowReport) -> Finding | None:
    """How sure the model was of its answer."""
    mean = float(np.exp(np.mean([np.log(max(one.probability, 1e-30)) for one in report.tokens])))
    return (
        "answer",
        f"The model gave an average token of its answer a probability of <b>{percent(mean)}</b> (geometric mean).",
    )


def chance_areas(removal: Removal) -> tuple[Array, Array]:
    """[R] areas under each random order's curve of probability: deletion, insertion."""
    lost, won = (
        np.trapezoid(np.exp(np.asarray(removal.random[kind])), np.asarray(removal.fractions), axis=-1)
        for kind in ("deletion", "insertion")
    )
    return np.atleast_1d(lost), np.atleast_1d(won)
