"""Random heads: what methods that were trained for one width of embeddings need in order to run at another."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from simignore.head import Head
from simignore.methods import Method

RANK, HOPS = 32, 2  # the bundled head's, which is what is timed
_FOLDERS = TemporaryDirectory(prefix="simignore-heads-")  # removed when the process ends


@cache
def random_head(width: int, seed: int = 0, rank: int = 4, hops: int = 0) -> str:
    """The folder of a head of this width with nothing at zero, so that its order is not Simignore's."""
    head, generator = Head(width, rank, "nothing", seed, hops), torch.Generator().manual_seed(seed)
    onward = (head.onward.text, head.onward.bias, head.onward.turns, head.onward.turn) if head.onward else ()
    with torch.no_grad():
        for weight in (head.text, head.bias, head.threshold, head.demand, *onward):
            weight.add_(torch.randn(weight.shape, generator=generator))
    folder = Path(_FOLDERS.name) / f"{width}-{seed}-{rank}-{hops}"
    head.save_pretrained(folder)
    return str(folder)


def fitting(kind: type[Method], width: int, rank: int = 4, hops: int = 0) -> dict[str, str]:
    """The options without which this method cannot run on embeddings of this width; by default as small as can be."""
    return {"head": random_head(width, 0, rank, hops)} if "head" in {field.name for field in fields(kind)} else {}
