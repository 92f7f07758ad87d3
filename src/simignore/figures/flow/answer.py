"""The head of the page: the question, the pictures, and the answer token by token with what nearly came instead."""

from __future__ import annotations

from simignore.figures.flow.stage import Stage
from simignore.figures.flow.words import figure, percent, safe, section, token
from simignore.flow.report import AnswerToken, FlowReport
from simignore.wording import LETTERS

SHOWN = 24  # answer tokens in sight; more are folded away
_PICTURES = 6


def head(report: FlowReport, stage: Stage) -> str:
    """Question, options, pictures and the answer's own words."""
    options = "".join(
        f"<li><span>{letter}</span> <bdi>{safe(option)}</bdi></li>"
        for letter, option in zip(LETTERS, report.options, strict=False)
    )
    return (
        f'<header><div class="asked"><p class="eyebrow">simignore explain</p><h1 dir="auto">{safe(report.question)}</h1>'
        f"{f'<ol class=options>{options}</ol>' if options else ''}"
        f'<p class="answered"><span>The model answers</span> <strong dir="auto">{_said(report.answer)}</strong></p>'
        f"{_under_the_method(report)}</div>{_pictures(stage)}</header>"
    )


def answer(report: FlowReport) -> str:
    """The answer's tokens with their probabilities as bars, each with its runners-up."""
    cards = [_card(n, one) for n, one in enumerate(report.tokens, 1)]
    body = f'<ol class="cards">{"".join(cards[:SHOWN])}</ol>'
    if rest := cards[SHOWN:]:
        body += f'<details><summary>{len(rest)} more tokens</summary><ol class="cards">{"".join(rest)}</ol></details>'
    if report.cut:
        body += f'<p class="more">+ {report.cut:,} more, not explained</p>'
    caption = (
        "Each card is one token of the answer with all image tokens there; the long bar is the probability the model gave it, "
        "the short ones below are the tokens that came next. Probabilities are of the model's own distribution over its whole "
        "vocabulary: a high one says that the model was sure, not that it was right."
    )
    return section(
        "answer",
        "The answer, token by token",
        "How sure was the model, and what did it nearly say?",
        figure(body, caption),
    )


def _under_the_method(report: FlowReport) -> str:
    kept = report.kept
    if kept is None:
        return ""
    same = kept.answer.strip() == report.answer.strip()
    said = "the same" if same else f'<strong dir="auto">{_said(kept.answer)}</strong>'
    return f'<p class="under"><span>With {percent(kept.token_share)} of its image tokens ({safe(kept.name)})</span> {said}</p>'


def _said(answer: str) -> str:
    return safe(answer.strip()) or "(nothing)"


def _pictures(stage: Stage) -> str:
    shown = "".join(
        f'<svg viewBox="0 0 {image.width} {image.height}" role="img" aria-label="picture {n + 1} of the prompt">'
        f'<use href="#picture-{n}"/></svg>'
        for n, image in enumerate(stage.images[:_PICTURES])
    )
    more = len(stage.images) - _PICTURES
    rest = f"<figcaption>and {more} more</figcaption>" if more > 0 else ""
    return f'<figure class="pictures{" several" if len(stage.images) > 1 else ""}">{shown}{rest}</figure>'


def _card(number: int, one: AnswerToken) -> str:
    others = "".join(
        f'<li><span class="piece">{token(text)}</span><span class="thin" style="--share:{share:.4f}"></span>'
        f"<span>{percent(share)}</span></li>"
        for text, share in one.runners_up
    )
    return (
        f'<li class="card"><span class="n">{number}</span><span class="piece big">{token(one.text)}</span>'
        f'<span class="meter" style="--share:{one.probability:.4f}"></span><b>{percent(one.probability)}</b>'
        f"{f'<ol class=others>{others}</ol>' if others else ''}</li>"
    )
