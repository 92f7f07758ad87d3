"""Losses against their formulas in plain loops, gates against autograd and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import one_hot

from simignore.train import losses

RNG = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=RNG, dtype=torch.float64)


def mask(*counts: int, width: int = 7) -> torch.Tensor:
    return torch.arange(width) < torch.tensor(counts)[:, None]


def divergence(score: list[float], flow: list[float], temperature: float) -> float:
    """sum p log(p / q) of one sample's real tokens."""
    powers = [math.exp(one / temperature) for one in score]
    told = 0.0
    for paid, power in zip(flow, powers, strict=True):
        p = paid / sum(flow)
        if p > 0:
            told += p * math.log(p / (power / sum(powers)))
    return told


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_flow_distillation_is_the_divergence_of_each_sample_alone(temperature):
    counts, valid = (7, 4, 5, 2), mask(7, 4, 5, 2)
    score, flow = random(4, 7), random(4, 7).clamp(min=0)  # zeros among the flow
    flow[:, 0] += 0.1
    alone = [divergence(score[b, :n].tolist(), flow[b, :n].tolist(), temperature) for b, n in enumerate(counts)]
    found = losses.flow_distillation(score, flow, valid, temperature)
    assert float(found) == pytest.approx(sum(alone) / 4, rel=1e-5)
    assert all(one > 0 for one in alone)


def test_what_flows_into_padding_does_not_count():
    valid, score, flow = mask(7, 4), random(2, 7), random(2, 7).abs()
    other = torch.where(valid, flow, torch.nan)
    scores = torch.where(valid, score, 1e4)
    assert losses.flow_distillation(scores, other, valid, 0.3) == losses.flow_distillation(score, flow, valid, 0.3)


@pytest.mark.parametrize("silent", [0.0, math.nan, math.inf])
def test_a_sample_that_says_nothing_is_left_out(silent):
    valid, score, flow = mask(7, 4, 6), random(3, 7).requires_grad_(), random(3, 7).abs()
    flow[1] = silent
    found = losses.flow_distillation(score, flow, valid, 0.3)
    told = [0, 2]
    others = losses.flow_distillation(score[told], flow[told], valid[told], 0.3)
    assert found.item() == pytest.approx(others.item())
    (slope,) = torch.autograd.grad(found, score)
    assert bool(slope.isfinite().all()) and not bool(slope[1].any()) and bool(slope[0].any())


def test_nothing_is_lost_where_no_sample_says_anything():
    score = random(2, 7).requires_grad_()
    found = losses.flow_distillation(score, torch.zeros(2, 7), mask(7, 3), 0.3)
    assert found.item() == 0
    assert not bool(torch.autograd.grad(found, score)[0].any())


def test_the_divergence_is_zero_where_the_student_knows_the_flow():
    flow = random(2, 7).abs() + 0.1
    found = losses.flow_distillation(flow.log() * 0.2 + 5, flow, mask(7, 5), 0.2)
    assert float(found) == pytest.approx(0, abs=1e-6)


def lost(right, every, temperature=0.5):
    powers = [math.exp(x / temperature) for x in every]
    return -math.log(sum(powers[i] for i in right) / sum(powers))


def test_alignment_is_infonce_of_tokens_that_tell_words_apart_and_of_words_that_tell_tokens_apart():
    pairs, shows, words, valid = random(3, 5, 4), random(3, 5, 4) > 0.3, mask(4, 2, 3, width=4), mask(5, 3, 4, width=5)
    shows[0, 0], shows[0, 1] = True, False  # all words, and none
    shows[1, :, 0], shows[1, :, 1] = True, False  # all tokens, and none
    by_token, by_word = [], []
    for b, (tokens, some) in enumerate(((5, 4), (3, 2), (4, 3))):
        for n in range(tokens):
            right = [w for w in range(some) if shows[b, n, w]]
            if right and len(right) < some:
                by_token.append(lost(right, pairs[b, n, :some].tolist()))
        for w in range(some):
            right = [n for n in range(tokens) if shows[b, n, w]]
            if right and len(right) < tokens:
                by_word.append(lost(right, pairs[b, :tokens, w].tolist()))
    assert 3 < len(by_token) < 12 and 3 < len(by_word) < 9
    wanted = sum(by_token) / len(by_token) / 2 + sum(by_word) / len(by_word) / 2
    pairs[1, 3:], pairs[1, :, 2:] = math.nan, math.nan  # padding
    assert float(losses.alignment(pairs, shows, valid, words, 0.5)) == pytest.approx(wanted, rel=1e-5)


