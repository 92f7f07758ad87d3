"""The paper's hypothesis on one prompt: do image tokens that resemble the text gather the flow? Pure, on the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simignore.clusters import density_peaks
from simignore.flow.report import Correlation, Curves, Projection

Array = NDArray[Any]
HELD = 2**16  # numbers of one array of the bootstrap: small enough for the processor's cache
CLUSTERS = 8  # so many can still be told apart by colour
STEPS = 200  # of the block power iteration, at most
TINY = 1e-20  # less variance than this is rounding
AXES = 32  # principal axes in which clusters are looked for


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's rank correlation of two lists [N]: Pearson's of their ranks, equal values sharing the mean of theirs.

    Not a number for a constant list, for fewer than two values, and where a value is none. Raises ValueError for other lengths.
    """
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(
            f"lists of shapes {x.shape} and {y.shape} cannot be paired; both need one value per image token"
        )
    once = np.ones((len(x), 1))
    return float(_resampled(_Order(x), _Order(y), once)[0])


def correlations(
    similarity: Array, curves: Mapping[str, Curves], *, draws: int = 1000, seed: int = 0
) -> tuple[Correlation, ...]:
    """Rank correlation of similarity [N] and flow, for each measure and target, by layer, with its 95 % interval.

    Flow into the answer is the mean over its tokens. The interval is the percentile bootstrap's over image tokens (Efron 1979);
    a resample holds some tokens several times, and ranks are those within the resample. All layers, targets and measures
    see the same resamples. Raises ValueError where the lengths differ, and for no draw.
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: the bootstrap needs at least one, and a stable interval about 1000")
    flows: dict[tuple[str, str], Array] = {}
    for measure, curve in curves.items():
        flows |= {(measure, "answer"): curve.tokens.mean(0), (measure, "question"): curve.question}  # [L, N]
    for (measure, target), flow in flows.items():
        if similarity.ndim != 1 or flow.shape[-1] != len(similarity):
            told = f"of {flow.shape[-1]} image tokens, and similarity of {similarity.shape}"
            raise ValueError(f"{measure} into the {target} is {told}; both must be of the same prompt")
    found, start = [], 0
    lows, highs = _intervals(similarity, [layer for flow in flows.values() for layer in flow], draws, seed)
    for (measure, target), flow in flows.items():
        own = slice(start, start := start + len(flow))
        rho = np.array([rank_correlation(similarity, layer) for layer in flow])
        found.append(Correlation(measure, target, rho, lows[own], highs[own]))
    return tuple(found)


class _Order:
    """A list's ascending order: ``places`` [N], and for each of those the ends of the group of equal values it is in."""

    def __init__(self, values: Array) -> None:
        self.known = len(values) > 1 and not np.isnan(values).any()
        self.places = np.argsort(values, kind="stable")
        ordered = values[self.places]
        self.begin = np.searchsorted(ordered, ordered, "left")
        self.end = np.searchsorted(ordered, ordered, "right")

    def ranks(self, counts: Array) -> Array:
        """[N, R] centred mean ranks of each value where it occurs ``counts`` [N, R] times, in R resamples of N."""
        before = np.zeros((len(counts) + 1, counts.shape[1]))
        np.cumsum(counts[self.places], axis=0, out=before[1:])
        ranks = np.empty_like(counts)
        ranks[self.places] = (before[self.begin] + before[self.end] - len(counts)) / 2  # less the mean (N + 1) / 2
        return ranks


def _resampled(x: _Order, y: _Order, counts: Array, of_x: Array | None = None) -> Array:
    """[R] rank correlations in resamples that hold each pair ``counts`` [N, R] times. of_x: the ranks of x, where known."""
    if not (x.known and y.known):
        return np.full(counts.shape[1], np.nan)
    first, second = x.ranks(counts) if of_x is None else of_x, y.ranks(counts)
    heavy = counts * second
    both, own, other = (
        np.einsum("nr,nr->r", a, b) for a, b in ((heavy, first), (counts * first, first), (heavy, second))
    )
    size = np.sqrt(own * other)
    rho: Array = np.divide(both, size, out=np.full_like(size, np.nan), where=size > 0)
    return rho


