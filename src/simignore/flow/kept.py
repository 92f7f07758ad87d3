"""What a method kept of a prompt, and how much of the flow went with it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from simignore.flow.report import SIMILARITY, Array, Kept
from simignore.methods import METHODS, Method
from simignore.types import Answer

DRAWS = 1000


def kept(method: Method, told: Answer, views: Mapping[str, Array], seed: int = 0) -> Kept:
    """What ``method`` kept when it gave the answer ``told``, and the share of each view [A, N] on it, beside random."""
    if told.trace is None or not told.trace.selections:
        raise ValueError(f"{method} left no trace of this prompt, so what it kept cannot be told")
    selection = told.trace.selections[0]
    stays = selection.kept[0].cpu().numpy()
    shares = {name: flow_share(view, stays) for name, view in views.items() if name != SIMILARITY}
    drawn = draws(len(stays), int(stays.sum()), seed)
    return Kept(
        method=repr(method),
        name=next((name for name, kind in METHODS.items() if type(method) is kind), type(method).__name__.lower()),
        selection=selection,
        answer=told.text,
        token_share=float(stays.mean()),
        flow_share=shares,
        random_share={name: _spread(views[name], drawn) for name in shares},
        layers=tuple(None if cut.site == "projector" else cut.site[1] for cut in method.cuts()),
    )


def flow_share(view: Array, stays: Array) -> float:
    """The share of a view [A, N] on the tokens that stay (bool [N]), mean over answer tokens; 0 where there is no flow."""
    return float(_shares(view, stays[:, None])[0])


def draws(tokens: int, stay: int, seed: int) -> Array:
    """[N, draws] which tokens stay in each of ``DRAWS`` random choices of ``stay`` among ``tokens``."""
    ranks = np.random.default_rng(seed).random((DRAWS, tokens)).argsort(1).argsort(1)
    return np.asarray(ranks < stay).T


def _spread(view: Array, drawn: Array) -> tuple[float, float, float]:
    shares = _shares(view, drawn)
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(shares.mean()), float(low), float(high)


def _shares(view: Array, stay: Array) -> Array:
    """[choices] share of a view [A, N] on what stays [N, choices], mean over answer tokens."""
    whole = view.sum(1, keepdims=True)
    parts = np.divide(view, whole, out=np.zeros_like(view, dtype=np.float64), where=whole > 0)
    found: Array = (parts @ stay.astype(np.float64)).mean(0)
    return found
