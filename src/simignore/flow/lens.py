"""Logit lens: the model's own end, applied to what image tokens have become in each layer.

Why it works: the residual stream keeps its basis from layer to layer, so the end that reads the last state often makes sense of
earlier ones. Source: nostalgebraist, "interpreting GPT: the logit lens" (2020); on image tokens arXiv 2410.07149 (ICLR 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simignore.flow.capture import Tail, Tape
from simignore.flow.report import Lens

Array = NDArray[Any]
LOGITS = 2**24  # held at once: 64 MiB in float32


def lens(
    tape: Tape,
    tail: Tail,
    tokenizer: Any,
    image_places: Tensor | Array,
    choose: Sequence[tuple[int, str]],
    top: int = 3,
) -> Lens:
    """The likeliest words of some image tokens after each layer.

    tape: of a forward of batch 1. image_places: [N] of the image tokens in it. choose: image tokens, numbers among N, and why
    each was taken, as from :func:`chosen`. top: words for each state; the whole vocabulary where it has fewer.
    Raises ValueError for top below 1 and for a token that is not among the N.
    """
    if top < 1:
        raise ValueError(f"top={top}: each state needs at least one word")
    tokens = [token for token, _ in choose]
    if wrong := [token for token in tokens if not 0 <= token < len(image_places)]:
        raise ValueError(f"image token {wrong[0]} is not among the {len(image_places)}, which are counted from 0")
    if not tokens:
        return Lens((), (), ())
    states = len(tape.args) + 1
    end = tape.entered(states - 1)
    places = torch.as_tensor(image_places).long()[tokens].to(end.device)
    hidden = torch.stack(
        [tape.entered(n)[0, places].to(end.device, end.dtype) for n in range(states)], 1
    )  # [P, L + 1, D]
    told = _likeliest(hidden.flatten(0, 1), tail, top)
    words = [tuple((str(tokenizer.decode([token])), share) for token, share in state) for state in told]
    by_token = tuple(tuple(words[n * states : (n + 1) * states]) for n in range(len(tokens)))
    return Lens(tuple(tokens), tuple(why for _, why in choose), by_token)


def _likeliest(hidden: Tensor, tail: Tail, top: int) -> list[list[tuple[int, float]]]:
    """For each state [S, D] the ids of the likeliest tokens with their probabilities; a few states at a time."""
    size = max(1, LOGITS // tail.parts.embed.num_embeddings)
    found: list[list[tuple[int, float]]] = []
    with torch.no_grad():
        for some in torch.split(hidden, size):
            shares = tail(some).float().softmax(-1)  # [s, V]
            best = shares.topk(min(top, shares.shape[-1]))
            found += [
                list(zip(ids, values, strict=True))
                for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
    return found


def chosen(views: Mapping[str, Array], kept: Array | None = None) -> tuple[tuple[int, str], ...]:
    """Image tokens worth a look through the lens, each once, with why.

    views: of "similarity", "flow" and "sink" those that are known, each [N], or [A, N] whose mean over answer tokens counts.
    kept: [N] True for the tokens that a method kept, or None without a method.
    The first of equal tokens is taken; a token that is taken for several reasons names them all.
    """
    known = {name: np.atleast_2d(view).mean(0) for name, view in views.items()}
    every = np.ones(len(next(iter(known.values()), ())), dtype=bool)
    wanted: list[tuple[str, int, Array, str]] = [
        ("similarity", 1, every, "most like the text"),
        ("flow", 1, every, "most flow into the answer"),
        ("sink", 1, every, "most attention from the end of the prompt"),
        ("flow", 1, every if kept is None else ~kept, "dropped, with most flow into the answer"),
        ("similarity", -1, every, "least like the text"),
    ]
    if kept is None or kept.all():
        del wanted[3]
    found: dict[int, list[str]] = {}
    for name, sign, among, why in wanted:
        if name in known and len(every):
            token = int(np.argmax(np.where(among, sign * known[name], -np.inf)))
            found.setdefault(token, []).append(why)
    return tuple((token, "; ".join(why)) for token, why in found.items())
