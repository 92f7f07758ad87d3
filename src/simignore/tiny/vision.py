"""What the vision tower learns before it meets the decoder: what each patch shows, and to tell captions apart.

Every patch learns the attributes of the thing that owns it. CLS learns as CLIP's does (Radford et al., "Learning
transferable visual models from natural language supervision", ICML 2021): the caption of its picture must beat those of
the other pictures and, since scenes are easily told apart, its own caption with one word changed. It is asked in the last
layer and in the one before, which LLaVA reads: a tower this shallow would leave all of CLS's work to the last.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pictures import ATTRIBUTES, Pictures, attributes
from .scenes import MOST, Scene

CLASSES = tuple(1 + len(words) for words in ATTRIBUTES.values())  # background and each word
BACKGROUND = 0.35  # weight of background patches, of which there are four times as many
EDITS = 8  # false captions per picture, each with one word changed


class VisionHeads(nn.Module):
    """Read-outs that only training needs: attributes per patch, and a caption encoder to compare CLS with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.Linear(width, sum(CLASSES))
        self.words = nn.ModuleList(nn.Embedding(count, width) for count in CLASSES)
        self.phrase = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 2 * width))
        self.caption = nn.Sequential(nn.GELU(), nn.Linear(2 * width, width))
        self.cls = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.sharpness = nn.Parameter(torch.tensor(2.3))  # logarithm of the inverse temperature

    def captions(self, things: Tensor) -> Tensor:
        """Unit vectors `[.., D]` of captions given as tables `[.., MOST, 5]` of attributes; rows of 0 are no thing."""
        words = torch.stack([table(things[..., k]) for k, table in enumerate(self.words)]).sum(0)  # [.., MOST, D]
        there = (things[..., :1] > 0).to(words.dtype)
        return F.normalize(self.caption((self.phrase(words) * there).sum(-2)), dim=-1)


def vision_loss(
    tower: Any, heads: VisionHeads, pictures: Pictures, indices: list[int], rng: random.Random, device: str = "cpu"
) -> tuple[Tensor, dict[str, float], Tensor]:
    """Loss on some pictures; accuracies, per attribute on patches of things and `cls` of finding the caption; and what
    the projector reads, the tower's layer before the last without CLS `[B, N, V]`."""
    states = tower(pictures.batch(indices).to(device), output_hidden_states=True).hidden_states
    dense, notes = patch_loss(heads.patch(states[-2][:, 1:]), pictures.labels(indices).to(device))
    things = torch.stack([_captions(pictures.scene(index), rng) for index in indices]).to(device)
    caption = heads.captions(things)  # [B, 1 + EDITS, D]
    here, contrast, hits = torch.arange(len(indices), device=device), dense.new_zeros(()), 0.0
    for head, state in zip(heads.cls, (states[-2], states[-1]), strict=True):
        cls = F.normalize(head(state[:, 0]), dim=-1)  # [B, D]
        others = cls @ caption[:, 0].T  # [B, B]
        edits = (caption[:, 1:] @ cls[..., None])[..., 0]  # [B, EDITS]
        logits = heads.sharpness.exp() * torch.cat([others, edits], 1).float()
        contrast = contrast + F.cross_entropy(logits, here)
        contrast = contrast + F.cross_entropy(logits[:, : len(indices)].T, here)
        hits = (logits.argmax(1) == here).float().mean().item()  # of the last layer
    return dense + contrast, {**notes, "cls": hits}, states[-2][:, 1:]


def patch_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Summed cross entropy of the attributes, and their accuracy on patches that belong to a thing.

    `logits [B, N, sum(CLASSES)]`, `labels [B, N, 5]`.
    """
    loss, notes = logits.new_zeros((), dtype=torch.float32), {}
    owned = labels[..., 0] > 0  # [B, N]
    for k, (name, some) in enumerate(zip(ATTRIBUTES, torch.split(logits, list(CLASSES), -1), strict=True)):
        weight = torch.ones(CLASSES[k], device=logits.device)
        weight[0] = BACKGROUND
        loss = loss + F.cross_entropy(some.flatten(0, 1).float(), labels[..., k].flatten(), weight=weight)
        notes[name] = (some.argmax(-1) == labels[..., k])[owned].float().mean().item()
    return loss, notes


def _captions(scene: Scene, rng: random.Random) -> Tensor:
    """The scene's true caption, then `EDITS` with one word wrong, `[1 + EDITS, MOST, 5]`."""
    true = [attributes(thing) for thing in scene.things]
    true += [[0] * len(ATTRIBUTES)] * (MOST - len(true))
    tables = torch.tensor([true] * (1 + EDITS))
    for table in tables[1:]:
        thing, kind = rng.randrange(len(scene.things)), rng.randrange(len(CLASSES))
        step = rng.randrange(1, CLASSES[kind] - 1)  # to any other word of its kind
        table[thing, kind] = 1 + (table[thing, kind] - 1 + step) % (CLASSES[kind] - 1)
    return tables


@torch.no_grad()
def vision_accuracy(tower: Any, heads: VisionHeads, pictures: Pictures, device: str = "cpu") -> dict[str, float]:
    """The notes of `vision_loss` on all pictures."""
    sums: dict[str, float] = {}
    starts, rng = range(0, len(pictures), 50), random.Random(0)
    for start in starts:
        _, notes, _ = vision_loss(tower, heads, pictures, list(range(start, start + 50)), rng, device)
        for name, value in notes.items():
            sums[name] = sums.get(name, 0.0) + value / len(starts)
    return {name: round(value, 4) for name, value in sums.items()}
