"""One look for each thing that is drawn, the same in every figure of the page: parts of the prompt, views, random choices.

A look is the name of a CSS colour (``look.css`` gives it for light and for dark paper), a dash and a marker, so that lines stay
apart in grey, in print and for colour-blind readers. Views wear the colours of Okabe and Ito, parts of the prompt those of Tol.
"""

from __future__ import annotations

from dataclasses import dataclass

from simignore.flow import VIEWS


@dataclass(frozen=True)
class Look:
    """colour: a CSS colour name without its dashes. dash: of SVG lines, "" for none. marker: one of ``osD^vxP*``."""

    colour: str
    dash: str = ""
    marker: str = "o"


KEPT = Look("kept")
RANDOM = Look("random", "2 3", "x")
FLAGGED = Look("saliency", "", "D")

_VIEWS = {
    "attention": Look("attention", "", "o"),
    "attention at convergence": Look("other-3", "2 2", "D"),
    "question's attention": Look("other-1", "4 2", "v"),
    "saliency": Look("saliency", "7 3", "s"),
    "rollout": Look("rollout", "2 2", "^"),
    "relevancy": Look("relevancy", "9 3 2 3", "D"),
    "similarity": Look("similarity", "5 2", "v"),
}
_MORE = (Look("other-2", "6 2 2 2", "s"), Look("other-1", "4 2", "o"), Look("other-3", "1 2", "^"))
_SPANS = {
    "system": Look("system", "2 2", "v"),
    "context": Look("context", "9 3 2 3", "D"),
    "question": Look("question", "6 3", "s"),
    "options": Look("options", "4 2", "^"),
    "template": Look("other-1", "2 3", "D"),
    "earlier answer": Look("earlier", "1 2", "x"),
}
_IMAGES = (  # of several images: shades of one colour, each with its own dash and marker
    Look("image", "", "o"),
    Look("image-2", "8 3", "P"),
    Look("image-3", "3 3", "*"),
    Look("image-4", "1 3", "^"),
)

_UNITS = {
    "saliency": "nats",
    "question's saliency": "nats",
    "rollout": "share",
    "relevancy": "relevancy",
    "similarity": "cosine",
}


def of_view(name: str) -> Look:
    """The look of a view or a measure; the same for the same name."""
    return _VIEWS.get(name) or _MORE[sum(map(ord, name)) % len(_MORE)]


def unit(name: str) -> str:
    """The unit of a view's or a measure's numbers, for axes and colour bars."""
    return _UNITS.get(name, "attention" if "attention" in name else name)


def about(name: str) -> str:
    """What a view shows, in words."""
    if name in VIEWS:
        return VIEWS[name]
    measure = name.removeprefix("question's ")
    return (
        f"{measure} into the question's tokens, mean over them and layers" if measure != name else "a view of its own"
    )


def of_span(name: str, spans: tuple[str, ...]) -> Look:
    """The look of one of the prompt's parts ``spans``."""
    if name in _SPANS:
        return _SPANS[name]
    images = [span for span in spans if is_image(span)]
    if name in images:
        return _IMAGES[images.index(name) % len(_IMAGES)]
    others = [span for span in spans if span not in _SPANS and span not in images]
    return _MORE[others.index(name) % len(_MORE)] if name in others else _MORE[0]


def is_image(span: str) -> bool:
    """Whether a part of the prompt is one of its images or videos."""
    return span.split(" ")[0].rstrip("s") in ("image", "video")
