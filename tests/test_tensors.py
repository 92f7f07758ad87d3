"""The surgery as pure functions, against loops."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simignore.splice.tensors import count_before, cut_mask, pack, put, take

SEEDS = st.integers(0, 2**31)


def random_stays(seed, b=3, t=7):
    return torch.rand(b, t, generator=torch.Generator().manual_seed(seed)) < 0.6


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_pack_take_and_put_are_a_way_there_and_back(seed):
    stays = random_stays(seed)
    rows = pack(stays)
    x = torch.randn(3, 7, 2, generator=torch.Generator().manual_seed(seed))
    for b in range(3):
        own = stays[b].nonzero()[:, 0].tolist()
        assert rows[b].tolist() == [-1] * (rows.shape[1] - len(own)) + own
    back = put(take(x, rows), rows, 7)
    assert torch.equal(back, x * stays[..., None])
    assert rows.shape[1] == int(stays.sum(1).max())
    assert torch.equal(take(x[:1], rows), take(x[:1].expand(3, 7, 2), rows))  # one row serves the whole batch


@given(SEEDS, st.integers(0, 3), st.sampled_from(["bool", "additive", "none", "flat"]))
@settings(max_examples=80, deadline=None)
def test_a_cut_mask_lets_each_token_see_what_it_saw_before(seed, past, kind):
    """q new tokens after some past ones; the short mask equals picking rows and columns one by one."""
    q = 6
    stays = random_stays(seed, 2, q)
    stays[:, -1] = True
    rows = pack(stays)
    real = rows >= 0
    old = torch.arange(past).expand(2, past)
    columns = torch.cat([old, torch.where(real, rows + past, -1)], 1)
    seen = torch.cat([torch.ones_like(old, dtype=torch.bool), real], 1)
    causal = torch.ones(q, past + q, dtype=torch.bool).tril(past)[None, None].expand(2, 1, -1, -1)
    if kind == "none" and past:
        return  # the model only leaves its mask out where nothing is cached
    mask = {
        "bool": causal,
        "additive": torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min),
        "none": None,
        "flat": torch.ones(2, past + q, dtype=torch.long),
    }[kind]
    short = cut_mask(mask, rows, columns, seen, dense=bool(seen.all()))
    if short is None:
        assert kind == "none" and bool(seen.all())
        return
    for b in range(2):
        for j, column in enumerate(columns[b].tolist()):
            if kind == "flat":
                assert bool(short[b, j]) == (column >= 0)
                continue
            for i, row in enumerate(rows[b].tolist()):
                if row >= 0:
                    sees = short[b, 0, i, j] if short.dtype == torch.bool else short[b, 0, i, j] == 0
                    assert bool(sees) == (column >= 0 and bool(causal[b, 0, row, column]))


def test_a_dense_single_step_needs_no_mask():
    seen = torch.ones(2, 5, dtype=torch.bool)
    columns = torch.arange(5).expand(2, 5)
    assert cut_mask(None, torch.zeros(2, 1, dtype=torch.long), columns, seen, dense=True) is None
    assert cut_mask(None, torch.zeros(2, 1, dtype=torch.long), columns, seen, dense=False).all()


def test_count_before():
    assert count_before(torch.tensor([[True, False, True, True]])).tolist() == [[0, 1, 1, 2]]
