"""What an explanation holds: plain numbers, ready to be drawn, saved or compared. No model in sight.

Shapes beside the project's alphabet: A answer tokens, S spans of the prompt, F fractions, W windows of layers. Decoder layers
are counted from 0. Flow "into" an answer token is flow into the place that predicts it: the last token of the prompt for the
first one, the answer token before for each of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simignore.flow.plain import plain
from simignore.types import Patches, Selection

Array = NDArray[Any]
MEASURES = ("attention", "saliency")
SIMILARITY = "similarity"  # the view that is no flow, and so has no share of it


@dataclass(frozen=True)
class AnswerToken:
    """One token of the answer. probability: what the model gave it. runners_up: the next likeliest, with theirs."""

    id: int
    text: str
    probability: float
    runners_up: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Convergence:
    """Where flow from the images into the answer converges, by one measure.

    layer: the *convergence layer*, the decoder layer in which most flow goes from all image tokens into the answer's tokens
        (mean over those); -1 where nothing flows. first, last: the run of layers around it with at least half as much each,
        ends included.
    flow: [L] that flow; not a number in layers without attention.
    spread: [L] over how many image tokens it is spread: the exponential of its entropy, from 1 (all from one token) to N.
    """

    layer: int
    first: int
    last: int
    flow: Array
    spread: Array


@dataclass(frozen=True)
class Curves:
    """Flow by decoder layer, by one measure; not a number in layers without attention.

    "attention": after softmax, mean over heads; what flows into one token sums to 1. "saliency": |attention x gradient|,
    summed over heads (unit: nats), the gradient that of the answer token's log-odds log p / (1 - p): the loss's over 1 - p, so
    it has the same shares and does not vanish where the model is sure.
    spans: names of the parts of the prompt, which have every token in exactly one; the last is "earlier answer".
    into: [A, L, S] from each span into each answer token, summed over the span's tokens. counts: [A, S] how many there are.
    tokens: [A, L, N] the same from each image token.
    question: [L, N] from each image token into the question's tokens, mean over those (the saliency is that of the first
        answer token; of later ones nothing else could flow into the question).
    """

    measure: str
    spans: tuple[str, ...]
    into: Array
    counts: Array
    tokens: Array
    question: Array
    convergence: Convergence

    @property
    def per_token(self) -> Array:
        """[A, L, S] flow from a span per token of it: what an average token of the span sends."""
        return self.into / np.maximum(self.counts, 1)[:, None, :]

    @property
    def share(self) -> Array:
        """[A, L, S] flow from a span as a share of all flow into the answer token in that layer."""
        whole: Array = np.maximum(self.into.sum(-1, keepdims=True), 1e-30)
        return self.into / whole


@dataclass(frozen=True)
class Kept:
    """What a method kept, and whether that was right.

    method: its repr. name: as in `simignore list`. selection: of one sample, tensors on the host. answer: under the method.
    layers: for each of its cuts the decoder layer before which it is made, as the method names it; None before the decoder.
    token_share: image tokens kept of all. flow_share: for each view the share of its flow on the kept tokens (mean over answer
    tokens). random_share: for each view (mean, low, high) over draws of as many tokens at random: mean and the middle 95 %.
    """

    method: str
    name: str
    selection: Selection
    answer: str
    token_share: float
    flow_share: Mapping[str, float]
    random_share: Mapping[str, tuple[float, float, float]]
    layers: tuple[int | float | None, ...] = (None,)

    @property
    def layer(self) -> int | float | None:
        """Where counterfactuals drop tokens: where the method does, and before the decoder if it cuts in several places."""
        return self.layers[0] if len(self.layers) == 1 else None


@dataclass(frozen=True)
class Correlation:
    """The paper's hypothesis on this prompt: do image tokens that resemble the text gather the flow?

    measure: of the flow. target: "answer" (flow into the answer's tokens) or "question" (into the question's).
    rho: [L] Spearman's rank correlation over image tokens of similarity and flow. low, high: [L] its 95 % interval by bootstrap
    over image tokens (neighbouring patches are alike, so the true interval is wider).
    """

    measure: str
    target: str
    rho: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Projection:
    """Image and text embeddings in one plane, by PCA of both together, each scaled to length 1.

    image: [N, 2]; text: [M, 2]; words: the M tokens of the text as strings. explained: the two axes' shares of the variance.
    cluster: [N] cluster of each image token by density peaks, numbered from 0 in the order of their sizes.
    """

    image: Array
    text: Array
    words: tuple[str, ...]
    explained: tuple[float, float]
    cluster: Array


@dataclass(frozen=True)
class Sinks:
    """Image tokens that gather attention whatever the question.

    shuffled: the question with its words in another order. asked, other: [N] attention from the last token of the prompt to
    each image token, mean over layers, as a multiple of the image tokens' average; with the question and with the shuffled one.
    tokens: those with at least ``threshold`` times the average in both. correlation: rank correlation of the two: the nearer
    to 1, the less the map has to do with the question.
    """

    shuffled: str
    asked: Array
    other: Array
    threshold: float
    tokens: tuple[int, ...]
    correlation: float


@dataclass(frozen=True)
class Lens:
    """Logit lens: what the model's own end reads off the hidden states of some image tokens, layer by layer.

    tokens: image tokens, numbers among N. why: why each was taken. words: for each token and each of the L + 1 states (0 is the
    decoder's input) the likeliest tokens with their probabilities, best first.
    """

    tokens: tuple[int, ...]
    why: tuple[str, ...]
    words: tuple[tuple[tuple[tuple[str, float], ...], ...], ...]


@dataclass(frozen=True)
class Removal:
    """Deletion and insertion: how likely the answer stays while image tokens go, or come back, in the order of a view.

    fractions: [F] of the image tokens, from 0 to 1. deletion: for each view [F] the mean log-probability of an answer token
    after so many of the highest were dropped. insertion: [F] with only so many of the highest there. Both are of the answer
    that all image tokens give. random: "deletion" and "insertion" [R, F] in R random orders.
    area: for each view and for "random" (mean of R) the areas (deletion, insertion) under the curves of probability (the
        exponential of the above): a faithful view has a small first and a large second.
    """

    fractions: Array
    deletion: Mapping[str, Array]
    insertion: Mapping[str, Array]
    random: Mapping[str, Array]
    area: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Knockout:
    """Attention knockout: one way is cut in a window of layers, and the answer's probability tells what went that way.

    route: "image to question", "image to last" or "question to last", where "last" is what predicts each answer token.
    windows: (first, last) layer of each, ends included. change: [W] how the mean log-probability of an answer token changes, in
    nats. everywhere: the same with the way cut in all layers.
    """

    route: str
    windows: tuple[tuple[int, int], ...]
    change: Array
    everywhere: float


@dataclass(frozen=True)
class Swap:
    """One counterfactual: some image tokens kept, the others dropped. what: in words. same: the answer is that of all tokens.
    log_probability: mean of the full answer's tokens, in nats."""

    what: str
    kept: int
    answer: str
    same: bool
    log_probability: float


@dataclass(frozen=True, repr=False)
class FlowReport:
    """Everything that :func:`simignore.flow.explain` found out about one prompt.

    question: the user's words. options: to choose from. answer: with all image tokens. tokens: its tokens, A of them.
    image: [N] places of the image tokens in the prompt. patches: where they lie on the images; of this one sample.
    curves: for each measure. views: for each view [A, N] one heat map per answer token, larger = more.
    similarity: [N] the largest cosine of each image token's embedding and a token of the text; span: which text.
    kept: None without a method. correlations, projection, sinks, lens, removal, knockout, swaps: as their classes say; None or
    empty where they were not asked for, or cannot be had (``notes`` says why).
    cost: for "all tokens" and the method, see :func:`simignore.cost.cost`. settings: model, method, versions, seed, hardware.
    notes: what could not be done and why, in plain words. cut: how many more tokens the answer has than are explained.
    """

    question: str
    options: tuple[str, ...]
    answer: str
    tokens: tuple[AnswerToken, ...]
    image: Array
    patches: Patches
    curves: Mapping[str, Curves]
    views: Mapping[str, Array]
    similarity: Array
    span: str
    kept: Kept | None = None
    correlations: tuple[Correlation, ...] = ()
    projection: Projection | None = None
    sinks: Sinks | None = None
    lens: Lens | None = None
    removal: Removal | None = None
    knockout: tuple[Knockout, ...] = ()
    swaps: tuple[Swap, ...] = ()
    cost: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    cut: int = 0

    @property
    def layers(self) -> int:
        """L, decoder layers."""
        return int(next(iter(self.curves.values())).into.shape[1])

    def __repr__(self) -> str:
        return f"FlowReport({self.question!r}: {self.answer!r}, {len(self.image)} image tokens, {self.layers} layers)"

    def to_json(self) -> str:
        """All numbers as one line of JSON, what is not a number as null: what ``simignore explain`` writes beside the page."""
        return json.dumps(plain(self), ensure_ascii=False, allow_nan=False)
