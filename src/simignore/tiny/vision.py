"""Stage 1: teach the vision tower what each patch shows.

Every patch learns the four attributes of the thing that owns it, and CLS learns which shapes, colours and pairs of
them the picture holds. Captions alone would teach the same in the end, at many times the samples.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .loop import Plan, Worker, train
from .pictures import ATTRIBUTES, Pictures
from .scenes import COLOURS, SHAPES

CLASSES = tuple(1 + len(names) for names in ATTRIBUTES)  # background and each word
BACKGROUND = 0.35  # weight of background patches, of which there are three times as many


class VisionHeads(nn.Module):
    """Linear read-outs that only training needs: attributes per patch, contents per picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, sum(CLASSES))
        self.picture = nn.Linear(width, len(SHAPES) + len(COLOURS) + len(SHAPES) * len(COLOURS))


def train_vision(plan: Plan, worker: Worker, tower: Any, heads: VisionHeads, pictures: Pictures) -> None:
    """Train tower and heads in place on `pictures`."""

    def loss_of(rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        indices = sorted(rng.sample(range(len(pictures)), plan.batch))
        patch, picture = _read(tower, heads, pictures.batch(indices))
        labels = pictures.labels(indices)  # [B, N, 4]
        dense, notes = patch_loss(patch, labels)
        whole = F.binary_cross_entropy_with_logits(picture, contents(pictures, indices))
        return dense + 4 * whole, {**notes, "cls": whole.item()}

    train(plan, worker, {"tower": tower, "vision_heads": heads}, loss_of)


def patch_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Summed cross entropy of the four attributes, and their accuracy on patches that belong to a thing."""
    loss, notes = logits.new_zeros(()), {}
    owned = labels[..., 0] > 0  # [B, N]
    for k, (name, some) in enumerate(
        zip(("shape", "colour", "size", "pattern"), torch.split(logits, list(CLASSES), -1), strict=True)
    ):
        weight = torch.ones(CLASSES[k])
        weight[0] = BACKGROUND
        loss = loss + F.cross_entropy(some.flatten(0, 1), labels[..., k].flatten(), weight=weight)
        notes[name] = (some.argmax(-1) == labels[..., k])[owned].float().mean().item()
    return loss, notes


def contents(pictures: Pictures, indices: list[int]) -> Tensor:
    """What each picture holds, as zeros and ones: shapes, colours, pairs `[B, 6 + 8 + 48]`."""
    colours = list(COLOURS)
    truth = torch.zeros(len(indices), len(SHAPES) + len(colours) + len(SHAPES) * len(colours))
    for row, index in zip(truth, indices, strict=True):
        for thing in pictures.scene(index).things:
            shape, colour = SHAPES.index(thing.shape), colours.index(thing.colour)
            pair = len(SHAPES) + len(colours) + shape * len(colours) + colour
            row[[shape, len(SHAPES) + colour, pair]] = 1
    return truth


@torch.no_grad()
def vision_accuracy(tower: Any, heads: VisionHeads, pictures: Pictures) -> dict[str, float]:
    """Held-out accuracy per attribute on patches of things; `cls` is the share of right contents bits."""
    sums: dict[str, float] = {}
    starts = range(0, len(pictures), 50)
    for start in starts:
        indices = list(range(start, start + 50))
        patch, picture = _read(tower, heads, pictures.batch(indices))
        _, notes = patch_loss(patch, pictures.labels(indices))
        notes["cls"] = ((picture > 0) == (contents(pictures, indices) > 0)).float().mean().item()
        for name, value in notes.items():
            sums[name] = sums.get(name, 0.0) + value / len(starts)
    return {name: round(value, 4) for name, value in sums.items()}


def _read(tower: Any, heads: VisionHeads, pixels: Tensor) -> tuple[Tensor, Tensor]:
    out = tower(pixels, output_hidden_states=True)
    return heads.patch(out.hidden_states[-2][:, 1:]).float(), heads.picture(out.pooler_output).float()
