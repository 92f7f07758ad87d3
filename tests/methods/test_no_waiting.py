"""Choosing never makes the host wait for the device token by token: what asks for numbers does so a fixed number of times."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from simignore.methods import METHODS, Diverse, FastV, FrameBudget, Merged, Simignore

COMPOSED = {
    "merged": lambda keep: Merged(FastV(keep=keep)),
    "max-min": lambda keep: Diverse(Simignore(keep=keep), how="max-min"),
    "frame-budget": lambda keep: FrameBudget(Simignore(keep=keep)),
}
ASKS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique_dim", "_unique2")


class Asked(TorchDispatchMode):
    """Counts operations whose result the host has to know before it can go on."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        mask = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        self.count += name in ASKS or mask
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [*METHODS, *COMPOSED])
def test_what_the_host_asks_does_not_grow_with_the_tokens(name, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    from benchmarks.heads import fitting
    from benchmarks.views import view

    counts = []
    for tokens, keep in ((64, 16), (256, 64)):
        own = (
            COMPOSED[name](keep) if name in COMPOSED else METHODS[name](keep=keep, **fitting(METHODS[name], 16, hops=2))
        )
        cut = own.cuts()[0]
        seen = view(cut, tokens, 16, 1, torch.device("cpu"))
        with Asked() as asked:
            cut.choose(seen)
        counts.append(asked.count)
    if name in ("uniform-grid", "pooled"):
        return  # these choose by places alone, which are on the host from the start
    assert counts[1] <= counts[0] + 2 and counts[1] < 60, counts
