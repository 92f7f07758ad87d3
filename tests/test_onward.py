"""Heads that hop: their scores against the docstrings' formulas in plain numbers, token by token."""

from __future__ import annotations

import json
import math

import pytest
import torch
from test_head import WIDTH, dot, unit
from test_hops import nearby_loop, same_loop

from grids import lying
from simignore.head import CONFIG, Head, Onward, load_head
from simignore.hops import spots
from simignore.types import PAD, Grid

WHOLE = (0.0, 0.0, 1.0, 1.0)
SAMPLES = [
    [Grid(2, 3, 0)],
    [Grid(3, 3, 0, box=WHOLE), Grid(1, 2, 1, box=WHOLE)],
    [Grid(1, 1, 0)],
]
WORDS = (4, 1, 3)


def hopping(hops=2, seed=0, **more) -> Head:
    """A head with nothing where a new one has it."""
    head = Head(WIDTH, 3, base="a toy", seed=seed, hops=hops, **more)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in head.named_parameters():
            far = 1.0 if name in ("threshold", "demand") else 0.2  # scores stay above the floor of the logarithms
            weight.add_(far * torch.randn(weight.shape, generator=generator))
    return head.requires_grad_(False).eval()


def drawn(samples=SAMPLES, words=WORDS, seed=0, dtype=torch.float32, filler=math.nan):
    """Image tokens, text tokens, which of these are real, and places; ``filler`` where nothing is."""
    generator, where = torch.Generator().manual_seed(seed), spots(lying(samples))
    visual = torch.randn(*where.shape[:2], WIDTH, generator=generator)
    text = torch.randn(len(samples), max(words), WIDTH, generator=generator)
    valid = torch.arange(max(words)) < torch.tensor(words)[:, None]
    visual = visual.masked_fill(where.isnan().any(-1, keepdim=True), filler)
    return visual.to(dtype), text.masked_fill(~valid[..., None], filler).to(dtype), valid, where


def soft_maximum(found, k):
    return math.log(sum(math.exp(k * s) for s in found) / len(found)) / k


def spread(raised, onward, seen, place):
    """What a map lies on, all that belongs to it: [n], of sum 1. raised: the map's logs, but for a constant."""
    mass = [math.exp(onward.contrast.item() * (x - max(raised))) for x in raised]
    told = same_loop(mass, seen, place, math.exp(onward.size.item()), math.exp(onward.likeness.item()))
    return [x / sum(told) for x in told]


def by_loop(head, visual, text, place):
    """One sample's scores before the threshold, by the docstrings of Head and Onward."""
    onward, A = head.onward, head.image.tolist()
    seen, said = [unit(v) for v in visual.tolist()], [unit(t) for t in text.tolist()]
    place = place.tolist()

    def low(v, t, B, b):
        return sum(dot(A[r], v) * (dot(B[r], t) + b[r]) for r in range(len(b)))

    B, b, k = head.text.tolist(), head.bias.tolist(), math.exp(head.sharpness.item())
    first = [soft_maximum([dot(v, t) + low(v, t, B, b) for t in said], k) for v in seen]
    B, b, k = onward.text.tolist(), onward.bias.tolist(), math.exp(onward.sharpness.item())
    second = [soft_maximum([low(v, t, B, b) for t in said], k) for v in seen]

    maps = [spread([s / math.exp(onward.heat.item()) for s in first], onward, seen, place)]
    for _ in range(head.hops):
        p = maps[-1]
        around = nearby_loop(p, place, math.exp(onward.reach.item()))
        free = [1 - 0.98 * x / max(p) for x in p]
        asked = [s / math.exp(onward.next_heat.item()) for s in second]
        raised = [
            a + math.log(o) + onward.away.item() * math.log(f) for a, o, f in zip(asked, around, free, strict=True)
        ]
        maps.append(spread(raised, onward, seen, place))

    together = [sum(t[d] for t in said) for d in range(WIDTH)]
    turns = [
        math.exp(dot(row, together) + c) for row, c in zip(onward.turns.tolist(), onward.turn.tolist(), strict=True)
    ]
    mixed = [sum(share * p[n] for share, p in zip(turns, maps, strict=True)) for n in range(len(seen))]
    return [0.1 * math.log(x / max(mixed)) for x in mixed]


