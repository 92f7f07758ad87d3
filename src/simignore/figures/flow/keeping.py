"""What the method kept, dropped and merged, over the pictures, and whether the flow was on what it kept."""

from __future__ import annotations

import numpy as np

from simignore.figures.flow.chart import Chart
from simignore.figures.flow.heat import bar, heat
from simignore.figures.flow.labels import wide
from simignore.figures.flow.looks import KEPT, RANDOM, of_view
from simignore.figures.flow.scale import Scale
from simignore.figures.flow.stage import Stage
from simignore.figures.flow.words import figure, panels, percent, safe, section
from simignore.flow.report import Array, FlowReport, Kept


def keeping(report: FlowReport, stage: Stage) -> str:
    """Nothing without a method."""
    kept = report.kept
    if kept is None:
        return ""
    lead = (
        f"<code>{safe(kept.method)}</code> kept {int(kept.selection.count[0])} of {stage.count} image tokens. "
        "Did it keep those that the answer draws on?"
    )
    return section("kept", "What was kept and what was dropped", lead, _over_the_picture(kept, stage), _shares(kept))


def _over_the_picture(kept: Kept, stage: Stage) -> str:
    stayed = kept.selection.kept[0].cpu().numpy()
    source = kept.selection.source[0].cpu().numpy()
    merged = (source >= 0) & ~stayed
    veil = np.zeros((stage.count, 4), np.uint8)
    veil[~stayed] = (13, 15, 20, 205)
    veil[merged] = (13, 15, 20, 150)
    lines = _merges(stage, np.flatnonzero(merged), source)
    outline = stage.outline(stayed)
    over = [line + border for line, border in zip(lines, outline, strict=True)]
    counts = {"kept": int(stayed.sum()), "merged": int(merged.sum()), "dropped": int((source < 0).sum())}
    alt = f"the picture with {counts['kept']} kept patches bright, {counts['dropped']} dropped ones dark"
    key = "".join(f'<span class="{name}">{name}: {count}</span>' for name, count in counts.items() if count)
    first = f'{stage.draw(veil, over, alt)}<p class="swatches">{key}</p>'
    drawn = [("Kept, dropped and merged patches" if merged.any() else "Kept and dropped patches", first)]
    if kept.selection.score is not None:
        scores = heat(kept.selection.score[0].detach().double().cpu().numpy())
        second = stage.draw(scores.painted(), outline, f"scores of {kept.name} over the picture", "heat")
        drawn.append(("What it chose by", second + bar(scores, "score")))
    caption = "Bright patches inside the orange line stayed, dark ones were dropped before or inside the decoder." + (
        " Half-dark ones were merged into the kept patch that a thin line leads to." if merged.any() else ""
    )
    if kept.selection.score is not None:
        caption += (
            " The second panel has the scores that decided, highest in yellow, with the same line round what stayed."
        )
    return figure(panels(*drawn), caption)


def _merges(stage: Stage, merged: Array, source: Array) -> list[str]:
    """For each panel lines from merged tokens to those that took them in; of tokens in one panel."""
    paths = ["" for _ in stage.panels]
    for token in merged.tolist():
        one, other = stage.middle(token), stage.middle(int(source[token]))
        if one and other and one[0] == other[0]:
            paths[one[0]] += f"M{one[1]:.1f} {one[2]:.1f}L{other[1]:.1f} {other[2]:.1f}"
    return [f'<path class="merge" d="{path}"/>' if path else "" for path in paths]


def _shares(kept: Kept) -> str:
    """A row for each view: its flow on the kept tokens, and what as many random ones would have."""
    names = list(kept.flow_share)
    if not names:
        return ""
    height = 76 + 34 * len(names)
    x, y = Scale(0, 1, told=percent), Scale(-0.6, len(names) - 0.4, told=lambda value: "")
    left = 24 + max(map(wide, names))
    chart = Chart(x, y, "share of a view's flow that is on the kept tokens", "", size=(560, height), left=left)
    chart.upright(kept.token_share, f"{percent(kept.token_share)} of the tokens", KEPT.colour)
    for row, name in enumerate(reversed(names)):
        share = kept.flow_share[name]
        chart.row(row, name)
        if name in kept.random_share:
            mean, low, high = kept.random_share[name]
            told = f"random: {percent(mean)} ({percent(low)} to {percent(high)})"
            chart.span(low, high, row, RANDOM, 9, told)
            chart.mark(mean, row, RANDOM, told)
        chart.mark(share, row, of_view(name), f"{name}: {percent(share)}")
        chart.word(share, row, percent(share))
    alt = "; ".join(
        f"{name}: {percent(share)} of its flow on the kept tokens" for name, share in kept.flow_share.items()
    )
    caption = (
        "Each row is one view. The marker is the share of its flow that lies on the "
        f"{percent(kept.token_share)} of image tokens that were kept, mean over answer tokens. The grey bar is where the "
        "middle 95 % of random choices of as many tokens fall, the cross their mean. A marker right of the bar says that the "
        "method kept more of what the view marks than chance would; it does not say that the view marks what matters."
    )
    if (np.asarray(kept.selection.source[0].cpu())[~kept.selection.kept[0].cpu().numpy()] >= 0).any():
        caption += (
            " Merged tokens live on in the kept ones that took them in, so the share of flow on kept tokens understates what "
            "was kept."
        )
    if "similarity" in names:
        caption += " Similarity is no flow: a method that chooses by it keeps more of it by its making."
    return figure(f'<div class="panel">{chart.svg(alt)}</div>', caption, "one")
