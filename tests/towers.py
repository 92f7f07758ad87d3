"""Views with what a vision tower shows, and the plain-loop arithmetic that the oracles of the tower's methods share."""

from __future__ import annotations

import math
from collections import defaultdict

import torch

from simignore import View
from simignore.types import Grid, Look, Patches

LAST, DEEP, OBJECTS = None, -1, 9 / 24
SHAPES = {"attention": (), "received": (), "keys": (2, 3), "features": (5,)}
LOOKS = [
    Look("attention"),
    Look("keys"),
    Look("features"),
    Look("received"),
    Look("received", OBJECTS),
    Look("attention", DEEP),
    Look("keys", DEEP),
]


def patches(grids):
    """grids: for each sample a list of (rows, columns); one image per grid."""
    wide = max(sum(r * c for r, c in own) for own in grids)
    grid, row, column = (torch.full((len(grids), wide), -1) for _ in range(3))
    for b, own in enumerate(grids):
        place = 0
        for g, (rows, columns) in enumerate(own):
            for r in range(rows):
                for c in range(columns):
                    grid[b, place], row[b, place], column[b, place] = g, r, c
                    place += 1
    known = tuple(tuple(Grid(r, c, g) for g, (r, c) in enumerate(own)) for own in grids)
    return Patches(known, grid, row, column)


def view(sizes, seed=0, grids=None, make=None, dtype=torch.float64, padding=math.nan, **given):
    """A view of samples with ``sizes`` tokens. make(look, tokens, generator) -> what one sample shows; each sample draws from a
    generator of its own, so that it holds the same alone and in a batch. given: tower tensors by name of the look, for all."""
    grids = grids or [[(1, size)] for size in sizes]
    where = patches(grids)
    valid = where.grid != -1
    make = make or random_look

    def filled(name, number):
        shape = SHAPES.get(name, (4,))
        out = torch.full((*valid.shape, *shape), padding, dtype=torch.float64)
        for b, size in enumerate(sizes):
            generator = torch.Generator().manual_seed((seed * 31 + b) * 31 + number)
            if size:
                out[b, :size] = make(name, size, shape, generator)
        return out.to(dtype)

    tower = {look: given.get(look.what, filled(look.what, i)) for i, look in enumerate(LOOKS)}
    hidden = given.get("hidden", filled("hidden", 90))
    return View(valid, 0, where, tuple(range(len(sizes))), visual=filled("visual", 91), hidden=hidden, tower=tower)


def random_look(name, size, shape, generator):
    drawn = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
    return drawn.softmax(0) if not shape else drawn


def coarse_look(name, size, shape, generator):
    """Many exact ties: attention on a coarse scale, vectors along the axes (their cosines are exactly 0, 1 or -1)."""
    if not shape:
        return torch.randint(0, 3, (size,), generator=generator) / 4
    axis = torch.randint(0, shape[-1], (size,), generator=generator)
    sign = torch.randint(0, 2, (size,), generator=generator) * 2 - 1
    drawn = torch.zeros(size, shape[-1], dtype=torch.float64)
    drawn[torch.arange(size), axis] = sign.double() * 2
    return drawn[:, None].expand(size, *shape).clone() if len(shape) == 2 else drawn


def alone(seen, b):
    """Sample ``b`` of a view by itself, without its padding."""
    size = seen.counts[b]

    def cut(x):
        return x[b : b + 1, :size]

    where = seen.patches
    own = Patches((where.grids[b],), cut(where.grid), cut(where.row), cut(where.column))
    tower = {look: cut(x) for look, x in seen.tower.items()}
    return View(
        cut(seen.valid), 0, own, seen.seeds[b : b + 1], visual=cut(seen.visual), hidden=cut(seen.hidden), tower=tower
    )


def cosine(a, b):
    """Of two lists; 0 with a zero vector."""
    long = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / long if long else 0.0


def mean_keys(seen, b, layer=LAST):
    """Keys of a sample's tokens, mean over heads, as lists."""
    found = seen.tower[Look("keys", layer)][b, : seen.counts[b]].tolist()
    return [[sum(head[i] for head in token) / len(token) for i in range(len(token[0]))] for token in found]


def long_keys(seen, b, layer=DEEP):
    """Keys of a sample's tokens, heads in a row, as lists."""
    found = seen.tower[Look("keys", layer)][b, : seen.counts[b]].tolist()
    return [[x for head in token for x in head] for token in found]


def row(seen, what, b, layer=LAST):
    return seen.tower[Look(what, layer)][b, : seen.counts[b]].tolist()


def top(score, count, among=None):
    """The ``count`` highest, in reading order; ties to the first."""
    among = range(len(score)) if among is None else among
    return sorted(sorted(among, key=lambda i: (-score[i], i))[:count])


def first_best(scores):
    """Where the largest is first."""
    return max(range(len(scores)), key=lambda i: (scores[i], -i))


def kept(chosen, b):
    return [i for i in chosen.index[b].tolist() if i >= 0]


def mixed(chosen, b):
    """{kept token: {token in it: weight}} of a sample's blend."""
    found = defaultdict(dict)
    if chosen.blend is None:
        return {}
    blend = chosen.blend
    for t, o, w in zip(blend.target[b].tolist(), blend.origin[b].tolist(), blend.weight[b].tolist(), strict=True):
        if t >= 0:
            assert o not in found[t], "one entry per token in a group"
            found[t][o] = w
    return dict(found)


def groups(source):
    """{kept token: {token in it: weight}} of plain means over a source map (list), for groups of more than one."""
    found = defaultdict(list)
    for token, to in enumerate(source):
        if to >= 0:
            found[to].append(token)
    return {to: {o: 1 / len(own) for o in own} for to, own in found.items() if len(own) > 1}


def same_mix(found, wanted):
    assert {t: set(own) for t, own in found.items()} == {t: set(own) for t, own in wanted.items()}
    for t, own in wanted.items():
        for o, w in own.items():
            assert abs(found[t][o] - w) < 1e-5, (t, o, found[t][o], w)
