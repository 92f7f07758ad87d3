"""Flow by decoder layer: from each part of the prompt into the answer, and where it converges. Pure, on the host."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simignore.flow.report import Convergence, Curves
from simignore.flow.spans import Spans

Array = NDArray[Any]
NONE = -1  # the convergence layer where nothing flows


def curves(measure: str, rows: Array, question_rows: Array, spans: Spans, image_places: Array) -> Curves:
    """Flow by one measure, from what flows from every place.

    rows: [A, L, T'] into each token of the answer. question_rows: [L, T'] into the question's tokens, mean over those. T' as
    in ``spans``; layers without attention are not a number. image_places: [N] of the image tokens.
    Raises ValueError for shapes that do not fit together, and as :func:`convergence`.
    """
    length = len(spans.number)
    if rows.ndim != 3 or rows.shape[0] != spans.answer or rows.shape[2] != length:
        raise ValueError(f"rows {rows.shape} do not fit an answer of {spans.answer} tokens and {length} places")
    if question_rows.shape != rows.shape[1:]:
        raise ValueError(
            f"question_rows {question_rows.shape} do not fit rows {rows.shape}; one for each layer is needed"
        )
    rows = rows.astype(np.float64)
    into = np.stack([rows[..., spans.number == s].sum(-1) for s in range(len(spans.names))], -1)  # [A, L, S]
    tokens = rows[..., image_places]  # [A, L, N]
    sent = tokens.mean(0)  # [L, N]
    return Curves(
        measure=measure,
        spans=spans.names,
        into=np.where(np.isnan(rows).all(-1, keepdims=True), np.nan, into),  # a part without places sums to 0
        counts=spans.counts,
        tokens=tokens,
        question=question_rows[:, image_places].astype(np.float64),
        convergence=convergence(sent.sum(-1), sent),
    )


def convergence(flow: Array, tokens: Array) -> Convergence:
    """The convergence layer: the one with the most flow from the images into the answer, the first of equals.

    The run around it holds the layers with at least half as much; layers without attention neither end it nor are its ends.
    flow: [L] from all image tokens into the answer's tokens, mean over those; not a number in layers without attention.
    tokens: [L, N] the same from each image token.
    Where nothing flows in any layer, layer, first and last are -1. The spread of a layer without flow is not a number.
    Raises ValueError where no layer has attention, for other shapes, and for flow below zero.
    """
    flow, tokens = np.asarray(flow, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if flow.ndim != 1 or tokens.ndim != 2 or len(tokens) != len(flow):
        raise ValueError(f"flow {flow.shape} by layer and tokens {tokens.shape} by layer and token do not fit together")
    known = np.flatnonzero(~np.isnan(flow))
    if not len(known):
        raise ValueError(
            f"none of the {len(flow)} layers has attention, so no flow is known; take a model that attends"
        )
    if flow[known].min() < 0 or np.nanmin(tokens, initial=0.0) < 0:
        raise ValueError("flow below zero cannot be shared out; pass magnitudes")
    spread = _spread(tokens)
    peak = int(np.argmax(flow[known]))
    if not flow[known][peak]:
        return Convergence(NONE, NONE, NONE, flow, spread)
    enough = flow[known] >= flow[known][peak] / 2
    first = last = peak
    while first > 0 and enough[first - 1]:
        first -= 1
    while last + 1 < len(known) and enough[last + 1]:
        last += 1
    return Convergence(int(known[peak]), int(known[first]), int(known[last]), flow, spread)


def _spread(tokens: Array) -> Array:
    """[L] the exponential of the entropy of how flow is shared out among tokens [L, N]."""
    whole = tokens.sum(-1, keepdims=True)
    share = np.divide(tokens, whole, out=np.full_like(tokens, np.nan), where=whole > 0)  # not a number: not greater
    surprise = -np.log(share, out=np.zeros_like(share), where=share > 0)
    entropy: Array = (share * surprise).sum(-1)
    return np.exp(entropy)
