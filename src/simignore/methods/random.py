"""Random: the baseline that every comparison carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from simignore.budget import check_count
from simignore.methods.base import Scorer
from simignore.types import View


@dataclass(frozen=True)
class Random(Scorer):
    """Keep image tokens at random. Each sample draws by itself, from the seed and its own prompt, so its tokens do not
    depend on what else is in the batch, and the same prompt always draws the same ones.

    Why it is here: image tokens are so redundant that chance is a strong baseline; a rule has to beat it.

    keep: see :class:`Method`. seed: another seed, another draw. layer: for comparison with rules that cut inside the decoder.
    """

    seed: int = 0

    source: ClassVar[str] = "baseline"
    score_name: ClassVar[str] = "random number"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "seed", check_count("seed", self.seed, 0))

    def score(self, view: View) -> Tensor:
        score = torch.zeros(view.valid.shape, dtype=torch.float64)
        for b, tokens in enumerate(view.counts):
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + view.seeds[b]) % 2**63)
            score[b, :tokens] = torch.rand(tokens, generator=generator, dtype=torch.float64)
        return score
