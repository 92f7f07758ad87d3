"""Density-peak clustering of a few tokens: pure functions, no model in sight, and nothing here waits for the device.

A centre is a token in a dense neighbourhood and far from every denser one. Source: Rodriguez and Laio, Science 344 (2014); with
nearest neighbours for the density, as token merging uses it, in arXiv 2204.08680 (CVPR 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CHUNK = 1024  # rows of distances held at once


def density_peaks(x: Tensor, count: int, neighbours: int = 5) -> Tensor:
    """[n] for each token of ``x`` [n, D] the centre of its cluster, as the number of that token; centres name themselves.

    Distances are Euclidean, divided by sqrt(D), so that a wide model's are no larger. A token's density is rho = exp(-mean
    squared distance to its ``neighbours`` nearest others); its delta the distance to the nearest denser token, for the densest
    one the largest distance it has. The ``count`` tokens of largest rho * delta are the centres, and each token goes to the
    nearest. Ties go to the first, and of equally dense tokens the first counts as denser. 1 <= count <= n.
    """
    n = len(x)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    places = torch.arange(n, device=x.device)
    chunks = torch.split(places, CHUNK)
    near = min(neighbours, n - 1)
    # the mean squared distance to the neighbours, which is minus the logarithm of the density
    apart = torch.cat([_apart(_distances(x[rows], x), rows, near) for rows in chunks])
    rank = torch.empty_like(places).scatter(0, apart.argsort(stable=True), places)  # 0 is the densest
    delta = torch.cat([_to_denser(_distances(x[rows], x), rank[rows], rank) for rows in chunks])
    # rho * delta by its logarithm: rho itself is 0 in floating point where distances are large. The densest token's delta is
    # infinite here; with its largest distance it would come first just as well, for no other delta is larger.
    peak = delta.log() - apart
    centres = peak.argsort(descending=True, stable=True)[:count].sort().values
    nearest = torch.cat([_distances(x[rows], x[centres]).argmin(1) for rows in chunks])
    return centres[nearest].scatter(0, centres, centres)  # a centre stays its own, also beside an equal one


def _apart(distance: Tensor, rows: Tensor, near: int) -> Tensor:
    """[rows] mean squared distance to the ``near`` nearest other tokens, from distances [rows, n]; 0 if there are none."""
    if near == 0:
        return distance.new_zeros(len(rows))
    others = distance.scatter(1, rows[:, None], math.inf)
    return others.topk(near, largest=False).values.square().mean(1)


def _to_denser(distance: Tensor, own: Tensor, rank: Tensor) -> Tensor:
    """[rows] distance to the nearest token of smaller rank; infinity for rank 0."""
    return distance.masked_fill(rank[None] >= own[:, None], math.inf).amin(1)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """[a, b] Euclidean distances over sqrt(D), exactly 0 between equal tokens."""
    with torch.autocast(a.device.type, enabled=False):
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") / math.sqrt(a.shape[1])
