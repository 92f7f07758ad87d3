"""Density-peak clustering against the formula in plain loops."""

from __future__ import annotations

import math

import pytest
import torch

from grids import Waits
from simignore import clusters
from simignore.clusters import density_peaks


def loop(x, count, neighbours=5):
    """rho = exp(-mean squared distance to neighbours), delta = distance to the nearest denser one; centres by rho * delta."""
    n, width = len(x), len(x[0])

    def apart(a, b):
        return math.sqrt(sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)) / width)

    distance = [[apart(a, b) for b in x] for a in x]
    near = min(neighbours, n - 1)
    rho = []
    for i in range(n):
        nearest = sorted(distance[i][j] for j in range(n) if j != i)[:near]
        rho.append(math.exp(-sum(d * d for d in nearest) / near) if near else 1.0)
    delta = []
    for i in range(n):
        denser = [j for j in range(n) if rho[j] > rho[i] or (rho[j] == rho[i] and j < i)]
        delta.append(min(distance[i][j] for j in denser) if denser else max(distance[i]))
    peak = [a * b for a, b in zip(rho, delta, strict=True)]
    centres = sorted(sorted(range(n), key=lambda i: (-peak[i], i))[:count])
    return [i if i in centres else min(centres, key=lambda c: (distance[i][c], c)) for i in range(n)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "width"), [(1, 3), (2, 3), (5, 2), (9, 4), (24, 8)])
def test_as_the_formula_has_it(n, width, seed):
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for count in {1, min(2, n), (n + 2) // 3, n}:
        assert density_peaks(x, count).tolist() == loop(x.tolist(), count)


def test_groups_are_found():
    generator = torch.Generator().manual_seed(1)
    centre = torch.tensor([[0.0, 0], [9, 0], [0, 9]])
    x = (centre[:, None] + 0.1 * torch.randn(3, 8, 2, generator=generator)).flatten(0, 1)
    found = density_peaks(x, 3).view(3, 8)
    assert all(len(set(own.tolist())) == 1 for own in found) and len(set(found.flatten().tolist())) == 3


def test_between_two_centres_the_first_wins():
    """Of 0, 2, 4, 4 the centres are a 4, the strongest, and 0; 2 is as far from both."""
    x = torch.tensor([[0.0], [2], [4], [4]])
    assert density_peaks(x, 2, neighbours=1).tolist() == [0, 0, 2, 2] == loop(x.tolist(), 2, 1)


def test_equal_tokens_and_large_distances():
    assert density_peaks(torch.zeros(6, 4), 2).tolist() == [0, 1, 0, 0, 0, 0]  # the first ones, each its own centre
    x = 1e4 * torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    found = density_peaks(x, 3)  # where every density is 0 in floating point, the order still holds
    assert len(set(found.tolist())) == 3
    assert found.tolist() == density_peaks(x.double(), 3).tolist()


def test_chunks_do_not_matter(monkeypatch):
    x = torch.randn(17, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    whole = density_peaks(x, 4)
    monkeypatch.setattr(clusters, "CHUNK", 5)
    assert torch.equal(density_peaks(x, 4), whole)
    assert torch.equal(density_peaks(x.half().float(), 4), density_peaks(x.half(), 4))


def test_nothing_waits_for_the_device():
    with Waits() as waits:
        density_peaks(torch.randn(9, 4), 3)
    assert not waits.found
    with Waits() as waits:
        int(torch.ones(3)[torch.ones(3, dtype=torch.bool)].sum())
    assert len(waits.found) >= 2  # the test can fail
