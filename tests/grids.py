"""Views of samples whose image tokens lie on given grids: what the tests of methods that look at places share."""

from __future__ import annotations

import math

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from simignore.types import PAD, Grid, Patches, View


def lying(samples, gone=()):
    """Patches of samples, each a list of grids. gone: (sample, token) pairs that an earlier cut took."""
    rows = []
    for b, grids in enumerate(samples):
        own = [(g, r, c) for g, grid in enumerate(grids) for r in range(grid.rows) for c in range(grid.columns)]
        rows.append([place for n, place in enumerate(own) if (b, n) not in gone])
    longest = max(len(own) for own in rows)
    told = torch.tensor([own + [(PAD,) * 3] * (longest - len(own)) for own in rows]).view(len(rows), longest, 3)
    return Patches(tuple(tuple(grids) for grids in samples), *told.unbind(-1))


def seeing(patches, seed=0, width=6, **more):
    """A view of random features on these patches; what is padding is NaN."""
    generator = torch.Generator().manual_seed(seed)
    real = patches.grid != PAD
    visual = more.pop("visual", None)
    if visual is None:
        visual = torch.randn(*real.shape, width, generator=generator, dtype=torch.float64)
    visual = visual.masked_fill(~real[..., None], math.nan)
    return View(
        valid=real, layer=0, patches=patches, seeds=tuple(range(len(real))), visual=visual, hidden=visual, **more
    )


def one(view, b):
    """The view of sample ``b`` by itself, without padding."""
    n = view.counts[b]

    def mine(x, tokens=True):
        return None if x is None else x[b : b + 1, :n] if tokens else x[b : b + 1]

    own = view.patches
    patches = Patches(own.grids[b : b + 1], mine(own.grid), mine(own.row), mine(own.column))
    words = None if view.words is None else view.words[b : b + 1][:, view.words_valid[b]]
    return View(
        valid=mine(view.valid),
        layer=view.layer,
        patches=patches,
        seeds=view.seeds[b : b + 1],
        visual=mine(view.visual),
        hidden=mine(view.hidden),
        attention=mine(view.attention),
        words=words,
        words_valid=None if words is None else torch.ones(words.shape[:2], dtype=torch.bool),
        totals=view.totals[b : b + 1],
    )


def chosen(selection, b=0):
    """The tokens that stayed in sample ``b``."""
    return [i for i in selection.index[b].tolist() if i != PAD]


def image(rows, columns, kind="image", number=0, time=0):
    return Grid(rows, columns, number, kind, time=time)


def film(frames, rows, columns, number=0):
    """The grids of a video."""
    return [Grid(rows, columns, number, "frame", time=t) for t in range(frames)]


class Waits(TorchDispatchMode):
    """Collects operations for whose result a program on the host would wait for the device."""

    KINDS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "unique",
        "_unique2",
        "equal",
        "item",
        "repeat_interleave",
    )

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        if name in self.KINDS or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))
