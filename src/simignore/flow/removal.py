"""Deletion and insertion: is what a view points at what the answer draws on?

Why: a heat map can be beautiful and wrong. If its highest tokens matter, dropping them first ruins the answer early, and they
alone bring it back early; chance is what to beat, as image tokens are redundant. Source: RISE, arXiv 1806.07421.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from simignore.flow.copies import Forced, forced
from simignore.flow.likely import likely
from simignore.flow.report import Array, Removal

RANDOM = "random"  # the name of chance beside the views


def removal(
    model: nn.Module,
    inputs: Mapping[str, Any],
    answer: Tensor,
    views: Mapping[str, Array],
    *,
    steps: int = 11,
    draws: int = 5,
    seed: int = 0,
) -> Removal:
    """How likely the answer stays while image tokens go, or come back, in the order of each view and in random orders.

    Tokens are really dropped before the decoder, and the others keep their positions. Both curves meet: deletion begins with
    all image tokens, where insertion ends, and ends with none, where insertion begins.

    inputs: what the processor returned for one prompt, on the model's device. answer: [A] the token ids of the answer that all
    image tokens give. views: [N] each, larger = more. steps: points of a curve, fewer where there are fewer tokens; the
    fractions are those of whole tokens. draws: random orders. seed: of those, and of the order among equal tokens of a view.
    Raises ValueError for a view of another length or with what is not a number, for steps below 2 or draws below 1, and as
    :func:`~simignore.flow.copies.forced` does.
    """
    if steps < 2 or draws < 1:
        raise ValueError(f"steps={steps}, draws={draws}: a curve needs 2 points or more, and chance 1 draw or more")
    prompt = forced(model, inputs, answer)
    count = len(prompt.image)
    chance = np.random.default_rng(seed)
    orders = [_order(name, view, count, chance.permutation(count)) for name, view in views.items()]
    orders += [chance.permutation(count) for _ in range(draws)]
    counts = np.unique(np.linspace(0, count, steps).round().astype(int))  # [F]
    deletion, insertion = _curves(prompt, np.stack(orders), counts)
    fractions = counts / count
    areas = np.stack([_area(fractions, deletion), _area(fractions, insertion)], -1)  # [O, 2]
    named = {name: (float(areas[o, 0]), float(areas[o, 1])) for o, name in enumerate(views)}
    by_chance = areas[len(views) :].mean(0)
    return Removal(
        fractions=fractions,
        deletion=dict(zip(views, deletion, strict=False)),
        insertion=dict(zip(views, insertion, strict=False)),
        random={"deletion": deletion[len(views) :], "insertion": insertion[len(views) :]},
        area={**named, RANDOM: (float(by_chance[0]), float(by_chance[1]))},
    )


def _order(name: str, view: Array, count: int, shuffled: Array) -> Array:
    """[N] image tokens from the highest of a view to the lowest; equal ones in the order of ``shuffled``, as reading order
    would make a flat view look as if it knew where things are."""
    view = np.asarray(view)
    if name == RANDOM:
        raise ValueError(f"a view is called {name!r}, which is the name of chance beside the views; give it another")
    if view.shape != (count,):
        raise ValueError(
            f"view {name!r} has shape {view.shape}, and the prompt {count} image tokens; one number per token"
        )
    if missing := int(np.isnan(view).sum()):
        raise ValueError(
            f"view {name!r} holds {missing} numbers that are none (NaN), so its tokens have no order; leave it out, or leave "
            "out the layers without attention before it is averaged"
        )
    ordered: Array = shuffled[np.argsort(-view[shuffled].astype(np.float64), kind="stable")]
    return ordered


def _curves(prompt: Forced, orders: Array, counts: Array) -> tuple[Array, Array]:
    """[O, F] mean log-probabilities of the answer with the first ``counts`` [F] tokens of each of O orders [O, N] dropped, and
    with those alone."""
    rank = torch.from_numpy(np.argsort(orders, 1))[:, None]  # [O, 1, N]
    first = rank < torch.from_numpy(counts)[:, None]  # [O, F, N]
    kept = torch.stack([~first, first])  # [2, O, F, N]
    found = likely(prompt, kept.flatten(0, 2)).view(kept.shape[:3])  # [2, O, F]
    deletion, insertion = found.double().numpy()
    return deletion, insertion


def _area(fractions: Array, curves: Array) -> Array:
    """[...] areas under curves [..., F] of log-probability, as probability, by trapezoids: between 0 and 1."""
    probability = np.exp(curves)
    area: Array = ((probability[..., 1:] + probability[..., :-1]) / 2 * np.diff(fractions)).sum(-1)
    return area


__all__ = ["RANDOM", "removal"]
