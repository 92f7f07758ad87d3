"""What the decoder's training minimises, and the masks that keep it from reading the picture early."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .curriculum import IGNORED, TASKS
from .packing import PREFIX, Pack, blind, block_mask
from .symbols import positions
from .words import EOS, LETTER_WORDS, VOCABULARY

LETTER_IDS = torch.tensor([VOCABULARY[word] for word in LETTER_WORDS[:5]])
CAPTION = 0.4  # weight of a caption's tokens, of which there are many
END = 0.2  # weight of the end of an answer, which is easy


def answer_loss(
    model: Any, image: Tensor, places: Tensor, valid: Tensor, text: Pack, blinded: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Weighted cross entropy of the labelled tokens, and accuracy per task (`letter`: where a letter is right).

    `image [B, S, D]` stands at patches `places [B, S]`; those not `valid` are padding. `blinded [B]` bool names the rows
    whose text is kept from the picture in the layers of `first_layers_blind`.
    """
    decoder, rows, device = model.model.language_model, len(image), image.device
    prefix = torch.tensor(PREFIX, device=device).expand(rows, -1)
    inputs = torch.cat([decoder.embed_tokens(prefix), image, decoder.embed_tokens(text.tokens)], 1)  # [B, T, D]
    segment = torch.cat([torch.zeros_like(prefix), valid.long() - 1, text.segment], 1)
    place = torch.cat([torch.arange(len(PREFIX), device=device).expand(rows, -1), positions(places), text.position], 1)
    mask = block_mask(segment)
    decoder.first_mask = blind(mask, segment, blinded)
    hidden = decoder(inputs_embeds=inputs, attention_mask=mask, position_ids=place, use_cache=False).last_hidden_state[
        :, -text.tokens.shape[1] :
    ]
    asked = text.label != IGNORED
    logits, label, task = model.lm_head(hidden[asked]).float(), text.label[asked], text.task[asked]
    each = F.cross_entropy(logits, label, reduction="none")
    weight = torch.where(task == TASKS.index("caption"), CAPTION, 1.0) * torch.where(label == EOS, END, 1.0)
    notes = accuracy(logits, label, task, blinded[:, None].expand_as(text.label)[asked])
    return (each * weight).sum() / weight.sum(), notes


@contextmanager
def first_layers_blind(decoder: Any, count: int) -> Iterator[None]:
    """Let the first `count` layers use `decoder.first_mask` in place of the mask that the decoder is called with."""

    def swap(layer: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": decoder.first_mask}

    handles = [layer.register_forward_pre_hook(swap, with_kwargs=True) for layer in decoder.layers[:count]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def length_loss(image: Tensor, owned: Tensor) -> tuple[Tensor, float]:
    """How far the lengths of `image [B, N, D]` spread, and whether `owned [B, N]` tokens differ in them from the rest.

    Returns the loss and the gap: the difference of the mean logarithms in standard deviations.
    """
    length = image.float().norm(dim=-1).log()  # [B, N]
    gap = length[owned].mean() - length[~owned].mean()
    spread = length.var()
    return spread + gap.square() / spread.detach(), (gap / spread.sqrt()).item()


@torch.no_grad()
def accuracy(logits: Tensor, label: Tensor, task: Tensor, blinded: Tensor) -> dict[str, float]:
    """Share of right answer tokens: per task, of letters, and over all tasks for blinded rows and the others."""
    right = (logits.argmax(-1) == label).float()
    told = label != EOS
    letter = torch.isin(label, LETTER_IDS.to(label.device))
    groups = {name: told & (task == number) & ~letter for number, name in enumerate(TASKS)}
    groups["copy"] = told & (task == TASKS.index("copy"))
    groups["letter"] = letter & (task != TASKS.index("copy"))
    groups["blinded"], groups["open"] = told & blinded, told & ~blinded
    return {name: right[group].mean().item() for name, group in groups.items()}
