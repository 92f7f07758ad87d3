"""The logit lens: what the model's own end would say at some image tokens, layer by layer."""

from __future__ import annotations

from simignore.figures.flow.stage import Stage
from simignore.figures.flow.words import figure, percent, safe, section, table, token
from simignore.flow.report import FlowReport

_BESIDE = 2  # further words in each cell


def reading(report: FlowReport, stage: Stage) -> str:
    """Nothing without a lens."""
    lens = report.lens
    if lens is None or not lens.tokens:
        return ""
    head = ["state"] + [
        f'<span class="pinned">{n}</span> token {token_number}<small dir="auto">{safe(why)}</small>'
        for n, (token_number, why) in enumerate(zip(lens.tokens, lens.why, strict=True), 1)
    ]
    depth = len(lens.words[0])
    rows = []
    for state in range(depth):
        name = "input" if state == 0 else f"after {state - 1}"
        rows.append([name, *(_cell(words[state]) for words in lens.words)])
    lead = (
        "What would the model say if each of these patches had to be a word? Early on that is mostly noise; where a word for "
        "what the patch shows comes up, the decoder has made something of it."
    )
    caption = (
        "Rows: the decoder's input and the state after each layer. Each cell: the likeliest word that the model's final "
        "normalisation and head read off the patch's hidden state, its probability (the stronger the tint, the surer), and "
        "the next ones in small. The head was trained on last layers only: of early ones it may read nothing although "
        "something is there."
    )
    where = stage.draw(
        over=stage.pins({token: str(n) for n, token in enumerate(lens.tokens, 1)}),
        alt="where the tokens of the lens lie",
    )
    body = f'<div class="lens"><div class="where">{where}</div>{table("", head, rows, "states")}</div>'
    return section("lens", "What patches turn into", lead, figure(body, caption, "wide-figure"))


def _cell(words: tuple[tuple[str, float], ...]) -> str:
    if not words:
        return ""
    text, share = words[0]
    rest = " ".join(token(other) for other, _ in words[1 : 1 + _BESIDE])
    every = ", ".join(f"{word} {percent(likely)}" for word, likely in words)
    return (
        f'<div class="said" title="{safe(every)}" style="--share:{share:.3f}"><span class="piece">{token(text)}</span> '
        f"<span>{percent(share)}</span>"
        f"{f'<small>{rest}</small>' if rest else ''}</div>"
    )
