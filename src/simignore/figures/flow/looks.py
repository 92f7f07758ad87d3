"""One look for each thing that is drawn, the same in every figure of the page: parts of the prompt, views, random choices.

A look is the name of a CSS colour (``look.css`` gives it for light and for dark paper), a dash and a marker, so that lines stay
apart in grey, in print and for colour-blind readers. Views wear the colours of Okabe and Ito, parts of the prompt those of Tol.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """colour: a CSS colour name without its dashes. dash: of SVG lines, "" for none. marker: one of ``osD^vx``."""

    colour: str
    dash: str = ""
    marker: str = "o"


@dataclass(frozen=True)
class About:
    """What a view shows. unit: of its numbers, for axes and colour bars. said: one sentence."""

    unit: str
    said: str


KEPT = Look("kept")
RANDOM = Look("random", "2 3", "x")
FLAGGED = Look("saliency", "", "D")

_VIEWS = {
    "attention": Look("attention", "", "o"),
    "saliency": Look("saliency", "7 3", "s"),
    "rollout": Look("rollout", "2 2", "^"),
    "relevancy": Look("relevancy", "9 3 2 3", "D"),
    "similarity": Look("similarity", "5 2", "v"),
}
_MORE = (Look("other-1", "4 2", "o"), Look("other-2", "6 2 2 2", "s"), Look("other-3", "1 2", "^"))
_SPANS = {
    "system": Look("system", "2 2", "v"),
    "context": Look("context", "9 3 2 3", "D"),
    "question": Look("question", "6 3", "s"),
    "options": Look("options", "4 2", "^"),
    "earlier answer": Look("earlier", "1 2", "x"),
}
_IMAGES = ("", "8 2", "3 2", "1 2")  # of several images: one colour, several dashes

ABOUT = {
    "attention": About(
        "attention",
        "how much the place that predicts the token attends to each patch: after softmax, heads averaged, all layers together.",
    ),
    "saliency": About(
        "nats",
        "|attention × gradient|: how far the token's log-probability hangs on the attention that each patch gets.",
    ),
    "rollout": About(
        "share",
        "attention multiplied through all layers, with the path round each attention block counted, so that what reaches the "
        "answer through other tokens is seen as well.",
    ),
    "relevancy": About(
        "relevancy",
        "rollout in which each layer's attention is weighted with its gradient, and what speaks against the token is left out.",
    ),
    "similarity": About(
        "cosine",
        "the largest cosine between a patch's embedding, as it enters the decoder, and a token of the text: the same for every "
        "answer token, and known before the decoder has run.",
    ),
}


def of_view(name: str) -> Look:
    """The look of a view or a measure; the same for the same name."""
    return _VIEWS.get(name) or _MORE[sum(map(ord, name)) % len(_MORE)]


def about(name: str) -> About:
    """What a view shows; a view that this page does not know is shown with its name alone."""
    return ABOUT.get(name, About(name, f"the view that the report calls {name!r}."))


def of_span(name: str, spans: tuple[str, ...]) -> Look:
    """The look of one of the prompt's parts ``spans``."""
    if name in _SPANS:
        return _SPANS[name]
    images = [span for span in spans if is_image(span)]
    if name in images:
        return Look("image", _IMAGES[images.index(name) % len(_IMAGES)], "oD^s"[images.index(name) % 4])
    others = [span for span in spans if span not in _SPANS and span not in images]
    return _MORE[others.index(name) % len(_MORE)] if name in others else _MORE[0]


def is_image(span: str) -> bool:
    """Whether a part of the prompt is one of its images or videos."""
    return span.split(" ")[0].rstrip("s") in ("image", "video")