def test_alignment_tells_a_word_from_the_background():
    """One word, which no token tells from another: what shows nothing must lie below what shows it."""
    shows = one_hot(torch.tensor([0, 1, 1]), 2)[None, :, :1].bool()
    pairs = (torch.tensor([[[1.0], [x], [x]]]) for x in (-3.0, 3.0))
    low, high = (float(losses.alignment(one, shows, mask(3, width=3), mask(1, width=1), 1.0)) for one in pairs)
    assert low == pytest.approx(math.log(1 + 2 * math.exp(-4)) / 2, rel=1e-4) and high > 1


def test_alignment_without_a_token_to_learn_from_is_zero_and_has_a_gradient():
    pairs = random(1, 3, 2).requires_grad_()
    found = losses.alignment(pairs, torch.ones(1, 3, 2, dtype=torch.bool), mask(3, width=3), mask(2, width=2), 0.5)
    assert found.item() == 0 and not bool(torch.autograd.grad(found, pairs)[0].any())


def test_the_gradient_of_alignment_is_finite_with_padded_words_and_tokens():
    pairs, shows = random(2, 3, 4).requires_grad_(), one_hot(torch.tensor([[0, 1, 0], [0, 1, 1]]), 4).bool()
    found = losses.alignment(pairs, shows, mask(3, 2, width=3), mask(4, 2, width=4), 0.5)
    (slope,) = torch.autograd.grad(found, pairs)
    assert bool(slope.isfinite().all()) and bool(slope[0, :, :2].all()) and bool(slope[1, :2, :2].all())
    assert not bool(slope[1, :, 2:].any()) and not bool(slope[1, 2].any())


def test_over_budget_is_the_squared_relative_excess_of_the_mean():
    assert float(losses.over_budget(torch.tensor([0.1, 0.4]), 0.125)) == pytest.approx(1.0)
    assert float(losses.over_budget(torch.tensor([0.05, 0.2]), 0.125)) == 0
    assert float(losses.over_budget(torch.tensor([0.0625]), 0.125)) == pytest.approx(0.25)


COUNTS = torch.tensor([3, 2, 5, 1])


def test_top_without_noise_keeps_the_best():
    score, valid = random(4, 7), mask(7, 4, 5, 6)
    kept, gates = losses.top(score, valid, COUNTS, 0.0, 0.1, torch.rand(4, 7))
    for b, (n, count) in enumerate(zip((7, 4, 5, 6), COUNTS.tolist(), strict=True)):
        best = sorted(range(n), key=lambda i: -float(score[b, i]))[:count]
        assert sorted(best) == kept[b].nonzero()[:, 0].tolist()
    assert torch.equal(gates, kept.double())


@pytest.mark.parametrize("noise", [0.0, 0.1, 5.0])
def test_top_keeps_exactly_the_count_and_no_padding(noise):
    score, valid = random(4, 7), mask(7, 4, 5, 6)
    for _ in range(20):
        kept, gates = losses.top(score, valid, COUNTS, noise, 0.1, torch.rand(4, 7, generator=RNG))
        assert torch.equal(kept.sum(1), COUNTS) and not bool((kept & ~valid).any())
        assert torch.equal(gates, kept.double())


def test_equal_scores_keep_the_first_and_exactly_the_count():
    kept, gates = losses.top(torch.zeros(1, 7), mask(7), torch.tensor([3]), 0.0, 0.1, torch.rand(1, 7))
    assert kept[0].nonzero()[:, 0].tolist() == [0, 1, 2] and bool(gates.isfinite().all())


