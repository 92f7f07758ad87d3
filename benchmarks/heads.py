"""Random heads: what methods that were trained for one width of embeddings need in order to run at another."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from simignore.head import Head
from simignore.methods import Method

_FOLDERS = TemporaryDirectory(prefix="simignore-heads-")  # removed when the process ends


@cache
def random_head(width: int, seed: int = 0) -> str:
    """The folder of a head of this width with nothing at zero, so that its order is not Simignore's."""
    head, generator = Head(width, rank=4, base="nothing", seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (head.text, head.bias, head.threshold, head.demand):
            weight.add_(torch.randn(weight.shape, generator=generator))
    folder = Path(_FOLDERS.name) / f"{width}-{seed}"
    head.save_pretrained(folder)
    return str(folder)


def fitting(kind: type[Method], width: int) -> dict[str, str]:
    """The options without which this method cannot run on embeddings of this width."""
    return {"head": random_head(width)} if "head" in {field.name for field in fields(kind)} else {}
