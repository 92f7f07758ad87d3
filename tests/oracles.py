"""What the engine must equal, computed without it: plain models, explicit masks, loops."""

from __future__ import annotations

import torch
from torch import Tensor

from models import IMAGE


def merged_embeddings(model, inputs) -> Tensor:
    """[B, T, D] what the decoder gets without a method: text embeddings with the image features in place."""
    caught = {}

    def catch(module, args, kwargs):
        caught["x"] = kwargs["inputs_embeds"]

    handle = model.model.language_model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        handle.remove()
    return caught["x"]


def dropped_places(inputs, selection) -> Tensor:
    """[B, T] True where an image token was dropped."""
    image = inputs["input_ids"] == IMAGE
    out = torch.zeros_like(image)
    for b in range(len(image)):
        places = image[b].nonzero()[:, 0]
        out[b, places[~selection.kept[b, : len(places)]]] = True
    return out


def positions(mask: Tensor) -> Tensor:
    """[B, T] position ids as generate makes them from the attention mask."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def layered_logits(
    model, x: Tensor, attention_mask: Tensor, hidden_at: dict[int, Tensor], position_ids: Tensor
) -> Tensor:
    """[B, T, V] logits of a plain loop over the decoder's layers, with explicit additive masks and no cache.

    x: [B, T, D] embeddings. hidden_at: layer -> [B, T] places that nobody may look at from that layer on.
    """
    decoder = model.model.language_model
    t = x.shape[1]
    blocked = attention_mask == 0
    with torch.no_grad():
        rotary = decoder.rotary_emb(x, position_ids=position_ids)
        for number, layer in enumerate(decoder.layers):
            if number in hidden_at:
                blocked = blocked | hidden_at[number]
            allowed = torch.ones(t, t, dtype=torch.bool).tril()[None] & ~blocked[:, None]  # [B, T, T]
            mask = torch.zeros(len(x), 1, t, t).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min)
            x = layer(x, attention_mask=mask, position_embeddings=rotary, position_ids=position_ids)
        norm = getattr(decoder, "norm", None) or decoder.final_layernorm
        return model.lm_head(norm(x))


def greedy(model, inputs, hidden_at: dict[int, Tensor], steps: int) -> tuple[Tensor, Tensor]:
    """Greedy decoding by the plain loop, recomputing everything at each step: ids [B, steps], logits [B, steps, V]."""
    x, mask = merged_embeddings(model, inputs), inputs["attention_mask"]
    new, logits = [], []
    for _ in range(steps):
        extra = x.shape[1] - inputs["input_ids"].shape[1]
        wide = {layer: torch.nn.functional.pad(places, (0, extra)) for layer, places in hidden_at.items()}
        last = layered_logits(model, x, mask, wide, positions(mask))[:, -1]
        logits.append(last)
        new.append(last.argmax(-1))
        x = torch.cat([x, model.get_input_embeddings()(new[-1])[:, None].detach()], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return torch.stack(new, 1), torch.stack(logits, 1)


def simignore_loop(visual: Tensor, text: Tensor, keep: int, kind: str, skip: int = 0, stride: int = 1) -> list[int]:
    """The rule as the paper's code has it, one sample, in plain loops: [N, D] x [M, D] -> kept rows in reading order."""
    pairs = []
    for i in range(len(visual)):
        for j in range(len(text)):
            v, t = visual[i].double(), text[j].double()
            if kind == "cosine":
                value = float(v @ t) / (float(v.norm()) * float(t.norm()))
            elif kind == "dot":
                value = float(v @ t)
            elif kind == "euclidean":
                value = -float((v - t).square().sum().sqrt())
            else:
                value = -float((v - t).abs().sum())
            pairs.append((value, i))
    pairs.sort(key=lambda pair: -pair[0])
    kept: list[int] = []
    for _, i in pairs[skip::stride]:
        if len(kept) < keep and i not in kept:
            kept.append(i)
    for _, i in pairs:  # a walk that ends early is filled up with the best rows that it did not meet
        if len(kept) < keep and i not in kept:
            kept.append(i)
    return sorted(kept)