def _intervals(x: Array, flow: Sequence[Array], draws: int, seed: int) -> tuple[Array, Array]:
    """[L] the ends of the bootstrap's interval for each of L layers' flow [N]; a few resamples are held at once."""
    generator, n = np.random.default_rng(seed), len(x)
    order, layers = _Order(x), [_Order(layer) for layer in flow]
    found = np.full((len(flow), draws), np.nan)
    size = max(1, HELD // max(n, 1))
    for start in range(0, draws if n else 0, size):
        some = min(size, draws - start)
        counts = generator.multinomial(n, np.full(n, 1 / n), size=some).T.astype(np.float64)  # [N, R]
        ranks = order.ranks(counts)
        for number, layer in enumerate(layers):
            found[number, start : start + some] = _resampled(order, layer, counts, ranks)
    ends = np.full((2, len(flow)), np.nan)
    told = ~np.isnan(found).all(1)
    if told.any():
        ends[:, told] = np.nanquantile(found[told], [0.025, 0.975], axis=1)
    return ends[0], ends[1]


def projection(image: Tensor, text: Tensor, words: Sequence[str]) -> Projection:
    """Image embeddings [N, D] and text embeddings [M, D] in the plane in which both together vary most.

    Each is scaled to length 1, so that distances mean cosines. An axis points so that the coordinate of largest size is
    positive. Clusters are those of image tokens on the first 32 axes; their number is the rule of thumb sqrt(N / 2), rounded
    (Mardia, Kent and Bibby 1979), at most 8, so that each can have a colour of its own. words: the M tokens as strings.
    Raises ValueError for other numbers of words, for no image token, and for other widths.
    """
    if len(words) != len(text):
        raise ValueError(f"{len(words)} words for {len(text)} text tokens; one for each is needed")
    if not len(image) or image.shape[1] != text.shape[1]:
        raise ValueError(
            f"image {tuple(image.shape)} and text {tuple(text.shape)} must be of one width, image not empty"
        )
    both = torch.cat([image.detach().double().cpu(), text.detach().double().cpu()])
    both = torch.nn.functional.normalize(both, dim=1)
    at, shares = _principal(both - both.mean(0))
    count = min(CLUSTERS, max(1, round(math.sqrt(len(image) / 2))))
    cluster = _by_size(density_peaks(at[: len(image)], count).numpy())
    plane = at[:, :2].numpy()
    return Projection(plane[: len(image)], plane[len(image) :], tuple(words), (shares[0], shares[1]), cluster)


def _principal(centred: Tensor) -> tuple[Tensor, list[float]]:
    """Coordinates [n, at most 32, at least 2] of [n, D] on its principal axes, and their shares of the variance."""
    n, width = centred.shape
    tall = n > width
    values, vectors = _leading(centred.T @ centred if tall else centred @ centred.T)
    at = centred @ vectors if tall else vectors * values.sqrt()
    at = torch.nn.functional.pad(at, (0, max(0, 2 - at.shape[1])))  # one vector, or one dimension, has one axis
    largest = at.gather(0, at.abs().argmax(0)[None])
    whole = float(centred.square().sum())
    shares = [float(value) / whole if whole > TINY else 0.0 for value in values]
    return at * torch.where(largest < 0, -1.0, 1.0), [*shares, 0.0]


def _leading(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of a matrix [n, n] without negative ones, at most 32 of them, and their vectors [n, 32].

    By block power iteration until the first two are exact: a full decomposition of thousands of rows takes most of a minute.
    Where n <= 32, the block is the whole space and the first step exact.
    """
    n = len(matrix)
    start = torch.randn(n, min(AXES, n), generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    block = torch.linalg.qr(start).Q
    for _ in range(STEPS):
        ahead = matrix @ block
        values, turn = torch.linalg.eigh(block.T @ ahead)  # ascending
        values, turn = values.flip(0).clamp(min=0), turn.flip(1)
        vectors = block @ turn
        rest = (ahead @ turn - vectors * values)[:, :2].norm(dim=0)
        if float(rest.max()) <= TINY + 1e-8 * float(values[0]):
            break
        block = torch.linalg.qr(ahead).Q
    return values, vectors


def _by_size(centres: Array) -> Array:
    """[N] clusters numbered from the largest; the first token decides between equals."""
    _, number, counts = np.unique(centres, return_inverse=True, return_counts=True)
    rank = np.empty_like(counts)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    renumbered: Array = rank[number]
    return renumbered
