"""Rank correlation by plain loops, its interval by resampling lists, PCA by the covariance's eigenvectors."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from simignore.clusters import density_peaks
from simignore.flow.hypothesis import HELD, correlations, projection, rank_correlation


def ranks(values):
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def spearman(x, y):
    """Pearson's correlation of the ranks, in plain Python."""
    first, second = ranks(list(x)), ranks(list(y))
    a, b = sum(first) / len(first), sum(second) / len(second)
    both = sum((p - a) * (q - b) for p, q in zip(first, second, strict=True))
    size = math.sqrt(sum((p - a) ** 2 for p in first) * sum((q - b) ** 2 for q in second))
    return both / size if size else math.nan


@pytest.mark.parametrize("seed", range(12))
def test_rank_correlation_with_and_without_ties(seed):
    generator = np.random.default_rng(seed)
    n = int(generator.integers(2, 40))
    x, y = generator.random(n), generator.random(n)
    if seed % 2:
        x, y = (x * 4).round(), (y * 3 + x).round()
    expected = spearman(x, y)
    assert rank_correlation(x, y) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert rank_correlation(x, -np.exp(y)) == pytest.approx(-expected, abs=1e-12, nan_ok=True)


def test_rank_correlation_at_the_ends():
    x = np.array([3.0, 1.0, 2.0])
    assert rank_correlation(x, x**3) == 1 and rank_correlation(x, -x) == -1
    assert rank_correlation(np.array([1.0, 2, 2, 3]), np.array([1.0, 2, 3, 4])) == pytest.approx(4.5 / math.sqrt(22.5))
    for other in (np.ones(3), np.array([1, np.nan, 2])):
        assert math.isnan(rank_correlation(x, other)) and math.isnan(rank_correlation(other, x))
    assert math.isnan(rank_correlation(x[:1], x[:1])) and math.isnan(rank_correlation(x[:0], x[:0]))
    with pytest.raises(ValueError, match="cannot be paired"):
        rank_correlation(x, x[:2])


def curve(seed: int, n: int, layers: int = 3):
    generator = np.random.default_rng(seed)
    tokens, question = generator.random((2, layers, n)), generator.random((layers, n))
    tokens[:, 1] = question[1] = np.nan
    question[2] = 0.5
    return SimpleNamespace(tokens=tokens, question=question)


def test_correlations_are_by_measure_target_and_layer():
    similarity = np.random.default_rng(9).random(20)
    given = {"attention": curve(0, 20), "saliency": curve(1, 20)}
    found = correlations(similarity, given, draws=50)
    assert [(one.measure, one.target) for one in found] == [
        (measure, target) for measure in given for target in ("answer", "question")
    ]
    for one in found:
        flow = given[one.measure].tokens.mean(0) if one.target == "answer" else given[one.measure].question
        told = [0, 2] if one.target == "answer" else [0]
        for layer in range(3):
            if layer in told:
                assert one.rho[layer] == pytest.approx(spearman(similarity, flow[layer]), abs=1e-12)
                assert -1 <= one.low[layer] < one.rho[layer] < one.high[layer] <= 1
            else:
                assert np.isnan([one.rho[layer], one.low[layer], one.high[layer]]).all()
    again = correlations(similarity, given, draws=50)
    other = correlations(similarity, given, draws=50, seed=1)
    assert again[0].low.tolist()[0] == found[0].low[0] != other[0].low[0]


@pytest.mark.parametrize("tied", [False, True])
def test_the_interval_is_that_of_resampled_lists(tied):
    """As many draws as both need to agree: the ends differ by their Monte Carlo error only."""
    generator = np.random.default_rng(3)
    x = generator.random(25)
    y = x + generator.random(25)
    if tied:
        x, y = (x * 5).round(), (y * 4).round()
    drawn = [spearman(x[i], y[i]) for i in (generator.integers(0, 25, 25) for _ in range(1500))]
    expected = np.quantile(drawn, [0.025, 0.975])
    flow = SimpleNamespace(tokens=y[None, None], question=y[None])
    found = correlations(x, {"attention": flow}, draws=HELD // 25 + 500)[0]  # more than are held at once
    np.testing.assert_allclose([found.low[0], found.high[0]], expected, atol=0.06)
    assert found.high[0] - found.low[0] > 0.2


def test_correlations_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="20 image tokens"):
        correlations(np.ones(19), {"attention": curve(0, 20)})
    with pytest.raises(ValueError, match="draws=0"):
        correlations(np.ones(20), {"attention": curve(0, 20)}, draws=0)


