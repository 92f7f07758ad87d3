"""Made-up views: what a method may look at, filled with random numbers, without any model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from simignore.methods import Method
from simignore.types import Cut, Grid, Look, Patches, View

HEADS, KEY, TOWER, WORDS = 16, 64, 1024, 32  # as in CLIP-L/14 under LLaVA-1.5, and a question of 32 tokens


def view(cut: Cut, tokens: int, width: int, batch: int, device: torch.device, seed: int = 0) -> View:
    """A view of ``tokens`` image tokens a sample that holds what ``cut`` wants to see; videos where it compares frames."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    seen: dict[str, Tensor] = {}
    shapes = {"visual": (tokens, width), "hidden": (tokens, width), "text": (WORDS, width), "words": (WORDS, width)}
    for name, shape in shapes.items():
        if name in cut.needs:
            seen[name] = noise(batch, *shape)
            if name in ("text", "words"):
                seen[f"{name}_valid"] = torch.ones(batch, WORDS, dtype=torch.bool, device=device)
    if "attention" in cut.needs:
        seen["attention"] = noise(batch, tokens).softmax(-1)
    looked = {look: _look(look, noise(batch, tokens), noise, (batch, tokens)) for look in cut.looks}
    frames = 4 if isinstance(cut, Method) and cut.video else 1
    return View(
        valid=torch.ones(batch, tokens, dtype=torch.bool, device=device),
        layer=0,
        patches=_patches(tokens, batch, frames),
        seeds=tuple(range(batch)),
        tower=looked,
        **seen,  # type: ignore[arg-type]
    )


def _look(look: Look, flat: Tensor, noise: object, shape: tuple[int, int]) -> Tensor:
    if look.what == "keys":
        return noise(*shape, HEADS, KEY)  # type: ignore[operator,no-any-return]
    if look.what == "features":
        return noise(*shape, TOWER)  # type: ignore[operator,no-any-return]
    return flat.softmax(-1)


def _patches(tokens: int, batch: int, frames: int) -> Patches:
    """Grids as square as they come."""
    own = tokens // frames
    rows = next(n for n in range(math.isqrt(own), 0, -1) if own % n == 0)
    kind = "frame" if frames > 1 else "image"
    grids = tuple(Grid(rows, own // rows, 0, kind, time=time) for time in range(frames))  # type: ignore[arg-type]
    places = torch.arange(tokens).expand(batch, -1)
    within = places % own
    return Patches((grids,) * batch, places // own, within // (own // rows), within % (own // rows))
