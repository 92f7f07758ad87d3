"""A forward on fewer image tokens through which the choice itself can be learnt: the very cut of inference, with gates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from simignore.families import UnsupportedModelError
from simignore.layout import Layout
from simignore.methods import Method
from simignore.parts import Parts
from simignore.select import from_kept
from simignore.splice.tensors import take
from simignore.train.losses import gated
from simignore.types import PAD, Selection, View

Choose = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (visual [B, N, D], valid [B, N]) -> kept, gates [B, N]


@dataclass(frozen=True)
class Handed(Method):
    """Keeps what was chosen before the decoder was entered. chosen: one tensor [B, N], put there in time."""

    chosen: list[Tensor] = field(default_factory=list, compare=False)

    def choose(self, view: View) -> Selection:
        return from_kept(self.chosen[0] & view.real)


@contextmanager
def cutting(parts: Parts, found: Layout, choose: Choose) -> Iterator[None]:
    """Inside, forwards of this batch run on the image tokens that ``choose`` keeps, and gradients reach its gates.

    found: the layout of the batch. The sequence is shortened by the project's own splice, so what is trained is what will
    run; every family, batch and image layout that it serves can be trained on.
    """
    handed = Handed(keep=1.0)

    def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        embeds = entering(module, kwargs)
        visual, valid = images(embeds, found)
        kept, gates = choose(visual, valid)
        handed.chosen[:] = [kept.cpu()]
        rows = torch.arange(len(embeds), device=embeds.device)[:, None].expand_as(valid)
        places = found.image.to(embeds.device)
        opened = embeds.clone()
        opened[rows[valid], places[valid]] = gated(visual, gates, valid)[valid]
        return args, {**kwargs, "inputs_embeds": opened}

    hook = parts.decoder.register_forward_pre_hook(enter, with_kwargs=True)  # before the splice's, which cuts
    try:
        with handed(parts.model):
            yield
    finally:
        hook.remove()


def entering(decoder: nn.Module, kwargs: dict[str, Any]) -> Tensor:
    """[B, T, D] what enters the decoder. Raises UnsupportedModelError where that is no embedding."""
    embeds: Tensor | None = kwargs.get("inputs_embeds")
    if embeds is None:
        raise UnsupportedModelError(
            f"{type(decoder).__name__} is called without inputs_embeds, so its image tokens cannot be seen and no head can be "
            "trained beside it"
        )
    return embeds


def images(embeds: Tensor, found: Layout) -> tuple[Tensor, Tensor]:
    """The image tokens [B, N, D] among embeddings [B, T, D], and which are real [B, N]."""
    return take(embeds, found.image.clamp(min=0)), (found.image != PAD).to(embeds.device)