def embeddings(n: int, m: int, width: int):
    generator = torch.Generator().manual_seed(n + m + width)
    scale = torch.linspace(1, 3, width)
    return torch.randn(n, width, generator=generator) * scale, torch.randn(m, width, generator=generator) + 1


@pytest.mark.parametrize(("n", "m", "width"), [(60, 5, 7), (9, 3, 40), (70, 20, 80), (150, 4, 64)])
def test_the_plane_is_that_of_the_covariance(n, m, width):
    image, text = embeddings(n, m, width)
    found = projection(image, text, ["a"] * m)
    both = torch.cat([image, text]).double()
    both = both / both.norm(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(torch.cov(both.T, correction=0))
    at = np.concatenate([found.image, found.text])
    assert found.image.shape == (n, 2) and found.text.shape == (m, 2)
    for axis in range(2):
        expected = ((both - both.mean(0)) @ vectors[:, -1 - axis]).numpy()
        sign = np.sign(expected[np.abs(expected).argmax()])
        np.testing.assert_allclose(at[:, axis], expected * sign, atol=1e-6)
        assert at[:, axis].max() == np.abs(at[:, axis]).max()
        assert found.explained[axis] == pytest.approx(float(values[-1 - axis] / values.sum()), abs=1e-8)
    again = projection(image, text, ["a"] * m)
    assert np.array_equal(again.image, found.image) and np.array_equal(again.cluster, found.cluster)


def test_clusters_are_those_of_density_peaks_numbered_by_size():
    image, text = embeddings(40, 3, 6)
    found = projection(image, text, ["a", "b", "c"])
    unit = image.double() / image.double().norm(dim=1, keepdim=True)
    # distances over sqrt(D) are smaller in fewer dimensions; here the number of them stays
    expected = density_peaks(unit, 4).tolist()  # sqrt(40 / 2) = 4.5, rounded to even
    pairs = {(a, b) for a, b in zip(expected, found.cluster.tolist(), strict=True)}
    assert len(pairs) == 4 == len(set(expected))
    counts = np.bincount(found.cluster)
    assert sorted(counts, reverse=True) == counts.tolist() and found.words == ("a", "b", "c")


def test_groups_that_lie_apart_are_found_in_a_wide_space():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(7, 100, generator=generator)
    sizes = [30, 25, 12, 10, 9, 8, 6]  # 100 tokens: sqrt(50) = 7 clusters
    own = torch.repeat_interleave(torch.arange(7), torch.tensor(sizes))
    order = torch.randperm(100, generator=generator)
    image = (centres[own] + 0.01 * torch.randn(100, 100, generator=generator))[order]
    found = projection(image, centres[:2], ["a", "b"])
    assert found.cluster.tolist() == own[order].tolist()


def test_projections_of_hardly_anything():
    one = projection(torch.ones(1, 3), torch.ones(1, 3), ["a"])
    assert not one.image.any() and one.explained == (0.0, 0.0) and one.cluster.tolist() == [0]
    line = projection(torch.tensor([[1.0], [-1.0], [0.0]]), torch.zeros(0, 1), [])
    assert line.explained == (1.0, 0.0) and not line.image[:, 1].any() and line.text.shape == (0, 2)
    for wrong, message in (
        ((torch.ones(2, 3), torch.ones(1, 3), []), "0 words for 1"),
        ((torch.ones(0, 3), torch.ones(1, 3), ["a"]), "not empty"),
        ((torch.ones(2, 3), torch.ones(1, 4), ["a"]), "one width"),
    ):
        with pytest.raises(ValueError, match=message):
            projection(*wrong)
