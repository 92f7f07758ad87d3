"""The generated sections of docs/flow.md: which views to believe, the paper's claim by layer, and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sections import FLOW, MEMORY, footnote, markdown, read_result, same_weights

LINES = {
    "attention to answer": "attention into the answer",
    "saliency to answer": "saliency into the answer",
    "attention to question": "attention into the question",
    "saliency to question": "saliency into the question",
}


def views(root: Path) -> str:
    """Each view's area under the ROC curve against the needed patches, overall and by kind of question."""
    result = _flow(root)
    kinds = {"all": result["auc"], **result["auc by kind"]}
    rows = []
    for kind, own in kinds.items():
        asked = max(one["questions"] for one in own.values())
        cells = [_sure(one) if kind == "all" else _mean(one) for one in own.values()]
        rows.append([f"**{kind}**" if kind == "all" else kind.replace("_", " "), f"{asked:,}", *cells])
    what = (
        "Area under the ROC curve for telling the patches of needed objects from others, mean over questions (0.5 is chance), "
        f"95 % interval in brackets; the model answers {result['accuracy']:.0%} right"
    )
    return f"{markdown(('questions', 'how many', *result['auc']), rows)}\n\n{footnote(result, what)}"


def views_by_layer(root: Path) -> str:
    """The same for the rows of single layers, where chosen layers are better than all together."""
    result = _flow(root)
    return _by_layer(result, "auc by layer", 0.5) + f"\n\n{_converging(result)}"


def claim(root: Path) -> str:
    """Rank correlation of similarity and flow, by layer."""
    result = _flow(root)
    what = (
        "Spearman's rank correlation of an image token's similarity (largest cosine with a token of question and options) and "
        f"the flow from it, mean over {result['questions']:,} questions; all are within 0.02 of their means at 95 %"
    )
    others = (
        "Over those image tokens alone that the question does not need, where a common cause (an object that is asked about "
        "both resembles the words and is looked at) is out of play:"
    )
    tables = [_by_layer(result, name, None) for name in ("rho", "rho of others")]
    _check_width(result, 0.02)
    return f"{tables[0]}\n\n{others}\n\n{tables[1]}\n\n{footnote(result, what)}"


def memory(root: Path) -> str:
    """Peak memory of each stage."""
    result = read_result(root, MEMORY)
    names = {
        "forward": "plain forward",
        "measure": "curves and heat maps",
        "explain": "all but the tests, words and a method",
        "tests": "deletion, insertion, knockout",
    }
    rows = [
        [names[name], f"{one['peak_gb']:.2f}", f"{one['more_gb']:.2f}", f"{one['seconds']:.0f}"]
        for name, one in result["stages"].items()
    ]
    what = (
        f"A prompt of {result['image_tokens']:,} image tokens, {result['layers']} decoder layers of width {result['width']}, "
        f"two answer tokens; bar: {result['bound_gb']:g} GB more than the forward; seconds beside other work"
    )
    head = ("", "peak memory, GB", "more than the forward", "seconds")
    return f"{markdown(head, rows)}\n\n{footnote(result, what)}"


def _flow(root: Path) -> dict[str, Any]:
    result: dict[str, Any] = read_result(root, FLOW)
    same_weights(result, FLOW)
    return result


def _by_layer(result: Mapping[str, Any], figure: str, nothing: float | None) -> str:
    """One row per line of ``LINES``; the figure that means no flow at all (saliency into the question in the last layer, after
    which the question is not read) is left out."""
    layers = len(next(iter(result[figure].values())))
    rows = []
    for name, title in LINES.items():
        means = [one["mean"] for one in result[figure][name]]
        rows.append([title, *("-" if mean is None or mean == nothing else f"{mean:.2f}" for mean in means)])
    return markdown(("layer", *map(str, range(layers))), rows)


def _converging(result: Mapping[str, Any]) -> str:
    told = []
    for name, counts in result["convergence"].items():
        shares = [
            f"{count / sum(counts):.0%} in layer {layer}"
            for layer, count in enumerate(counts)
            if count / sum(counts) >= 0.05
        ]
        told.append(f"by {name} {', '.join(shares)}")
    return f"Flow into the answer converges {'; '.join(told)}."


def _check_width(result: Mapping[str, Any], most: float) -> None:
    """Raise where the words about all intervals would not hold."""
    for figure in ("rho", "rho of others"):
        for name, ones in result[figure].items():
            for layer, one in enumerate(ones):
                if one["mean"] is not None and one["high"] - one["mean"] > most:
                    raise ValueError(
                        f"{figure}, {name}, layer {layer}: the interval is wider than {most}; change the words"
                    )


def _mean(one: Mapping[str, Any]) -> str:
    return "" if one["mean"] is None else f"{one['mean']:.3f}"


def _sure(one: Mapping[str, Any]) -> str:
    return f"**{one['mean']:.3f}** ({one['low']:.3f} to {one['high']:.3f})"


SECTIONS: dict[str, Callable[[Path], str]] = {
    "views": views,
    "views-by-layer": views_by_layer,
    "claim": claim,
    "memory": memory,
}
