"""Every method of ``METHODS`` enrols itself here, at a given budget; so do the compositions, a chain at one site among them.

Methods for videos are left to tests/contract/test_families.py, which has some.
"""

from __future__ import annotations

from dataclasses import fields

import models
from benchmarks.heads import fitting
from simignore.methods import (
    METHODS,
    Chain,
    Diverse,
    FasterVLM,
    FastV,
    FrameBudget,
    Merged,
    Method,
    Product,
    Random,
    Simignore,
    SparseVLM,
)


def make(name: str, keep: int | float, *, width: int = models.WIDTH, **options) -> Method:
    """A method of the matrix with this budget. For a chain the last link has it and the first keeps more.

    width: of the model's embeddings; what is trained for one width gets random weights of it.
    """
    if name in COMPOSED:
        return COMPOSED[name](keep, options)
    cls = METHODS[name]
    assert {"keep", "layer", "hide", "positions", "within"} <= {field.name for field in fields(cls)}
    return cls(keep=keep, **fitting(cls, width), **options)


def _wide(keep: int | float) -> int | float:
    return min(1.0, keep * 2) if isinstance(keep, float) else keep + 3


COMPOSED = {
    "chain": lambda k, o: Chain(Simignore(keep=_wide(k), **o), FastV(keep=k, layer=2, **o)),
    "chain-at-one-site": lambda k, o: Chain(Random(keep=_wide(k), **o), Simignore(keep=k, **o)),
    "random-inside": lambda k, o: Random(keep=k, layer=1, **o),
    "simignore-inside": lambda k, o: Simignore(keep=k, layer=0.5, **o),
    "diverse": lambda k, o: Diverse(FastV(keep=k, layer=2, **o)),
    "max-min": lambda k, o: Diverse(Simignore(keep=k, **o), how="max-min"),
    "product": lambda k, o: Product(Simignore(keep=k, **o), FasterVLM(keep=k, **o)),
    "frame-budget": lambda k, o: FrameBudget(Simignore(keep=k, **o)),
    "merged": lambda k, o: Merged(Simignore(keep=k, **o)),
    "merged-inside": lambda k, o: Merged(FastV(keep=k, layer=2, **o), least=0.0),
    "recycling": lambda k, o: SparseVLM(keep=k, recycle=True, layers=(1, 3), **o),
}
NAMES = [*(name for name, kind in METHODS.items() if not kind.video), *COMPOSED]
# each method on one kind of model, and one method of each way of working on all of them
WAYS = ("random", "simignore", "fastv", "visionzip", "sparsevlm", "merged-inside", "chain")
MATRIX = [(name, kind) for name in NAMES for kind in (models.MODELS if name in WAYS else models.MODELS[:1])]
