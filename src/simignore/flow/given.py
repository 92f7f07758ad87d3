"""Given: the image tokens that stay are named beforehand. What counterfactuals are made of; not among the methods to choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import index
from typing import ClassVar

import torch
from torch import Tensor

from simignore.budget import Keep
from simignore.methods.base import Method
from simignore.select import from_kept
from simignore.types import Selection, View, Within


@dataclass(frozen=True)
class Given(Method):
    """Keep exactly the image tokens that it is given, also none of them.

    tokens: for each sample of the batch the image tokens that stay, counted from 0 in reading order.
    layer, hide, positions: as of any method.
    Raises ValueError for tokens that are repeated or negative, and, when it runs, for another batch than it was made for and
    for tokens that a sample does not have; TypeError for what is no whole number.
    """

    keep: Keep = field(default=1.0, init=False, repr=False)  # the tokens themselves say how many
    within: Within = field(default="sample", init=False, repr=False)
    tokens: tuple[tuple[int, ...], ...]

    source: ClassVar[str] = "counterfactual"
    clears: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        told = tuple(tuple(sorted(index(token) for token in own)) for own in self.tokens)
        for b, own in enumerate(told):
            if own and (own[0] < 0 or len(set(own)) < len(own)):
                raise ValueError(f"the image tokens of sample {b} are {own}; name each once, counted from 0")
        object.__setattr__(self, "tokens", told)

    @classmethod
    def mask(cls, kept: Tensor, layer: int | float | None = None) -> Given:
        """Keep the tokens marked True in ``kept`` [B, N] bool (padding False)."""
        if kept.dtype != torch.bool or kept.dim() != 2:
            raise ValueError(
                f"a mask of image tokens is boolean [B, N], got {kept.dtype} of shape {tuple(kept.shape)}; pass one row for "
                "each sample"
            )
        return cls(tuple(tuple(row.nonzero()[:, 0].tolist()) for row in kept.cpu()), layer=layer)

    def __str__(self) -> str:
        return repr(self)

    def choose(self, view: View) -> Selection:
        counts = view.counts
        if len(counts) != len(self.tokens):
            raise ValueError(
                f"image tokens were given for {len(self.tokens)} samples, and {len(counts)} came in; give one set for each"
            )
        kept = torch.zeros(view.real.shape, dtype=torch.bool)  # [B, N]
        for b, (own, count) in enumerate(zip(self.tokens, counts, strict=True)):
            if own and own[-1] >= count:
                raise ValueError(
                    f"image token {own[-1]} of sample {b} was asked to stay, and the sample has {count}, counted from 0; "
                    "name tokens that it has"
                )
            kept[b, list(own)] = True
        return from_kept(kept)


__all__ = ["Given"]
