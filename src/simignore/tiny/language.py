"""Stages 2 to 5: the decoder learns to copy and to reason on symbols, the projector to speak in symbols, and then
everything together learns from pictures with nothing but the language modelling loss.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .curriculum import IGNORED, TASKS, mix_at
from .loop import Plan, Worker, train
from .packing import PREFIX, Pack, block_mask, pack
from .pictures import Pictures
from .symbols import Symbols, every_place, positions, sample_places
from .words import EOS, LETTER_WORDS, VOCABULARY

LETTER_IDS = torch.tensor([VOCABULARY[word] for word in LETTER_WORDS[:5]])
CAPTION = 0.4  # weight of a caption's tokens, of which there are many
END = 0.2  # weight of the end of an answer, which is easy


def train_symbols(plan: Plan, worker: Worker, model: Any, symbols: Symbols, pictures: Pictures, length: int) -> None:
    """Train the decoder on symbols with `length` tokens of text behind each scene (stage `copying` or `symbols`)."""
    words = model.model.language_model.embed_tokens

    def loss_of(rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        indices = rng.sample(range(len(pictures)), plan.batch)
        places, valid = sample_places(pictures, indices, rng)
        labels = pictures.labels(indices).gather(1, places[..., None].expand(-1, -1, 4))  # [B, S, 4]
        text = pack([pictures.scene(i) for i in indices], mix_at(plan.name, progress), length, rng)
        return answer_loss(model, symbols(labels, places, words), places, valid, text)

    parts = {"decoder": model.model.language_model, "head": model.lm_head, "symbols": symbols}
    train(plan, worker, parts, loss_of)


def train_projector(plan: Plan, worker: Worker, model: Any, symbols: Symbols, pictures: Pictures) -> None:
    """Fit the projector's output to the symbols of each picture's patches (mean squared error)."""
    words = model.model.language_model.embed_tokens

    def loss_of(rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        indices = sorted(rng.sample(range(len(pictures)), plan.batch))
        with torch.no_grad():
            labels = pictures.labels(indices)
            target = symbols(labels, every_place(plan.batch), words)  # [B, N, D]
            patches = features(model, pictures.batch(indices))
        error = (model.model.multi_modal_projector(patches).float() - target).square().mean(-1)  # [B, N]
        weight = torch.where(labels[..., 0] > 0, 1.0, 0.3)
        return (error * weight).sum() / weight.sum() / target.var(), {}

    train(plan, worker, {"projector": model.model.multi_modal_projector}, loss_of)


def train_jointly(plan: Plan, worker: Worker, model: Any, pictures: Pictures, length: int) -> None:
    """Train tower, projector and decoder on pictures, by the answers alone."""
    places = every_place(plan.batch)
    valid = torch.ones_like(places, dtype=torch.bool)

    def loss_of(rng: random.Random, progress: float) -> tuple[Tensor, dict[str, float]]:
        indices = sorted(rng.sample(range(len(pictures)), plan.batch))
        image = model.model.multi_modal_projector(features(model, pictures.batch(indices)))  # [B, N, D]
        text = pack([pictures.scene(i) for i in indices], mix_at(plan.name, progress), length, rng)
        return answer_loss(model, image, places, valid, text)

    parts = {
        "decoder": model.model.language_model,
        "head": model.lm_head,
        "projector": model.model.multi_modal_projector,
        "tower": model.model.vision_tower,
    }
    train(plan, worker, parts, loss_of)


def features(model: Any, pixels: Tensor) -> Tensor:
    """What the projector reads: the tower's layer before the last, without CLS `[B, N, V]`."""
    return model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]  # type: ignore[no-any-return]


def answer_loss(
    model: Any, image: Tensor, places: Tensor, valid: Tensor, text: Pack
) -> tuple[Tensor, dict[str, float]]:
    """Weighted cross entropy of the labelled tokens, and accuracy per task (`letter`: where a letter is right).

    `image [B, S, D]` stands at patches `places [B, S]`; those not `valid` are padding.
    """
    decoder, rows = model.model.language_model, len(image)
    prefix = torch.tensor(PREFIX).expand(rows, -1)
    inputs = torch.cat([decoder.embed_tokens(prefix), image, decoder.embed_tokens(text.tokens)], 1)  # [B, T, D]
    segment = torch.cat([torch.zeros_like(prefix), valid.long() - 1, text.segment], 1)
    place = torch.cat([torch.arange(len(PREFIX)).expand(rows, -1), positions(places), text.position], 1)
    hidden = decoder(
        inputs_embeds=inputs, attention_mask=block_mask(segment), position_ids=place, use_cache=False
    ).last_hidden_state[:, -text.tokens.shape[1] :]
    asked = text.label != IGNORED
    logits, label, task = model.lm_head(hidden[asked]).float(), text.label[asked], text.task[asked]
    each = F.cross_entropy(logits, label, reduction="none")
    weight = torch.where(task == TASKS.index("caption"), CAPTION, 1.0) * torch.where(label == EOS, END, 1.0)
    return (each * weight).sum() / weight.sum(), _accuracy(logits, label, task)


@torch.no_grad()
def _accuracy(logits: Tensor, label: Tensor, task: Tensor) -> dict[str, float]:
    right = (logits.argmax(-1) == label).float()
    told = label != EOS
    letter = torch.isin(label, LETTER_IDS)
    groups = {name: told & (task == number) & ~letter for number, name in enumerate(TASKS)}
    groups["copy"] = told & (task == TASKS.index("copy"))
    groups["letter"] = letter & (task != TASKS.index("copy"))
    return {name: right[group].mean().item() for name, group in groups.items()}
