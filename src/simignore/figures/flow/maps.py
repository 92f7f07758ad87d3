"""Where each answer token came from: a heat map on the pictures for every answer token, view and layer."""

from __future__ import annotations

import numpy as np

from simignore.figures.flow.heat import bar
from simignore.figures.flow.stage import Stage
from simignore.figures.flow.store import Choice, choices, data, layers_shown
from simignore.figures.flow.verdict import speaks, views
from simignore.figures.flow.words import figure, listed, percent, safe, section, token
from simignore.flow.report import SIMILARITY, FlowReport

SHEET = 6  # answer tokens of the sheet of all views


def maps(report: FlowReport, stage: Stage) -> str:
    """One large map to explore, and a sheet of all views beside each other."""
    found = choices(report)
    says = "say" if speaks(report) else "cannot say"
    tested = (
        f' the <a href="#faithful">tests further below</a> {says} which of them to believe here.'
        if report.removal is not None
        else " which of them to believe was not tested here."
    )
    lead = (
        "Which patches of the picture does each token of the answer draw on? Several views answer this, and they need not "
        f"agree;{tested}"
    )
    store = f'<script type="application/json" id="maps-data">{data(report, stage, found)}</script>'
    sheet = _sheet(report, stage, found) if report.views else ""
    parts = [_explorer(report, stage, found), store, sheet]
    return section("maps", "What the answer looks at", lead, *parts)


def _explorer(report: FlowReport, stage: Stage, found: list[Choice]) -> str:
    first = found[0].map(0)
    alt = f"heat map over the picture: {found[0].name} of answer token 1, all layers"
    said = (
        f'<p class="said" id="maps-said" aria-live="polite"><b>{safe(found[0].name)}</b> of answer token 1 '
        f"{token(report.tokens[0].text)}, all layers: <span>{safe(found[0].said)}.</span></p>"
    )
    body = (
        f'<div class="explorer">{_controls(report, found)}<div class="shown">{said}'
        f"{stage.draw(first.painted(), alt=alt, kind='heat main')}"
        f'<div class="below">{bar(first, found[0].unit, "maps-bar")}<p class="read" id="maps-read"></p></div></div></div>'
    )
    caption = (
        "Every square is one image token, laid where its pixels are; the picture beneath is greyed. Yellow is most, dark "
        "violet least. Each map has its own scale, told on the bar: compare places within a map, but numbers between maps. "
        "Point at a square to read its number. A map shows where attention or its gradient lies, not what the model made of it."
    )
    if not stage.placed:
        caption += " This model's image tokens have no place on the picture: they are shown in reading order."
    return figure(body, caption + _covered(stage), "wide-figure")


def _covered(stage: Stage) -> str:
    """How much of the pictures has image tokens, where it is not all."""
    if not stage.seen:
        return ""
    alone = len(stage.images) == 1
    shares = [
        f"{percent(share)} of {'this picture' if alone else f'picture {n + 1}'}" for n, share in stage.seen.items()
    ]
    return f" Dark and hatched: what no image token covers, here and in all maps; the model saw {listed(shares)}."


def _controls(report: FlowReport, found: list[Choice]) -> str:
    tokens = "".join(_radio("maps-token", n, token(one.text)) for n, one in enumerate(report.tokens))
    views = "".join(_radio("maps-view", n, safe(one.name)) for n, one in enumerate(found))
    scales = _radio("maps-scale", 0, "number") + _radio("maps-scale", 1, "logarithm")
    last = len(layers_shown(report, found))
    return (
        f'<div class="choose"><fieldset><legend>Answer token</legend><div class="chips tokens">{tokens}</div></fieldset>'
        f'<fieldset><legend>View</legend><div class="chips">{views}</div></fieldset>'
        '<fieldset><legend><label for="maps-layer">Layer</label> <output id="maps-layer-said">all</output></legend>'
        f'<input type="range" id="maps-layer" min="0" max="{last}" value="0" step="1"></fieldset>'
        f'<fieldset><legend>Colours follow the</legend><div class="chips">{scales}</div></fieldset>'
        '<fieldset><legend><label for="maps-strength">Strength of the colours</label></legend>'
        '<input type="range" id="maps-strength" min="0.1" max="1" value="0.72" step="0.02"></fieldset></div>'
    )


def _radio(name: str, value: int, label: str) -> str:
    checked = " checked" if not value else ""
    return f'<label><input type="radio" name="{name}" value="{value}"{checked}><span>{label}</span></label>'


def _sheet(report: FlowReport, stage: Stage, found: list[Choice]) -> str:
    """All views by the first answer tokens, small; of many panels the one with most of the first view."""
    only = None
    if len(stage.panels) > 2:
        only = [int(np.argmax([float(np.nansum(found[0].maps[:, panel.tokens])) for panel in stage.panels]))]
    drawn = [(v, choice) for v, choice in enumerate(found) if choice.name in report.views]
    rows = []
    for a, one in enumerate(report.tokens[:SHEET]):
        cells = "".join(_thumb(stage, choice, v, a, only) for v, choice in drawn)
        rows.append(f'<tr><th scope="row"><small>{a + 1}</small> {token(one.text)}</th>{cells}</tr>')
    titles = "".join(f'<th scope="col">{safe(choice.name)}</th>' for _, choice in drawn)
    longest = max(len(one.text) for one in report.tokens[:SHEET])
    columns = f'style="--columns:{len(drawn)};--first:{min(max(0.68 * longest + 1.8, 4.2), 12):.1f}rem"'
    body = (
        '<div class="wide" role="region" aria-label="all views" tabindex="0">'
        f'<table class="sheet" {columns}><thead><tr><td></td>{titles}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    caption = "All views (columns) of each answer token (rows), over all layers, each map on its own scale."
    if len(report.tokens) > SHEET:
        caption += f" The first {SHEET} of {len(report.tokens)} tokens; the large map has all."
    if only is not None:
        caption += f" Shown is {safe(stage.panels[only[0]].name)}, which has most of {safe(found[0].name)}."
    by_logarithm = [choice.name for _, choice in drawn if choice.by_logarithm]
    if by_logarithm:
        caption += f" Colours follow the logarithm for {safe(listed(by_logarithm))}."
    caption += _counted(report, found)
    key = " ".join(f"<b>{safe(choice.name)}</b>: {safe(choice.said)}." for _, choice in drawn)
    return figure(body, f'{caption} <span class="key">{key}</span>', "wide-figure")


def _counted(report: FlowReport, found: list[Choice]) -> str:
    """Why sections of the page have different numbers of views."""
    more = [choice.name for choice in found if choice.name not in report.views]
    told = f" The large map has {safe(listed(more))} as well." if more else ""
    if report.removal is not None:
        told += f" The tests further below try {len(views(report.removal))} views."
    if report.kept is not None and 0 < len(report.kept.flow_share) < len(report.views):
        left = [name for name in report.views if name not in report.kept.flow_share]
        why = ", which is no flow" if left == [SIMILARITY] else ""
        told += f" The shares of flow on kept tokens leave out {safe(listed(left))}{why}."
    return told


def _thumb(stage: Stage, choice: Choice, view: int, answer_token: int, only: list[int] | None) -> str:
    alt = f"{choice.name} of answer token {answer_token + 1}"
    drawn = stage.draw(choice.map(answer_token).painted(), alt=alt, kind="heat small", only=only)
    chosen = f'data-view="{view}" data-token="{answer_token}" title="{safe(alt)}"'
    return f'<td><button type="button" {chosen}>{drawn}</button></td>'
