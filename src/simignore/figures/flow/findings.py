"""The page in a few sentences, each computed from the report's numbers and no stronger than they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from simignore.figures.flow.faithful import LEAST
from simignore.figures.flow.verdict import KINDS, TIE, alone, chance_areas, leads, level, needless, views, winners
from simignore.figures.flow.words import fixed, listed, number, percent, safe, signed
from simignore.flow.report import FlowReport, Removal

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
    told: list[str] = []
    ways: dict[str, list[str]] = {"more": [], "less": [], "unclear": []}
    for one in report.correlations:
        curves = report.curves.get(one.measure)
        if one.target != "answer" or curves is None or curves.convergence.layer < 0:
            continue
        layer = curves.convergence.layer
        rho, low, high = (float(values[layer]) for values in (one.rho, one.low, one.high))
        if np.isfinite([rho, low, high]).all():
            ways["more" if low > 0 else "less" if high < 0 else "unclear"].append(safe(one.measure))
            interval = f"<b>{signed(rho)}</b>, 95 % interval at least {signed(low)} to {signed(high)}"
            told.append(f"with {safe(one.measure)} in layer {layer} {interval}")
    if not told:
        return None
    said = _gathered(ways)
    return "hypothesis", f"{said} (rank correlation {'; '.join(told)})."


def _gathered(ways: dict[str, list[str]]) -> str:
    """Whether similar tokens send more, from the measures that say so, that say less, and that cannot tell."""
    more, less, unclear = ways["more"], ways["less"], ways["unclear"]
    if more and less:
        return (
            "Whether tokens that resemble the text send more into the answer than others <b>depends on the measure</b>: more "
            f"by {listed(more)}, less by {listed(less)}"
        )
    if not more and not less:
        return "Whether tokens that resemble the text send more into the answer than others cannot be told here"
    said = f"Tokens that resemble the text send <b>{'more' if more else 'less'}</b> into the answer than others"
    return f"{said} by {listed(more or less)}; by {listed(unclear)} it cannot be told" if unclear else said


def believable(report: FlowReport) -> Finding | None:
    """Which views the deletion and insertion tests speak for, each test by itself, if the answer hangs on the picture."""
    removal = report.removal
    if removal is None or not views(removal):
        return None
    if needless(report):
        what = (
            "gives <b>the same answer" if any(swap.kept == 0 for swap in report.swaps) else "<b>holds on to its answer"
        )
        return (
            "faithful",
            f"The model {what} without any image token</b> (probability {percent(alone(removal))}), so this answer does not "
            "show what it takes from the picture, and no test below can say which view to believe.",
        )
    told = f"{_outcome(removal, 0)}; {_outcome(removal, 1)}."
    return "faithful", told[0].upper() + told[1:]


def _outcome(removal: Removal, column: int) -> str:
    """What one of the two tests says, with what differs by less than a tie taken as level."""
    kind = KINDS[column]
    if level(removal, column):
        return f"{kind} cannot tell: all views and chance are within {TIE}"
    won, chance = winners(removal, column), chance_areas(removal)[column]
    best = next(iter(leads(removal, column)))
    areas = (
        f"(area {fixed(removal.area[best][column])}, random orders {fixed(float(chance.min()))} to "
        f"{fixed(float(chance.max()))})"
    )
    ahead = leads(removal, column)
    if not won:
        even = ahead[best] - min(ahead.values()) < TIE
        nearest = f"all views are level {areas}" if even and len(ahead) > 1 else f"nearest comes {safe(best)} {areas}"
        return f"by {kind} no view beats all {len(chance)} random orders; {nearest}"
    beside = [safe(name) for name in won[1:] if ahead[best] - ahead[name] < TIE]
    furthest = f"; furthest goes <b>{safe(best)}</b>{', level with ' + listed(beside) if beside else ''} {areas}"
    return f"by {kind} {len(won)} of {len(ahead)} views beat all {len(chance)} random orders{furthest}"


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
