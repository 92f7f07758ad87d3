"""What ``simignore flow-stats`` found, as one page that needs nothing beside it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from simignore.figures.flow_stats import (
    by_part,
    convergence,
    image_flow,
    per_token,
    shares,
    similarity,
    similarity_by_group,
)
from simignore.figures.page import page, picture, table
from simignore.flow.report import MEASURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Told = Mapping[str, Any]  # metrics.json, or a part of it
BANDS = "Line: mean over questions; dark band: its 95 % interval; light band: the middle half of the questions."
CONVERGENCE = (
    "The convergence layer of a question is the decoder layer in which most flow goes from all its image tokens together into "
    "the tokens of its answer (mean over those; the first of equals)."
)
INTRODUCTION = (
    "Attention: what a token that predicts the answer pays to each token before it, mean over heads. Saliency: |attention × "
    "gradient| of the answer token's log-odds, summed over heads, in nats. Layers are counted from 0. Neither proves what an "
    "answer depends on; they show where it can have come from. Every question was answered with all its image tokens."
)


def figures(metrics: Told, title: str) -> Iterator[tuple[str, str, Figure]]:
    """(file name, caption, figure) of all there is to see in ``metrics.json``. title: of the benchmark."""
    flows = metrics["flow"]
    whole, sides = flows["all"], {side: flows[side] for side in ("right", "wrong") if side in flows}
    questions = f"{whole['questions']:,} questions"
    yield (
        "shares",
        f"Where the flow into an answer token comes from, {questions}: the share of each part of the prompt in each layer, "
        "mean over a question's answer tokens; a part counts where a question has it. Line: mean over questions; band: its "
        "95 % interval.",
        shares(whole, f"{title}: where the flow into the answer comes from"),
    )
    yield (
        "shares-by-part",
        f"The same, part by part, each on a scale of its own (in brackets: questions that have it, if not all). {BANDS}",
        by_part(whole, f"{title}: share of the flow into the answer, part by part"),
    )
    yield (
        "per-token",
        "What one token of each part sends into an answer token. Image tokens are many, so each sends little where all of them "
        "send most. Line: median over questions; band: their middle half; the axis is logarithmic.",
        per_token(whole, f"{title}: flow from one token"),
    )
    yield (
        "convergence",
        f"In how many questions flow from the image into the answer converges in each layer. {CONVERGENCE}",
        convergence(sides, f"{title}: where flow from the image converges"),
    )
    yield (
        "image-flow",
        "Flow from all image tokens into one token of the answer, and of the question (mean over those; saliency there is that "
        f"of the first answer token), for right and wrong answers, each on a scale of its own. {BANDS}",
        image_flow(sides, f"{title}: flow from the image"),
    )
    yield (
        "similarity",
        "Do image tokens that resemble the text gather the flow? Spearman's rank correlation over a question's image tokens of "
        "their largest cosine with a token of the text and the flow from them; above 0 the similar ones send more. Layers "
        f"without flow have none. {BANDS}",
        similarity(whole, f"{title}: do similar image tokens gather the flow?"),
    )
    for kind, groups in metrics["groups"].items():
        if len(groups) > 1:
            yield (
                f"similarity-{kind.replace(' ', '-')}",
                f"The same correlation by {kind} (in brackets: questions). Colour: mean over questions; a dot where its 95 % "
                "interval holds 0, or there is none; grey where there is no flow.",
                similarity_by_group(groups, f"{title}: do similar image tokens gather the flow, by {kind}?"),
            )


def png(figure: Figure) -> bytes:
    """A figure as a PNG file, the same for the same figure."""
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    return data.getvalue()


def flow_stats_page(title: str, metrics: Told, facts: Told, pictures: Sequence[tuple[str, bytes]]) -> str:
    """The page. title: of the benchmark. facts: what everything depends on. pictures: captions and PNG files."""
    parts = [f"<h2>{escape(title)}</h2>", f"<p>{escape(_asked(metrics))}</p>", f"<p>{escape(INTRODUCTION)}</p>"]
    parts += [picture(words, data) for words, data in pictures]
    parts += [_layers(measure, metrics["flow"]["all"][measure]) for measure in MEASURES]
    parts += [_groups(kind, groups) for kind, groups in metrics["groups"].items() if len(groups) > 1]
    if unexplained := metrics["unexplained"]:
        rows = [(False, [escape(name), escape(why)]) for name, why in unexplained.items()]
        parts.append(table("Questions that could not be explained, and why.", ("question", "reason"), rows))
    told = "".join(f"<li>{escape(str(name))}: <code>{escape(str(value))}</code></li>" for name, value in facts.items())
    parts.append(f"<details><summary>What this was measured with</summary><ul>{told}</ul></details>")
    return page("What the answers draw on", parts)


def _asked(metrics: Told) -> str:
    """How many questions, how many right, and which are left out."""
    told = (
        f"{metrics['questions']:,} questions, {metrics['accuracy'] * 100:.1f} % answered right (95 % interval "
        f"{metrics['low'] * 100:.1f} to {metrics['high'] * 100:.1f}), {metrics['image_tokens']:.4g} image tokens and "
        f"{metrics['answer_tokens']:.3g} answer tokens each, mean."
    )
    if metrics["without_image"]:
        told += f" {metrics['without_image']:,} more have no image and are left out."
    if metrics["unexplained"]:
        told += f" {len(metrics['unexplained']):,} more could not be explained; see below."
    if metrics["cut"]:
        told += f" {metrics['cut']:,} answers are longer than what was explained of them."
    return told


def _layers(measure: str, flow: Told) -> str:
    """All layers in numbers, by one measure."""
    head = (
        "layer",
        "from the image, % of all flow",
        "correlation, answer",
        "correlation, question",
        "questions that converge here",
    )
    rows = []
    for layer, count in enumerate(flow["convergence"]["counts"]):
        cells = [_interval(flow["share"]["image"], layer, 100, 1)]
        cells += [_interval(flow["rho"][target], layer, 1, 2) for target in ("answer", "question")]
        rows.append((False, [str(layer), *cells, str(count)]))
    caption = f"{measure.capitalize()} by layer. Brackets: 95 % intervals of means over questions."
    if nothing := flow["convergence"]["nothing"]:
        caption += f" In {nothing:,} questions nothing flows from the image in any layer."
    return table(caption, head, rows)


def _interval(band: Told, layer: int, times: float, digits: int) -> str:
    """``12.3 (10.1 to 14.5)`` of one layer."""
    mean, low, high = (band[name][layer] for name in ("mean", "low", "high"))
    if mean is None:
        return ""
    ends = "" if low is None else f" ({low * times:.{digits}f} to {high * times:.{digits}f})"
    return f"{mean * times:.{digits}f}{ends}"


def _groups(kind: str, groups: Told) -> str:
    """Accuracy and where flow converges, by kind of question."""
    rows = []
    for name, own in groups.items():
        cells = [escape(name), f"{own['questions']:,}"]
        cells.append(f"{own['accuracy'] * 100:.1f} ({own['low'] * 100:.1f} to {own['high'] * 100:.1f})")
        for measure in MEASURES:
            middle = [own[measure]["convergence"][name] for name in ("median", "quarter", "three_quarters")]
            cells.append("" if middle[0] is None else "{:g} ({:g} to {:g})".format(*middle))
        rows.append((False, cells))
    head = (kind, "questions", "accuracy, %", "convergence layer, attention", "saliency")
    return table(f"By {kind}. Brackets: 95 % intervals of accuracies, quartiles of layers.", head, rows)


__all__ = ["figures", "flow_stats_page", "png"]