@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_scores_are_the_formula_in_plain_numbers(hops, seed):
    head, (visual, text, valid, where) = hopping(hops, seed), drawn(seed=seed)
    told, exact = head.ranked(visual, text, valid, where), head.ranked(visual.double(), text.double(), valid, where)
    assert told.dtype == torch.float32 and exact.dtype == torch.float64
    for b, words in enumerate(WORDS):
        n = int((~where[b].isnan().any(-1)).sum())
        wanted = by_loop(head, visual[b, :n], text[b, :words], where[b, :n])
        assert told[b, :n].tolist() == pytest.approx(wanted, abs=1e-4)
        assert exact[b, :n].tolist() == pytest.approx(wanted, abs=1e-9)
    over = head(visual, text, valid, where)
    assert torch.equal(over, told - head.demanded(text, valid)[:, None])


@pytest.mark.parametrize("filler", [0.0, 1e4, math.nan, math.inf])
def test_padding_and_neighbours_in_a_batch_do_not_matter(filler):
    head, (visual, text, valid, where) = hopping(), drawn(filler=filler)
    together = head(visual, text, valid, where)
    for b, words in enumerate(WORDS):
        n = int((~where[b].isnan().any(-1)).sum())
        alone = head(visual[b : b + 1, :n], text[b : b + 1, :words], valid[b : b + 1, :words], where[b : b + 1, :n])
        torch.testing.assert_close(together[b, :n], alone[0])
        assert float((alone + head.demanded(text, valid)[b]).max()) == pytest.approx(0, abs=1e-6)
        assert bool((together[b, n:] < alone.min() - 10).all())  # whatever reads padding by mistake finds it last


@pytest.mark.parametrize("held", [0, 2, 4])  # samples whose pairs are held at once: none, two, more than there are
def test_large_batches_are_scored_in_parts(held, monkeypatch):
    head, given = hopping(), drawn(dtype=torch.float64)
    wanted, sizes, mixed = head.ranked(*given), [], Onward._mixed

    def counting(self, head, likeness, *rest):
        sizes.append(len(likeness))
        return mixed(self, head, likeness, *rest)

    monkeypatch.setattr(Onward, "_mixed", counting)
    monkeypatch.setattr("simignore.head.HELD", held * given[0].shape[1] ** 2)
    torch.testing.assert_close(head.ranked(*given), wanted, rtol=1e-12, atol=0)
    assert sizes == {0: [1, 1, 1], 2: [2, 1], 4: [3]}[held]


def test_the_best_token_has_a_score_of_0_and_the_others_less():
    head, given = hopping(), drawn()
    told = head.ranked(*given)
    assert told.amax(-1).tolist() == [0.0] * 3 and int((told == 0).sum()) == 3


def test_a_sample_without_an_image_does_not_matter_to_the_others():
    head = hopping()
    visual, text, valid, where = drawn([SAMPLES[0], []], (4, 2))
    found = head(visual, text, valid, where)
    torch.testing.assert_close(found[:1], head(visual[:1], text[:1], valid[:1], where[:1]))


def test_permuted_tokens_have_permuted_scores():
    head, (visual, text, valid, where) = hopping(), drawn()
    order = torch.randperm(where.shape[1], generator=torch.Generator().manual_seed(5))
    words = torch.tensor([2, 0, 3, 1])
    found = head(visual[:, order], text[:, words], valid[:, words], where[:, order])
    torch.testing.assert_close(found, head(visual, text, valid, where)[:, order])


def test_a_hop_goes_to_what_lies_beside_and_stays_on_the_picture():
    """A thing that is named, one of another kind beside it, and the same kinds far away and on another picture."""
    head = Head(4, 2, hops=1).requires_grad_(False)
    with torch.no_grad():
        head.image.copy_(torch.tensor([[0.0, 1, 0, 0], [0, 0, 1, 0]]))
        head.onward.text.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))  # of "e0" the hop goes to e1
        head.onward.turn.copy_(torch.tensor([-100.0, 0.0]))
    kinds = torch.eye(4)
    seen = kinds[[3, 0, 1, 3, 3, 3, 3, 1, 1, 3]]  # the named one is token 1; 2 is beside it, 7 is not, 8 is elsewhere
    where = spots(lying([[Grid(1, 8, 0), Grid(1, 2, 1)]]))
    score = head.ranked(seen[None], kinds[None, :1], torch.ones(1, 1, dtype=torch.bool), where)[0]
    assert int(score.argmax()) == 2
    assert float(score[2]) > max(float(score[7]), float(score[8])) + 0.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_scored_in_full(dtype):
    head, (visual, text, valid, where) = hopping(), drawn(dtype=dtype)
    wanted, found = head(visual.float(), text.float(), valid, where), head(visual, text, valid, where)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(visual, text, valid, where), wanted)


