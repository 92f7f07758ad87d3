"""Sharing out and cutting into cells, against plain loops and by their promises."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simignore.cells import apportion, cells, middles


def largest_remainder(total, weights):
    """The textbook's way, where room is no matter."""
    quotas = [Fraction(total) * Fraction(w) / sum(map(Fraction, weights)) for w in weights]
    given = [int(q) for q in quotas]
    while sum(given) < total:
        left = [(q - n, -i) for i, (q, n) in enumerate(zip(quotas, given, strict=True))]
        given[-max(left)[1]] += 1
    return given


@settings(deadline=None, max_examples=200)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=7), data=st.data())
def test_sizes_as_weights_are_largest_remainders(sizes, data):
    total = data.draw(st.integers(0, sum(sizes)))
    assert apportion(total, sizes, sizes) == largest_remainder(total, sizes)


@settings(deadline=None, max_examples=300)
@given(
    entries=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=6),
    floor=st.integers(0, 3),
    data=st.data(),
)
def test_shares_add_up_within_their_room_and_follow_the_weights(entries, floor, data):
    weights, room = [w for w, _ in entries], [r for _, r in entries]
    total = data.draw(st.integers(0, sum(room)))
    given_ = apportion(total, weights, room, floor)
    assert sum(given_) == total
    assert all(0 <= share <= space for share, space in zip(given_, room, strict=True))
    least = [min(floor, space) for space in room]
    if total >= sum(least):
        assert all(share >= low for share, low in zip(given_, least, strict=True))
    for (wa, ra), a in zip(entries, given_, strict=True):  # who weighs more gets no less, unless it is full
        for (wb, _), b in zip(entries, given_, strict=True):
            assert not (wa > wb and a < b and a < ra), (entries, given_)


def test_shares_by_hand():
    assert apportion(10, [1, 1, 1], [9, 9, 9]) == [4, 3, 3]  # ties go to the first
    assert apportion(5, [0.5, 0.25, 0.25], [9, 9, 9]) == [3, 1, 1]
    assert apportion(8, [1, 0, 0], [3, 9, 9]) == [3, 3, 2]  # what does not fit goes to the others
    assert apportion(7, [6, 1, 1], [3, 9, 9]) == [3, 2, 2]
    assert apportion(6, [8, 1, 1], [9, 9, 9], floor=1) == [4, 1, 1]  # 3 to share out: 2.4, 0.3, 0.3
    assert apportion(2, [1, 3, 2], [9, 9, 9], floor=2) == [0, 1, 1]  # the heaviest first while it lasts
    assert apportion(5, [1, 3, 2], [9, 9, 9], floor=2) == [1, 2, 2]
    assert apportion(0, [1.0], [4]) == [0] and apportion(0, [], []) == []
    with pytest.raises(ValueError, match="5 tokens to share out, but there is room for only 4; share out fewer"):
        apportion(5, [1, 1], [2, 2])


def places(rows, columns):
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return row.flatten(), column.flatten()


@settings(deadline=None, max_examples=150)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 999), data=st.data())
def test_every_cell_has_a_token_whatever_is_gone(rows, columns, seed, data):
    row, column = places(rows, columns)
    keep = torch.rand(len(row), generator=torch.Generator().manual_seed(seed)) < data.draw(
        st.sampled_from([0.3, 0.8, 1])
    )
    row, column = row[keep], column[keep]
    if not len(row):
        return
    count = data.draw(st.integers(1, len(row)))
    cell = cells(row, column, count)
    assert sorted(set(cell.tolist())) == list(range(count))
    middle = middles(row, column, cell)
    assert middle.shape == (count,) and torch.equal(cell[middle], torch.arange(count))
    for number, token in enumerate(middle.tolist()):  # the nearest to the mean place, the first of equals
        own = [i for i in range(len(row)) if int(cell[i]) == number]
        centre = [Fraction(int(sum(int(x[i]) for i in own)), len(own)) for x in (row, column)]
        distance = {i: (int(row[i]) - centre[0]) ** 2 + (int(column[i]) - centre[1]) ** 2 for i in own}
        assert token == min(own, key=lambda i: (distance[i], i))


def test_a_band_with_few_tokens_gets_a_cell_too():
    """Five rows with one token each, then four whole rows of nine: in proportion all four cells would go to the latter."""
    there = [(r, r) for r in range(5)] + [(r, c) for r in range(5, 9) for c in range(9)]
    cell = cells(*torch.tensor(there).unbind(1), 4).tolist()
    assert cell[:5] == [0] * 5 and sorted(set(cell[5:])) == [1, 2, 3]


@pytest.mark.parametrize(("rows", "columns", "count", "band_count"), [(24, 24, 64, 8), (24, 24, 144, 12), (6, 9, 6, 2)])
def test_a_whole_grid_is_cut_into_equal_rectangles(rows, columns, count, band_count):
    row, column = places(rows, columns)
    cell = cells(row, column, count)
    across = count // band_count
    height, width = rows // band_count, columns // across
    for i in range(len(row)):
        assert int(cell[i]) == int(row[i]) // height * across + int(column[i]) // width


@pytest.mark.parametrize(("rows", "columns"), [(1, 12), (12, 1), (5, 7), (6, 6), (3, 11), (9, 9)])
def test_cells_of_a_whole_grid_are_of_like_size(rows, columns):
    """3 x 3 in four cells is 2 x 2, 2 x 1, 1 x 2 and 1 x 1: no grid is cut more unevenly than that."""
    row, column = places(rows, columns)
    for count in range(1, rows * columns + 1):
        sizes = torch.bincount(cells(row, column, count))
        assert int(sizes.sum()) == rows * columns and int(sizes.max()) <= 4 * int(sizes.min())


def test_a_row_of_tokens_is_cut_evenly():
    row, column = places(1, 10)
    assert cells(row, column, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert middles(row, column, cells(row, column, 2)).tolist() == [2, 7]
