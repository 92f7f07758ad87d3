"""Every method of ``METHODS`` enrols itself here, at a given budget; so do a chain and a chain at one site."""

from __future__ import annotations

from dataclasses import fields

from simignore.methods import METHODS, Chain, FastV, Method, Random, Simignore


def make(name: str, keep: int | float, **options) -> Method:
    """A method of the matrix with this budget. For a chain the last link has it and the first keeps more."""
    wide = min(1.0, keep * 2) if isinstance(keep, float) else keep + 3
    if name == "chain":
        return Chain(Simignore(keep=wide, **options), FastV(keep=keep, layer=2, **options))
    if name == "chain-at-one-site":
        return Chain(Random(keep=wide, **options), Simignore(keep=keep, **options))
    if name == "random-inside":
        return Random(keep=keep, layer=1, **options)
    cls = METHODS[name]
    assert {"keep", "hide", "positions"} <= {field.name for field in fields(cls)}
    return cls(keep=keep, **options)


NAMES = [*METHODS, "chain", "chain-at-one-site", "random-inside"]
