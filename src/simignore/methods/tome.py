"""ToMe: merge the tokens that are most alike, in rounds, until the wanted number is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from simignore.matching import best, exact, fetched, pick, places, ranks, refuse, sent, unit
from simignore.merge import averaged
from simignore.methods.base import Method, looked
from simignore.select import from_kept
from simignore.types import PAD, Look, Selection, View


@dataclass(frozen=True)
class ToMe(Method):
    """In rounds split the tokens into even and odd ones, find for each even one the odd one of the largest cosine of keys (mean
    over heads), and merge along the strongest of these edges, at most half of the tokens a round, until ``keep`` are left.

    Why it works: neighbouring patches say nearly the same, and their mean says it too. Source: arXiv 2210.09461 (ICLR 2023).
    The paper merges between the tower's blocks; here the tower runs unchanged and its tokens are merged behind the projector. A
    merged token stays at the place of the odd one; embeddings and keys are means over all patches that went into it.

    keep: a count or a fraction.
    """

    source: ClassVar[str] = "arXiv 2210.09461 (ICLR 2023)"
    score_name: ClassVar[str] = ""
    merges: ClassVar[bool] = True

    @property
    def looks(self) -> tuple[Look, ...]:
        return (Look("keys"),)

    def choose(self, view: View) -> Selection:
        keys = exact(looked(view, Look("keys")), view.valid).mean(2)  # [B, N, d]
        _, broken = unit(keys, view.valid)
        root, broken = fetched(merged(keys, view.valid, view.counts, self.amounts(view)), broken)
        refuse(broken, "keys")
        root = root.masked_fill(~view.real, PAD)
        return averaged(from_kept(root == torch.arange(root.shape[1])), root)


def merged(keys: Tensor, valid: Tensor, sizes: Sequence[int], wanted: Sequence[int]) -> Tensor:
    """[B, N] for each token the one that it ends in when ``wanted[b]`` are left. keys: [B, N, d] with zeros in the padding."""
    rounds, left = [], list(sizes)
    while any(n > want for n, want in zip(left, wanted, strict=True)):
        rounds.append([min(n // 2, n - want) for n, want in zip(left, wanted, strict=True)])
        left = [n - few for n, few in zip(left, rounds[-1], strict=True)]
    root = torch.arange(valid.shape[1], device=keys.device).expand(valid.shape)
    order, there = places(valid, max(sizes, default=0))
    moves = sent(rounds, keys.device) if rounds else ()
    width = list(sizes)
    for move, numbers in zip(moves, rounds, strict=True):
        even, odd = order[:, 0::2], order[:, 1::2]
        own = pick(keys, even)  # a group holds the sum of its keys, whose cosine is that of their mean
        cosine, which = best(normalize(own, dim=-1), normalize(pick(keys, odd), dim=-1), there[:, 1::2])
        going = ranks(cosine, there[:, 0::2]) < move[:, None]  # [B, E]
        goal = torch.where(going, odd.gather(1, which), even)
        step = torch.arange(valid.shape[1], device=keys.device).expand(valid.shape).scatter(1, even, goal)
        root = step.gather(1, root)
        keys = keys.scatter_add(1, goal[..., None].expand_as(own), own.masked_fill(~going[..., None], 0))
        there = there.clone()
        there[:, 0::2] &= ~going
        width = [n - few for n, few in zip(width, numbers, strict=True)]
        slot, there = places(there, max(width))
        order = order.gather(1, slot)
    return root