def soft(score: torch.Tensor, count: int, slope: float) -> torch.Tensor:
    """The soft step around the fixed middle between the last that stays and the first that goes."""
    ranked = sorted(score.tolist(), reverse=True)
    between = (ranked[count - 1] + ranked[count]) / 2 if count < len(ranked) else ranked[-1] - slope
    return torch.sigmoid((score - between) / slope)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_gradient_of_gates_is_that_of_the_soft_step(count):
    score, weights = random(6).requires_grad_(), random(6)
    padding = torch.tensor([9.0], dtype=torch.float64)
    _, gates = losses.top(torch.cat([score, padding])[None], mask(6), torch.tensor([count]), 0.0, 0.3, torch.rand(1, 7))
    (slope,) = torch.autograd.grad((gates[0, :6] * weights).sum(), score)
    fixed = score.detach()
    between = fixed.sort(descending=True).values
    middle = (between[count - 1] + between[count]) / 2 if count < 6 else between[-1] - 0.3
    (by_autograd,) = torch.autograd.grad((torch.sigmoid((score - middle) / 0.3) * weights).sum(), score)
    assert torch.allclose(slope, by_autograd)
    assert torch.allclose(soft(fixed, count, 0.3), torch.sigmoid((fixed - middle) / 0.3))
    for n in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[n] = 1e-5
        up, down = (torch.sigmoid((fixed + sign * step - middle) / 0.3) @ weights for sign in (1, -1))
        assert float(slope[n]) == pytest.approx(float(up - down) / 2e-5, rel=1e-4)


def test_gumbel_noise_draws_from_the_softmax():
    score, noise, draws = torch.tensor([0.5, 0.0, -0.3, 0.2, 9.0]), 0.4, 40_000
    valid = mask(4, width=5).expand(draws, 5)
    uniform = torch.rand(draws, 5, generator=torch.Generator().manual_seed(1))
    kept, _ = losses.top(score.expand(draws, 5), valid, torch.ones(draws, dtype=torch.long), noise, 0.1, uniform)
    powers = [math.exp(float(one) / noise) for one in score[:4]]
    for n, power in enumerate(powers):
        p = power / sum(powers)
        assert abs(float(kept[:, n].float().mean()) - p) < 4.5 * math.sqrt(p * (1 - p) / draws)


def test_gumbel_noise_draws_pairs_without_replacement():
    score, noise, draws = torch.tensor([0.5, 0.0, -0.3]), 0.5, 40_000
    uniform = torch.rand(draws, 3, generator=torch.Generator().manual_seed(2))
    kept, _ = losses.top(
        score.expand(draws, 3), mask(3, width=3).expand(draws, 3), torch.full((draws,), 2), noise, 0.1, uniform
    )
    p = [math.exp(float(one) / noise) for one in score]
    p = [one / sum(p) for one in p]
    for out in range(3):  # the one that is never drawn
        a, b = (n for n in range(3) if n != out)
        pair = p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b])
        assert abs(float((~kept[:, out]).float().mean()) - pair) < 4.5 * math.sqrt(pair * (1 - pair) / draws)


@pytest.mark.parametrize("uniform", [0.0, 1.0])
def test_the_ends_of_the_random_numbers_are_finite(uniform):
    drawn = torch.full((1, 7), uniform)
    for _, gates, *_ in (
        losses.top(random(1, 7), mask(5), torch.tensor([2]), 0.5, 0.1, drawn),
        losses.above(random(1, 7), mask(5), 0.5, 0.1, drawn),
    ):
        assert bool(gates.isfinite().all())


def test_above_keeps_what_reaches_zero_and_the_best_at_any_rate():
    score = torch.tensor([[0.1, -0.2, 0.0, 5.0], [-1.0, -0.5, -2.0, 9.0], [-1.0, 2.0, 3.0, -0.1]])
    kept, gates, share = losses.above(score, mask(3, 3, 4, width=4), 0.0, 0.2, torch.rand(3, 4))
    assert kept.tolist() == [[True, False, True, False], [False, True, False, False], [False, True, True, False]]
    assert torch.equal(gates, kept.float())
    for b, n in enumerate((3, 3, 4)):
        expected = sum(1 / (1 + math.exp(-float(one) / 0.2)) for one in score[b, :n]) / n
        assert float(share[b]) == pytest.approx(expected, rel=1e-5)