ODD = {
    "no length": lambda visual, text: (torch.zeros_like(visual), text),
    "words of no length": lambda visual, text: (visual, torch.zeros_like(text)),
    "all alike": lambda visual, text: (visual[:, :1].expand_as(visual), text),
    "huge": lambda visual, text: (visual * 1e30, text * 1e30),
    "the words themselves": lambda visual, text: (text[:, :1].expand_as(visual), text),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("contrast", [1.0, -1.0, 30.0])
def test_odd_features_have_finite_scores_and_slopes(name, contrast):
    visual, text, valid, where = drawn(filler=0.0)
    visual, text = ODD[name](visual, text)
    head = hopping()
    head.onward.contrast.fill_(contrast)
    head.requires_grad_(True)
    real = ~where.isnan().any(-1)
    score = head(visual, text, valid, where)
    assert bool(score.isfinite().all())
    slopes = torch.autograd.grad(score[real].square().sum(), [*head.parameters()])
    assert all(bool(slope.isfinite().all()) for slope in slopes)


def test_every_weight_of_the_hops_is_learnt():
    head, given = hopping().requires_grad_(True), drawn(filler=0.0)
    score = head(*given)[~given[3].isnan().any(-1)]
    loss = (score * torch.arange(1.0, len(score) + 1)).sum()
    slopes = torch.autograd.grad(loss, [*head.parameters()])
    unmoved = [name for (name, _), slope in zip(head.named_parameters(), slopes, strict=True) if not bool(slope.any())]
    assert unmoved == []
    kept = {id(weight) for weight in head.similarity()}
    assert [name for name, weight in head.named_parameters() if id(weight) in kept] == [
        "image",
        "text",
        "bias",
        "sharpness",
    ]


@pytest.mark.parametrize(("hops", "judges"), [(0, True), (2, False), (3, True)])
def test_what_was_saved_scores_the_same_to_the_bit(hops, judges, tmp_path):
    head, given = hopping(hops, seed=3, judges=judges), drawn(filler=0.0)
    head.save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert (config["hops"], config["judges"]) == (hops, judges)
    for again in (Head.from_pretrained(tmp_path), load_head(tmp_path)):
        assert torch.equal(again(*given), head(*given))
        assert (again.hops, again.judges, again.width, again.rank) == (hops, judges, WIDTH, 3)


def test_a_config_from_before_there_were_hops_is_one_without(tmp_path):
    head = hopping(0)
    head.save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({x: y for x, y in config.items() if x not in ("hops", "judges")}))
    again, given = load_head(tmp_path), drawn(filler=0.0)[:3]
    assert (again.hops, again.judges, again.onward) == (0, False, None)
    assert torch.equal(again(*given), head(*given))


@pytest.mark.parametrize("hops", [0, 1, 3])
def test_weights_of_another_number_of_hops_are_told(hops, tmp_path):
    hopping(2).save_pretrained(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text()) | {"hops": hops}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"cannot be read as a head[\s\S]*train it anew, or name another"):
        load_head(tmp_path)


def test_a_negative_number_of_hops_is_refused():
    with pytest.raises(ValueError, match=r"hops=-1 must not be negative; 0 scores tokens by what they show alone"):
        Head(WIDTH, hops=-1)


def test_hops_without_places_are_refused_with_the_remedy():
    visual, text, valid, _ = drawn()
    with pytest.raises(ValueError, match=r"must be told where the image tokens lie; pass where=spots\(view.patches\)"):
        hopping()(visual, text, valid)


@pytest.mark.parametrize(
    "samples",
    [
        [[Grid(1, 6, 0, "tokens")]] * 3,
        [[Grid(2, 3, 0)], [Grid(1, 4, 0, "tokens")], []],
        [[Grid(1, 1, 0), Grid(1, 1, 1, "tokens")]] * 3,
    ],
)
def test_tokens_without_places_are_refused_also_beside_others(samples):
    where = spots(lying(samples))
    visual, text, valid, _ = drawn()
    with pytest.raises(ValueError, match=r"have no places to be beside; train a head with hops=0"):
        hopping()(visual[:, : where.shape[1]], text, valid, where)
    hopping(0)(visual, text, valid)  # has nothing to look beside


def test_a_cut_before_it_takes_tokens_out_of_its_sight():
    """It looks beside what is still there, so what it finds is what it would find had the others never been."""
    head, patches = hopping(), lying(SAMPLES[:1])
    visual, text, valid, _ = drawn(SAMPLES[:1], (4,))
    index = torch.tensor([[0, 2, 5, PAD]])
    left = visual.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, WIDTH))
    found = head.ranked(left, text, valid, spots(patches.take(index)))
    wanted = by_loop(head, visual[0, [0, 2, 5]], text[0], spots(patches)[0, [0, 2, 5]])
    assert found[0, :3].tolist() == pytest.approx(wanted, abs=1e-4)