def test_logistic_noise_keeps_a_token_as_often_as_its_sigmoid_says():
    draws, noise = 40_000, 0.5
    score = torch.tensor([0.3, -0.4, 9.0]).expand(draws, 3)  # the last is always the best
    uniform = torch.rand(draws, 3, generator=torch.Generator().manual_seed(3))
    kept, _, _ = losses.above(score, mask(3, width=3).expand(draws, 3), noise, 0.1, uniform)
    for n, one in enumerate((0.3, -0.4)):
        p = 1 / (1 + math.exp(-one / noise))
        assert abs(float(kept[:, n].float().mean()) - p) < 4.5 * math.sqrt(p * (1 - p) / draws)


def test_the_share_is_that_of_the_score_without_noise_and_has_a_gradient():
    score = random(2, 7).requires_grad_()
    _, _, quiet = losses.above(score, mask(7, 4), 0.0, 0.2, torch.rand(2, 7))
    _, _, loud = losses.above(score, mask(7, 4), 3.0, 0.2, torch.rand(2, 7))
    assert torch.equal(quiet, loud)
    (slope,) = torch.autograd.grad(loud.sum(), score)
    p = torch.sigmoid(score.detach() / 0.2)
    assert torch.allclose(slope[0], (p * (1 - p) / 0.2 / 7)[0])
    assert not bool(slope[1, 4:].any())


def test_straight_through_is_exact_forward_and_sigmoid_backward():
    logit, kept = torch.tensor([-80.0, -1.0, 0.0, 3.0, 80.0], requires_grad=True), torch.tensor([1, 0, 1, 0, 1]).bool()
    gates = losses.straight_through(kept, logit)
    assert torch.equal(gates, kept.float())
    (slope,) = torch.autograd.grad(gates.sum(), logit)
    (expected,) = torch.autograd.grad(torch.sigmoid(logit).sum(), logit)
    assert torch.allclose(slope, expected)


def test_closed_gates_show_the_mean_and_padding_stays():
    visual, valid = random(2, 7, 3), mask(7, 4)
    gates = torch.tensor([[1.0, 0, 1, 0, 0.25, 1, 1], [0, 0, 1, 1, 0, 1, 0]], dtype=torch.float64)
    found = losses.gated(visual, gates, valid)
    for b, count in enumerate((7, 4)):
        mean = sum(visual[b, :count]) / count
        for n in range(7):
            own = visual[b, n]
            expected = own if n >= count else mean + gates[b, n] * (own - mean)
            assert torch.allclose(found[b, n], expected)
    assert torch.equal(found[1, 4:], visual[1, 4:])


def test_the_gradient_of_a_gate_is_what_the_token_tells_more_than_the_mean():
    visual, valid, weights = random(1, 7, 3), mask(5), random(7, 3)
    gates = (random(1, 7) > 0).double().requires_grad_()

    def loss(opened: torch.Tensor) -> torch.Tensor:
        return (opened[0] * weights).sin().sum()

    (slope,) = torch.autograd.grad(loss(losses.gated(visual, gates, valid)), gates)
    mean = visual[0, :5].mean(0)
    shown = torch.where(gates.detach()[0, :, None] > 0, visual[0], mean)
    shown[5:] = visual[0, 5:]
    for n in range(7):
        up, down = shown.clone(), shown.clone()
        if n < 5:
            up[n] += 1e-5 * (visual[0, n] - mean)
            down[n] -= 1e-5 * (visual[0, n] - mean)
        assert float(slope[0, n]) == pytest.approx(float(loss(up[None]) - loss(down[None])) / 2e-5, rel=1e-5, abs=1e-9)
